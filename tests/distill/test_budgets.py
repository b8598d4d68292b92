"""Budgets end real runs: nothing is sent that they don't cover, and the model gets a last turn."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from distill import Budget, OpenAIHandler, RunResult, replay, resume, run
from distill.accounts import Account
from distill.errors import InputError
from distill.spending import seconds_before
from distill.supervisor.call_budget import CallBudget
from distill.supervisor.tariff import Tariff
from distill.supervisor.turn_budget import LEAST_LAST_S, TurnBudget
from distill.traces import Run, records
from tests.distill.scripted import (
    SMALL,
    Endpoint,
    Reply,
    Supervisor,
    Worker,
    cell,
    completion,
    endpoint,
    prompt_of,
    run_bounded,
)

Ask = Callable[..., RunResult]
BOSS = {"input": 2.0, "cached_input": 0.5, "output": 10.0}
HAND = {"input": 1.0, "output": 4.0}


def prices(**rows: dict[str, float]) -> dict[str, Any]:
    """A table with these models' dollars per million tokens."""
    return {"models": [{"models": [name], **row} for name, row in rows.items()]}


def reply(text: str, prompt: int, output: int, cached: int = 0, reasoning: int = 0) -> Reply:
    """A completion with this usage."""
    return completion(
        text,
        usage={
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        },
    )


class Talk:
    """An endpoint's script: the supervisor's replies in order, and an answer to every worker."""

    def __init__(self, *replies: Any, answer: Any = "yes", last: Any = None) -> None:
        self.replies = list(replies)
        self.last = last
        self.answer = answer
        self.lock = threading.Lock()
        self.calls: list[dict[str, Any]] = []
        self.turns: list[dict[str, Any]] = []

    def __call__(self, request: dict[str, Any]) -> Any:
        if request["model"] == "hand":
            self.calls.append(request)
            return self.answer(request) if callable(self.answer) else self.answer
        with self.lock:
            self.turns.append(request)
            if self.last is not None and "Reply now" in prompt_of(request):
                return self.last
            return self.replies.pop(0) if self.replies else cell("FINAL('no reply left')")

    def told(self, turn: int) -> str:
        """The last message of a turn's request."""
        return prompt_of(self.turns[turn - 1])


@pytest.fixture
def talk(log: Any) -> Callable[..., RunResult]:
    """A run whose supervisor and worker are models of one HTTP endpoint."""

    def ask(script: Talk, context: str = "some text", **options: Any) -> RunResult:
        with endpoint(script) as server:
            boss = OpenAIHandler("boss", server.url, "none")
            hand = OpenAIHandler("hand", server.url, "none", retries=options.pop("retries", 0))
            options = {"log_dir": log, "limits": SMALL, **options}
            result: RunResult = run_bounded(lambda: run("What?", context, boss, hand, **options))
            return result

    return ask


def test_dollars_are_those_of_the_reported_usage(talk: Ask, logged: Callable[[], Run]) -> None:
    script = Talk(
        reply(cell("print(worker_batch(['a', 'b']))"), 1000, 200, cached=400, reasoning=150),
        reply(cell("FINAL('done')"), 1300, 50, cached=1000),
        answer=reply("yes", 300, 20),
    )
    result = talk(script, prices=prices(boss=BOSS, hand=HAND))
    supervisor = (600 * 2 + 400 * 0.5 + 200 * 10 + 300 * 2 + 1000 * 0.5 + 50 * 10) / 1e6
    worker = 2 * (300 * 1 + 20 * 4) / 1e6
    assert result.dollars == pytest.approx(supervisor + worker)
    assert result.dollars_limit == 5.0
    assert result.ended_by is None
    end = logged().end
    assert end is not None
    assert end.supervisor_dollars == pytest.approx(supervisor)
    assert end.worker_dollars == pytest.approx(worker)


def test_calls_beyond_the_budget_are_not_sent_and_the_others_answers_are_carried(
    talk: Ask, logged: Callable[[], Run]
) -> None:
    script = Talk(
        cell(
            "try:\n    worker_batch(list('abcde'))\n"
            "except WorkerBudgetError as error:\n"
            "    kept = error\n    print(error.answers, error.errors[4])\n"
            "print(isinstance(kept, WorkerBatchError))"
        ),
        cell("FINAL(kept.answers[:3])"),
    )
    result = talk(script, budget=Budget(worker_calls=3))
    assert len(script.calls) == 3
    assert result.worker_calls == 3
    assert "['yes', 'yes', 'yes', None, None]" in script.told(2)
    assert "the budget of 3 worker calls does not cover it: 0 worker calls left" in script.told(2)
    assert "There are no worker calls left. Reply now" in script.told(2)
    assert (result.status, result.answer) == ("final", ["yes"] * 3)
    assert result.ended_by == "worker_calls"
    (batch,) = logged().batches
    assert (batch.items, batch.failed, batch.refused) == (5, 2, 2)
    end = logged().end
    assert end is not None
    assert end.ended_by == "worker_calls"


def test_a_replay_has_the_same_calls_refused_and_costs_nothing(
    ask: Ask, log: Any, tmp_path: Any
) -> None:
    code = """
kept = []
for ask in (lambda: worker_batch(["a", "b", "c"]), lambda: worker("d")):
    try:
        ask()
    except WorkerBudgetError as error:
        kept.append([error.answers, error.errors, str(error)])
print(kept)
FINAL(str(kept))
"""
    first = ask(cell(code), budget=Budget(worker_calls=2))
    assert "[['<a>', '<b>', None], {2: 'not sent: the budget of 2 worker calls" in first.answer
    again = run_bounded(lambda: replay(log, log_dir=tmp_path / "again"))
    assert again.answer == first.answer
    assert (again.worker_calls, again.dollars) == (0, 0.0)


def test_a_replay_of_a_run_that_a_budget_ended_ends_where_it_did(
    ask: Ask, log: Any, tmp_path: Any
) -> None:
    loop = cell("print(worker_batch(['a', 'b']))")
    first = ask(loop, loop, "as far as I got", budget=Budget(worker_calls=4))
    again = run_bounded(lambda: replay(log, log_dir=tmp_path / "again"))
    for result in (first, again):
        assert (result.status, result.answer) == ("forced", "as far as I got")
        assert (result.iterations, result.ended_by) == (2, "worker_calls")


def test_a_single_call_beyond_the_budget_raises_the_same_error(talk: Ask) -> None:
    code = "try:\n    worker('a')\nexcept WorkerBudgetError as error:\n    FINAL(error.answers)"
    result = talk(Talk(cell(code)), budget=Budget(worker_calls=0))
    assert result.answer == [None]
    assert result.ended_by is None


def test_tokens_end_a_run_with_a_last_turn_that_is_covered(talk: Ask) -> None:
    more = [reply(cell(f"x = {n}\nprint('x' * 900)"), 2000 + 400 * n, 60) for n in range(50)]
    script = Talk(*more, last=reply("the best I have", 4800, 20))
    budget = Budget(tokens=30_000)
    result = talk(script, budget=budget, max_iterations=40)
    used = result.supervisor_usage
    assert used.input_tokens + used.output_tokens <= 30_000
    assert result.ended_by == "tokens"
    assert "There are no tokens left for another turn. Reply now" in script.told(len(script.turns))
    assert all(0 < turn["max_tokens"] <= 16_384 for turn in script.turns)
    assert (result.status, result.answer) == ("forced", "the best I have")


def test_dollars_end_a_run_before_a_turn_that_they_do_not_cover(talk: Ask) -> None:
    script = Talk(*[reply(cell("print(1)"), 3000, 300) for _ in range(50)])
    table = prices(boss={**BOSS, "max_output_tokens": 2000}, hand=HAND)
    result = talk(script, budget=Budget(dollars=0.1), prices=table, max_iterations=50)
    assert result.ended_by == "dollars"
    assert script.turns[0]["max_tokens"] == 2000
    assert result.dollars is not None
    assert 0.02 < result.dollars <= 0.1
    assert "There is no money left for another turn." in script.told(len(script.turns))


def test_worker_calls_wait_for_what_others_leave_and_none_is_sent_uncovered(talk: Ask) -> None:
    """Each may take 4,096 tokens and takes 30: all are asked, a few at a time."""
    script = Talk(
        cell("FINAL(len(worker_batch([f'q{n}' for n in range(40)])))"), answer=reply("yes", 20, 10)
    )
    result = talk(script, budget=Budget(tokens=40_000))
    assert result.answer == 40
    assert len(script.calls) == 40
    assert all(call["max_tokens"] == 4096 for call in script.calls)


@pytest.mark.parametrize("limit", [7, 23])
def test_batches_at_once_never_send_more_than_the_budget(talk: Ask, limit: int) -> None:
    code = """
from threading import Thread
got = []
def ask(n):
    try:
        got.append(worker_batch([f"{n}-{i}" for i in range(9)]))
    except WorkerBudgetError as error:
        got.append(error.answers)
threads = [Thread(target=ask, args=(n,)) for n in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
FINAL(sum(answer is not None for batch in got for answer in batch))
"""
    script = Talk(cell(code))
    result = talk(script, budget=Budget(worker_calls=limit))
    assert len(script.calls) == limit
    assert result.answer == limit


def test_wall_time_ends_a_cell_that_waits_for_workers(talk: Ask) -> None:
    let_go = threading.Event()

    def answer(request: dict[str, Any]) -> str:
        if prompt_of(request) == "slow":
            let_go.wait(20)
        return "quick"

    script = Talk(
        cell(
            "print(worker('fast'))\ntry:\n    worker_batch(['slow', 'slow'])\n"
            "except WorkerBudgetError as error:\n    print(error.answers, error)"
        ),
        "quick, I think",
        answer=answer,
    )
    result = talk(script, budget=Budget(wall_s=3.0))
    let_go.set()
    assert "the budget of 3.0 s of wall time is used up" in script.told(2)
    assert "quick\n[None, None]" in script.told(2)
    assert (result.ended_by, result.answer) == ("wall_s", "quick, I think")
    assert result.elapsed < 15


def test_time_for_a_last_turn_is_kept_however_fast_replies_come() -> None:
    account = Account(Budget(wall_s=100.0))
    turns = TurnBudget(account, Tariff(), CallBudget(account, Tariff()))

    async def reply() -> None:
        """At once."""

    asyncio.run(turns.in_time(reply()))
    left_s, work_s = account.left_s(), turns.work_left_s()
    assert left_s is not None
    assert work_s is not None
    assert left_s - work_s >= LEAST_LAST_S


def test_turns_of_a_budget_end_a_run_as_max_iterations_do(talk: Ask) -> None:
    script = Talk(cell("print(1)"), cell("print(2)"), "two", cell("print(3)"))
    result = talk(script, budget=Budget(turns=2))
    assert (result.ended_by, result.answer, result.iterations) == ("turns", "two", 2)
    assert talk(Talk(cell("1"), "one"), max_iterations=1).ended_by == "turns"


def test_the_model_is_told_exactly_what_is_left_at_the_end_of_each_message(talk: Ask) -> None:
    script = Talk(
        reply(cell("worker_batch(['a', 'b', 'c'])"), 1000, 100),
        reply(cell("print('more')"), 1200, 100),
        cell("FINAL(1)"),
        answer=reply("yes", 10, 5),
    )
    result = talk(
        script, budget=Budget(worker_calls=10, dollars=1.0), prices=prices(boss=BOSS, hand=HAND)
    )
    assert result.answer == 1
    lines = [script.told(turn).rpartition("\n\n")[2] for turn in (1, 2, 3)]
    assert all(line.startswith("Budget left, beside what is kept for a last") for line in lines)
    told = [line.rpartition("turn: ")[2].rstrip(".").split(", $") for line in lines]
    assert [calls for calls, _ in told] == ["10 worker calls", "7 worker calls", "7 worker calls"]
    turn, call = (1000 * 2 + 100 * 10) / 1e6, (10 * 1 + 5 * 4) / 1e6
    left = [1.0, 1.0 - turn - 3 * call, 1.0 - turn - 3 * call - (1200 * 2 + 100 * 10) / 1e6]
    for (_, dollars), most in zip(told, left, strict=True):
        assert most - 0.1 < float(dollars) < most - 0.01  # the last turn's are kept back
    messages = [turn["messages"] for turn in script.turns]
    assert messages[1][: len(messages[0])] == messages[0]
    assert messages[2][: len(messages[1])] == messages[1]


def test_nothing_is_said_of_a_budget_that_nobody_gave(talk: Ask) -> None:
    script = Talk(cell("print(1)"), cell("FINAL(1)"))
    result = talk(script)
    assert not any("Budget" in script.told(turn) for turn in (1, 2))
    assert "max_tokens" not in script.turns[0]
    assert (result.dollars, result.dollars_limit) == (0.0, None)


def test_a_lost_try_is_paid_for_and_none_is_sent_again_that_is_not_covered(talk: Ask) -> None:
    """A connection that breaks after the request was read: the endpoint may send a bill."""

    def hang_up(_request: dict[str, Any]) -> Any:
        raise ConnectionError("the endpoint hangs up")

    code = "try:\n    worker('a', max_tokens=100)\nexcept WorkerError as e:\n    FINAL(str(e))"
    script = Talk(
        cell(code),
        answer=hang_up,
    )
    table = prices(hand={"input": 0.0, "output": 1000.0}, boss={"input": 0, "output": 0})
    result = talk(script, budget=Budget(dollars=0.25), prices=table, retries=4)
    assert "not tried again: the budget" in result.answer
    assert len(script.calls) == 2  # a third would cost up to $0.30 in all
    assert result.dollars is not None
    assert 0.1 <= result.dollars <= 0.25


def test_a_lost_turn_that_is_not_covered_again_leaves_the_last_one(
    talk: Ask, logged: Callable[[], Run]
) -> None:
    lost = Reply(b'{"x"', headers={"Content-Length": "1000"})
    script = Talk(cell("x = 1"), lost, cell("FINAL(x + 1)"))
    result = talk(script, budget=Budget(tokens=14_000))
    assert (result.answer, result.ended_by, result.iterations) == (2, "tokens", 1)
    asked = [turn["max_tokens"] for turn in script.turns]
    assert len(asked) == 3
    assert asked[1] + asked[2] < 14_000
    assert [turn.forced for turn in logged().turns] == [False, True]
    again = run_bounded(lambda: replay(logged(), log_dir=logged().folder.parent / "again"))
    assert (again.answer, again.ended_by) == (2, "tokens")


def test_a_budget_that_covers_no_turn_is_refused_before_anything_is_sent(talk: Ask) -> None:
    script = Talk()
    with pytest.raises(InputError, match=r"budget of 200 tokens does not cover it.*for one turn"):
        talk(script, budget=Budget(tokens=200))
    assert script.turns == []


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(tokens=1_500), r"1,500 tokens .* for one turn"),
        (Budget(dollars=0.001), r"dollars can't be limited: there is no price of dear"),
    ],
    ids=["tokens", "dollars"],
)
def test_workers_are_not_loaded_for_a_budget_that_is_refused(
    ask: Ask, budget: Budget, said: str
) -> None:
    class Paid(Supervisor):
        endpoint = "dear.example.com"
        model = "dear"

    class Slow(Worker):
        is_loaded = False

        def prepare(self) -> None:
            self.is_loaded = True

    worker = Slow()
    with pytest.raises(InputError, match=said):
        ask(supervisor=Paid(cell("FINAL(1)")), worker=worker, budget=budget)
    assert not worker.is_loaded
    assert ask(cell("FINAL(1)"), worker=worker).answer == 1
    assert worker.is_loaded


def test_a_price_that_nobody_knows_is_told_and_makes_a_limit_an_error(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    class Paid(Supervisor):
        endpoint = "api.example.com"
        model = "strange"

    with caplog.at_level(logging.WARNING, "distill"):
        result = ask(supervisor=Paid(cell("FINAL(1)")))
    assert result.dollars is None
    told = [r.getMessage() for r in caplog.records if "not known" in r.getMessage()]
    assert len(told) == 1
    assert 'models = ["strange"]\n  endpoint = "api.example.com"' in told[0]
    with pytest.raises(InputError, match=r"no price of strange at api\.example"):
        ask(supervisor=Paid(cell("FINAL(1)")), budget=Budget(dollars=1.0))


def test_a_run_that_goes_on_has_paid_already(log: Any, logged: Callable[[], Run], ask: Ask) -> None:
    def stop(_messages: Any) -> Any:
        raise KeyError("the endpoint is gone")

    with pytest.raises(Exception, match="endpoint is gone"):
        ask(cell("a = worker_batch(['a', 'b', 'c'])"), stop, budget=Budget(worker_calls=5))
    code = (
        "try:\n    worker_batch(list('defg'))\nexcept WorkerBudgetError as e:\n    print(e.answers)"
    )
    worker = Worker()
    again = Supervisor(cell(code), "that is all")
    result = run_bounded(lambda: resume(log, again, worker, limits=SMALL))
    assert worker.prompts == ["d", "e"]
    assert (result.ended_by, result.answer) == ("worker_calls", "that is all")
    assert "['<d>', '<e>', None, None]" in again.shown(2)
    assert logged().start.options["budget"]["worker_calls"] == 5  # type: ignore[union-attr]


def test_nobody_pays_for_the_time_in_which_nobody_was_at_it(
    ask: Ask, logged: Callable[[], Run]
) -> None:
    ask(cell("FINAL(1)"))
    run = logged()
    before_s = seconds_before(run)
    assert run.end is not None
    assert 0 < before_s <= run.end.t - run.start.t  # type: ignore[union-attr]
    last = run.messages[-1]
    resumed = records.Event(
        t=last.t + 1000, run=run.id, producer=last.producer, event="run_resumed"
    )
    run.events.append(resumed)
    run.messages.append(msgspec.structs.replace(last, t=last.t + 1003))
    assert seconds_before(run) == pytest.approx(before_s + 3, abs=0.01)


def test_a_budget_is_a_budget(ask: Ask) -> None:
    with pytest.raises(InputError, match=r"must be a distill.Budget, not dict"):
        ask(cell("FINAL(1)"), budget={"tokens": 5})


def test_an_endpoint_has_one_bound_of_its_replies(log: Any) -> None:
    def answer(request: dict[str, Any]) -> str:
        seen.append({k: v for k, v in request.items() if k.startswith("max")})
        return "ok"

    seen: list[dict[str, Any]] = []
    server: Endpoint
    with endpoint(answer) as server:
        bare = OpenAIHandler("m", server.url, "none")
        bare.chat([{"role": "user", "content": "x"}], max_tokens=5)
        given = OpenAIHandler("m", server.url, "none", max_completion_tokens=9)
        given.chat([{"role": "user", "content": "x"}], max_tokens=50)
    assert seen == [{"max_tokens": 5}, {"max_completion_tokens": 9}]
