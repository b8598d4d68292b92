"""The driver's end of a Ray cluster: worker servers there are started and end as local ones do.

The placer (``distill.placement``) is a child process, so that neither Ray's threads nor its
connections are in the process that holds the keys. It is started with the first worker server
that is asked for, and again if it died.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distill.protocol import PROTOCOL_VERSION
from distill.protocol import placer_link as wire
from distill.protocol.codec import DRIVER_TO_PLACER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import ProtocolError
from distill.protocol.launcher_link import Exited, FromLauncher, Kill, NotStarted, Spawn, Started
from distill.protocol.message import LogRecords, Message, Shutdown, Welcome
from distill.protocol.sockets import Inbound
from distill.supervisor.children import last_words, scrubbed_environment
from distill.supervisor.driver import Driver
from distill.traces import records

ZONE = "placer"
NAME = "placer"


@dataclass(frozen=True, slots=True)
class RayCluster:
    """Which cluster (None: the one that ``ray.init`` finds, or makes), and what a worker gets.

    Neither GPUs nor cores: one GPU, where the cluster has any.
    """

    address: str | None = None
    num_workers: int = 1
    gpus_per_worker: int = 0
    cores_per_worker: int = 0


class Placement:
    """Starts and kills worker servers on the cluster; what becomes of them the driver hears.

    Lives on the driver's loop. ``on_status`` is told what waits for a place, and why.
    """

    def __init__(
        self, driver: Driver, cluster: RayCluster, on_status: Callable[[str], None]
    ) -> None:
        self._driver = driver
        self._cluster = cluster
        self._on_status = on_status
        self._conversation = Conversation(wire.TRANSITIONS, peer=NAME, start="gone")
        self._peer = ""
        self._producer = records.Producer("placer", NAME, 0)
        self._queue: list[Spawn | Kill] = []
        self._asked: set[str] = set()
        """Children of which the end has not been told."""
        self._why = ""
        self._is_running = False
        self._closing = False
        self._ended = asyncio.Event()
        self.places: dict[str, str] = {}
        """Where each worker server is: its node, address and devices."""
        driver.on_zone(ZONE, self._on_batch)

    def send(self, message: Spawn | Kill) -> None:
        """Have a worker server started, or killed, on the cluster."""
        if isinstance(message, Spawn):
            self._asked.add(message.child)
        if self._conversation.state == "ready":
            self._tell(message)
            return
        self._queue.append(message)
        if not self._is_running and not self._closing:
            self._start()

    async def close(self, deadline_s: float = 3.0) -> None:
        """Leave the cluster; the worker servers that are left there end with the job."""
        self._closing = True
        if self._conversation.allows(Shutdown):
            self._tell(Shutdown())
        if self._is_running:
            try:
                await asyncio.wait_for(self._ended.wait(), deadline_s)
            except TimeoutError:
                self._driver.children.send(Kill(NAME))

    def _start(self) -> None:
        self._is_running, self._why = True, ""
        self._ended.clear()
        self._conversation = Conversation(wire.TRANSITIONS, peer=NAME)
        self._driver.on_child(NAME, self._on_child)
        cluster, needs = self._cluster, []
        if cluster.gpus_per_worker:
            needs = ["--gpus", str(cluster.gpus_per_worker)]
        elif cluster.cores_per_worker:
            needs = ["--cores", str(cluster.cores_per_worker)]
        argv = (
            *(sys.executable, "-m", "distill.placement"),
            *("--connect", self._driver.endpoints[ZONE]),
            *(("--address", cluster.address) if cluster.address else ()),
            *needs,
        )
        self._driver.children.send(Spawn(NAME, argv, _environment(), str(self._output)))

    @property
    def _output(self) -> Path:
        return self._driver.run_directory / f"{NAME}.log"

    def _on_child(self, message: FromLauncher) -> None:
        """The placer itself has ended, and so has its job with all its worker servers."""
        if not isinstance(message, Exited | NotStarted):
            return
        was_ready = self._conversation.state == "ready" and not self._why
        self._is_running = False
        self._conversation.state = "gone"
        self._queue.clear()
        self._ended.set()
        why = self._why or f"the placer ended. {last_words(self._output)}".strip()
        for child in sorted(self._asked):
            # One that had served dies with its worker servers; one that never did is in vain.
            self._over(Exited(child, -signal.SIGKILL) if was_ready else NotStarted(child, why))

    def _over(self, message: FromLauncher) -> None:
        self._asked.discard(message.child)
        self.places.pop(message.child, None)
        self._driver.on_child_message(message, self._producer)

    # -- messages

    def _tell(self, message: wire.ToPlacer) -> None:
        payload = DRIVER_TO_PLACER.encode(message)
        self._conversation.sent(message)
        self._driver.send(ZONE, self._peer, payload)

    def _on_batch(self, batch: list[Inbound]) -> None:
        for inbound in batch:
            if inbound.event != "message":
                continue
            try:
                message = DRIVER_TO_PLACER.decode(inbound.payload, peer=NAME)
                self._conversation.received(message)
                self._act(inbound.peer.decode("utf-8", "replace"), message)
            except ProtocolError as error:
                self._driver.event("placer_protocol_error", self._producer, why=str(error))
                self._driver.children.send(Kill(NAME))

    def _act(self, peer: str, message: Message) -> None:
        match message:
            case wire.PlacerHello():
                self._on_hello(peer, message)
            case wire.Placed():
                kind = "cores" if self._cluster.cores_per_worker else "GPU"
                where = f"{message.node} ({message.address}), {kind} {message.devices}"
                self.places[message.child] = where
                worker = records.Producer("worker_server", message.child, 0)
                self._driver.event("worker_placed", worker, where=where)
            case wire.Waiting():
                self._driver.event("workers_waiting", self._producer, why=message.detail)
                self._on_status(message.detail)
            case LogRecords():
                self._driver.shipped(self._producer, message.records)
            case wire.PlacerFailed():
                self._why = message.detail
            case Started():
                self._driver.on_child_message(message, self._producer)
            case Exited() | NotStarted():
                self._over(message)

    def _on_hello(self, peer: str, hello: wire.PlacerHello) -> None:
        self._peer = peer
        self._producer = records.Producer("placer", NAME, hello.pid)
        self._tell(Welcome(PROTOCOL_VERSION, 0.0))
        queue, self._queue = self._queue, []
        for message in queue:
            self._tell(message)


def _environment() -> dict[str, str]:
    """Of all that looks like a key the placer gets the one that the cluster may ask for."""
    given = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_")}
    return {"RAY_USAGE_STATS_ENABLED": "0", **scrubbed_environment(), **given}
