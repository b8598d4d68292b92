"""The driver: one a process. It owns the launcher, the sockets, and who hears what.

::

    launcher ── Started/Exited ──┐
                                 ▼
    sockets ───── batches ───► loop ──► zone handlers (fleet, sandboxes, clients)
                                 └─────► journals (events of processes)
"""

import asyncio
import atexit
import contextlib
import logging
import os
import resource
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.protocol import client_link, placer_link, sandbox_link, worker_link
from distill.protocol.endpoints import published
from distill.protocol.errors import LocalProtocolError
from distill.protocol.launcher_link import Exited, FromLauncher, LastWord, NotStarted, Started
from distill.protocol.sockets import Inbound, Sockets
from distill.redaction import NOTHING, Redaction
from distill.supervisor import background, keyring, run_directory
from distill.supervisor.activity import Activity
from distill.supervisor.call_threads import CallThreads
from distill.supervisor.children import Children
from distill.supervisor.journal import Journal, now
from distill.supervisor.strangers import Strangers
from distill.traces import records

LOG = logging.getLogger(__name__)
ZONES = {
    "sandboxes": sandbox_link.FRAME_LIMIT_BYTES,
    "workers": worker_link.FRAME_LIMIT_BYTES,
    "clients": client_link.FRAME_LIMIT_BYTES,
    "placer": placer_link.FRAME_LIMIT_BYTES,
}
"""One ROUTER per trust zone, and the largest frame it takes."""
REMOTE_WORKERS = "remote_workers"
"""The zone of workers on other machines, which has keys; it is there when somebody listens."""
EVENTS_KEPT = 500
"""Events of processes that are there, from before a journal was attached, that it still gets."""
STARTS_PER_CORE = 2
"""Keepers and jails that start at once: half of such a start is waiting."""
ENDING_S = 1.0
"""A run that was just stopped may take so long to end, before it can go on."""

ZoneHandler = Callable[[list[Inbound]], None]
ChildHandler = Callable[[FromLauncher], None]


class Driver:
    """Started by its constructor, from any thread; ended by ``close``.

    All other methods are called on the background loop. Raises MachineError when no run
    directory can be made.
    """

    def __init__(self) -> None:
        self.loop = background.loop()
        self.lost = threading.Event()
        """Set when the launcher or the sockets have died: this driver is of no use any more."""
        self.producer = records.Producer("driver", "driver", os.getpid())
        self.run_directory, self._lock_fd = run_directory.create()
        self._zones: dict[str, ZoneHandler] = {}
        self._child_handlers: dict[str, ChildHandler] = {}
        self._journals: dict[Path, Journal] = {}
        self._uses: Counter[Path] = Counter()
        self._runs: dict[str, asyncio.Event] = {}
        """The end of each run that is under way."""
        self.on_event: Callable[[records.Event], None] | None = None
        """Hears every event as it is logged."""
        self._history: deque[records.Event] = deque(maxlen=EVENTS_KEPT)
        self._lost: list[Callable[[], None]] = []
        self.children = Children(
            self.loop, self.run_directory, self._on_launcher, self._on_launcher_lost
        )
        self._sockets = Sockets()
        self.endpoints = {
            zone: self._sockets.bind(
                zone, f"ipc://{self.run_directory}/{zone}.sock", limit_bytes=limit
            )
            for zone, limit in ZONES.items()
        }
        self._remote: Sockets | None = None
        self._strangers = Strangers()
        self.launcher = records.Producer("launcher", "launcher", self.children.launcher_pid)
        self.loop.call_soon_threadsafe(self._listen)
        self.call_threads = CallThreads()
        self.starts = asyncio.Semaphore(STARTS_PER_CORE * len(os.sched_getaffinity(0)))
        """Held while a jail starts, which is processor time: of many at once none is in time; and
        while a run's text is stored, which takes as much memory again."""
        self.activity = Activity()
        self.is_closed = False
        atexit.register(self.close)

    def _listen(self) -> None:
        self.children.listen()
        self._sockets.listen(self.loop, self._on_batch)
        self.event("driver_started", self.producer, run_directory=str(self.run_directory))
        self.event("launcher_started", self.launcher)

    # -- who hears what

    def on_zone(self, zone: str, handler: ZoneHandler) -> None:
        """Messages of this zone go to ``handler``, a batch at a time."""
        self._zones[zone] = handler

    def on_child(self, name: str, handler: ChildHandler) -> None:
        """What the launcher says of this child goes to ``handler``, until it has ended."""
        self._child_handlers[name] = handler

    def on_lost(self, handler: Callable[[], None]) -> None:
        """Called when the launcher or the sockets have died: nothing works any more."""
        self._lost.append(handler)

    @property
    def is_usable(self) -> bool:
        """Whether runs can use it: open, its launcher alive, and not another process's."""
        is_ours = self.producer.pid == os.getpid()
        return is_ours and not self.is_closed and not self.lost.is_set()

    def off_lost(self, handler: Callable[[], None]) -> None:
        """No longer called."""
        if handler in self._lost:
            self._lost.remove(handler)

    def send(self, zone: str, peer: str, payload: bytes) -> None:
        """Send encoded bytes to a peer of a zone; never blocks."""
        sockets = self._sockets
        if zone == REMOTE_WORKERS and self._remote is not None:
            sockets = self._remote
        sockets.send(zone, payload, peer=peer.encode())

    def listen_to_remote_workers(self, endpoint: str) -> str:
        """Let workers with a key join over tcp; the address that they dial. From any thread, once.

        Raises InputError for an address that can't be had, or keys that can't be used.
        """
        keys = keyring.server_keys()
        _allow_many_connections()
        # Of their own: another context has other threads, and its door is of no concern to ipc.
        remote = Sockets()
        try:
            limit_bytes = worker_link.FRAME_LIMIT_BYTES
            bound = remote.bind(REMOTE_WORKERS, endpoint, limit_bytes=limit_bytes, keys=keys)
        except (LocalProtocolError, OSError) as error:
            remote.close()
            why = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"can't listen at {endpoint}: {why}") from error
        self._remote = remote
        self.endpoints[REMOTE_WORKERS] = published(bound, endpoint)
        self.loop.call_soon_threadsafe(remote.listen, self.loop, self._on_batch)
        return self.endpoints[REMOTE_WORKERS]

    def _on_stranger(self, inbound: Inbound) -> None:
        """Somebody had no key, or not the right one."""
        if self._strangers.is_news(inbound.detail):
            self.event("stranger_refused", self.producer, why=inbound.detail)

    def _on_batch(self, batch: list[Inbound]) -> None:
        if any(inbound.event == "crashed" for inbound in batch):
            self.event("sockets_lost", self.producer)
            self._give_up()
            return
        by_zone: dict[str, list[Inbound]] = {}
        for inbound in batch:
            if inbound.event == "refused":
                self._on_stranger(inbound)
            else:
                by_zone.setdefault(inbound.zone, []).append(inbound)
        for zone, inbounds in by_zone.items():
            try:
                if zone in self._zones:
                    self._zones[zone](inbounds)
            except Exception:
                # What is read is in no socket any more: the other zones must hear theirs.
                LOG.exception("distill: messages of the zone %s could not be taken in", zone)

    def _on_launcher(self, message: FromLauncher) -> None:
        self.on_child_message(message, self.launcher)

    def on_child_message(self, message: FromLauncher, teller: records.Producer) -> None:
        """What has become of a child, here or on another machine; ``teller`` has started it."""
        name = message.child
        match message:
            case Started():
                more = {"cgroup": list(message.cgroup)} if message.cgroup else {}
                self.event("child_started", teller, child=name, pid=message.pid, **more)
            case NotStarted():
                self.event("child_not_started", teller, child=name, why=message.detail)
            case Exited():
                self.event(
                    "child_exited",
                    teller,
                    child=name,
                    status=message.status,
                    left_in_group=message.group_size,
                )
        handler = self._child_handlers.get(name)
        if isinstance(message, Exited | NotStarted):
            self._child_handlers.pop(name, None)
        if handler is not None:
            handler(message)

    def _on_launcher_lost(self) -> None:
        if not self.is_closed:
            self.event("launcher_lost", self.launcher)
        self._give_up()

    def _give_up(self) -> None:
        """Nothing can be started or reached any more: whoever waits hears of it."""
        self.lost.set()
        for handler in list(self._lost):
            handler()

    @contextlib.asynccontextmanager
    async def under_way(self, run: str) -> AsyncIterator[None]:
        """This run goes on while the context lasts. Raises InputError if it does already."""
        if (before := self._runs.get(run)) is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(before.wait(), ENDING_S)
        if run in self._runs:
            raise InputError(f"run {run} is under way in this engine: wait for its end, or stop it")
        ended = self._runs[run] = asyncio.Event()
        try:
            yield
        finally:
            del self._runs[run]
            ended.set()

    # -- events

    def open_journal(self, folder: Path, redaction: Redaction = NOTHING) -> Journal:
        """The journal of a folder, shared by the runs that use it; events go there too.

        ``redaction`` is of events, from now on. Raises InputError if the folder can't be used.
        """
        folder = folder.resolve()
        is_new = folder not in self._journals
        if is_new:
            self._journals[folder] = Journal(folder)
        self._journals[folder].redact(redaction)
        if is_new:
            for record in self._history:
                self._log_to(self._journals[folder], record)
            self._tell_last_word()
        self._uses[folder] += 1
        return self._journals[folder]

    def release_journal(self, journal: Journal) -> None:
        """One user of a journal is done; with the last one it is closed."""
        folder = journal.folder
        self._uses[folder] -= 1
        if self._uses[folder] == 0:
            del self._journals[folder]
            journal.close()
            self._tell_last_word()

    def _tell_last_word(self) -> None:
        spools = tuple(str(folder / records.SPOOL_FOLDER) for folder in self._journals)
        self.children.send(LastWord(spools))

    def event(self, event: str, producer: records.Producer, **detail: Any) -> None:
        """Log that something happened to a process; a worker's goes to worker.jsonl."""
        self._log(records.Event(t=now(), run=None, producer=producer, event=event, detail=detail))

    def forget(self, name: str) -> None:
        """A process has ended for good: journals that are opened later don't begin with it."""
        kept = [record for record in self._history if record.producer.name != name]
        self._history = deque(kept, maxlen=EVENTS_KEPT)

    def _log(self, record: records.Event) -> None:
        self._history.append(record)
        if self.on_event is not None:
            self.on_event(record)
        for journal in self._journals.values():
            # A full disk must not stop what the event tells of; the run's own records will say.
            with contextlib.suppress(OSError):
                self._log_to(journal, record)

    @staticmethod
    def _log_to(journal: Journal, record: records.Event) -> None:
        if record.producer.kind == "worker_server":
            journal.worker([record])
        else:
            journal.supervisor(record)

    def shipped(self, producer: records.Producer, shipped: Iterable[dict[str, Any]]) -> None:
        """Log events that another process sent: maps with an ``event`` and what it likes."""
        for record in shipped:
            detail = {key: value for key, value in record.items() if key != "event"}
            self._log(
                records.Event(
                    t=now(),
                    run=None,
                    producer=producer,
                    event=str(record.get("event")),
                    detail=detail,
                )
            )

    # -- ending

    def close(self) -> None:
        """End every child, close the sockets, remove the run directory. Any thread; idempotent.

        A forked copy of this process has no say in it.
        """
        if self.is_closed or os.getpid() != self.producer.pid:
            return
        self.is_closed = True
        self._sockets.close()
        if self._remote is not None:
            self._remote.close()
        self.children.close()
        os.close(self._lock_fd)
        atexit.unregister(self.close)


def _allow_many_connections() -> None:
    """A crowd of strangers, each of whom has seconds, must not take the files of our own."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


_shared_lock = threading.Lock()
_shared: Driver | None = None


def shared() -> Driver:
    """The process's driver, started when first asked for (again if it ended, or after a fork)."""
    global _shared  # noqa: PLW0603  (one a process is the point)
    with _shared_lock:
        if _shared is None or not _shared.is_usable:
            _shared = Driver()
        return _shared


async def in_thread(driver: Driver, function: Callable[..., Any], *args: Any) -> Any:
    """Run a synchronous function in a daemon thread, with this task's context.

    Its callers bound how many run at once (a jail's calls in flight, a backend's batches).
    """
    return await driver.call_threads.call(function, *args)
