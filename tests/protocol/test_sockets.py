"""The socket thread on real ipc sockets, with peers that behave and raw ones that don't."""

import asyncio
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from distill.protocol.errors import LocalProtocolError
from distill.protocol.sockets import Inbound, Sockets
from tests.protocol.socket_thread import SocketThread

LIMIT = 1 << 20


class Inbox:
    """Collects what a socket thread hands over."""

    def __init__(self) -> None:
        self.items: queue.Queue[Inbound] = queue.Queue()
        self.batches: list[int] = []

    def __call__(self, batch: list[Inbound]) -> None:
        self.batches.append(len(batch))
        for item in batch:
            self.items.put(item)

    def next(self, timeout_s: float = 5.0) -> Inbound:
        return self.items.get(timeout=timeout_s)


Make = Callable[[str], tuple[SocketThread, Inbox]]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dst-") as name:
        yield Path(name)


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[SocketThread] = []

    def one(name: str) -> tuple[SocketThread, Inbox]:
        inbox = Inbox()
        made.append(SocketThread(inbox))
        return made[-1], inbox

    yield one
    for thread in made:
        thread.close()


@pytest.fixture
def bound(make: Make, folder: Path) -> tuple[SocketThread, Inbox, str]:
    thread, inbox = make("host")
    endpoint = thread.bind("zone", f"ipc://{folder}/s", limit_bytes=LIMIT)
    thread.start()
    return thread, inbox, endpoint


def dealer(make: Make, endpoint: str, name: bytes) -> tuple[SocketThread, Inbox]:
    thread, inbox = make(name.decode())
    thread.connect("host", endpoint, identity=name, limit_bytes=LIMIT)
    thread.start()
    return thread, inbox


def test_messages_arrive_in_order_both_ways(
    make: Make, bound: tuple[SocketThread, Inbox, str]
) -> None:
    host, inbox, endpoint = bound
    peer, replies = dealer(make, endpoint, b"p")
    for number in range(2000):
        peer.send("host", b"%d" % number)
    got = [inbox.next() for _ in range(2000)]
    assert [item.payload for item in got] == [b"%d" % number for number in range(2000)]
    assert {item.peer for item in got} == {b"p"}
    for number in range(2000):
        host.send("zone", b"%d" % number, peer=b"p")
    assert [replies.next().payload for _ in range(2000)] == [b"%d" % n for n in range(2000)]


def test_nothing_is_lost_to_a_slow_peer(
    make: Make, bound: tuple[SocketThread, Inbox, str], folder: Path
) -> None:
    host, inbox, endpoint = bound
    with zmq.Context() as context, context.socket(zmq.DEALER) as slow:
        slow.linger = 0
        slow.identity = b"slow"
        slow.connect(endpoint)
        slow.send(b"hello")
        inbox.next()
        for number in range(10_000):
            host.send("zone", b"%d" % number, peer=b"slow")
        time.sleep(0.3)
        slow.rcvtimeo = 5000
        assert [slow.recv() for _ in range(10_000)] == [b"%d" % n for n in range(10_000)]


def test_an_absent_peer_is_an_event_not_a_loss(bound: tuple[SocketThread, Inbox, str]) -> None:
    host, inbox, _ = bound
    host.send("zone", b"x", peer=b"nobody")
    event = inbox.next()
    assert (event.event, event.peer) == ("unreachable", b"nobody")


def test_a_message_of_several_frames_is_malformed(bound: tuple[SocketThread, Inbox, str]) -> None:
    _, inbox, endpoint = bound
    with zmq.Context() as context, context.socket(zmq.DEALER) as liar:
        liar.linger = 0
        liar.identity = b"liar"
        liar.connect(endpoint)
        liar.send_multipart([b"a", b"b", b"c"])
        event = inbox.next()
        assert (event.event, event.peer, event.payload) == ("malformed", b"liar", b"")
        liar.send(b"good")
        assert inbox.next().payload == b"good"


def test_a_frame_over_the_limit_costs_the_sender_its_connection(
    make: Make, bound: tuple[SocketThread, Inbox, str]
) -> None:
    _, inbox, endpoint = bound
    with zmq.Context() as context, context.socket(zmq.DEALER) as liar:
        liar.linger = 0
        liar.connect(endpoint)
        liar.send(b"x" * (LIMIT + 1))
        peer, _ = dealer(make, endpoint, b"honest")
        peer.send("host", b"still here")
        assert inbox.next().payload == b"still here"
        with pytest.raises(queue.Empty):
            inbox.next(0.3)


def test_a_second_peer_can_not_take_over_an_identity(
    make: Make, bound: tuple[SocketThread, Inbox, str]
) -> None:
    host, inbox, endpoint = bound
    first, first_inbox = dealer(make, endpoint, b"same")
    first.send("host", b"first")
    assert inbox.next().payload == b"first"
    thief, thief_inbox = dealer(make, endpoint, b"same")
    thief.send("host", b"thief")
    time.sleep(0.3)
    host.send("zone", b"secret", peer=b"same")
    assert first_inbox.next().payload == b"secret"
    assert thief_inbox.items.empty()


def test_raw_noise_on_the_socket_does_no_harm(
    make: Make, bound: tuple[SocketThread, Inbox, str], folder: Path
) -> None:
    _, inbox, endpoint = bound
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, bytes(range(256)) * 40):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(folder / "s"))
            raw.send(noise) if noise else None
    peer, _ = dealer(make, endpoint, b"p")
    peer.send("host", b"fine")
    assert inbox.next().payload == b"fine"


@pytest.mark.parametrize(
    "endpoint",
    [
        *("tcp://0.0.0.0:0", "tcp://*:0", "tcp://10.0.0.1:5555", "udp://127.0.0.1:1", ""),
        *("tcp://127.0.0.1:0", "tcp://localhost:5555", "tcp://[::1]:0"),
    ],
)
def test_nothing_that_others_can_reach_without_keys(make: Make, endpoint: str) -> None:
    thread, _ = make("host")
    with pytest.raises(LocalProtocolError):
        thread.bind("zone", endpoint, limit_bytes=LIMIT)
    with pytest.raises(LocalProtocolError):
        thread.connect("zone", endpoint, identity=b"x", limit_bytes=LIMIT)


def test_what_is_queued_at_close_is_still_sent(
    make: Make, bound: tuple[SocketThread, Inbox, str]
) -> None:
    _, inbox, endpoint = bound
    peer, _ = dealer(make, endpoint, b"p")
    peer.send("host", b"hello")
    inbox.next()
    for number in range(100):
        peer.send("host", b"%d" % number)
    peer.close()
    assert [inbox.next().payload for _ in range(100)] == [b"%d" % n for n in range(100)]


def test_close_may_come_twice_from_many_threads_and_before_start(make: Make) -> None:
    thread, _ = make("a")
    thread.start()
    closers = [threading.Thread(target=thread.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(5)
        assert not closer.is_alive()
    thread.send("nowhere", b"x")
    never_started, _ = make("b")
    never_started.close()
    never_started.close()


def test_many_threads_may_send(make: Make, bound: tuple[SocketThread, Inbox, str]) -> None:
    _, inbox, endpoint = bound
    peer, _ = dealer(make, endpoint, b"p")

    def send(lane: int) -> None:
        for number in range(200):
            peer.send("host", b"%d:%d" % (lane, number))

    lanes = [threading.Thread(target=send, args=(lane,)) for lane in range(8)]
    for lane in lanes:
        lane.start()
    got = [inbox.next().payload for _ in range(1600)]
    for number in range(8):
        mine = [item for item in got if item.startswith(b"%d:" % number)]
        assert mine == [b"%d:%d" % (number, n) for n in range(200)]


def test_what_arrives_while_sending_is_noticed(
    make: Make, bound: tuple[SocketThread, Inbox, str]
) -> None:
    """A send takes note of arrivals, and ZeroMQ's descriptor tells of each only once."""
    host, inbox, endpoint = bound
    peer, replies = dealer(make, endpoint, b"p")
    peer.send("host", b"hello")
    inbox.next()

    def flood(thread: SocketThread, zone: str, name: bytes) -> None:
        for number in range(3000):
            thread.send(zone, b"%d" % number, peer=name)
            if number % 100 == 0:
                time.sleep(0.001)  # so that both fall silent at times

    lanes = [
        threading.Thread(target=flood, args=(host, "zone", b"p")),
        threading.Thread(target=flood, args=(peer, "host", b"")),
    ]
    for lane in lanes:
        lane.start()
    for there in (inbox, replies):
        assert [there.next().payload for _ in range(3000)] == [b"%d" % n for n in range(3000)]
    for lane in lanes:
        lane.join()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    runs = threading.Thread(target=made.run_forever)
    runs.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    runs.join()
    made.close()


def test_a_loop_listens(make: Make, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
    """One after another in one loop, as drivers are, each closed from outside it."""
    for number in range(3):
        host, inbox = Sockets(), Inbox()
        endpoint = host.bind("zone", f"ipc://{folder}/{number}", limit_bytes=LIMIT)
        peer, replies = dealer(make, endpoint, b"p")
        peer.send("host", b"early")
        loop.call_soon_threadsafe(host.listen, loop, inbox)
        assert inbox.next().payload == b"early"
        for payload in (b"%d" % n for n in range(1000)):
            peer.send("host", payload)
        assert [inbox.next().payload for _ in range(1000)] == [b"%d" % n for n in range(1000)]
        host.send("zone", b"from another thread", peer=b"p")
        assert replies.next().payload == b"from another thread"
        host.close()


def test_sockets_that_are_closed_before_the_loop_came_to_them(
    make: Make, folder: Path, loop: asyncio.AbstractEventLoop
) -> None:
    """Their descriptors' numbers are the next ones': a loop that took them would be deaf."""
    for number in range(3):
        over = Sockets()
        over.bind("zone", f"ipc://{folder}/over{number}", limit_bytes=LIMIT)
        over.close()
        loop.call_soon_threadsafe(over.listen, loop, Inbox())
        host, inbox = Sockets(), Inbox()
        endpoint = host.bind("zone", f"ipc://{folder}/{number}", limit_bytes=LIMIT)
        loop.call_soon_threadsafe(host.listen, loop, inbox)
        peer, _ = dealer(make, endpoint, b"p")
        peer.send("host", b"heard")
        assert inbox.next().payload == b"heard"
        host.close()


def test_one_message_each_way_a_thousand_times(
    make: Make, bound: tuple[SocketThread, Inbox, str]
) -> None:
    host, inbox, endpoint = bound
    peer, replies = dealer(make, endpoint, b"p")
    for number in range(1000):
        peer.send("host", b"%d" % number)
        assert inbox.next().payload == b"%d" % number
        host.send("zone", b"%d" % number, peer=b"p")
        assert replies.next().payload == b"%d" % number
