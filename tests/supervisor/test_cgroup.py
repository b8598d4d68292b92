"""Jails in cgroups: where some are delegated, and what becomes of them."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.protocol.jail_link import Limits
from distill.sandbox.verdict import death
from distill.supervisor import cgroup

IN_A_SCOPE = """
import json, os, sys
from pathlib import Path
import psutil
Path(sys.argv[1], "cgroup.procs").write_text("0")
from distill.repl import REPL
own = lambda pid: Path(f"/proc/{pid}/cgroup").read_text().split("0::")[1].strip()
with REPL("a text", "a question", str, list) as repl:
    started = repl.execute("import os; print(len(context))")
    jails = [each for each in Path(sys.argv[1]).iterdir() if "jail" in each.name]
    most = [each / "pids.max" for each in jails]
    print(json.dumps({
        "out": started.stdout,
        "driver": own(os.getpid()),
        "jails": [(each / "cgroup.procs").read_text().split() for each in jails],
        "bounded": [each.read_text() != "max\\n" for each in most if each.exists()],
    }))
"""


@pytest.fixture
def scope() -> Iterator[Path]:
    """A delegated cgroup, as `systemd-run --scope -p Delegate=yes` makes one."""
    mount = cgroup._mount()
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can delegate, and only with cgroup v2")
    given = (mount / "cgroup.controllers").read_text().split()
    wanted = " ".join(f"+{name}" for name in cgroup.CONTROLLERS if name in given)
    (mount / "cgroup.subtree_control").write_text(wanted)
    folder = mount / f"distill-test-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    os.setxattr(folder, "user.delegate", b"1")
    yield folder
    for inner in (*folder.iterdir(), folder):
        if inner.is_dir():
            inner.rmdir()


def test_each_jail_has_one_and_leaves_none(scope: Path) -> None:
    (scope / "distill-4194305-left").mkdir()  # by a launcher that was killed: no pid is so large
    done = subprocess.run(
        [sys.executable, "-c", IN_A_SCOPE, str(scope)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    assert told["out"] == "6\n"
    assert told["driver"] == f"/{scope.name}/{cgroup.HOST}"
    assert told["jails"]
    assert all(told["jails"])  # the one that stands by, too
    if told["bounded"]:
        assert sum(told["bounded"]) == 1
    assert [each.name for each in scope.iterdir() if each.is_dir()] == [cgroup.HOST]


def test_what_was_not_delegated_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").touch()
    (tmp_path / "cgroup.type").touch()
    assert not cgroup._is_delegated(tmp_path)
    found = cgroup.place()
    if found is not None and not found.is_delegated:
        assert cgroup.divide() is None
        assert not (found.folder / cgroup.HOST).exists()


def test_its_limits_are_memory_and_tasks_with_some_slack(tmp_path: Path) -> None:
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.procs")
    for name in names:
        (tmp_path / name).touch()
    group = cgroup.Cgroup(tmp_path, ("memory", "pids"))
    group.bound(1 << 30, 64)
    told = {name: (tmp_path / name).read_text() for name in names}
    assert told == {
        "memory.max": str((1 << 30) + cgroup.SLACK_BYTES),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": str(64 + cgroup.SLACK_TASKS),
        "cgroup.procs": "",
    }
    (tmp_path / "memory.events").write_text("low 0\nmax 3\noom 1\noom_kill 1\n")
    assert group.was_out_of_memory


def test_one_that_can_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    division = cgroup.Division(tmp_path, ("memory",))  # no cgroup file system: no cgroup.procs
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        division.make("jail")
    assert not list(tmp_path.iterdir())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_death_by_its_memory_is_told_by_name_and_amount() -> None:
    verdict = death(-9, Limits(memory_bytes=1 << 30), starting=False, out_of_memory=True)
    assert verdict.cause == "memory"
    assert "memory_bytes" in verdict.detail
    assert "1 GiB" in verdict.detail
