"""Scripted models: handlers as a user writes them, and an OpenAI-compatible HTTP endpoint."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from distill import LMResponse, ModelHandler, Usage
from distill.protocol.jail_link import Limits

Messages = Sequence[Mapping[str, str]]
MIB = 1 << 20
SMALL = Limits(
    memory_bytes=400 * MIB, cell_s=3.0, grace_s=1.0, run_s=60.0, output_bytes=100_000, threads=16
)


def cell(code: str) -> str:
    """A reply with this code."""
    return f"```repl\n{code}\n```"


class Supervisor(ModelHandler):
    """Replies in order; a reply may be a function of the conversation. No super().__init__()."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.seen: list[list[dict[str, str]]] = []

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        self.seen.append([dict(message) for message in messages])
        reply = self.replies.pop(0) if self.replies else cell("FINAL('out of replies')")
        text = reply(messages) if callable(reply) else reply
        if isinstance(text, Exception):
            raise text
        return text if not isinstance(text, str) else LMResponse(text, Usage(10, 5), "boss", 0.01)

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]

    def shown(self, turn: int) -> str:
        """What the supervisor was told last before its reply of this turn."""
        return self.seen[turn - 1][-1]["content"]


class Worker(ModelHandler):
    """Answers with a function of the prompt. No super().__init__()."""

    def __init__(self, answer: Callable[[str], Any] = lambda prompt: f"<{prompt}>") -> None:
        self.answer = answer
        self.prompts: list[str] = []
        self.options: list[dict[str, Any]] = []

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        prompt = messages[-1]["content"]
        self.prompts.append(prompt)
        self.options.append(kw)
        return LMResponse(self.answer(prompt), Usage(7, 3), "hand", 0.01)

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]


@dataclass
class Reply:
    """What the endpoint sends back, byte for byte; an iterator's bytes as they come."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def completion(text: Any, **fields: Any) -> Reply:
    """A chat completion as OpenAI sends it."""
    message = {"role": "assistant", "content": text}
    return Reply(
        {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15},
            **fields,
        }
    )


def event(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A piece of a chat completion as OpenAI streams it."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return {**head, "choices": [choice], **fields}


USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
USED = {"object": "chat.completion.chunk", "model": "scripted", "choices": [], "usage": USAGE}
"""The event that ends a stream with ``include_usage``."""


def events_of(text: str, piece_chars: int = 7) -> list[dict[str, Any]]:
    """A whole reply in pieces."""
    pieces = [text[start : start + piece_chars] for start in range(0, len(text), piece_chars)]
    begin = event({"role": "assistant", "content": ""})
    return [begin, *(event({"content": piece}) for piece in pieces), event({}, "stop"), USED]


def sse(*events: Any, done: bool = True) -> bytes:
    """Events on the wire; a str goes as it is."""
    lines = [each if isinstance(each, str) else f"data: {json.dumps(each)}" for each in events]
    return "".join(f"{line}\n\n" for line in [*lines, *(["data: [DONE]"] if done else [])]).encode()


def stream(*events: Any, done: bool = True, **fields: Any) -> Reply:
    """A reply of these events."""
    return Reply(sse(*events, done=done), content_type="text/event-stream", **fields)


def reply_of(answer: Any, *, in_pieces: bool) -> Reply:
    """The reply to a chat request: what the script says, or a completion of it."""
    if isinstance(answer, Reply):
        return answer
    if in_pieces and isinstance(answer, str):
        return stream(*events_of(answer))
    return completion(answer)


def on_the_wire(reply: Reply) -> tuple[dict[str, str], Iterator[bytes]]:
    """Its headers and its bytes; an iterator's go in chunks."""
    headers = {"Content-Type": reply.content_type, **reply.headers}
    if isinstance(reply.body, Iterator):
        framed = (b"%x\r\n%s\r\n" % (len(piece), piece) for piece in reply.body)
        return {"Transfer-Encoding": "chunked", **headers}, itertools.chain(framed, [b"0\r\n\r\n"])
    body = reply.body
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"Connection": "close"} if "Content-Length" in reply.headers else {}  # it may lie
    return {"Content-Length": str(len(data)), **told, **headers}, iter([data])


MODELS = Reply({"object": "list", "data": [{"id": "scripted", "object": "model"}]})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    """Many connect at once; beyond it a request may come again, when its client has given up."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed in the middle of a request."""


class Endpoint:
    """An HTTP server on loopback; ``answer(request)`` gives a text or a Reply for each chat.

    A text is streamed where that was asked for, unless the endpoint can't.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Any], models: Any = MODELS) -> None:
        self.answer = answer
        self.streams = True
        self.bodies: list[bytes] = []
        self.models = models
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.released: list[str] = []
        """Texts whose bytes have left in full."""
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                self._send(endpoint.models)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = json.loads(body)
                endpoint.bodies.append(body)
                endpoint.times.append(time.monotonic())
                endpoint.requests.append(request)
                endpoint.keys.append(self.headers.get("Authorization", ""))
                answer = endpoint.answer(request)
                in_pieces = endpoint.streams and bool(request.get("stream"))
                self._send(reply_of(answer, in_pieces=in_pieces))
                if isinstance(answer, str):
                    endpoint.released.append(answer)

            def _send(self, reply: Reply) -> None:
                headers, pieces = on_the_wire(reply)
                try:
                    self.send_response(reply.status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    for piece in pieces:
                        self.wfile.write(piece)
                except OSError:
                    self.close_connection = True

        return Handler

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def endpoint(answer: Callable[[dict[str, Any]], Any], models: Any = MODELS) -> Iterator[Endpoint]:
    """An endpoint while it lasts."""
    server = Endpoint(answer, models)
    try:
        yield server
    finally:
        server.close()


def prompt_of(request: Mapping[str, Any]) -> str:
    """The last message of a chat request."""
    return str(request["messages"][-1]["content"])


def run_bounded(work: Callable[[], Any], timeout_s: float = 25.0) -> Any:
    """``work()`` in a thread, failing if it hangs; what it raised is raised here."""
    box: list[Any] = []

    def call() -> None:
        try:
            box.append((work(), None))
        except BaseException as error:  # noqa: BLE001  (raised again below)
            box.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout_s)
    assert box, f"still running after {timeout_s} s"
    value, error = box[0]
    if error is not None:
        raise error
    return value
