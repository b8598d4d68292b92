"""A reply that is streamed loses nothing that the whole one has, and is heard as it comes."""

import asyncio
import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from distill import LMResponse, OpenAIHandler, Usage, arun
from distill.caller import HEARER
from distill.errors import ModelError
from distill.models import ToolCall
from tests.distill.scripted import (
    SMALL,
    USAGE,
    USED,
    Reply,
    Worker,
    completion,
    endpoint,
    event,
    events_of,
    run_bounded,
    sse,
    stream,
)
from tests.distill.test_openai import HEAD, raw_endpoint

HELLO = [{"role": "user", "content": "hello"}]


class Ear:
    """Hears a reply: pieces of text and of thought, and how often it began."""

    def __init__(self) -> None:
        self.text = ""
        self.thought = ""
        self.begun = 0

    def __call__(self, piece: str, thought: bool, /) -> None:
        if not piece:
            self.begun += 1
            self.text = self.thought = ""
        elif thought:
            self.thought += piece
        else:
            self.text += piece


def heard(handler: OpenAIHandler, **options: Any) -> tuple[LMResponse, Ear]:
    """A reply, as a run's supervisor gives it."""
    ear = Ear()

    def ask() -> LMResponse:
        HEARER.set(ear)  # in this thread only
        return handler.chat(HELLO, **options)

    reply = run_bounded(ask)
    handler.close()
    return reply, ear


LOGPROB = {"token": "a", "logprob": -0.5}
DETAILS = {
    **USAGE,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
CALL = {"index": 0, "id": "x", "type": "function"}


def test_nothing_is_lost_in_a_stream() -> None:
    """The same reply whole and in pieces; field by field but for the time."""
    message = {
        "role": "assistant", "content": "héllo", "refusal": "no", "reasoning_content": "hm, well",
        "tool_calls": [{"id": "x", "type": "function",
                        "function": {"name": "python", "arguments": '{"code": "1"}'}}],
    }  # fmt: skip
    choice = {
        "index": 0, "message": message, "finish_reason": "tool_calls",
        "logprobs": {"content": [LOGPROB, LOGPROB]},
    }  # fmt: skip
    whole = completion("", choices=[choice], usage=DETAILS)
    pieces = stream(
        ": a comment",
        event({"role": "assistant", "content": None}),
        event({"reasoning_content": "hm, "}),
        event({"reasoning_content": "well"}),
        {**event({"content": "hé"}), "choices": [
            {"index": 0, "delta": {"content": "hé"}, "logprobs": {"content": [LOGPROB]}}]},
        {**event({}), "choices": [
            {"index": 0, "delta": {"content": "llo"}, "logprobs": {"content": [LOGPROB]}}]},
        event({"refusal": "no"}),
        event({"tool_calls": [{**CALL, "function": {"name": "python", "arguments": ""}}]}),
        event({"tool_calls": [{"index": 0, "function": {"arguments": '{"code"'}}]}),
        event({"tool_calls": [{"index": 0, "function": {"arguments": ': "1"}'}}]}),
        event({}, "tool_calls"),
        {**USED, "usage": DETAILS},
    )  # fmt: skip
    with endpoint(lambda request: pieces if request.get("stream") else whole) as server:
        one = OpenAIHandler("scripted", server.url).chat(HELLO)
        two, ear = heard(OpenAIHandler("scripted", server.url))
    told = {name: getattr(one, name) for name in LMResponse.__slots__ if name != "elapsed"}
    again = {name: getattr(two, name) for name in LMResponse.__slots__ if name != "elapsed"}
    for name in ("waited_s",):
        del told[name], again[name]
    assert again == told
    assert one.usage == Usage(11, 4, 8, 0, 2)
    assert one.tool_calls == (ToolCall("python", '{"code": "1"}'),)
    assert (one.refusal, one.reasoning, one.finish_reason) == ("no", "hm, well", "tool_calls")
    assert one.logprobs == (-0.5, -0.5)
    assert (ear.text, ear.thought, ear.begun) == ('héllono{"code": "1"}', "hm, well", 1)
    asked = server.requests[1]
    assert asked["stream_options"] == {"include_usage": True}
    assert "stream" not in server.requests[0]


def test_it_is_heard_while_it_is_written() -> None:
    """The end of the reply is sent only once its beginning was heard."""
    ear = Ear()

    def slowly() -> Iterator[bytes]:
        first, *rest = events_of("a reply of several pieces")[1:]
        yield sse(first, done=False)
        deadline = time.monotonic() + 10
        while not ear.text and time.monotonic() < deadline:
            time.sleep(0.01)
        yield b"" if not ear.text else sse(*rest)

    with endpoint(lambda _: Reply(slowly(), content_type="text/event-stream")) as server:
        handler = OpenAIHandler("scripted", server.url, retries=0)

        def ask() -> LMResponse:
            HEARER.set(ear)
            return handler.chat(HELLO)

        assert run_bounded(ask).text == ear.text == "a reply of several pieces"
        handler.close()


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_pieces_are_cut_anywhere(size: int) -> None:
    data = sse(*events_of("héé\U0001f600 ``` \\n end")).replace(b"\n", b"\r\n")

    def cut() -> Iterator[bytes]:
        for start in range(0, len(data), size):
            yield data[start : start + size]

    with endpoint(lambda _: Reply(cut(), content_type="text/event-stream")) as server:
        reply, ear = heard(OpenAIHandler("scripted", server.url))
    assert reply.text == ear.text == "héé\U0001f600 ``` \\n end"
    assert reply.usage == Usage(11, 4)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_a_stream_under_a_wrong_name_is_read(content_type: str) -> None:
    reply = Reply(sse(*events_of("hi there")), content_type=content_type)
    with endpoint(lambda _: reply) as server:
        told, _ = heard(OpenAIHandler("scripted", server.url, retries=0))
        assert told.text == OpenAIHandler("scripted", server.url, retries=0).chat(HELLO).text
    assert told.text == "hi there"


def test_an_endpoint_that_answers_at_once_is_heard_as_well() -> None:
    with endpoint(lambda _: completion("whole")) as server:
        reply, ear = heard(OpenAIHandler("scripted", server.url))
    assert reply.text == ear.text == "whole"


@pytest.mark.parametrize("status", [400, 422, 501])
def test_an_endpoint_that_can_not_stream_is_asked_otherwise(status: int) -> None:
    refusal = Reply({"error": {"message": "Streaming is not supported"}}, status)

    with endpoint(lambda request: refusal if "stream" in request else "hi") as server:
        handler = OpenAIHandler("scripted", server.url, retries=0)
        for _ in range(2):
            reply, ear = heard(handler)
            assert reply.text == ear.text == "hi"
    assert ["stream" in request for request in server.requests] == [True, False, False]


def test_a_handler_that_shall_not_stream() -> None:
    with endpoint(lambda _: "hi") as server:
        reply, ear = heard(OpenAIHandler("scripted", server.url, stream=False))
    assert reply.text == ear.text == "hi"
    assert "stream" not in server.requests[0]


def test_a_stream_without_usage_is_the_last() -> None:
    def answer(request: dict[str, Any]) -> Any:
        return stream(*events_of("hi")[:-1]) if "stream" in request else "hi"

    with endpoint(answer) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert heard(handler)[0].usage == Usage()
        assert heard(handler)[0].usage == Usage(11, 4)


# ---- trouble -------------------------------------------------------------------------------

WHOLE = events_of("a whole reply")
BROKEN: dict[str, Any] = {
    "no end": stream(*WHOLE[:-2], done=False),
    "cut in an event": Reply(sse(*WHOLE)[:-60], content_type="text/event-stream"),
    "no json": stream("data: {nope"),
    "a list": stream([1]),
    "choices a number": stream({"choices": 5}),
    "choices of numbers": stream({"choices": [5]}),
    "delta a text": stream({"choices": [{"delta": "x"}]}),
    "nothing": stream(),
    "no bytes": stream(done=False),
    "an error inside": stream(WHOLE[1], {"error": {"message": "overloaded", "code": 503}}),
    "an error as vLLM says it": stream({"object": "error", "message": "busy", "code": 500}),
    "an error of a provider": stream(event({}, "error", error={"message": "provider"})),
    "a choice's error": stream({"choices": [{"index": 0, "delta": {}, "error": {"code": 502}}]}),
    "brackets": stream("data: " + "[" * 100_000),
    "cut off": Reply(sse(*WHOLE[:3], done=False), content_type="text/event-stream",
                     headers={"Content-Length": "99999"}),
}  # fmt: skip


def test_a_broken_stream_is_asked_again() -> None:
    """All kinds at once: each waits between its tries."""
    tries: Counter[str] = Counter()

    def answer(request: dict[str, Any]) -> Any:
        tries[kind := request["model"]] += 1
        return "fine" if tries[kind] > 1 else BROKEN[kind]

    with endpoint(answer) as server, ThreadPoolExecutor(len(BROKEN)) as pool:
        handlers = [OpenAIHandler(kind, server.url) for kind in BROKEN]
        for kind, (reply, ear) in zip(BROKEN, pool.map(heard, handlers), strict=True):
            assert reply.text == ear.text == "fine", kind
            assert reply.attempts == tries[kind] == ear.begun == 2, kind


LASTING = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("an error inside", "cut off")]


@pytest.mark.parametrize("kind", ["no end", *LASTING])
def test_a_stream_that_stays_broken_is_an_error(kind: str) -> None:
    with (
        endpoint(lambda _: BROKEN[kind]) as server,
        pytest.raises(ModelError, match=r"broke off|overloaded|connection broke") as caught,
    ):
        heard(OpenAIHandler("scripted", server.url, retries=1))
    assert caught.value.attempts == len(server.requests) == 2


def test_a_stream_that_stalls_is_left_and_asked_again() -> None:
    numbers = itertools.count()
    over: list[bool] = []

    def stalls() -> Iterator[bytes]:
        yield sse(*WHOLE[:2], done=False)
        while not over:
            time.sleep(0.02)

    def answer(_: Any) -> Any:
        return "fine" if next(numbers) else Reply(stalls(), content_type="text/event-stream")

    with endpoint(answer) as server:
        reply, ear = heard(OpenAIHandler("scripted", server.url, stall_s=0.3))
        over.append(True)
    assert reply.text == ear.text == "fine"
    assert reply.attempts == ear.begun == 2


def test_a_stall_says_what_it_was() -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD.replace(b"application/json", b"text/event-stream") + b"\r\n")
        connection.sendall(sse(*WHOLE[:2], done=False))
        while connection.recv(65536):
            pass

    with raw_endpoint(speak) as (url, times):
        handler = OpenAIHandler("scripted", url, stall_s=0.2, retries=1)
        with pytest.raises(ModelError, match=r"its stream stopped: no byte for 0\.2 s"):
            heard(handler)
    assert len(times) == 2


def test_a_stream_that_drips_ends_in_time() -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD.replace(b"application/json", b"text/event-stream") + b"\r\n")
        while True:
            connection.sendall(b": still there\n\n")
            time.sleep(0.05)

    with raw_endpoint(speak) as (url, _):
        handler = OpenAIHandler("scripted", url, timeout_s=0.4, stall_s=0.3, retries=0)
        with pytest.raises(ModelError, match="in time"):
            heard(handler)


def test_a_connection_that_stays_open_after_the_end_is_not_waited_for() -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD.replace(b"application/json", b"text/event-stream") + b"\r\n")
        connection.sendall(sse(*WHOLE))
        while connection.recv(65536):
            pass

    with raw_endpoint(speak) as (url, times):
        reply, _ = heard(OpenAIHandler("scripted", url, timeout_s=20, stall_s=20))
    assert reply.text == "a whole reply"
    assert len(times) == 1


def test_a_run_that_is_cancelled_hangs_up(log: Path) -> None:
    """What nobody waits for is not generated to its end, nor paid for."""
    hung_up = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield sse(event({"content": "and "}), done=False)
                time.sleep(0.02)
        finally:
            hung_up.set()

    async def ask_and_cancel(handler: OpenAIHandler) -> None:
        begun, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_text(_piece: str) -> None:
            loop.call_soon_threadsafe(begun.set)

        options: dict[str, Any] = {"log_dir": log, "limits": SMALL, "on_text": on_text}
        task = asyncio.ensure_future(arun("What?", "some text", handler, Worker(), **options))
        await begun.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with endpoint(lambda _: Reply(endless(), content_type="text/event-stream")) as server:
        handler = OpenAIHandler("scripted", server.url)
        run_bounded(lambda: asyncio.run(ask_and_cancel(handler)))
        assert hung_up.wait(20)
        handler.close()
    assert len(server.requests) == 1


def test_a_filter_of_the_endpoint_says_what_to_do() -> None:
    """Azure's spelling."""
    said = {"message": "Azure OpenAI's content management policy", "code": "content_filter"}
    with (
        endpoint(lambda _: Reply({"error": said}, 400)) as server,
        pytest.raises(ModelError, match=r"content filter refuses .* another supervisor"),
    ):
        heard(OpenAIHandler("scripted", server.url))
    assert len(server.requests) == 1
