"""Real Ray clusters on this machine, of nodes with GPUs that are only said to be there."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.engine_stand_in.spec import HERE, ROOT
from tests.pretended_gpus import pretend_gpus

GPUS_PER_NODE = 4
Clusters = Callable[..., Any]


@pytest.fixture(scope="session")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables by which a node has GPUs, and an engine for them that does no work."""
    folder = tmp_path_factory.mktemp("pretended")
    package = folder / "gpu_build" / "vllm-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0\n")
    paths = [str(package.parent), str(HERE), str(ROOT)]
    return {
        "PATH": os.pathsep.join([pretend_gpus(folder / "bin", GPUS_PER_NODE), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [*paths, os.environ.get("PYTHONPATH")])),
        "RAY_USAGE_STATS_ENABLED": "0",
        "STAND_IN_LATENCY_S": "0.1",
        "STAND_IN_AT_ONCE": "10",
    }


@dataclass(frozen=True)
class RayNodes:
    """A cluster; ``more()`` adds a node like the others."""

    cluster: Any
    more: Callable[[], Any]

    @property
    def address(self) -> str:
        return str(self.cluster.address)


@contextmanager
def ray_cluster(nodes: int, variables: dict[str, str], **resources: int) -> Iterator[RayNodes]:
    """A cluster of this many nodes; ends with all its processes."""
    from ray.cluster_utils import Cluster

    given = {"num_cpus": 1, "num_gpus": GPUS_PER_NODE, **resources}
    cluster = Cluster(shutdown_at_exit=False)
    more = partial(cluster.add_node, env_vars=variables, include_dashboard=False, **given)
    try:
        for _ in range(nodes):
            more()
        yield RayNodes(cluster, more)
    finally:
        cluster.shutdown()


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of the test's engines, and not its user's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def clusters(pretended: dict[str, str]) -> Clusters:
    """Makes a cluster of so many nodes, with four GPUs each unless it is told otherwise."""

    def make(nodes: int, env: dict[str, str] | None = None, **resources: int) -> Any:
        return ray_cluster(nodes, {**pretended, **(env or {})}, **resources)

    return make


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: a socket's path ends at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="dst-", ignore_cleanup_errors=True) as name:
        yield Path(name)
