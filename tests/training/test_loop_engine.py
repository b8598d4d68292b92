"""The loop's engine: real worker servers take each version while they run, and go back to one."""

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill.engine_arguments import EngineArguments
from distill.errors import MachineError
from distill.resident import SandboxSettings
from distill.tasks import Task
from distill.traces import read, records
from distill.training.task_sets import TaskSets
from distill.training.workers import NAME, EngineOfItsOwn
from distill.worker_server.adapter_files import WEIGHTS
from distill.worker_settings import WorkerSettings
from tests.adapter_folder import write_adapter
from tests.engine_stand_in.spec import MODEL, worker_spec
from tests.engine_stand_in.vllm.tokens import adapted, answer_ids, decode, encode, render
from tests.training.loops import Silent, Table, go_round, plan

GOOD, BAD = 1.0, 2.0
"""What is added to the weights by versions: the first is right, the second wrong."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[EngineOfItsOwn]:
    """An engine of two worker servers, on the engine that does no work."""
    for name, value in worker_spec("").env.items():
        if name.startswith(("STAND_IN", "PYTHONPATH")):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    core = str(min(os.sched_getaffinity(0)))
    settings = WorkerSettings(str(MODEL), cores=(core, core), max_lora_rank=8)
    display = Silent()
    arguments = EngineArguments(settings, None, SandboxSettings(), None)
    with EngineOfItsOwn(arguments, display, display.line) as workers:
        yield workers


def said(document: str, changed: int) -> str:
    """The answer to a document by the version of these weights' checksum; 0: without an adapter."""
    prompt = render([{"role": "user", "content": document}])
    return decode(adapted(answer_ids(encode(prompt), 8), changed))


def tasks(kind: str, count: int, *, changed: int, base: int) -> list[Task]:
    """Tasks whose first ``base`` are the base's to know, the others the version's."""
    documents = [f"{kind} number {number}" for number in range(count)]
    return [
        Task(
            id=document, query="What?", context=document,
            label=said(document, 0 if number < base else changed),
        )
        for number, document in enumerate(documents)
    ]  # fmt: skip


def calls(logs: Path) -> set[tuple[str | None, str]]:
    """Who has answered: the adapter's name and the hash of its files."""
    found: list[records.Call] = [call for run in read(logs).runs.values() for call in run.calls]
    return {(call.model.adapter, call.model.adapter_hash) for call in found}


def test_an_engine_makes_room_and_comes_again(engine: EngineOfItsOwn, tmp_path: Path) -> None:
    good = write_adapter(tmp_path / "good", GOOD)

    def servers() -> set[int]:
        found = set()
        for each in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                if "distill.worker_server" in " ".join(each.cmdline()):
                    found.add(each.pid)
        return found

    engine.use(good)
    before = servers()
    assert before
    engine.make_room()
    assert not servers()
    engine.make_room()  # there is none
    trained_beside: list[set[int]] = []

    class Watching(Table):
        def __call__(self, *words: Any) -> None:
            engine.make_room()
            trained_beside.append(servers())
            super().__call__(*words)

    changed = zlib.crc32((good / WEIGHTS).read_bytes())
    sets = TaskSets(
        tasks("train", 2, changed=changed, base=1), tasks("test", 3, changed=changed, base=1)
    )
    trainer = Watching({"iteration-1": GOOD, "iteration-2": GOOD})
    came = go_round(tmp_path / "out", plan(), trainer, engine, sets=sets, base=MODEL)
    assert [each.accuracy for each in came.versions] == [1 / 3, 2 / 3, 2 / 3]
    assert trained_beside == [set(), set()]
    assert servers()
    assert not servers() & before


def test_versions_are_loaded_into_running_workers_and_taken_back(
    engine: EngineOfItsOwn, tmp_path: Path
) -> None:
    good = write_adapter(tmp_path / "good", GOOD)
    changed = zlib.crc32((good / WEIGHTS).read_bytes())
    assert changed % 8
    sets = TaskSets(
        tasks("train", 2, changed=changed, base=1), tasks("test", 3, changed=changed, base=1)
    )
    skills = {"iteration-1": GOOD, "iteration-2": BAD, "iteration-3": GOOD}
    out = tmp_path / "out"
    came = go_round(out, plan(iterations=3), Table(skills), engine, sets=sets, base=MODEL)

    assert [each.kept for each in came.versions] == [True, True, False, True]
    assert [each.accuracy for each in came.versions] == [1 / 3, 2 / 3, 0.0, 2 / 3]
    _, first, second, third = ((NAME, each.adapter_sha256) for each in came.versions)
    assert first == third != second
    assert calls(out / "iteration-0" / "held-out.logs") == {(None, "")}
    assert calls(out / "iteration-1" / "collect.logs") == {(None, "")}
    assert calls(out / "iteration-1" / "held-out.logs") == {first}
    assert calls(out / "iteration-2" / "held-out.logs") == {second}
    assert calls(out / "iteration-3" / "collect.logs") == {first}  # gone back to

    with pytest.raises(MachineError, match="not those that were trained"):
        engine.use(write_adapter(tmp_path / "other", 7.0), third[1])
