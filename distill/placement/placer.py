"""The placer's life: greet the driver, join the cluster, keep an actor a worker server.

::

    driver ── Spawn ──► placer ── look, start, ended ──► Place (an actor on some node)
           ◄─ Placed, Started, Exited ─┘                    └─► launcher ──► worker server

One event loop. An actor that dies is Ray's to start again, here or on another node; the driver
hears that its child has ended, and asks for it again.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, RayError

from distill.placement import place
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import placer_link as wire
from distill.protocol.codec import DRIVER_TO_LAUNCHER, PLACER_TO_DRIVER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import ProtocolError
from distill.protocol.launcher_link import Exited, Kill, NotStarted, Spawn, Started
from distill.protocol.message import LogRecords, Message, Shutdown, Welcome
from distill.protocol.sockets import Inbound, Sockets
from distill.version import __version__

DRIVER = "driver"
PATIENCE_S = 5.0
"""From then on it is said what waits for a place."""
LOOK_S = 1.0
CONNECT_S = 10.0
KILL_S = 10.0
"""A place that takes longer to kill its worker server is killed itself."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker server gets: GPUs, or CPU cores; of neither: one GPU if the cluster has any."""

    gpus: int = 0
    cores: int = 0

    def __str__(self) -> str:
        kind, count = ("CPU core", self.cores) if self.cores else ("GPU", self.gpus)
        return f"{count} {kind}{'s' if count > 1 else ''}"


class ClusterError(Exception):
    """The cluster can't be used; the message says why and what to do."""


def join(address: str | None, needs: Needs) -> Needs:
    """Become a job of the cluster at ``address``, as ``ray.init`` finds it; what a worker gets.

    Raises ClusterError.
    """
    if address is not None and address.startswith("ray://"):
        raise ClusterError(
            f"{address} is Ray's client: start distill on a node of the cluster instead (`ray "
            "start --address=HOST:PORT` makes this machine one), with --ray or --ray HOST:PORT"
        )
    if address is not None:
        _check_there(address)
    # The current folder would be on the actors' path.
    os.chdir("/")
    try:
        ray.init(address, log_to_driver=False, include_dashboard=False if not address else None)
    except (RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ClusterError(f"no Ray cluster can be used {where}: {error}") from error
    if needs.gpus or needs.cores:
        return needs
    if not ray.cluster_resources().get("GPU"):
        count = int(ray.cluster_resources().get("CPU", 0))
        raise ClusterError(
            f"the Ray cluster has no GPU: --cores-per-worker N runs workers on its {count} CPU "
            "cores; --gpus-per-worker 1 waits for nodes with GPUs"
        )
    return Needs(gpus=1)


def _check_there(address: str) -> None:
    """Raise ClusterError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(
            f"no Ray cluster can be used at {address}: {error}. It is HOST:PORT of the head node, "
            "as `ray start --head` prints it"
        ) from error


@dataclass(slots=True)
class Child:
    """A worker server that the driver wants, and its actor."""

    spawn: Spawn
    actor: Any
    asked_s: float = field(default_factory=time.monotonic)
    is_placed: bool = False
    is_started: bool = False
    task: "asyncio.Task[None] | None" = None


class Cluster:
    """The places on the cluster; ``tell`` takes what the driver should hear."""

    def __init__(self, needs: Needs, tell: Callable[[wire.FromPlacer], None]) -> None:
        self._needs = needs
        self._tell = tell
        self._actors: dict[str, Any] = {}
        self._children: dict[str, Child] = {}
        self._waiting = ""
        # By value: nodes that lack distill, or have another, must be able to say so.
        cloudpickle.register_pickle_by_value(place)
        self._actor_class = ray.remote(place.Place).options(
            num_gpus=needs.gpus,
            num_cpus=needs.cores,
            max_restarts=-1,
            scheduling_strategy="SPREAD",
        )

    def spawn(self, spawn: Spawn) -> None:
        """Have a worker server started where Ray finds room, now or later."""
        if spawn.child not in self._actors:
            self._actors[spawn.child] = self._actor_class.remote(__version__, self._needs.cores)
        child = self._children[spawn.child] = Child(spawn, self._actors[spawn.child])
        child.task = asyncio.get_running_loop().create_task(self._life(child))

    async def kill(self, name: str) -> None:
        """End a worker server, wherever it is."""
        child = self._children.get(name)
        if child is None or child.task is None:
            return
        if not child.is_placed:
            child.task.cancel()
            self._drop(child)
            self._tell(NotStarted(name, "it was given up before the Ray cluster had a place"))
            return
        child.actor.kill.remote(name)
        _, late = await asyncio.wait([child.task], timeout=KILL_S)
        if late:
            ray.kill(child.actor, no_restart=False)

    def _drop(self, child: Child) -> None:
        name = child.spawn.child
        self._children.pop(name, None)
        if (actor := self._actors.pop(name, None)) is not None:
            ray.kill(actor)

    async def _life(self, child: Child) -> None:
        """One worker server from Spawn to Exited."""
        name = child.spawn.child
        try:
            while not child.is_started:
                try:
                    await self._start(child)
                except ActorUnavailableError:
                    child.is_placed = False  # Ray moves it
            packet, output = await child.actor.ended.remote()
            self._children.pop(name)
            _append(child.spawn.output_path, output)
            self._tell(_from_launcher(packet))
        except _Unfit as error:
            self._drop(child)
            self._tell(NotStarted(name, str(error)))
        except ActorUnavailableError as error:
            self._children.pop(name)
            _append(child.spawn.output_path, f"{error}\n".encode())
            self._tell(Exited(name, -signal.SIGKILL))
        except RayError as error:
            self._drop(child)
            self._tell(NotStarted(name, str(error)))

    async def _start(self, child: Child) -> None:
        # Asked again wherever Ray puts the actor, so this waits until it has a place.
        seen = await child.actor.look.options(max_task_retries=-1).remote()
        child.is_placed = True
        if seen["problem"]:
            raise _Unfit(seen["problem"])
        name = child.spawn.child
        self._tell(wire.Placed(name, seen["node"], seen["address"], seen["devices"]))
        packet = await child.actor.start.remote(DRIVER_TO_LAUNCHER.encode(self._told(child.spawn)))
        message = _from_launcher(packet)
        if isinstance(message, NotStarted):
            raise _Unfit(message.detail)
        child.is_started = True
        self._tell(message)

    def _told(self, spawn: Spawn) -> Spawn:
        """With the address at which nodes reach the driver."""
        address = ray.util.get_node_ip_address()
        address = f"[{address}]" if ":" in address else address
        argv = tuple(word.replace("{driver}", address) for word in spawn.argv)
        return Spawn(spawn.child, argv, spawn.env, spawn.output_path)

    async def watch(self) -> None:
        """Say what waits for a place, as long as something does."""
        while True:
            await asyncio.sleep(LOOK_S)
            waiting = self._what_waits()
            if waiting != self._waiting:
                self._waiting = waiting
                self._tell(wire.Waiting(waiting))

    def _what_waits(self) -> str:
        late_s = time.monotonic() - PATIENCE_S
        waiting = [child for child in self._children.values() if not child.is_placed]
        if not any(child.asked_s < late_s for child in waiting):
            return ""
        kind, each = ("CPU", self._needs.cores) if self._needs.cores else ("GPU", self._needs.gpus)
        there = ray.cluster_resources().get(kind, 0)
        free = ray.available_resources().get(kind, 0)
        wanted, total = each * len(waiting), each * len(self._children)
        return (
            f"waiting for {wanted} of {total} {kind}s; the Ray cluster has {there:g}, "
            f"of which {free:g} are free"
        )


class _Unfit(Exception):
    """A worker server can't be started at its place, and why."""


def _from_launcher(packet: bytes) -> Started | NotStarted | Exited:
    return DRIVER_TO_LAUNCHER.decode(packet, peer="place")


def _append(path: str, output: bytes) -> None:
    """Where the driver looks for a child's last words."""
    with Path(path).open("ab") as file:
        file.write(output)


class Placer:
    """The connection to the driver, and what it asks for."""

    def __init__(self, address: str | None, needs: Needs) -> None:
        self._address, self._needs = address, needs
        self._conversation = Conversation(wire.TRANSITIONS, peer=DRIVER)
        self._sockets = Sockets()
        self._cluster: Cluster | None = None
        self._ended = asyncio.Event()
        self._code = 0

    async def run(self, endpoint: str) -> int:
        """Serve the driver until it says Shutdown; the exit code."""
        loop = asyncio.get_running_loop()
        identity = f"placer-{os.getpid()}".encode()
        limit_bytes = wire.FRAME_LIMIT_BYTES
        self._sockets.connect(DRIVER, endpoint, identity=identity, limit_bytes=limit_bytes)
        self._sockets.listen(loop, self._on_batch)
        self._tell(wire.PlacerHello(PROTOCOL_VERSION, os.getpid()))
        await self._ended.wait()
        if ray.is_initialized():
            ray.shutdown()
        self._sockets.close()
        return self._code

    def _tell(self, message: wire.FromPlacer) -> None:
        if self._conversation.allows(type(message)):
            self._conversation.sent(message)
            self._sockets.send(DRIVER, PLACER_TO_DRIVER.encode(message))

    def _on_batch(self, batch: list[Inbound]) -> None:
        for inbound in batch:
            try:
                message = PLACER_TO_DRIVER.decode(inbound.payload, peer=DRIVER)
                self._conversation.received(message)
            except ProtocolError as error:
                self._fail(f"the driver broke the protocol: {error}")
                return
            self._act(message)

    def _act(self, message: Message) -> None:
        match message:
            case Welcome():
                self._join()
            case Spawn() if self._cluster is not None:
                self._cluster.spawn(message)
            case Kill() if self._cluster is not None:
                self._keep(self._cluster.kill(message.child))
            case Shutdown():
                self._ended.set()

    def _join(self) -> None:
        """Nothing else is done here before the cluster is there, so it may block."""
        try:
            needs = join(self._address, self._needs)
        except ClusterError as error:
            self._fail(str(error))
            return
        self._cluster = Cluster(needs, self._tell)
        self._keep(self._cluster.watch())
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        address = ray.get_runtime_context().gcs_address
        joined = {"event": "ray_joined", "address": address, "nodes": nodes, "each": str(needs)}
        self._tell(LogRecords((joined,)))

    def _fail(self, why: str) -> None:
        print(f"placer: {why}", file=sys.stderr)  # noqa: T201
        self._tell(wire.PlacerFailed(why))
        self._code = 3
        self._ended.set()

    def _keep(self, work: Any) -> None:
        """A task that is not forgotten while it runs, and whose error ends the process."""
        task = asyncio.get_running_loop().create_task(work)

        def check(done: "asyncio.Task[None]") -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                self._fail(f"{type(error).__name__}: {error}")

        task.add_done_callback(check)


def serve(endpoint: str, address: str | None, needs: Needs) -> int:
    """Run the placer in this process until it ends; the exit code."""

    async def life() -> int:
        return await Placer(address, needs).run(endpoint)

    return asyncio.run(life())
