"""A keeper that was taken over can do nothing: attacked from inside, after its handshake."""

import os
import tempfile
from pathlib import Path

import psutil
import pytest

from distill.protocol.sandbox_link import JailLost, JailReady
from tests.sandbox import ordinary, turned_keeper
from tests.sandbox.conftest import SMALL
from tests.sandbox.harness import Host

WHO = {"a user": ordinary.prefix()}
if os.geteuid() == 0:
    WHO["root"] = ()
ON_FILES = ("read", "read, by the old call", "write", "list", "its own environment")
ASKED_FOR_NOTHING = {
    "remove": "ENOENT",
    "change a mode": "ENOENT",
    "execute": "ENOENT",
    "trace": "ESRCH",
    "another's memory": "EINVAL",
}
"""What the kernel says where it would have been done."""


def turned(under: tuple[str, ...], *off: str) -> dict[str, dict[str, str]]:
    """What came of each attack, from the main thread and from one that was there before."""
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        steps = ("--off", *off) if off else ()
        host = Host(Path(folder), "auto", under, ("-m", "tests.sandbox.turned_keeper", *steps))
        try:
            assert isinstance(host.open(SMALL), JailLost)
            told = [record for record in host.log if record["event"] == "attacks"]
        finally:
            host.close()
        Path("/tmp/distill-turned").unlink(missing_ok=True)
    return {
        record["where"]: {name: record[name] for name in turned_keeper.ATTACKS} for record in told
    }


@pytest.mark.parametrize("who", WHO)
def test_it_can_do_nothing(who: str) -> None:
    found = turned(WHO[who])
    assert set(found) == {"main", "early"}
    for results in found.values():
        assert results == dict.fromkeys(turned_keeper.ATTACKS, "EPERM")


def test_without_its_seal_it_could() -> None:
    found = turned(ordinary.prefix(), "all")["main"]
    assert found == dict.fromkeys(turned_keeper.ATTACKS, "worked") | ASKED_FOR_NOTHING


def test_without_the_filter_no_file_is_opened_all_the_same() -> None:
    found = turned(ordinary.prefix(), "kernel")
    assert {found["main"][name] for name in ON_FILES} == {"EACCES"}
    assert found["main"]["fork"] == "worked"


def test_without_landlock_no_file_is_opened_all_the_same() -> None:
    found = turned(ordinary.prefix(), "files")["main"]
    assert {found[name] for name in ON_FILES} == {"EPERM"}


@pytest.mark.parametrize("who", WHO)
def test_a_keeper_at_work_is_sealed(who: str) -> None:
    """All of its threads, and it still reads its jail's clock and its calls."""
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        host = Host(Path(folder), "auto", WHO[who])
        try:
            assert isinstance(host.open(SMALL, functions={"echo": lambda x: x}), JailReady)
            assert host.printed("print(echo('x' * 200_000) == 'x' * 200_000)") == "True\n"
            assert host.done("sum(range(10**6))").cpu_s > 0
            keeper = psutil.Process(host.keeper_pid)
            for task in keeper.threads():
                status = Path(f"/proc/{keeper.pid}/task/{task.id}/status").read_text()
                lines = dict(line.split(":\t", 1) for line in status.splitlines())
                assert (lines["Seccomp"], lines["NoNewPrivs"]) == ("2", "1")
                assert int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == 0
            uids = {*keeper.uids()}
            assert uids.isdisjoint({0, host.plan.uid})
            assert who == "root" or uids == {ordinary.uid()}
        finally:
            host.close()
        assert (Path(folder) / "keeper.log").read_text() == ""


def test_a_sealed_keeper_dies_with_the_launcher() -> None:
    """Its change of uid has not untied it, though its control pair would tell it as well."""
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        host = Host(Path(folder))
        host.open(SMALL)
        keeper = psutil.Process(host.keeper_pid)
        keeper.suspend()  # it can't end itself
        host.launcher.kill()
        keeper.wait(5)
        host.close()
