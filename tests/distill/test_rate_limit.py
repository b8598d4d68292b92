"""Limits of an endpoint: over handlers and threads, by headers, in turn, and when it is over."""

import contextlib
import contextvars
import email.utils
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from distill import OpenAIHandler, RunResult
from distill.attempts import RETRY_S, Attempts
from distill.caller import WAITER
from distill.clients import supervisor_here
from distill.errors import InputError, ModelError, WorkerBatchError
from distill.rate_limit import RateLimiter, Window
from distill.rates import Rates
from distill.retry_headers import asked_wait_s, exhausted_s, is_passing
from distill.traces import Run
from distill.worker_settings import WorkerSettings, endpoint_worker
from tests.distill.scripted import Endpoint, Reply, cell, completion, endpoint, run_bounded

RATE = {"error": {"message": "slow down", "type": "rate"}}
GONE = {"error": {"message": "overloaded"}}
TESTS = itertools.count()
At = Callable[..., OpenAIHandler]


@pytest.fixture
def at() -> Iterator[At]:
    """Makes handlers of an address; they are closed at the end.

    Their model is this test's alone: what an endpoint may be asked is counted by address and model,
    and an earlier test may have had the address.
    """
    own = f"scripted-{next(TESTS)}"
    with contextlib.ExitStack() as stack:

        def at(url: str, *words: Any, model: str = own, **options: Any) -> OpenAIHandler:
            handler = OpenAIHandler(model, url, *words, **options)
            stack.callback(handler.close)
            return handler

        yield at


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def refusing(count: int, status: int, headers: dict[str, str]) -> Callable[[Any], Any]:
    """Refuses so many requests, then answers."""
    numbers = itertools.count()
    return lambda _: "fine" if next(numbers) >= count else Reply(RATE, status, headers)


def gap_s(server: Endpoint) -> float:
    """Between the first two requests."""
    return server.times[1] - server.times[0]


# ---- pauses are everybody's ----------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_makes_other_callers_wait(at: At, status: int) -> None:
    with endpoint(refusing(1, status, {"Retry-After": "1"})) as server:
        refused = at(server.url, retries=0)
        other = at(f"{server.url}/")
        with pytest.raises(ModelError, match="slow down" if status == 429 else "503"):
            refused.chat(say("a"))
        reply = run_bounded(lambda: other.chat(say("b")))
    assert gap_s(server) >= 1.0
    assert (reply.text, reply.attempts) == ("fine", 1)
    assert 0.5 < reply.waited_s <= reply.elapsed


@pytest.mark.parametrize("differs", ["key", "model"])
def test_another_key_or_model_does_not_wait(at: At, differs: str) -> None:
    with endpoint(refusing(1, 429, {"Retry-After": "60"})) as server:
        with pytest.raises(ModelError):
            at(server.url, "sk-first", retries=0).chat(say("a"))
        key = "sk-other" if differs == "key" else "sk-first"
        handler = at(server.url, key, **{"model": "other"} if differs == "model" else {})
        assert run_bounded(lambda: handler.chat(say("b"))).waited_s < 30


@pytest.mark.parametrize("status", [500, 408, 409])
def test_trouble_of_one_call_is_its_own(at: At, status: int) -> None:
    with endpoint(refusing(1, status, {"Retry-After": "60"})) as server:
        with pytest.raises(ModelError):
            at(server.url, retries=0).chat(say("a"))
        assert run_bounded(lambda: at(server.url).chat(say("b"))).text


def test_a_date_is_waited_for(at: At) -> None:
    asked = {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)}
    with endpoint(refusing(1, 429, asked)) as server:
        reply = run_bounded(lambda: at(server.url).chat(say("a")))
    assert gap_s(server) >= 0.8
    assert reply.attempts == 2


def test_a_limit_that_is_used_up_is_waited_for(at: At) -> None:
    used_up = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "700ms"}
    answers = [Reply(completion("one").body, 200, used_up), "two"]
    with endpoint(lambda _: answers.pop(0)) as server:
        at(server.url).chat(say("a"))
        run_bounded(lambda: at(server.url).chat(say("b")))
    assert gap_s(server) >= 0.6


def test_an_endpoint_that_asks_for_hours_is_not_waited_for(at: At) -> None:
    with endpoint(refusing(1, 429, {"Retry-After": "7200"})) as server:
        handler = at(server.url)
        with pytest.raises(ModelError, match=r"slow down \(it asks to wait 7,200 s\)"):
            run_bounded(lambda: handler.chat(say("a")))
        assert run_bounded(lambda: handler.chat(say("b"))).text == "fine"
    assert len(server.requests) == 2


# ---- requests and tokens a minute ----------------------------------------------------------


def spread(handlers: list[OpenAIHandler], count: int, **options: Any) -> float:
    """Ask so often by each handler, each in a thread of its own; how long it took (s)."""

    def ask(handler: OpenAIHandler) -> None:
        for number in range(count):
            handler.chat(say(str(number)), **options)

    started_s = time.monotonic()
    threads = [threading.Thread(target=ask, args=(one,), daemon=True) for one in handlers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(25)
        assert not thread.is_alive()
    return time.monotonic() - started_s


def test_tokens_are_counted_over_handlers_and_threads(at: At) -> None:
    usage = {"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100}
    with endpoint(lambda _: completion("x", usage=usage)) as server:
        limits: dict[str, Any] = {"tokens_per_minute": 60 * 300, "rate_window_s": 1.0}
        handlers = [
            at(server.url, **limits),
            at(server.url),  # the limit is the endpoint's: its as well
        ]
        # 300 tokens a window, 100 a call: the last of eight may begin in the third.
        assert spread(handlers, 4, max_tokens=100) >= 2.0
    assert len(server.requests) == 8


def test_requests_are_counted_over_handlers_and_threads(at: At) -> None:
    with endpoint(lambda _: "x") as server:
        handlers = [at(server.url, requests_per_minute=240, rate_window_s=0.5) for _ in range(2)]
        assert spread(handlers, 3) >= 1.0  # two a window
    assert len(server.requests) == 6


def test_what_was_reserved_and_not_used_is_given_back(at: At) -> None:
    with endpoint(lambda _: "x") as server:  # 15 tokens each
        handler = at(server.url, tokens_per_minute=2000)
        for _ in range(5):
            run_bounded(lambda: handler.chat(say("a"), max_tokens=1000), 20)
    assert len(server.requests) == 5


def test_what_is_reserved_can_not_be_used_twice(at: At) -> None:
    state = {"open": 0, "most": 0}
    lock = threading.Lock()

    def answer(_: Any) -> str:
        with lock:
            state["open"] += 1
            state["most"] = max(state["most"], state["open"])
        time.sleep(0.1)
        with lock:
            state["open"] -= 1
        return "x"

    with endpoint(answer) as server:
        handler = at(server.url, tokens_per_minute=1500)
        run_bounded(lambda: handler.chat_batch([say("a")] * 4, max_tokens=1000))
    assert state["most"] == 1
    assert len(server.requests) == 4


def test_what_was_used_beyond_the_estimate_counts(at: At) -> None:
    usage = {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000}
    with endpoint(lambda _: completion("x", usage=usage)) as server:
        handler = at(server.url, tokens_per_minute=60 * 1000, rate_window_s=1.0)
        for _ in range(2):
            run_bounded(lambda: handler.chat(say("a"), max_tokens=10))
    assert gap_s(server) >= 0.9


def test_a_refused_try_uses_no_tokens(at: At) -> None:
    with endpoint(refusing(2, 429, {"Retry-After": "0.05"})) as server:
        handler = at(server.url, tokens_per_minute=1500)
        reply = run_bounded(lambda: handler.chat(say("a"), max_tokens=1000))
    assert reply.attempts == 3


def test_more_than_a_window_holds_goes_alone(at: At) -> None:
    with endpoint(lambda _: "x") as server:
        handler = at(server.url, tokens_per_minute=100)
        assert run_bounded(lambda: handler.chat(say("a"), max_tokens=1000)).text == "x"


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "many", True])
@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "rate_window_s"])
def test_a_limit_that_is_none(at: At, name: str, value: Any) -> None:
    limits: dict[str, Any] = {name: value}
    with pytest.raises(InputError, match="must be a number above 0"):
        at("http://127.0.0.1:9/v1", **limits)


def test_a_window_without_room_for_a_request() -> None:
    with pytest.raises(InputError, match="longer window"):
        Rates(requests_per_minute=30, window_s=1.0)


def test_a_window_counts_what_is_in_it() -> None:
    window = Window()
    first = window.spend(60, 0.0)
    window.spend(30, 5.0)
    assert window.wait_s(10, 100, 10.0, 6.0) == 0
    assert window.wait_s(20, 100, 10.0, 6.0) == 4
    assert window.wait_s(80, 100, 10.0, 6.0) == 9
    window.settle(first, 10, 6.0)
    assert window.wait_s(60, 100, 10.0, 6.0) == 0
    assert window.wait_s(70, 100, 10.0, 11.0) == 0
    window.settle(first, 20, 11.0)  # it has left: only what is more counts, from now on
    assert window.wait_s(100, 100, 10.0, 16.0) == 5


def test_the_limits_of_the_command_line_reach_the_endpoints_limiter() -> None:
    with endpoint(lambda _: "x") as server:
        given = Rates(5, 7)
        worker = endpoint_worker(WorkerSettings("scripted", server.url, rates=given))
        assert worker._limiter._rates == given
        boss = supervisor_here("scripted", server.url, Rates(tokens_per_minute=9))
        assert isinstance(boss, OpenAIHandler)
        assert boss._limiter is worker._limiter  # neither has a key
        assert worker._limiter._rates == Rates(5, 9)
        worker.close()
        boss.close()


# ---- whose turn it is ----------------------------------------------------------------------


def test_first_come_first_served() -> None:
    limiter = RateLimiter()
    limiter.limit(Rates(requests_per_minute=600, window_s=0.1))  # one a window
    limiter.reserve(limiter.ticket(), 1)
    again = limiter.ticket()  # of a call that is being tried
    order: list[int] = []

    def wait(ticket: int) -> None:
        limiter.reserve(ticket, 1)
        order.append(ticket)

    limiter.pause(0.5)
    threads = []
    for ticket in [*(limiter.ticket() for _ in range(4)), again]:
        threads.append(threading.Thread(target=wait, args=(ticket,), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(20)
    assert order == sorted(order)
    assert order[0] == again


def test_a_small_quota_serves_a_large_batch(at: At) -> None:
    """Five in 0.3 s, refused beyond: nobody may use up his tries in the rush after a pause."""
    begun: list[float] = []
    lock = threading.Lock()

    def answer(_: Any) -> Any:
        with lock:
            now_s = time.monotonic()
            begun[:] = [one for one in begun if one > now_s - 0.3]
            if len(begun) >= 5:
                return Reply(RATE, 429, {"retry-after-ms": "300"})
            begun.append(now_s)
        return "fine"

    with endpoint(answer) as server:
        handlers = [at(server.url) for _ in range(3)]
        replies: list[Any] = []

        def ask(handler: OpenAIHandler) -> None:
            replies.extend(handler.chat_batch([say("a")] * 20))

        threads = [threading.Thread(target=ask, args=(one,), daemon=True) for one in handlers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(replies) == 60
    assert max(reply.attempts for reply in replies) > 1


def test_an_endpoint_that_refuses_all_is_given_up_for_all_that_wait(at: At) -> None:
    with endpoint(lambda _: Reply(RATE, 429, {"Retry-After": "0.05"})) as server:
        handler = at(server.url)
        with pytest.raises(WorkerBatchError) as caught:
            run_bounded(lambda: handler.chat_batch([say("a")] * 64))
    assert len(caught.value.errors) == 64
    assert all("slow down" in str(error) for error in caught.value.errors.values())
    assert len(server.requests) < 64 * 5 / 2


# ---- when it is over -----------------------------------------------------------------------


def test_the_error_says_how_often_and_how_long(at: At) -> None:
    with (
        endpoint(lambda _: Reply(RATE, 429, {"Retry-After": "0.02"})) as server,
        pytest.raises(
            ModelError, match=r"rate or quota limit: .*slow down \(tried 5 times in \d+\.\d s\)$"
        ) as caught,
    ):
        run_bounded(lambda: at(server.url).chat(say("a")))
    assert caught.value.attempts == 5


def test_without_a_header_the_waits_grow(at: At) -> None:
    with endpoint(lambda _: Reply(GONE, 500)) as server:
        handler = at(server.url, retries=2)
        with pytest.raises(ModelError, match=r"error 500: .*overloaded \(tried 3 times"):
            run_bounded(lambda: handler.chat(say("a")))
    assert gap_s(server) >= 0.3
    assert server.times[2] - server.times[1] >= 0.7


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_will_not_get_better_is_not_tried_again(at: At, status: int) -> None:
    with (
        endpoint(lambda _: Reply(GONE, status, {"Retry-After": "1"})) as server,
        pytest.raises(ModelError) as caught,
    ):
        run_bounded(lambda: at(server.url).chat(say("a")))
    assert len(server.requests) == 1
    assert "tried" not in str(caught.value)
    assert caught.value.attempts == 1


@pytest.mark.parametrize(("status", "told", "asked"), [(400, "true", 2), (429, "false", 1)])
def test_an_endpoint_that_says_whether_to_try_again(
    at: At, status: int, told: str, asked: int
) -> None:
    headers = {"x-should-retry": told, "retry-after-ms": "20"}
    with endpoint(lambda _: Reply(GONE, status, headers)) as server, pytest.raises(ModelError):
        run_bounded(lambda: at(server.url, retries=1).chat(say("a")))
    assert len(server.requests) == asked


def test_there_is_an_end_in_time_as_well() -> None:
    attempts = Attempts(RateLimiter(), 1, retries=1000)
    assert attempts.failed(500, {"retry-after": "100"})
    attempts._failed_s -= RETRY_S - 150
    assert attempts.failed(500, {"retry-after": "100"})
    assert not attempts.failed(500, {"retry-after": "110", "retry-after-ms": "151000"})
    attempts._failed_s -= 60
    assert not attempts.failed(500, {"retry-after": "100"})


def test_a_call_that_nobody_waits_for_is_not_sent(at: At) -> None:
    with endpoint(refusing(1, 429, {"Retry-After": "0.5"})) as server:
        handler = at(server.url, retries=0)
        with pytest.raises(ModelError):
            handler.chat(say("a"))
        waiter: Future[None] = Future()
        context = contextvars.copy_context()
        context.run(WAITER.set, waiter)
        waiter.cancel()
        with pytest.raises(WorkerBatchError, match="nobody waits"):
            run_bounded(lambda: context.run(handler.chat_batch, [say("b")] * 3))
    assert len(server.requests) == 1


WAITING = """\
import sys
from distill import OpenAIHandler
handler = OpenAIHandler("scripted", sys.argv[1], requests_per_minute=1)
handler.chat([{"role": "user", "content": "a"}])
print("waiting", flush=True)
handler.chat_batch([[{"role": "user", "content": "b"}]] * 3)
"""


def test_a_thread_that_waits_holds_up_no_end() -> None:
    with endpoint(lambda _: "x") as server:
        words = [sys.executable, "-c", WAITING, server.url]
        root = Path(__file__).parents[2]
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root
        ) as it:
            assert it.stdout is not None
            assert it.stdout.readline() == b"waiting\n"
            it.send_signal(signal.SIGINT)
            _, err = it.communicate(timeout=30)
    assert b"KeyboardInterrupt" in err
    assert len(server.requests) == 1


# ---- what is logged ------------------------------------------------------------------------


def test_attempts_and_waits_are_in_the_log(
    at: At, ask: Callable[..., RunResult], logged: Callable[[], Run]
) -> None:
    def twice(*answers: Any) -> Callable[[Any], Any]:
        refusal = Reply(RATE, 429, {"retry-after-ms": "60"})
        script = iter([reply for answer in answers for reply in (refusal, answer)])
        return lambda _: next(script)

    failing = Reply({"error": {"message": "no such luck"}}, 400)
    code = "worker('one')\ntry:\n    worker('two')\nexcept Exception as e:\n    FINAL(str(e))"
    with endpoint(twice(cell(code))) as boss, endpoint(twice("fine", failing)) as hands:
        result = ask(
            supervisor=at(boss.url),
            worker=at(hands.url),
        )
    assert "no such luck (tried 2 times" in result.answer
    told = logged()
    assert [turn.attempt for turn in told.turns] == [2]
    assert 0.05 < told.turns[0].queue_s <= told.turns[0].elapsed_s
    assert [call.attempt for call in told.calls] == [2, 2]
    assert told.calls[0].queue_s > 0.05
    assert told.calls[1].response is None


# ---- headers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "9", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, None),
        ({"retry-after": "Mon, 01 Jan 99999999 00:00:00 GMT"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}, 90.0),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1m30s"}, None),
        ({"retry-after": "3", "x-ratelimit-remaining-tokens": "0"}, 3.0),
    ],
)
def test_how_long_a_refusal_asks_to_wait(headers: Mapping[str, str], wait_s: float | None) -> None:
    assert asked_wait_s(headers) == wait_s


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("20ms", 0.02),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400.0),
        ("7", 7.0),
        ("0s", None),
        ("", None),
        ("later", None),
        ("5s later", None),
    ],
)
def test_when_a_limit_is_there_again(text: str, wait_s: float | None) -> None:
    for kind in ("requests", "tokens"):
        left = {f"x-ratelimit-remaining-{kind}": "0", f"x-ratelimit-reset-{kind}": text}
        assert exhausted_s(left) == wait_s


def test_what_is_tried_again_is_what_openais_client_tries_again() -> None:
    passing = {status for status in range(400, 600) if is_passing(status, {})}
    assert passing == {408, 409, 429, *range(500, 600)}
