"""Sockets with keys, on real tcp: who has the right one is heard, and nobody else."""

import queue
import secrets
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from distill.protocol.errors import LocalProtocolError
from distill.protocol.sockets import ClientKeys, Inbound, ServerKeys, public_key
from distill.protocol.zap import fingerprint, judge
from tests.protocol.socket_thread import SocketThread

LIMIT = 1 << 20
ENGINE, WORKER, OTHER = (secrets.token_bytes(32) for _ in range(3))


class Inbox:
    """Collects what a socket thread hands over, messages apart from the rest."""

    def __init__(self) -> None:
        self.messages: queue.Queue[bytes] = queue.Queue()
        self.changes: queue.Queue[Inbound] = queue.Queue()

    def __call__(self, batch: list[Inbound]) -> None:
        for item in batch:
            if item.event == "message":
                self.messages.put(item.payload)
            else:
                self.changes.put(item)

    def until(self, event: str, timeout_s: float = 5.0) -> str:
        """The details of the next such event."""
        due_s = time.monotonic() + timeout_s
        while True:
            found = self.changes.get(timeout=max(due_s - time.monotonic(), 0.01))
            if found.event == event:
                return found.detail


Make = Callable[[], tuple[SocketThread, Inbox]]
Bound = tuple[SocketThread, Inbox, str, set[bytes]]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[SocketThread] = []

    def one() -> tuple[SocketThread, Inbox]:
        inbox = Inbox()
        made.append(SocketThread(inbox))
        return made[-1], inbox

    yield one
    for thread in made:
        thread.close()


@pytest.fixture
def bound(make: Make) -> Bound:
    """A listening end, and the keys that it lets in."""
    allowed = {public_key(WORKER)}
    thread, inbox = make()
    keys = ServerKeys(ENGINE, allowed.__contains__)
    endpoint = thread.bind("zone", "tcp://127.0.0.1:0", limit_bytes=LIMIT, keys=keys)
    thread.start()
    return thread, inbox, endpoint, allowed


def dial(
    make: Make, endpoint: str, secret: bytes = WORKER, engine: bytes = ENGINE
) -> tuple[SocketThread, Inbox]:
    thread, inbox = make()
    keys = ClientKeys(public_key(engine), secret)
    name = secrets.token_hex(4).encode()
    thread.connect("host", endpoint, identity=name, limit_bytes=LIMIT, keys=keys)
    thread.start()
    thread.send("host", b"hello")
    return thread, inbox


def nothing_heard(inbox: Inbox, wait_s: float = 0.3) -> None:
    with pytest.raises(queue.Empty):
        inbox.messages.get(timeout=wait_s)


def test_who_has_a_key_is_heard(make: Make, bound: Bound) -> None:
    _, inbox, endpoint, _ = bound
    _, own = dial(make, endpoint)
    assert inbox.messages.get(timeout=5) == b"hello"
    own.until("joined")


def test_a_large_frame_and_one_that_is_too_large(make: Make, bound: Bound) -> None:
    _, inbox, endpoint, _ = bound
    thread, own = dial(make, endpoint)
    thread.send("host", b"x" * (LIMIT - 1000))
    assert inbox.messages.get(timeout=5) == b"hello"
    assert len(inbox.messages.get(timeout=5)) == LIMIT - 1000
    thread.send("host", b"x" * (LIMIT + 1))
    own.until("lost")
    nothing_heard(inbox)


def test_without_a_key_nothing_is_heard(make: Make, bound: Bound) -> None:
    _, inbox, endpoint, _ = bound
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.linger = 0
        plain.connect(endpoint)
        plain.send(b"hello")
        # Whose connection has ended before anybody could look is "somebody".
        assert inbox.until("refused").partition(" ")[0] in ("127.0.0.1", "somebody")
        nothing_heard(inbox)
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, bytes(range(256)) * 40):
        with socket.create_connection(address(endpoint)) as raw:
            raw.sendall(noise)
    nothing_heard(inbox)
    dial(make, endpoint)
    assert inbox.messages.get(timeout=5) == b"hello"


def test_a_key_that_is_not_allowed(make: Make, bound: Bound) -> None:
    _, inbox, endpoint, allowed = bound
    _, own = dial(make, endpoint, OTHER)
    assert own.until("refused") == "the engine does not let this key in"
    mark = fingerprint(public_key(OTHER))
    assert inbox.until("refused") == f"127.0.0.1 has a key that is not allowed: {mark}"
    nothing_heard(inbox)
    allowed.add(public_key(OTHER))
    dial(make, endpoint, OTHER)
    assert inbox.messages.get(timeout=5) == b"hello"


def test_the_key_of_another_engine(make: Make, bound: Bound) -> None:
    _, inbox, endpoint, _ = bound
    _, own = dial(make, endpoint, engine=OTHER)
    own.until("lost")
    assert "does not know this engine's key" in inbox.until("refused")
    nothing_heard(inbox)


def test_an_engine_that_is_none(make: Make) -> None:
    """A worker tells nothing to who can't prove to be its engine."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as fake:
        fake.linger = 0
        port = fake.bind_to_random_port("tcp://127.0.0.1")
        _, own = dial(make, f"tcp://127.0.0.1:{port}")
        assert "speaks no CURVE" in own.until("refused")
        assert fake.poll(300) == 0


def test_a_crowd_of_strangers_keeps_nobody_out(make: Make, bound: Bound) -> None:
    _, inbox, endpoint, _ = bound
    crowd = [socket.create_connection(address(endpoint)) for _ in range(200)]
    try:
        dial(make, endpoint)
        assert inbox.messages.get(timeout=5) == b"hello"
    finally:
        for stranger in crowd:
            stranger.close()


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("tcp://no.such.machine.invalid:5555", "no machine known here"),
        ("tcp://127.0.0.1:99999", "no address of the form"),
        ("tcp://127.0.0.1", "no address of the form"),
        ("tcp://:5555", "no address of the form"),
        ("udp://127.0.0.1:5555", "no address of the form"),
    ],
)
def test_an_address_that_is_none(make: Make, endpoint: str, said: str) -> None:
    thread, _ = make()
    keys = ServerKeys(ENGINE, bool)
    with pytest.raises(LocalProtocolError, match=said):
        thread.bind("zone", endpoint, limit_bytes=LIMIT, keys=keys)
    dialler = ClientKeys(public_key(ENGINE), WORKER)
    with pytest.raises(LocalProtocolError, match=said):
        thread.connect("zone", endpoint, identity=b"x", limit_bytes=LIMIT, keys=dialler)


def test_everywhere_is_no_address_to_dial(make: Make) -> None:
    thread, _ = make()
    keys = ClientKeys(public_key(ENGINE), WORKER)
    for endpoint in ("tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://127.0.0.1:0"):
        with pytest.raises(LocalProtocolError, match="not dialled"):
            thread.connect("zone", endpoint, identity=b"x", limit_bytes=LIMIT, keys=keys)


@pytest.mark.parametrize(
    "question",
    [
        [],
        [b"1.0", b"7"],
        [b"2.0", b"7", b"distill", b"::1", b"", b"CURVE", b"k"],
        [b"1.0", b"7", b"other", b"::1", b"", b"CURVE", b"k"],
        [b"1.0", b"7", b"distill", b"::1", b"", b"PLAIN", b"k"],
        [b"1.0", b"7", b"distill", b"::1", b"", b"PLAIN", b"user", b"k"],
    ],
)
def test_a_question_that_is_not_understood_is_answered_no(question: list[bytes]) -> None:
    reply = judge(question, lambda _: True).reply
    assert reply[2] in (b"400", b"500")
    assert judge([b"1.0", b"7", b"distill", b"::1", b"", b"CURVE", b"k"], bool).reply[2] == b"200"


def address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)
