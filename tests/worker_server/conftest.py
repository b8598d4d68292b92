"""A driver of the tests' own, on the real wire, and one real worker server for the session."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill.protocol import PROTOCOL_VERSION
from distill.protocol.codec import DRIVER_TO_WORKER
from distill.protocol.conversation import Conversation
from distill.protocol.message import LogRecords, Welcome
from distill.protocol.sockets import Inbound
from distill.protocol.worker_link import (
    BATCH_REQUESTS,
    FRAME_LIMIT_BYTES,
    TRANSITIONS,
    Failure,
    FromWorker,
    Heartbeat,
    Request,
    Requests,
    Result,
    Results,
    ToWorker,
    WorkerHello,
    WorkerReady,
)
from tests.protocol.socket_thread import SocketThread

HEARTBEAT_S = 0.2
LOAD_TIMEOUT_S = 240.0
Answer = Result | Failure


class Driver:
    """Binds the workers' ROUTER and talks to one worker, holding it to the legal conversation."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/workers"
        self.inbox: queue.Queue[FromWorker] = queue.Queue()
        self.heartbeats: list[tuple[float, Heartbeat]] = []
        self.events: list[dict[str, Any]] = []
        self.frames = 0
        self.ready: WorkerReady | None = None
        self._conversation = Conversation(TRANSITIONS, peer="worker")
        self._peer = b""
        self._sockets = SocketThread(self._on_batch)
        self._sockets.bind("workers", self.endpoint, limit_bytes=FRAME_LIMIT_BYTES)
        self._sockets.start()

    def _on_batch(self, batch: list[Inbound]) -> None:
        for inbound in batch:
            if inbound.event != "message":
                continue
            if self._conversation.state == "gone":
                continue  # it was sent before the worker heard that it is to go
            message = DRIVER_TO_WORKER.decode(inbound.payload)
            self._conversation.received(message)
            if isinstance(message, WorkerHello):
                self._peer = inbound.peer
            if isinstance(message, Heartbeat):
                self.heartbeats.append((time.monotonic(), message))
            elif isinstance(message, LogRecords):
                self.events.extend(message.records)
            else:
                self.inbox.put(message)

    def send(self, message: ToWorker) -> None:
        self._conversation.sent(message)
        self._sockets.send("workers", DRIVER_TO_WORKER.encode(message), peer=self._peer)

    def receive(self, kind: type[Any], timeout_s: float = 60.0) -> Any:
        """The next message, which must be of this kind."""
        message = self.inbox.get(timeout=timeout_s)
        assert isinstance(message, kind), message
        return message

    def greet(self) -> WorkerHello:
        hello: WorkerHello = self.receive(WorkerHello)
        self.send(Welcome(protocol=PROTOCOL_VERSION, heartbeat_s=HEARTBEAT_S))
        return hello

    def await_ready(self) -> WorkerReady:
        self.greet()
        self.ready = self.receive(WorkerReady, LOAD_TIMEOUT_S)
        assert self.ready is not None
        return self.ready

    def ask(self, *requests: Request) -> list[Answer]:
        """The answers in the order of the requests, sent within the worker's credit."""
        assert self.ready is not None
        waiting = list(requests)
        answers: dict[str, Answer] = {}
        in_flight = 0
        while len(answers) < len(requests):
            free = self.ready.slots - in_flight
            if waiting and free:
                batch = waiting[: min(free, BATCH_REQUESTS)]
                del waiting[: len(batch)]
                self.send(Requests(requests=tuple(batch)))
                in_flight += len(batch)
                continue
            for answer in self.results():
                assert answer.id not in answers
                answers[answer.id] = answer
                in_flight -= 1
        return [answers[request.id] for request in requests]

    def results(self, timeout_s: float = 120.0) -> Sequence[Answer]:
        """The answers of the next frame."""
        self.frames += 1
        received: Results = self.receive(Results, timeout_s)
        return received.results

    def close(self) -> None:
        self._sockets.close()


class Worker:
    """A worker server's process in a group of its own, as the launcher starts it."""

    def __init__(self, driver: Driver, log: Path, *arguments: str, **env: str) -> None:
        self.driver = driver
        self.log = log
        command = [sys.executable, "-m", "distill.worker_server", "--connect", driver.endpoint]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--worker", "w0", *arguments],
                stdout=output,
                stderr=output,
                env=os.environ | env,
                process_group=0,
            )

    @property
    def group(self) -> list[psutil.Process]:
        """The live processes of the worker's group."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == self.process.pid and process.status() != "zombie":
                    found.append(process)
            except (ProcessLookupError, psutil.Error):
                continue
        return found

    @property
    def engine_core(self) -> psutil.Process:
        """The engine's own process."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in below if "EngineCore" in " ".join(child.cmdline()))

    def await_empty_group(self, timeout_s: float = 5.0) -> None:
        deadline = time.monotonic() + timeout_s
        while self.group:
            assert time.monotonic() < deadline, self.group
            time.sleep(0.05)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)


Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts worker servers, each with a driver of its own; all end with the test."""
    workers: list[Worker] = []

    def _start(*arguments: str, **env: str) -> Worker:
        folder = tmp_path / str(len(workers))
        folder.mkdir()
        worker = Worker(Driver(folder), folder / "log", *arguments, **env)
        workers.append(worker)
        return worker

    yield _start
    for worker in workers:
        worker.kill()
        worker.driver.close()


@pytest.fixture(scope="session")
def model_folder() -> str:
    """The small default model, prepared once."""
    given = os.environ.get("DISTILL_TEST_MODEL")
    if given:
        return given
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from distill.user_folders import cache_folder
    from distill.worker_server.model import resolve

    return str(resolve(None, cache_folder()).path)


@pytest.fixture(scope="session")
def served(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The session's worker server, ready. Its last test takes it down (see test_serving)."""
    folder = tmp_path_factory.mktemp("served")
    arguments = ("--model", model_folder, "--window-tokens", "2048", "--max-lora-rank", "8")
    worker = Worker(Driver(folder), folder / "log", *arguments)
    try:
        worker.driver.await_ready()
        yield worker
    except BaseException:
        print(worker.log.read_text()[-4000:])  # noqa: T201
        raise
    finally:
        worker.kill()
        worker.driver.close()
