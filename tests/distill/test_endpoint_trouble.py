"""Endpoints as they are: each kind of trouble passes with the next try, or has an end."""

import itertools
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from distill import LMResponse, OpenAIHandler, Usage
from distill.errors import ModelError
from tests.distill.scripted import Reply, completion, endpoint, run_bounded
from tests.distill.test_openai import raw_endpoint

HELLO = [{"role": "user", "content": "hello"}]
RATE = {"error": {"message": "slow down"}}
FINE = json.dumps(completion("fine").body).encode()
SLOW = ("never answers",)
"""On a busy machine even its next try may be late."""
ENDS = threading.Event()
"""Never set: what waits for it hangs."""


def never() -> Iterator[bytes]:
    """A body that does not come."""
    ENDS.wait(20)
    yield b""


TROUBLE: dict[str, Callable[[], Reply]] = {
    "malformed JSON": lambda: Reply(b'{"choices": [{"message"'),
    "a text": lambda: Reply(b"hello"),
    "no bytes": lambda: Reply(b""),
    "html": lambda: Reply(b"<html>502</html>", content_type="text/html"),
    "a truncated body": lambda: Reply(FINE[:50], headers={"Content-Length": str(len(FINE))}),
    "empty choices": lambda: completion("x", choices=[]),
    "no message": lambda: completion("x", choices=[{"index": 0, "message": None}]),
    "an error with 200": lambda: Reply({"error": {"message": "overloaded", "code": 503}}),
    "429": lambda: Reply(RATE, 429),
    "429 with a time": lambda: Reply(RATE, 429, {"Retry-After": "0.2"}),
    "429 with a time in ms": lambda: Reply(RATE, 429, {"retry-after-ms": "50"}),
    "408": lambda: Reply(RATE, 408),
    "500": lambda: Reply(b"oops", 500, content_type="text/plain"),
    "502 of a proxy": lambda: Reply(b"<html>bad gateway</html>", 502, content_type="text/html"),
    "503": lambda: Reply(RATE, 503),
    "529": lambda: Reply(RATE, 529),
    "never answers": lambda: Reply(never()),
}


def test_trouble_passes() -> None:
    """All kinds at once, for each waits; of a model each, so that none waits for others."""
    tries: Counter[str] = Counter()

    def answer(request: dict[str, Any]) -> Any:
        tries[kind := request["model"]] += 1
        return "fine" if tries[kind] > 1 else TROUBLE[kind]()

    def ask(kind: str) -> LMResponse:
        handler = OpenAIHandler(kind, server.url, timeout_s=3.0 if kind in SLOW else 60.0)
        reply: LMResponse = run_bounded(lambda: handler.chat(HELLO))
        handler.close()
        return reply

    with endpoint(answer) as server, ThreadPoolExecutor(len(TROUBLE)) as pool:
        for kind, reply in zip(TROUBLE, pool.map(ask, TROUBLE), strict=True):
            assert (reply.text, reply.waited_s > 0) == ("fine", True), kind
            assert (reply.attempts, tries[kind]) == (2, 2) or kind in SLOW, kind


def test_a_connection_that_is_reset_is_made_again() -> None:
    numbers = itertools.count()

    def speak(connection: socket.socket) -> None:
        while not connection.recv(65536).endswith(b"}"):
            pass
        if next(numbers) == 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(FINE)
        connection.sendall(head + FINE)

    with raw_endpoint(speak) as (url, times):
        handler = OpenAIHandler("scripted", url)
        reply = run_bounded(lambda: handler.chat(HELLO))
        handler.close()
    assert (reply.text, reply.attempts, len(times)) == ("fine", 2, 2)


def test_nonsense_that_lasts_is_tried_less_often_than_trouble() -> None:
    with endpoint(lambda _: Reply(b"<html>", content_type="text/html")) as server:
        handler = OpenAIHandler("scripted", server.url)
        with pytest.raises(ModelError, match=r"no chat completion .*tried 3 times"):
            run_bounded(lambda: handler.chat(HELLO))
        handler.close()
    assert len(server.requests) == 3


def test_a_completion_counts_whatever_it_is_called() -> None:
    reply = Reply(completion("fine").body, content_type="text/plain")
    with endpoint(lambda _: reply) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert run_bounded(lambda: handler.chat(HELLO)).text == "fine"
        handler.close()


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(5, 0, 5)),
        ({"prompt_tokens": 5, "prompt_cache_hit_tokens": 4}, Usage(5, 0, 4)),
        ({"prompt_tokens": 1e300, "completion_tokens": -2}, Usage()),
        ({"prompt_tokens": "5", "completion_tokens_details": 7}, Usage()),
        ([5], Usage()),
    ],
    ids=["more cached than read", "deepseek", "endless", "texts", "a list"],
)  # fmt: skip
def test_absurd_counts_are_none(told: Any, known: Usage) -> None:
    with endpoint(lambda _: completion("fine", usage=told)) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert run_bounded(lambda: handler.chat(HELLO)).usage == known
        handler.close()


@pytest.mark.parametrize(
    ("content", "text", "thought"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", ""),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "a"}],
         "a", "hm"),
        ([{"type": "image_url"}, 5, "x"], "", ""),
    ],
    ids=["parts", "thought", "others"],
)  # fmt: skip
def test_content_in_parts_is_read(content: Any, text: str, thought: str) -> None:
    with endpoint(lambda _: completion(content)) as server:
        handler = OpenAIHandler("scripted", server.url)
        reply = run_bounded(lambda: handler.chat(HELLO))
        handler.close()
    assert (reply.text, reply.reasoning) == (text, thought)
