"""Worker servers on a real Ray cluster, of nodes whose GPUs are pretended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from distill import cli
from distill.errors import DistillError, MachineError
from distill.resident import Resident
from distill.supervisor import background, driver
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.placement import RayCluster
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.supervisor.workers import Worker
from distill.worker_settings import WorkerSettings
from tests.engine_stand_in.spec import MODEL, calls_in
from tests.engine_stand_in.vllm.tokens import answer_to
from tests.placement.conftest import GPUS_PER_NODE, Clusters, RayNodes
from tests.supervisor.processes import is_alive, kill, left, tagged, wait_until

# Ray does not wait for the processes of a node that is removed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PLACING_S = 90.0
PROMPTS = [f"prompt {number}" for number in range(300)]
RIGHT = [answer_to(prompt) for prompt in PROMPTS]


class Placed:
    """An engine whose workers are on a cluster."""

    def __init__(self, resident: Resident) -> None:
        self.resident = resident
        self.host = driver.shared()
        self.statuses: list[str] = []

    def workers(self) -> list[Worker]:
        """Those that serve."""
        assert self.resident._workers.fleet is not None
        return [worker for worker in self.resident._workers.fleet.workers() if worker.is_ready]

    def pids(self) -> dict[str, int]:
        return {worker.name: worker.producer.pid for worker in self.workers()}

    def devices(self) -> list[str]:
        return sorted(worker.card.device for worker in self.workers() if worker.card)

    def places(self) -> dict[str, str]:
        assert self.resident._workers.placement is not None
        return self.resident._workers.placement.places

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.workers()) == count, PLACING_S, f"{count}: {self.events()}")

    def wait_for_another(self, name: str, than: int) -> None:
        """Until a worker is up again under its name, and the process that it was is gone."""
        wait_until(lambda: self.pids().get(name, than) != than, PLACING_S, f"{self.events()}")
        wait_until(lambda: not is_alive(than), what=f"{than} still lives")

    def events(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [(event.event, event.producer.name, event.detail) for event in self.host._history]

    def ask(self, folder: Path, prompts: list[str]) -> "Future[list[Any]]":
        """Start a batch; it goes on while this thread does other things."""
        assert self.resident._workers.backend is not None
        backend = self.resident._workers.backend

        async def work() -> list[Any]:
            journal = self.host.open_journal(folder)
            try:
                calls = WorkerCalls(self.host, backend, RunLog(journal, "run"), SpanIndex("x"))
                return await asyncio.to_thread(calls.worker_batch, prompts, chat=False)
            finally:
                self.host.release_journal(journal)

        return asyncio.run_coroutine_threadsafe(work(), background.loop())


@contextmanager
def engine(cluster: RayNodes, num_workers: int, **settings: Any) -> Iterator[Placed]:
    ray = RayCluster(cluster.address, num_workers, **settings)
    placed = Placed(Resident(WorkerSettings(str(MODEL), ray=ray)))
    try:
        placed.resident.start(placed.statuses.append)
        yield placed
    finally:
        placed.resident.close()


def ours(pretended: dict[str, str]) -> dict[int, str]:
    """Processes of distill on the nodes of this session's clusters: actors and all below."""
    tag = pretended["PATH"].partition(os.pathsep)[0]
    found = {**tagged(tag), **tagged(pretended["PYTHONPATH"].partition(os.pathsep)[0])}
    return {pid: words for pid, words in found.items() if "Place" in words or "distill." in words}


def nothing_left(pretended: dict[str, str]) -> None:
    wait_until(lambda: not ours(pretended), 20, f"{ours(pretended)}")


def free_gpus(cluster: RayNodes) -> float:
    """By Ray's own tool, from a process of its own."""
    code = (
        f"import ray; ray.init({cluster.address!r}, log_to_driver=False, logging_level='ERROR');"
        "print(ray.available_resources().get('GPU', 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
def test_workers_are_placed_started_again_and_ended(
    clusters: Clusters, pretended: dict[str, str], tmp_path: Path
) -> None:
    with clusters(1) as cluster:
        with engine(cluster, 2) as placed:
            placed.wait_for(2)
            assert len(set(placed.devices())) == 2
            before = placed.pids()
            batch = placed.ask(tmp_path, PROMPTS)
            kill(before["ray-0"])
            assert batch.result(PLACING_S) == RIGHT
            placed.wait_for_another("ray-0", before["ray-0"])
            assert len(set(placed.devices())) == 2
            assert sorted(where.rpartition(", ")[2] for where in placed.places().values()) == [
                f"GPU {device[-1]}" for device in placed.devices()
            ]
        nothing_left(pretended)
    calls = calls_in(tmp_path)
    assert len(calls) == len(PROMPTS)
    assert {call.producer.name for call in calls} == {"ray-0", "ray-1"}


@pytest.mark.slow
def test_every_gpu_of_the_cluster_gets_one(clusters: Clusters, tmp_path: Path) -> None:
    with clusters(2) as cluster, engine(cluster, 2 * GPUS_PER_NODE + 1) as placed:
        placed.wait_for(2 * GPUS_PER_NODE)
        assert placed.devices() == sorted(2 * [f"Pretended {n}" for n in range(GPUS_PER_NODE)])
        wait_until(lambda: any("waiting for 1 of 9 GPUs" in s for s in placed.statuses))
        assert "the Ray cluster has 8, of which 0 are free" in placed.statuses[-1]
        assert placed.ask(tmp_path, PROMPTS).result(PLACING_S) == RIGHT
        assert len({call.producer.name for call in calls_in(tmp_path)}) == 2 * GPUS_PER_NODE
        # Another node comes: the one that waited has a place.
        cluster.more()
        placed.wait_for(2 * GPUS_PER_NODE + 1)
        wait_until(lambda: placed.statuses[-1] == "", what=f"{placed.statuses}")


def worker(placed: Placed) -> psutil.Process:
    return psutil.Process(placed.pids()["ray-0"])


KILLED = {"the worker server": 0, "its launcher": 1, "its actor": 2}
"""Who, and how many processes above the worker server it is."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "way"),
    # The others frozen harm nobody: the worker server goes on.
    [*((who, signal.SIGKILL) for who in KILLED), ("the worker server", signal.SIGSTOP)],
)
def test_what_is_killed_or_frozen_comes_again(
    clusters: Clusters, pretended: dict[str, str], tmp_path: Path, who: str, way: int
) -> None:
    with clusters(1) as cluster:
        with engine(cluster, 2) as placed:
            placed.wait_for(2)
            before = placed.pids()
            batch = placed.ask(tmp_path, PROMPTS)
            time.sleep(0.5)
            [worker(placed), *worker(placed).parents()][KILLED[who]].send_signal(way)
            assert batch.result(PLACING_S) == RIGHT
            placed.wait_for_another("ray-0", before["ray-0"])
            assert placed.pids()["ray-1"] == before["ray-1"]
            assert placed.ask(tmp_path / "again", PROMPTS).result(PLACING_S) == RIGHT
        nothing_left(pretended)
    assert len(calls_in(tmp_path)) == len(PROMPTS)


@pytest.mark.slow
def test_a_node_that_is_lost_costs_no_answer(
    clusters: Clusters, pretended: dict[str, str], tmp_path: Path
) -> None:
    with clusters(2) as cluster:
        (second,) = cluster.cluster.worker_nodes
        with engine(cluster, 2 * GPUS_PER_NODE) as placed:
            placed.wait_for(2 * GPUS_PER_NODE)
            batch = placed.ask(tmp_path, PROMPTS * 10)
            time.sleep(1)
            cluster.cluster.remove_node(second, allow_graceful=False)
            assert batch.result(PLACING_S) == RIGHT * 10
            wait_until(lambda: any("has 4, of which 0" in s for s in placed.statuses), 60)
            assert len(placed.workers()) == GPUS_PER_NODE
            cluster.more()
            placed.wait_for(2 * GPUS_PER_NODE)
        nothing_left(pretended)
    assert len(calls_in(tmp_path)) == 10 * len(PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "way"),
    [("driver", signal.SIGTERM), ("driver", signal.SIGKILL), ("placer", signal.SIGKILL)],
)
def test_an_engine_that_ends_leaves_ray_as_it_was(
    clusters: Clusters, pretended: dict[str, str], short: Path, way: int, who: str
) -> None:
    with clusters(1) as cluster:
        command = [sys.executable, "-m", "distill", "up", "--worker", str(MODEL)]
        command += ["--ray", cluster.address, "--num-workers", "2"]
        env = {**os.environ, **pretended, "TMPDIR": str(short), "HOME": str(short)}
        with (short / "err").open("w") as errors:
            up = subprocess.Popen(command, env=env, stderr=errors)
        try:
            wait_until(lambda: "engine is up" in (short / "err").read_text(), PLACING_S)
            wait_until(lambda: len(servers(pretended)) == 2, 15, str(servers(pretended)))
            first = servers(pretended)
            if who == "driver":
                up.send_signal(way)
                wait_until(lambda: not left(first), 20)
            else:
                kill(*[p.pid for p in psutil.Process(up.pid).children(recursive=True)
                       if "distill.placement" in " ".join(p.cmdline())])  # fmt: skip
                wait_until(lambda: not left(first), 20)
                wait_until(lambda: len(servers(pretended)) == 2, PLACING_S, "not placed again")
                up.terminate()
            up.wait(20)
        finally:
            up.kill()
        nothing_left(pretended)
        assert free_gpus(cluster) == GPUS_PER_NODE


def servers(pretended: dict[str, str]) -> list[int]:
    return [pid for pid, words in ours(pretended).items() if "-m distill.worker_server" in words]


@pytest.mark.slow
def test_without_gpus_each_gets_cores_of_its_own(
    clusters: Clusters, pretended: dict[str, str], tmp_path: Path
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    _, _, cpu_build = pretended["PYTHONPATH"].partition(os.pathsep)
    with clusters(1, {"PYTHONPATH": cpu_build}, num_gpus=0, num_cpus=len(cores)) as cluster:
        with pytest.raises(DistillError, match="no GPU: --cores-per-worker N"):
            engine(cluster, 1).__enter__()
        with engine(cluster, len(cores), cores_per_worker=1) as placed:
            placed.wait_for(len(cores))
            given = [where.rpartition("cores ")[2] for where in placed.places().values()]
            assert sorted(given, key=int) == [str(core) for core in cores]


def test_rays_client_is_no_cluster() -> None:
    nowhere = RayNodes(SimpleNamespace(address="ray://head:10001"), lambda: None)
    with pytest.raises(DistillError, match="start distill on a node of the cluster instead"):
        engine(nowhere, 1).__enter__()


def test_without_ray_it_is_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    monkeypatch.setattr(sys, "argv", ["distill", "up", "--ray"])
    assert cli.main() == MachineError.exit_code
    assert "pip install 'distill[ray]'" in capsys.readouterr().err


@pytest.mark.slow
def test_no_cluster_is_told() -> None:
    nowhere = RayNodes(SimpleNamespace(address="127.0.0.1:1"), lambda: None)
    with pytest.raises(DistillError, match=r"no Ray cluster can be used at 127\.0\.0\.1:1"):
        engine(nowhere, 1).__enter__()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "said"),
    [(None, "has no distill"), ("9.9", "has distill 9.9, this engine is ")],
)
def test_a_node_with_another_distill_says_so(
    clusters: Clusters, pretended: dict[str, str], tmp_path: Path, version: str | None, said: str
) -> None:
    other = tmp_path / "distill"
    other.mkdir()
    (other / "__init__.py").write_text("")
    if version is not None:
        (other / "version.py").write_text(f"__version__ = {version!r}\n")
    path = os.pathsep.join([str(tmp_path), pretended["PYTHONPATH"]])
    with clusters(1, {"PYTHONPATH": path}) as cluster, pytest.raises(DistillError, match=said):
        engine(cluster, 1).__enter__()
