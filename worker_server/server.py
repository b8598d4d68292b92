"""The life of a worker server: greet, load, serve, drain.

::

    Hello → Welcome → load (heartbeats) → Ready → Requests ⇄ Results → Drain → Goodbye
                        └─ Failed, exit 4            └─ engine died: Failed, exit 4

Everything here runs in one event loop; the engine loads in a thread beside it. Whatever
way it ends, the engine's processes end first.
"""

import asyncio
import contextlib
import enum
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from distill.protocol.errors import LocalProtocolError, ProtocolError
from distill.protocol.message import Shutdown
from distill.protocol.worker_link import (
    AdapterLoaded,
    Cancel,
    Drain,
    DropAdapter,
    Heartbeat,
    LoadAdapter,
    Requests,
    Results,
    ToWorker,
    WorkerFailed,
    WorkerGoodbye,
    WorkerReady,
    WorkerRefused,
)
from distill.worker_server.connection import Connection
from distill.worker_server.engine import Engine
from distill.worker_server.errors import (
    AdapterRefused,
    DriverUnreachable,
    EngineDied,
    EngineFailed,
    Refused,
    WorkerError,
)
from distill.worker_server.loading import Options, load
from distill.worker_server.outbox import Outbox
from distill.worker_server.process import in_daemon_thread, kill_children, make_scratch
from distill.worker_server.settings import CPU_SEQUENCES
from distill.worker_server.work import Work

SLOTS = {"gpu": 128, "cpu": CPU_SEQUENCES + CPU_SEQUENCES // 4}
"""More than the engine runs at once, so that with each answer the next prompt is there already."""


class ExitCode(enum.IntEnum):
    """How the process ended."""

    OK = 0
    UNREACHABLE = 3
    FAILED = 4


class Server:
    """One worker server; ``run`` is its life."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._engine: Engine | None = None
        self._scratch = make_scratch(_run_folder(options.endpoint))
        self._state: str = "loading"
        self._ending = asyncio.Event()
        self._ready: WorkerReady | None = None
        self._fault: WorkerError | None = None
        self._link = Connection(
            options,
            self._on_message,
            self._on_fault,
            self._heartbeat,
            self._on_engine_lost,
            self._on_engine_back,
        )
        self._outbox = Outbox(self._send_results)
        self._background: set[asyncio.Future[None]] = set()
        self._work = Work(self._outbox.add, self._on_engine_died, self._on_idle)

    async def run(self) -> ExitCode:
        """Serve until drained, told to stop, or failed."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt)
        try:
            await self._link.reach()
            self._announce(f"joined {self._options.endpoint}; Ctrl-C leaves it in order")
            await self._until_ending(self._load_and_serve())
            if self._fault is not None:
                raise self._fault
            return ExitCode.OK
        except (DriverUnreachable, Refused) as error:
            print(f"worker server {self._options.worker}: {error}", file=sys.stderr)  # noqa: T201
            return ExitCode.UNREACHABLE
        except WorkerError as error:
            self._report(error)
            return ExitCode.FAILED
        except Exception as error:  # noqa: BLE001  (the driver hears of our bugs, too)
            self._report(EngineFailed(f"{type(error).__name__}: {error}"), error)
            return ExitCode.FAILED
        finally:
            self._link.close()
            kill_children()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _event(self, event: str, **fields: Any) -> None:
        """For the driver's log and, where somebody watches, for the terminal. Any thread."""
        self._link.event(event, **fields)
        told = ", ".join(f"{name} {value}" for name, value in fields.items())
        self._announce(f"{event.replace('_', ' ')}{': ' if told else ''}{told}")

    def _announce(self, text: str) -> None:
        if self._options.announce:
            print(f"worker server {self._options.worker}: {text}", file=sys.stderr)  # noqa: T201

    async def _until_ending(self, serving: Any) -> None:
        """Run ``serving`` until the process is to end; whichever comes first."""
        task = asyncio.ensure_future(serving)
        ending = asyncio.ensure_future(self._ending.wait())
        watch = asyncio.ensure_future(self._keep_connection())
        try:
            await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                await self._ending.wait()
        finally:
            ending.cancel()
            watch.cancel()
        # A load that is still running in its thread can't be cancelled; the process ends anyway.

    async def _keep_connection(self) -> None:
        """End when the engine has, or is out of reach for too long."""
        try:
            await self._link.keep()
        except (DriverUnreachable, Refused) as error:
            self._end_with(error)

    def _on_engine_lost(self) -> None:
        """Its requests go to others; what is in flight here is nobody's."""
        self._announce(f"lost {self._options.endpoint}; dialling again")
        self._work.cancel_all()
        if self._engine is not None:
            self._in_background(self._engine.drop_adapters())
        if self._state == "draining":
            self._stop()

    def _on_engine_back(self) -> None:
        self._announce(f"joined {self._options.endpoint} again")
        if self._ready is not None:
            self._link.send_if_legal(self._ready)

    def _send_results(self, results: Results) -> None:
        """Results of an incarnation that was lost are dropped: the driver has given up on them."""
        if self._link.takes_results:
            self._link.send(results)

    async def _load_and_serve(self) -> None:
        started = time.monotonic()
        loaded = await in_daemon_thread(
            lambda: load(self._options, self._scratch, self._event, self._engine_ended)
        )
        engine = loaded.engine
        await engine.probe()
        if self._ending.is_set():
            return
        self._engine = engine
        self._work.engine = engine
        engine.own_process()
        self._state = "ready"
        load_s = time.monotonic() - started
        ready = WorkerReady(
            card=loaded.card,
            slots=self._options.slots or SLOTS[loaded.device.kind],
            token_budget=max(engine.cache_tokens, engine.window_tokens),
            load_s=load_s,
        )
        self._ready = ready
        self._event("engine_ready", load_s=round(load_s, 2), slots=ready.slots)
        self._link.send_if_legal(ready)

    def _on_message(self, message: ToWorker) -> None:
        match message:
            case Requests():
                self._work.begin(message.requests)
            case Cancel():
                self._work.cancel(message.ids)
            case LoadAdapter():
                self._in_background(self._load_adapter(message))
            case DropAdapter() if self._engine is not None:
                self._in_background(self._engine.drop_adapter(message.adapter, message.version))
            case Drain():
                self._drain()
            case WorkerRefused():
                self._end_with(Refused(f"the engine refused this worker: {message.detail}"))
            case Shutdown():
                self._stop()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Start ``work``; it begins after the requests that came before it."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _load_adapter(self, asked: LoadAdapter) -> None:
        assert self._engine is not None
        files_hash, refused, epoch = "", None, self._link.epoch
        try:
            files_hash = await self._engine.load_adapter(asked.adapter, asked.version, asked.path)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is said, and harms no answer)
            known = isinstance(error, AdapterRefused)
            refused = str(error) if known else f"{type(error).__name__}: {error}"
        loaded = AdapterLoaded(asked.adapter, asked.version, files_hash, refused)
        told = {"detail": refused} if refused else {"files_hash": files_hash}
        self._event(
            "adapter_refused" if refused else "adapter_loaded",
            adapter=asked.adapter,
            version=asked.version,
            **told,
        )
        if self._link.epoch == epoch:  # another incarnation was not asked, and has dropped it
            self._link.send_if_legal(loaded)

    def _stop(self) -> None:
        """End now, whatever is in flight."""
        self._link.fail(DriverUnreachable("stopped before the driver answered"))
        self._ending.set()

    def _leave(self) -> None:
        """End at once; what is in flight goes to others."""
        self._link.send_if_legal(WorkerGoodbye())
        self._stop()

    def _on_interrupt(self) -> None:
        """Ctrl-C: in order; the second time at once."""
        if self._state == "ready":
            self._drain()
        else:
            self._leave()

    def _on_fault(self, error: ProtocolError) -> None:
        """The driver broke the rules: nothing it says can be trusted any more."""
        self._end_with(EngineFailed(f"the driver broke the protocol: {error}"))

    def _drain(self) -> None:
        """Finish what is in flight, then go; a worker that is still loading just goes."""
        if self._state == "ready":
            self._state = "draining"
            self._link.send_if_legal(self._heartbeat())
            self._event("worker_draining", in_flight=self._work.in_flight)
            self._on_idle()
        elif self._state == "loading":
            self._leave()

    def _on_idle(self) -> None:
        if self._state == "draining" and self._work.in_flight == 0:
            self._outbox.flush()
            self._link.send_if_legal(WorkerGoodbye())
            self._ending.set()

    def _engine_ended(self, how: str) -> None:
        """From the engine's watching thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: we are ending anyway
            self._work.loop.call_soon_threadsafe(self._on_engine_died, how)

    def _on_engine_died(self, how: str) -> None:
        self._end_with(EngineDied(how))

    def _end_with(self, error: WorkerError) -> None:
        if self._fault is None and not self._ending.is_set():
            self._fault = error
            self._ending.set()

    def _report(self, error: WorkerError, cause: BaseException | None = None) -> None:
        """Tell the driver, and the log file, why this worker ends."""
        print(f"worker server {self._options.worker}: {error}", file=sys.stderr)  # noqa: T201
        if cause := cause or error.__cause__:
            traceback.print_exception(cause, file=sys.stderr)
        try:
            self._outbox.flush()
            self._link.event("worker_failed", kind=error.kind, detail=str(error))
            self._link.send(WorkerFailed(kind=error.kind, detail=str(error)))
        except LocalProtocolError as unsent:
            print(f"worker server: not reported: {unsent}", file=sys.stderr)  # noqa: T201

    def _heartbeat(self) -> Heartbeat:
        """From the heartbeat's thread."""
        clock = self._engine.clock if self._engine is not None else None
        return Heartbeat(
            state="draining" if self._state == "draining" else "ready" if clock else "loading",
            in_flight=self._work.in_flight,
            last_step_age_s=clock.age_s() if clock else 0.0,
            prompt_tokens=clock.prompt_tokens if clock else 0,
            completion_tokens=clock.completion_tokens if clock else 0,
            cached_tokens=clock.cached_tokens if clock else 0,
            waiting=min(clock.waiting, self._work.in_flight) if clock else 0,
            cache_usage=clock.cache_usage if clock else 0.0,
            failures=self._work.failures,
        )


def _run_folder(endpoint: str) -> Path | None:
    """The run's folder, where the endpoint is a socket in it: the launcher removes it."""
    if not endpoint.startswith("ipc://"):
        return None
    folder = Path(endpoint.removeprefix("ipc://")).parent
    return folder if folder.is_dir() else None


def serve(options: Options) -> ExitCode:
    """Run a worker server in this process until it ends."""

    async def life() -> ExitCode:
        return await Server(options).run()

    return asyncio.run(life())
