"""examples/slurm.sbatch, run as it stands on two nodes that are network namespaces.

There is no Slurm here: ``srun`` and ``scontrol`` are stood in for, by scripts that start the
command once on each node and note the request. All else is real, but for the engines that do no
work.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill.cli import cli
from distill.traces import read, validate
from distill.traces.records import Call
from tests.engine_stand_in.spec import MODEL, calls_in, worker_spec
from tests.supervisor.nodes import Node, nodes
from tests.supervisor.processes import environment, left, tree, wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "slurm.sbatch"
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
trap 'kill -TERM $(jobs -p)' TERM
for node in {nodes}; do ip netns exec $node "$@" & done
wait
"""
DOOR = '#!/bin/bash\nexec {python} -m distill {command} "$@"\n'


class Cluster:
    """A home folder that all nodes share, and a job."""

    def __init__(self, folder: Path, machines: list[Node]) -> None:
        self.folder = folder
        self.run = folder / "runs" / "7"
        tools = folder / "tools"
        names = " ".join(node.name for node in machines)
        self._write(tools / "srun", SRUN.format(nodes=names))
        self._write(tools / "scontrol", f'#!/bin/bash\necho "$@" >> {folder}/scontrol\n')
        for door, command in (("distill-up", "up"), ("distill-worker", "worker --cores 0")):
            text = DOOR.format(python=sys.executable, command=command)
            self._write(folder / "bin" / door, text)
        self.environment = {
            **worker_spec("", latency_s=0.5, at_once=8).env,
            **environment(folder),
            "PYTHONPATH": worker_spec("").env["PYTHONPATH"],
            "HOME": str(folder),
            "PATH": f"{tools}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURMD_NODENAME": machines[0].gateway,
            "DISTILL": str(folder),
            "MODEL": str(MODEL),
            "TEXT": str(ROOT / "examples" / "kjv.txt"),
        }
        self.environment.pop("XDG_CONFIG_HOME", None)
        self.family: dict[int, str] = {}

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    @contextlib.contextmanager
    def job(self, **env: str) -> Iterator[subprocess.Popen[str]]:
        """The batch script; nothing of it may be left."""
        with (self.folder / "err").open("a") as errors:
            process = subprocess.Popen(
                ["bash", str(SCRIPT)],
                cwd=self.folder,
                env=self.environment | env,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
            self.family |= tree(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        wait_until(lambda: not left(self.family), 15, f"left: {self.family}")

    def answered(self) -> list[Call]:
        """The worker calls in the log that a worker has answered."""
        with contextlib.suppress(FileNotFoundError):
            logged = calls_in(self.run)
            return [call for call in logged if call.response and call.source == "sampled"]
        return []


@pytest.fixture
def cluster(short: Path) -> Iterator[Cluster]:
    with nodes(2) as machines:
        yield Cluster(short, machines)


@pytest.mark.slow
def test_a_job_that_is_cut_off_asks_to_run_again_and_goes_on(cluster: Cluster) -> None:
    with cluster.job() as job, cluster.job(SLURM_JOB_ID="8", STAND_IN_LATENCY_S="0.0") as beside:
        wait_until(lambda: len(cluster.answered()) >= 20, 60, "some answers")
        cluster.family |= tree(job.pid)
        job.send_signal(signal.SIGTERM)
        out, _ = job.communicate(timeout=30)
        assert (job.returncode, out) == (130, "")
        undisturbed, _ = beside.communicate(timeout=60)
        assert beside.returncode == 0, "another job on the same nodes"
    assert (cluster.folder / "scontrol").read_text() == "requeue 7\n"
    before = len(cluster.answered())
    with cluster.job(STAND_IN_LATENCY_S="0.0") as job:
        out, _ = job.communicate(timeout=90)
        assert job.returncode == 0, (cluster.folder / "err").read_text()
    assert (cluster.folder / "scontrol").read_text() == "requeue 7\n"
    (run,) = read(cluster.run).runs.values()
    assert run.end is not None
    assert out == undisturbed != ""
    calls = cluster.answered()
    assert 20 <= before < len(calls) == 120
    assert len({call.prompt for call in calls}) == 120, "none is asked twice"
    assert len({call.producer.name for call in calls}) == 4, "two nodes, twice"
    assert validate(cluster.run)[1] == []


def test_the_script_is_one_and_its_options_exist() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    text = SCRIPT.read_text()
    for door, command in (("distill-up", "up"), ("distill-worker", "worker")):
        told = CliRunner().invoke(cli, [command, "--help"]).output
        for call in re.findall(rf"{door}\"?((?: .*\\\n)*.*)", text):
            for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", call):
                assert re.search(rf"{option}\b", told), f"{door} has no {option}"
