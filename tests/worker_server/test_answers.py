"""What a call gets beside a text, and answers from before, with a real worker server and driver."""

import asyncio
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from distill.errors import InputError, WorkerBatchError, WorkerError
from distill.protocol.jail_link import CallError
from distill.supervisor import background, driver
from distill.supervisor.answer_cache import AnswerCache, Known
from distill.supervisor.backends import FleetBackend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.fleet import Fleet
from distill.supervisor.host_calls import CURRENT_CALL, HostCallRecord
from distill.supervisor.ledger import Answer, Ledger
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.recorded import fill_ledger
from distill.supervisor.run_log import RunLog
from distill.traces import read, records
from tests.adapter_folder import write_adapter
from tests.engine_stand_in.spec import MODEL, calls_in, worker_spec
from tests.engine_stand_in.vllm.tokens import answer_ids, answer_to, encode

Body = Callable[["Runs"], Awaitable[None]]
CONTEXT = "It was the best of times, it was the worst of times, it was the age of wisdom."


class Runs:
    """Runs that share a worker server and a log folder."""

    def __init__(self, host: driver.Driver, journal: Any, fleet: Fleet, card: Any) -> None:
        self.fleet = fleet
        self._host, self._journal, self._card = host, journal, card
        self._calls: dict[str, WorkerCalls] = {}
        self._cells = 0

    def start(self, name: str, cache: AnswerCache | None = None) -> None:
        log = RunLog(self._journal, name)
        backend = FleetBackend(self.fleet, self._card)
        self._calls[name] = WorkerCalls(self._host, backend, log, SpanIndex(CONTEXT), cache=cache)

    async def ask(self, prompts: Any, run: str = "run", **options: Any) -> Any:
        """As a cell of its own; one prompt alone is ``worker``, a list ``worker_batch``."""
        if run not in self._calls:
            self.start(run)
        calls = self._calls[run]
        self._cells += 1
        name = "worker_batch" if isinstance(prompts, list) else "worker"
        record = HostCallRecord(self._cells, 1, name, (), {}, 0.0, key=f"key {self._cells}")
        CURRENT_CALL.set(record)
        return await asyncio.to_thread(getattr(calls, name), prompts, chat=False, **options)

    def tally(self, run: str = "run") -> Any:
        return self._calls[run].tally


def with_runs(folder: Path, body: Body, **settings: Any) -> list[records.Call]:
    """Run ``body`` beside a ready fleet of one; the calls that were logged, by cell and item."""

    async def work() -> None:
        host = driver.shared()
        journal = host.open_journal(folder)
        fleet = Fleet(host, [worker_spec(host.endpoints["workers"], **settings)])
        try:
            card = await asyncio.wait_for(fleet.ready(), 30)
            await body(Runs(host, journal, fleet, card))
        finally:
            await fleet.close()
            host.release_journal(journal)

    driver.shared()
    background.wait(asyncio.wait_for(work(), 60))
    return sorted(calls_in(folder), key=lambda call: (call.cell, call.item))


# -- n


def test_n_answers_to_each_prompt(tmp_path: Path) -> None:
    async def body(runs: Runs) -> None:
        assert await runs.ask("p", n=3, temperature=1.0) == [answer_to("p")] * 3
        both = await runs.ask(["p", "q"], n=2, temperature=1.0, seed=5)
        assert both == [[answer_to("p")] * 2, [answer_to("q")] * 2]
        assert await runs.ask("p", n=1) == [answer_to("p")]
        for wrong in ({"n": 2}, {"n": 0}, {"n": True}, {"n": 10**9}, {"n": "2"}):
            with pytest.raises(WorkerError) as raised:
                await runs.ask("p", **wrong)
            assert raised.value.kind == "bad_request"
        with pytest.raises(WorkerBatchError) as batch:
            await runs.ask(["p", ""], n=2, temperature=1.0)
        assert batch.value.answers == [[answer_to("p")] * 2, [None, None]]
        assert list(batch.value.errors) == [1]

    calls = with_runs(tmp_path, body)
    three, seeded = calls[:3], calls[3:7]
    assert len({call.id for call in calls}) == len(calls)
    assert [(call.item, call.sampling["n"]) for call in three] == [(0, 3), (1, 3), (2, 3)]
    assert all(call.token_ids and call.prompt_token_ids for call in three), "each trains by itself"
    assert [call.sampling["seed"] for call in seeded] == [5, 6, 5, 6]


# -- log-probabilities and ids


def test_log_probabilities_and_ids_on_request(tmp_path: Path) -> None:
    ids = answer_ids(encode("p"), 8)
    told = {"text": answer_to("p"), "token_ids": ids, "logprobs": [-1 / (1 + i) for i in ids]}

    async def body(runs: Runs) -> None:
        assert await runs.ask("p", logprobs=True) == told
        assert await runs.ask(["p"], logprobs=True, n=2, temperature=1.0) == [[told, told]]
        assert await runs.ask("p") == told["text"]
        with pytest.raises(WorkerError, match="leave out schema"):
            await runs.ask("p", logprobs=True, schema={"type": "object"})

    calls = with_runs(tmp_path, body)
    assert [call.sampling["record"] for call in calls] == [*["ids+logprobs"] * 3, "ids"]


def test_a_run_that_is_done_again_gives_the_same_forms(tmp_path: Path) -> None:
    given: dict[int, Any] = {}

    async def body(runs: Runs) -> None:
        given[1] = await runs.ask("p", n=2, temperature=1.0)
        given[2] = await runs.ask(["p", "q"], n=2, temperature=1.0, logprobs=True)
        given[3] = await runs.ask("p", logprobs=True)
        with pytest.raises(WorkerBatchError):
            await runs.ask(["p", ""], n=2, temperature=1.0)

    with_runs(tmp_path, body)
    (tmp_path / records.SUPERVISOR_LOG).touch()
    ledger = Ledger()
    fill_ledger(ledger, read(tmp_path).runs["run"], {cell: cell for cell in range(1, 5)})
    for cell, value in given.items():
        assert ledger.give(cell, f"key {cell}") == Answer(value)
    failed = ledger.give(4, "key 4")
    assert failed is not None
    assert isinstance(failed.error, CallError)
    assert failed.error.answers == ([answer_to("p")] * 2, [None, None])
    assert list(failed.error.errors or ()) == [1]


# -- the answer cache


def test_what_was_asked_before_is_not_asked_again(tmp_path: Path) -> None:
    passage = CONTEXT[10:60]

    async def body(runs: Runs) -> None:
        runs.start("run", AnswerCache(None, 1 << 20))
        first = await runs.ask([passage, "q"])
        assert await runs.ask(["q", passage, "new"]) == [*reversed(first), answer_to("new")]
        assert await runs.ask("q", seed=1, temperature=1.0) == first[1]
        assert await runs.ask("q", seed=1, temperature=1.0) == first[1]
        assert await runs.ask("q", max_tokens=2) != first[1]
        for _ in range(2):
            await runs.ask("q", temperature=1.0)  # a sample is another one each time
        await runs.ask("q", logprobs=True)
        assert (runs.tally().cached, runs.tally().sent) == (3, 8)
        await runs.ask("q", "without")
        assert runs.tally("without").cached == 0

    calls = [call for call in with_runs(tmp_path, body) if call.run == "run"]
    sources = [call.source for call in calls]
    assert sources == [
        *("sampled", "sampled", "cached", "cached", "sampled", "sampled", "cached"),
        *("sampled", "sampled", "sampled", "sampled"),
    ]
    passages = [call for call in calls if call.prompt == passage]
    assert [len(call.spans) for call in passages] == [1, 1], "evidence is counted in this run"
    cached = passages[1]
    assert (cached.usage.input_tokens, cached.usage.output_tokens) == (0, 0)
    assert cached.token_ids is None
    assert cached.model == passages[0].model
    assert cached.producer.kind == "driver"


def test_runs_share_answers_but_not_those_of_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "answers.sqlite"

    async def body(runs: Runs) -> None:
        runs.start("one", AnswerCache(path, 1 << 20))
        runs.start("two", AnswerCache(path, 1 << 20))
        await runs.ask("p", "one")
        await runs.ask("p", "two")
        for version in (1, 2):
            folder = write_adapter(tmp_path / str(version), float(version))
            await runs.fleet.adapters.load("tuned", str(folder), str(MODEL))
            await runs.ask("p", "one", model="tuned")
            await runs.ask("p", "two", model="tuned")
        again = write_adapter(tmp_path / "again", 1.0)
        await runs.fleet.adapters.load("tuned", str(again), str(MODEL))
        await runs.ask("p", "one", model="tuned")

    calls = with_runs(tmp_path / "log", body, max_lora_rank=8)
    assert [call.source for call in calls] == ["sampled", "cached"] * 3 + ["cached"]
    assert [call.model.weights_version for call in calls] == [0, 0, 1, 1, 2, 2, 1]
    assert len({call.response for call in calls}) == 3
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def known(response: str) -> Known:
    return Known("p", response, "stop", records.Model("m"))


def test_a_full_cache_forgets_what_was_not_asked_for_longest() -> None:
    cache = AnswerCache(None, 1 << 20)
    for number in range(200):
        cache.keep([(f"key {number}", known("x" * 10_000))])
        assert cache.find("key 0") is not None
        assert cache.size_bytes <= 1.1 * (1 << 20)
    assert cache.find("key 1") is None
    assert cache.find("key 199") is not None


def test_a_cache_that_can_not_be_used_is_said_or_has_no_answer(tmp_path: Path) -> None:
    bad = tmp_path / "bad.sqlite"
    bad.write_bytes(b"no database at all, but long enough to look like a file of some kind" * 20)
    with pytest.raises(InputError, match="delete it"):
        AnswerCache(bad, 1 << 20)
    path = tmp_path / "answers.sqlite"
    one, two = AnswerCache(path, 1 << 20), sqlite3.connect(path, isolation_level=None)
    two.execute("BEGIN IMMEDIATE")  # another process writes, and does not come to an end
    one.keep([("key", known("lost"))])
    assert one.find("key") is None
    two.execute("COMMIT")
    one.keep([("key", known("kept"))])
    assert one.find("key") == known("kept")
    one.close()
    two.close()
