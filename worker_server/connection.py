"""How a worker server stays in touch with its engine: greeted, lost, dialled again, given up.

::

    reach ── Hello → Welcome ──► keep ── lost ──► reach again, as a new incarnation
      └─ no answer, a wrong key, refused: an error       └─ too long: an error

Over ipc there is nothing to dial again: when the engine ends its launcher takes the socket away.
"""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from distill.protocol import PROTOCOL_VERSION
from distill.protocol.endpoints import is_private
from distill.protocol.errors import ProtocolError
from distill.protocol.message import Shutdown, Welcome
from distill.protocol.sockets import ClientKeys, Inbound
from distill.protocol.worker_link import (
    FromWorker,
    Heartbeat,
    Results,
    ToWorker,
    WorkerHello,
    WorkerRefused,
)
from distill.worker_server.errors import DriverUnreachable, Refused
from distill.worker_server.link import Link
from distill.worker_server.loading import Options

LOOK_S = 1.0
PAUSE_S = 0.3
"""Before a lost engine is dialled again."""
HANGS_UP_LIMIT = 5
"""One that hangs up in the handshake so often has another key; one that dies does it once."""


class Connection:
    """The way to one engine. ``on_message`` and ``on_fault`` run in the loop.

    ``on_lost`` is called when the engine is out of reach: what is in flight is nobody's any more;
    ``on_back`` when it has welcomed this worker again.
    """

    def __init__(
        self,
        options: Options,
        on_message: Callable[[ToWorker], None],
        on_fault: Callable[[ProtocolError], None],
        heartbeat: Callable[[], Heartbeat],
        on_lost: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        self._options = options
        self._endpoint = options.endpoint
        self._keys = _client_keys(options)
        self._on_message, self._on_fault = on_message, on_fault
        self._heartbeat, self._on_lost, self._on_back = heartbeat, on_lost, on_back
        self._epoch: str | None = None
        self._welcome: asyncio.Future[Welcome] = _future()
        self._lost = asyncio.Event()
        self._hung_up = 0
        self._link = self._new_link()

    @property
    def is_local(self) -> bool:
        """Whether the engine is on this machine, at the other end of a socket in its folder."""
        return is_private(self._endpoint)

    @property
    def epoch(self) -> str | None:
        """Of the incarnation that the engine has welcomed last; None before the first."""
        return self._epoch

    def _new_link(self) -> Link:
        return Link(
            asyncio.get_running_loop(),
            self._received,
            self._on_fault,
            self._heartbeat,
            self._on_change,
        )

    # -- sending: what there is nobody for is dropped

    def send(self, message: FromWorker) -> None:
        """Send one message; raises LocalProtocolError if it isn't legal now."""
        self._link.send(message)

    def send_if_legal(self, message: FromWorker) -> bool:
        """As ``send``; False, and nothing sent, where it isn't legal now."""
        return self._link.send_if_legal(message)

    @property
    def takes_results(self) -> bool:
        """Whether the engine may be sent any."""
        return self._link.allows(Results)

    def event(self, event: str, **fields: object) -> None:
        """A structured lifecycle event for the driver's log."""
        self._link.event(event, **fields)

    def close(self) -> None:
        """Send what is queued and close."""
        self._link.close()

    # -- being there

    async def reach(self) -> None:
        """Dial until welcomed. Raises DriverUnreachable, Refused."""
        if self.is_local and not self._is_there():
            raise DriverUnreachable(f"no engine is up at {self._endpoint}")
        patience_s = self._options.connect_timeout_s if self.is_local else self._options.redial_s
        due_s = time.monotonic() + patience_s
        while (left_s := due_s - time.monotonic()) > 0:
            if (welcome := await self._dial(left_s)) is not None:
                _check_version(welcome)
                return
            await asyncio.sleep(PAUSE_S)
        raise DriverUnreachable(
            f"nobody answered at {self._endpoint} within {patience_s:g} s: "
            "is the engine up, and is this the endpoint that it printed?"
        )

    async def _dial(self, left_s: float) -> Welcome | None:
        """Say Hello once; None if the connection was lost before an answer came."""
        epoch = uuid.uuid4().hex
        hello = WorkerHello(
            protocol=PROTOCOL_VERSION,
            worker=self._options.worker,
            epoch=epoch,
            pid=os.getpid(),
            host=socket.gethostname(),
            succeeds=self._epoch,
        )
        self._welcome, self._lost = _future(), asyncio.Event()
        try:
            self._link.open(self._endpoint, hello, self._keys)
        except (ProtocolError, OSError) as error:
            raise DriverUnreachable(f"{self._endpoint}: {error}") from error
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait(
                (self._welcome, lost), timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            if self._welcome.done():
                self._epoch = epoch
                return self._welcome.result()
        finally:
            lost.cancel()
        self._drop_link()
        return None

    async def keep(self) -> None:
        """Be there until the engine is not, for good. Raises DriverUnreachable, Refused."""
        if self.is_local:
            while self._is_there():  # noqa: ASYNC110  (nothing tells)
                await asyncio.sleep(LOOK_S)
            raise DriverUnreachable("the engine has ended")
        while True:
            await self._lost.wait()
            self._on_lost()
            self._drop_link()
            await asyncio.sleep(PAUSE_S)
            await self.reach()
            self._on_back()

    def _drop_link(self) -> None:
        dropped, self._link = self._link, self._new_link()
        dropped.abandon()

    # -- what is heard

    def _received(self, message: ToWorker) -> None:
        match message:
            case Welcome():
                if not self._welcome.done():
                    self._welcome.set_result(message)
                    return
            case WorkerRefused(again=True) if not self.is_local:
                self._lost.set()
                return
            case WorkerRefused():
                self.fail(Refused(f"the engine refused this worker: {message.detail}"))
            case Shutdown():
                self.fail(DriverUnreachable("the engine has ended"))
        self._on_message(message)

    def fail(self, error: DriverUnreachable | Refused) -> None:
        """Who waits for the greeting waits in vain."""
        if not self._welcome.done():
            self._welcome.set_exception(error)

    def _on_change(self, inbound: Inbound) -> None:
        """The connection's own events."""
        if inbound.event == "joined":
            self._hung_up = 0
        elif inbound.event == "refused":
            self.fail(Refused(f"{self._endpoint}: {inbound.detail}. {ABOUT_KEYS}"))
            self._lost.set()
        elif inbound.event == "lost":
            self._hung_up += 1
            if self._epoch is None and self._hung_up >= HANGS_UP_LIMIT:
                why = "what listens there hangs up: this key is for another engine"
                self.fail(Refused(f"{self._endpoint}: {why}. {ABOUT_KEYS}"))
            self._lost.set()

    def _is_there(self) -> bool:
        """Whether the socket of a local engine is there."""
        return Path(self._endpoint.removeprefix("ipc://")).exists()


ABOUT_KEYS = (
    "A worker needs the engine's own key file, ~/.config/distill/keys/worker.key of the user and "
    "machine that it runs on (`distill up --listen` says where): name it with --key"
)


def _check_version(welcome: Welcome) -> None:
    if welcome.protocol != PROTOCOL_VERSION:
        raise DriverUnreachable(
            f"the driver speaks version {welcome.protocol} of the protocol, this worker "
            f"{PROTOCOL_VERSION}: install the same version of distill on both sides"
        )


def _client_keys(options: Options) -> ClientKeys | None:
    if options.key is None:
        return None
    return ClientKeys(
        bytes.fromhex(options.key.engine_public), bytes.fromhex(options.key.worker_secret)
    )


def _future() -> "asyncio.Future[Welcome]":
    future: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
    # What it failed with may find nobody waiting: that is no mistake.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
