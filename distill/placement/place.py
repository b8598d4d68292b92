"""The place of one worker server on a node of the cluster: an actor, and its launcher.

Ray sends this module by value, so that it can say what is wrong where distill is missing: only the
standard library is imported before ``look`` has compared versions. What it is given and what it
gives are the launcher's own packets.
"""

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

TAIL_BYTES = 2000
NOT_OURS = ("RAY_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
"""Ray sets these for what runs in its actors; the worker server sets its own."""


class Place:
    """Runs one worker server at a time on the GPUs, or the cores, that Ray gave to this actor.

    When this process ends, however it does, its launcher kills the worker server.
    """

    def __init__(self, version: str, cores: int) -> None:
        os.environ["PYTHONSAFEPATH"] = "1"  # where the node was started must not shadow modules
        self._version = version
        self._cores = _claim_cores(cores)
        self._host: Any = None
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    async def look(self) -> dict[str, str]:
        """Which node this is and what of it is ours; ``problem``: why nothing can run here."""
        import ray

        seen = {"node": socket.gethostname(), "address": ray.util.get_node_ip_address()}
        return {**seen, "devices": self._devices(), "problem": self._problem()}

    def _devices(self) -> str:
        import ray

        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        return "+".join(gpus) if gpus else ",".join(map(str, self._cores))

    def _problem(self) -> str:
        where = f"the Python of this Ray node, {sys.executable} on {socket.gethostname()},"
        try:
            from distill.version import __version__
        except ImportError as error:
            return f"{where} has no distill ({error}): install distill {self._version} there"
        if __version__ == self._version:
            return ""
        return f"{where} has distill {__version__}, this engine is {self._version}: install that"

    async def start(self, packet: bytes) -> bytes:
        """Do what a Spawn says; Started, or NotStarted and why."""
        from distill.protocol.codec import LAUNCHER_TO_DRIVER
        from distill.protocol.launcher_link import Spawn

        spawn = LAUNCHER_TO_DRIVER.decode(packet)
        assert isinstance(spawn, Spawn)
        if self._host is None:
            self._host = _Host(self._events.put_nowait)
        told = {"{python}": sys.executable, "{devices}": self._devices()}
        argv = tuple(told.get(word, word) for word in spawn.argv)
        env = {**_environment(), **spawn.env}
        self._host.send(Spawn(spawn.child, argv, env, str(self._host.output)))
        return bytes(LAUNCHER_TO_DRIVER.encode(await self._events.get()))

    async def ended(self) -> tuple[bytes, bytes]:
        """Wait until it has ended, with all its group: Exited, and its last output."""
        from distill.protocol.codec import LAUNCHER_TO_DRIVER

        event = await self._events.get()
        output = self._host.output.read_bytes() if self._host.output.exists() else b""
        return LAUNCHER_TO_DRIVER.encode(event), output[-TAIL_BYTES:]

    async def kill(self, child: str) -> None:
        """Kill it and its group; ``ended`` tells when they are gone."""
        from distill.protocol.launcher_link import Kill

        if self._host is not None:
            self._host.send(Kill(child))


class _Host:
    """This process's launcher; without it the actor is of no use, and ends."""

    def __init__(self, on_event: Any) -> None:
        from distill.supervisor import run_directory
        from distill.supervisor.children import Children

        folder, self._lock_fd = run_directory.create()
        self.output: Path = folder / "worker.log"
        self._children = Children(
            asyncio.get_running_loop(), folder, on_event, on_lost=lambda: os._exit(1)
        )
        self._children.listen()
        self.send = self._children.send


def _environment() -> dict[str, str]:
    """The node's own environment for a worker server: its Hugging Face token, no other key."""
    from distill.supervisor.worker_command import worker_environment

    kept = worker_environment()
    return {name: value for name, value in kept.items() if not name.startswith(NOT_OURS)}


_claims: list[socket.socket] = []
"""Names that this process holds as long as it lives."""


def _claim_cores(count: int) -> list[int]:
    """As many cores as no other place on this node has; all, where Ray promised more than that."""
    allowed = sorted(os.sched_getaffinity(0))
    cores: list[int] = []
    for core in allowed:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            if len(cores) < count:
                claim.bind(f"\0distill-{os.getuid()}-core-{core}")
                _claims.append(claim)
                cores.append(core)
        except OSError:
            claim.close()
    return cores if len(cores) == count else allowed
