"""OpenAIHandler against a hostile endpoint: secrets, time, size; and what handlers promise."""

import gzip
import inspect
import json
import math
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from distill import LMResponse, OpenAIHandler, Usage, VLLMHandler
from distill.attempts import RETRIES
from distill.bounded_http import BODY_LIMIT_BYTES
from distill.errors import InputError, ModelError, WorkerBatchError
from distill.models import check_response
from tests.distill.scripted import (
    Endpoint,
    Reply,
    Supervisor,
    completion,
    endpoint,
    prompt_of,
    run_bounded,
)

HELLO = [{"role": "user", "content": "hello"}]
KEY = "sk-secret-0123456789"
SLACK_S = 3.0


@contextmanager
def raw_endpoint(speak: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[float]]]:
    """An address where ``speak`` has each connection to itself, and when they were opened."""
    times: list[float] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                speak(connection)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            times.append(time.monotonic())
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", times
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def failure(handler: OpenAIHandler, timeout_s: float = 25.0) -> str:
    """What chat() says when it fails, with all of its traceback."""
    with pytest.raises(ModelError) as caught:
        run_bounded(lambda: handler.chat(HELLO), timeout_s)
    handler.close()
    return "".join(traceback.format_exception(caught.value))


# ---- secrets -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [f"{KEY}\nX: y", f"sk\x00{KEY}", f"{KEY}é", f"{KEY}\ud800"])
def test_a_key_that_no_header_carries(key: str) -> None:
    with pytest.raises(InputError, match="check MY_KEY") as caught:
        OpenAIHandler("m", "http://127.0.0.1:9", key, names=("--x", "MY_KEY"))
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_the_environments_key_is_checked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX: y")
    with pytest.raises(InputError, match="check OPENAI_API_KEY") as caught:
        OpenAIHandler("m")
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_blanks_around_a_key_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-environments")
    with endpoint(lambda _: "hi") as server:
        for key in (f" {KEY}\n", " \n"):
            handler = OpenAIHandler("scripted", server.url, key)
            handler.chat(HELLO)
            handler.close()
    assert server.keys == [f"Bearer {KEY}", "Bearer none"]


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
@pytest.mark.parametrize("key", [KEY, "sk-'quoted\\key'"])
def test_an_endpoint_that_quotes_the_key(status: int, key: str) -> None:
    reply = Reply({"error": {"message": f"bad {key}"}}, status, {"Retry-After": "0.01"})
    models = Reply({"object": "list", "data": [{"id": f"not {key}", "object": "model"}]})
    with endpoint(lambda _: reply, models) as server:
        assert key not in failure(OpenAIHandler("scripted", server.url, key))
        handler = OpenAIHandler("scripted", server.url, key)
        with pytest.raises(ModelError, match="does not serve") as caught:
            handler.check()
        handler.close()
    assert key not in str(caught.value)
    assert "not ***" in str(caught.value)


def test_a_password_in_the_address_is_used_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    reply = Reply({"error": {"message": "no PA%20SS or PA SS"}}, 400)
    with endpoint(lambda _: reply) as server:
        url = server.url.replace("://", "://user:PA%20SS@") + "?code=CODE"
        said = failure(OpenAIHandler("scripted", url, KEY))
    assert server.url in said
    assert server.keys == ["Basic dXNlcjpQQSBTUw=="]
    for secret in ("user:", "PA%20SS", "PA SS", KEY):
        assert secret not in said
        assert secret not in caplog.text
    assert "CODE" not in said


@pytest.mark.parametrize(
    "url",
    ["user:PASS@host/v1", "ftp://user:PASS@host", "http://user:PASS@[::", "http://u:PASS/x@host"],
)
def test_an_address_that_is_none_shows_no_password(url: str) -> None:
    with pytest.raises(InputError, match="--there") as caught:
        OpenAIHandler("m", url, KEY, names=("--there", "K"))
    assert "PASS" not in "".join(traceback.format_exception(caught.value))


# ---- time ----------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS = {
    "status line": (b"", b"H"),
    "headers": (HEAD + b"X-Slow: ", b"x"),
    "body": (HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "interim replies": (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
}


@pytest.mark.parametrize("kind", DRIPS)
def test_a_dripping_endpoint_is_left_in_time(kind: str) -> None:
    start, drip = DRIPS[kind]

    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(start)
        while True:
            connection.sendall(drip)
            time.sleep(0.1)

    with raw_endpoint(speak) as (url, times):
        handler = OpenAIHandler("scripted", url, KEY, timeout_s=0.5, retries=1)
        started_s = time.monotonic()
        said = failure(handler)
    assert "in time" in said
    assert len(times) == 2
    assert time.monotonic() - started_s < 2 * 0.5 + 0.5 + SLACK_S


def test_the_tries_are_counted() -> None:
    def speak(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"H")
            time.sleep(0.02)

    with raw_endpoint(speak) as (url, times):
        started_s = time.monotonic()
        assert "in time" in failure(OpenAIHandler("scripted", url, timeout_s=0.1, retries=2))
    assert len(times) == 2 + 1
    assert time.monotonic() - started_s < 0.3 + 1.5 + SLACK_S
    assert inspect.signature(OpenAIHandler).parameters["retries"].default == RETRIES


def test_an_endpoint_that_sips_the_request() -> None:
    def speak(connection: socket.socket) -> None:
        while connection.recv(1000):
            time.sleep(0.05)

    with raw_endpoint(speak) as (url, _):
        handler = OpenAIHandler("scripted", url, timeout_s=0.5, retries=0)
        started_s = time.monotonic()
        with pytest.raises(ModelError, match="in time"):
            run_bounded(lambda: handler.chat([{"role": "user", "content": "x" * (16 << 20)}]))
        handler.close()
    assert time.monotonic() - started_s < 0.5 + SLACK_S


def test_a_redirect_brings_no_new_time() -> None:
    def answer(_: Any) -> Reply:
        time.sleep(0.3)
        return Reply({}, 307, {"Location": "/v1/chat/completions"})

    with endpoint(answer) as server:
        handler = OpenAIHandler("scripted", server.url, timeout_s=1.0, retries=0)
        assert "in time" in failure(handler)
    assert len(server.requests) <= 4


def test_each_request_of_a_kept_connection_has_its_own_time() -> None:
    def answer(_: Any) -> str:
        time.sleep(0.3)
        return "hi"

    with endpoint(answer) as server:
        handler = OpenAIHandler("scripted", server.url, timeout_s=0.8)
        for _ in range(4):
            assert handler.chat(HELLO).text == "hi"
        handler.close()
    assert len(server.requests) == 4


def test_the_environments_proxy_is_used_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda _: "by proxy") as server:
        monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        handler = OpenAIHandler("scripted", "http://nowhere.invalid/v1")
        assert handler.chat(HELLO).text == "by proxy"
        server.answer = lambda _: "x" * BODY_LIMIT_BYTES
        assert "64 MiB" in failure(handler)


# ---- size and shape ------------------------------------------------------------------------


def test_a_reply_that_says_it_is_too_long() -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + f"Content-Length: {BODY_LIMIT_BYTES + 1}\r\n\r\n".encode())
        time.sleep(5)

    with raw_endpoint(speak) as (url, times):
        assert "longer than 64 MiB" in failure(OpenAIHandler("scripted", url), 4)
    assert len(times) == 1  # a second try would be as long


def test_a_reply_that_never_ends() -> None:
    sent = [0]

    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + b"Connection: close\r\n\r\n")
        while True:
            connection.sendall(b" " * (1 << 20))
            sent[0] += 1

    with raw_endpoint(speak) as (url, times):
        assert "longer than 64 MiB" in failure(OpenAIHandler("scripted", url))
    assert len(times) == 1
    assert sent[0] < 100


def test_a_packed_reply() -> None:
    whole = gzip.compress(json.dumps(completion("unpacked").body).encode())
    bomb = gzip.compress(b" " * (BODY_LIMIT_BYTES + 1))
    packed = {"Content-Encoding": "gzip"}
    twice = Reply(gzip.compress(bomb), 200, {"Content-Encoding": "gzip, gzip"})
    with endpoint(lambda _: Reply(whole, 200, packed)) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert handler.chat(HELLO).text == "unpacked"
        server.answer = lambda _: Reply(bomb, 200, packed)
        assert "longer than 64 MiB" in failure(handler)
        server.answer = lambda _: twice
        assert "packed as gzip, gzip" in failure(handler)


def deep(request: dict[str, Any]) -> Any:
    return Reply(b"[" * 200_000) if prompt_of(request) == "deep" else "fine"


def test_a_reply_of_many_brackets() -> None:
    with endpoint(lambda _: Reply(b"[" * 200_000), Reply(b"[" * 200_000)) as server:
        assert "RecursionError" in failure(OpenAIHandler("scripted", server.url))
        handler = OpenAIHandler("scripted", server.url)
        with pytest.raises(ModelError, match="no OpenAI-compatible endpoint"):
            handler.check()
        handler.close()


def test_a_batch_survives_whatever_an_item_sets_off() -> None:
    batch = [[{"role": "user", "content": text}] for text in ("a", "deep", "b")]
    no_list: Any = 5
    with endpoint(deep) as server:
        handler = OpenAIHandler("scripted", server.url)
        with pytest.raises(WorkerBatchError) as caught:
            run_bounded(lambda: handler.chat_batch([*batch, no_list, *batch]))
        handler.close()
    assert sorted(caught.value.errors) == [1, 3, 5]
    assert caught.value.answers == ["fine", None, "fine", None, "fine", None, "fine"]
    assert "TypeError" in str(caught.value.errors[3])


@pytest.mark.parametrize("count", [1 << 70, -1, 1.5, "many", None])
def test_counts_of_an_endpoint_are_counts(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 4, "total_tokens": 5}
    with endpoint(lambda _: completion("hi", usage=usage)) as server:
        handler = OpenAIHandler("scripted", server.url)
        reply = handler.chat(HELLO)
        handler.close()
    assert reply.usage == Usage(0, 4)
    assert check_response(handler, reply) is reply


@pytest.mark.parametrize("window", [True, -1, 0, "9", 1 << 70, 4096])
def test_the_window_of_an_endpoint(window: Any) -> None:
    card = {"id": "scripted", "object": "model", "max_model_len": window}
    models = Reply({"object": "list", "data": [card]})
    with endpoint(lambda _: "hi", models) as server:
        handler = OpenAIHandler("scripted", server.url)
        handler.check()
        handler.close()
    assert handler.window_tokens == (4096 if window == 4096 else None)


def test_a_handler_that_is_let_go_closes_its_connections(server_gone: Endpoint) -> None:
    handler = OpenAIHandler("scripted", server_gone.url)
    assert handler.chat(HELLO).text == "hi"
    del handler


@pytest.fixture
def server_gone() -> Iterator[Endpoint]:
    with endpoint(lambda _: "hi") as server:
        yield server


# ---- what handlers promise -----------------------------------------------------------------

BAD: dict[str, Any] = {
    "no reply": None,
    "text": LMResponse(5, Usage(), "m", 0.1),  # type: ignore[arg-type]
    "usage": LMResponse("a", None, "m", 0.1),  # type: ignore[arg-type]
    "usage of None": LMResponse("a", Usage(None, None), "m", 0.1),  # type: ignore[arg-type]
    "usage of bool": LMResponse("a", Usage(True), "m", 0.1),
    "usage of float": LMResponse("a", Usage(1.0), "m", 0.1),  # type: ignore[arg-type]
    "negative": LMResponse("a", Usage(1, 1, -1), "m", 0.1),
    "endless": LMResponse("a", Usage(1, 1, 0, 0, 1 << 70), "m", 0.1),
    "model": LMResponse("a", Usage(), None, 0.1),  # type: ignore[arg-type]
    "finish": LMResponse("a", Usage(), "m", 0.1, None),  # type: ignore[arg-type]
    "elapsed None": LMResponse("a", Usage(), "m", None),  # type: ignore[arg-type]
    "elapsed bool": LMResponse("a", Usage(), "m", True),
    "elapsed nan": LMResponse("a", Usage(), "m", math.nan),
    "elapsed inf": LMResponse("a", Usage(), "m", math.inf),
    "elapsed negative": LMResponse("a", Usage(), "m", -1),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_reply_of_wrong_types_names_the_handler(kind: str) -> None:
    with pytest.raises(ModelError, match=r"^Supervisor "):
        check_response(Supervisor(), BAD[kind])


def test_a_reply_of_right_types_passes() -> None:
    for reply in (LMResponse("", Usage(), "", 0), LMResponse("a", Usage(1, 2, 3, 4, 5), "m", 1.5)):
        assert check_response(Supervisor(), reply) is reply


def test_handlers_are_prepared() -> None:
    Supervisor().prepare()
    handler = VLLMHandler("m", "/nowhere/at/all", engine_cores="0")
    with pytest.raises(ModelError):
        run_bounded(handler.prepare)
    handler.close()


def test_a_misspelt_sampling_parameter_of_the_engine() -> None:
    with pytest.raises(InputError, match=r"max_token, temprature; there are: max_tokens, temp"):
        VLLMHandler("default", temprature=1, max_token=5)
    VLLMHandler("default", temperature=1, stop="x", engine_max_num_seqs=4)
