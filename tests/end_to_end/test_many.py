"""Many tasks at once over one fleet: a jail each, and one copy of the text that all ask about.

The fleet is a real worker server on the engine that does no work; the cells wait for each other,
so that all jails are there at the same time.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill import Limits, LMResponse, ModelHandler, Usage, evaluate, primitive
from distill.supervisor import background, driver
from distill.supervisor.backends import FleetBackend
from distill.supervisor.fleet import Fleet
from distill.traces import validate
from tests.distill.scripted import cell
from tests.engine_stand_in.spec import ROOT, worker_spec
from tests.supervisor.processes import context_files, wait_until

MIB = 1 << 20
TEXT_MIB = 4
CALLS = 20
CODE = f"""\
step = len(context) // {CALLS}
answers = worker_batch([context[place * step :][:800] for place in range({CALLS})])
meet()
FINAL(len(answers))"""
MEETING_S = 300.0
KEEPER_MIB, JAIL_MIB = 40, 40
"""Of its own, at most: some 16 and 6 where this was measured."""
INDEX_MIB = 150
"""The text, its index and the copies that are made on the way, at most; they are there once."""
RUN_MIB = 3
"""What the driver holds for each run, at most: its conversation, its threads."""


class Boss(ModelHandler):
    """Writes the same cell for every task."""

    model = "boss"

    def chat(self, messages: Any, **kw: Any) -> LMResponse:
        return LMResponse(cell(CODE), Usage(10, 5), self.model, 0.0)

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        return [self.chat(messages) for messages in message_batches]


class Meeting:
    """Where the cells of ``count`` runs wait for each other; the last one looks around."""

    def __init__(self, count: int) -> None:
        self.seen: dict[str, list[int]] = {}
        """Bytes of each process's own, by its kind."""
        self.texts: set[int] = set()
        """Inodes of the memory files with a context that the driver holds."""
        self._others = self._inodes()
        """Those that tests before this one have left."""
        self._barrier = threading.Barrier(count, self._look)

    def meet(self) -> None:
        """Wait for all. Sends nothing out."""
        self._barrier.wait(MEETING_S)

    def _look(self) -> None:
        for kind, process in _family():
            with contextlib.suppress(psutil.Error):  # one that is ending
                self.seen.setdefault(kind, []).append(process.memory_full_info().uss)
        self.texts = self._inodes() - self._others

    @staticmethod
    def _inodes() -> set[int]:
        return {fd.stat().st_ino for fd in context_files()}


def _family() -> Iterator[tuple[str, psutil.Process]]:
    """This process and those below, with what each is."""
    me = psutil.Process()
    yield "driver", me
    for process in me.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "distill.sandbox.keeper" in words:
                yield "keeper", process
            elif words and "bwrap" not in words[0] and any("interpreter.py" in w for w in words):
                yield "jail", process


@pytest.fixture
def backend() -> Iterator[FleetBackend]:
    host = driver.shared()

    async def up() -> tuple[Fleet, FleetBackend]:
        fleet = Fleet(host, [worker_spec(host.endpoints["workers"])])
        return fleet, FleetBackend(fleet, await fleet.ready())

    fleet, backend = background.wait(up())
    yield backend
    background.wait(fleet.close())


@pytest.mark.parametrize("count", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_all_at_once_in_bounded_memory(tmp_path: Path, backend: FleetBackend, count: int) -> None:
    text = (ROOT / "examples" / "kjv.txt").read_text()[: TEXT_MIB * MIB]
    (tmp_path / "text.txt").write_text(text)
    meeting = Meeting(count)
    tasks = [
        {"id": str(n), "query": "How many?", "path": str(tmp_path / "text.txt"), "label": CALLS}
        for n in range(count)
    ]
    before = psutil.Process().memory_full_info().uss
    threads = threading.active_count()  # those of tests before this one
    done = evaluate(
        tasks,
        Boss(),
        backend,
        concurrency=count,
        scorer="number",
        primitives={"meet": primitive(egress=False)(meeting.meet)},
        limits=Limits(memory_bytes=256 * MIB, cell_s=2 * MEETING_S, run_s=2 * MEETING_S),
        log_dir=tmp_path / "log",
    )
    assert done.summary.failures == {}
    assert (done.summary.right, done.summary.worker_calls) == (count, count * CALLS)
    seen = {kind: [bytes_ / MIB for bytes_ in each] for kind, each in meeting.seen.items()}
    assert len(seen["jail"]) >= count, "one stands by"
    assert max(seen["keeper"]) < KEEPER_MIB
    assert max(seen["jail"]) < JAIL_MIB
    assert len(meeting.texts) == 1, "all jails map the same memory"
    grown = seen["driver"][0] - before / MIB
    assert grown < INDEX_MIB + RUN_MIB * count
    assert validate(tmp_path / "log")[1] == []
    assert len(list((tmp_path / "log" / "contexts").iterdir())) == 1
    _nothing_stays(threads + count)


def _nothing_stays(most_threads: int) -> None:
    """Keepers and jails end, but for those that stand by; so do the memory file and the threads."""
    wait_until(lambda: sum(kind == "keeper" for kind, _ in _family()) <= 1, 30)
    assert context_files() == []
    wait_until(lambda: threading.active_count() < most_threads, 30)
