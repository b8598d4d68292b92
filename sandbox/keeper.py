"""The keeper: one loop over the driver, the launcher and the jail. Trusted, and small.

Started by the launcher as ``python -m distill.sandbox.keeper --connect ENDPOINT --keeper NAME
--control-fd N [--sandbox TIER]``. It ends when the driver says Shutdown or the launcher is gone.
"""

import argparse
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Literal, assert_never, get_args

from distill.protocol.errors import ProtocolError
from distill.protocol.jail_link import RunCell
from distill.protocol.message import Shutdown, Welcome
from distill.protocol.sandbox_link import (
    CallReply,
    CloseJail,
    FromKeeper,
    JailExited,
    JailLost,
    JailPlan,
    JailReady,
    JailRefused,
    JailSocket,
    NoJail,
    OpenJail,
    SignalJail,
    ToKeeper,
    Wanted,
)
from distill.sandbox import plan
from distill.sandbox.control import Control, FlowIn
from distill.sandbox.driver_link import DriverLink
from distill.sandbox.interpreter import CONTEXT_FD
from distill.sandbox.seal import Seal
from distill.sandbox.session import Session
from distill.sandbox.verdict import Verdict

EARLY_LIMIT = 8
"""Messages about jails that the driver has not opened yet."""


class Keeper:
    """The loop and what it routes; all rules about a jail are its Session's."""

    def __init__(
        self, driver: DriverLink, control: Control, found: JailPlan | NoJail, seal: Seal
    ) -> None:
        self._driver = driver
        self._control = control
        self._seal = seal
        self._is_filtered = isinstance(found, JailPlan) and found.tier != "none"
        self._session: Session | None = None
        self._early: dict[str, list[FlowIn]] = {}
        self._running = True

    def serve(self) -> None:
        """Work until Shutdown, or until the launcher is gone."""
        poller = select.poll()
        handlers: dict[int, Callable[[int, int], None]] = {
            self._control.fileno(): self._on_control,
            **dict.fromkeys(self._driver.filenos(), self._on_driver),
        }
        for fd in handlers:
            poller.register(fd, select.POLLIN)
        while self._running:
            watched = self._watch_jail(poller)
            wait_s = self._session.tick() if self._session is not None else 60.0
            for fd, events in poller.poll(wait_s * 1000):
                if self._running:
                    handlers.get(fd, self._on_jail)(fd, events)
            if watched is not None:
                poller.unregister(watched)

    def _watch_jail(self, poller: select.poll) -> int | None:
        """Poll the jail's socket this time, if there is one that has not ended."""
        end = self._session.socket if self._session is not None else None
        if end is None or end.ended:
            return None
        writing = select.POLLOUT if end.wants_to_write else 0
        poller.register(end, select.POLLIN | writing)
        return end.fileno()

    # -- the jail

    def _on_jail(self, _fd: int, events: int) -> None:
        session = self._session
        if session is None or session.socket is None:
            return
        if events & select.POLLOUT:
            session.socket.flush()
        if events & ~select.POLLOUT:
            session.on_readable()

    # -- the driver

    def _on_driver(self, fd: int, _events: int) -> None:
        for message in self._driver.read(fd):
            self._driver.accept(message)
            self._obey(message)
            if not self._running:
                return

    def _obey(self, message: ToKeeper) -> None:
        session = self._session
        match message:
            case Welcome():
                # Connected, and no jail's byte has come yet.
                self._seal.close()
                self._driver.log("keeper_started")
            case OpenJail():
                self._open(message)
            case RunCell():
                if session is not None:
                    session.run(message)
            case CallReply():
                if session is not None:
                    session.reply(message)
            case CloseJail():
                self._close("the driver closed it")
            case Shutdown():
                self._running = False
                self._close("the keeper was shut down")
            case _:
                assert_never(message)

    def _close(self, why: str) -> None:
        if self._session is not None:
            self._session.end(Verdict("exit", why))

    def _open(self, message: OpenJail) -> None:
        jail = message.jail

        def signal_jail(which: Literal["INT", "KILL"]) -> None:
            self._control.signal(SignalJail(jail, which))

        self._session = Session(
            message, self._tell_driver, signal_jail, CONTEXT_FD, is_filtered=self._is_filtered
        )
        for item in self._early.pop(jail, []):
            self._route(*item)

    def _tell_driver(self, message: FromKeeper) -> None:
        self._driver.send(message)
        if isinstance(message, JailReady):
            self._driver.log("jail_opened", jail=message.jail, start_s=message.start_s)
        elif isinstance(message, JailLost):
            self._session = None
            self._driver.log(
                "jail_lost", jail=message.jail, cause=message.cause, why=message.detail
            )

    # -- the launcher

    def _on_control(self, _fd: int, _events: int) -> None:
        for message, end in self._control.read():
            session = self._session
            if session is not None and session.jail == message.jail:
                self._route(*_flow(message, end))
            elif len(self._early) < EARLY_LIMIT:
                # The launcher can be faster than the driver's OpenJail.
                self._early.setdefault(message.jail, []).append(_flow(message, end))
        if self._control.ended:
            self._running = False

    def _route(
        self, message: JailSocket | JailExited | JailRefused, end: socket.socket | None
    ) -> None:
        session = self._session
        if session is None:
            return
        match message:
            case JailSocket():
                assert end is not None
                session.connect(end, message.pid)
            case JailExited():
                session.died(message.status, out_of_memory=message.out_of_memory)
            case JailRefused():
                session.refused(message.detail)


def _flow(message: JailSocket | JailExited | JailRefused, end: socket.socket | None) -> FlowIn:
    return (message, end)  # type: ignore[return-value]


def main() -> int:
    """Say how a jail is built here, then keep one at a time until told to stop."""
    parser = argparse.ArgumentParser(prog="distill-keeper")
    parser.add_argument("--connect", required=True)
    parser.add_argument("--keeper", required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--sandbox", choices=get_args(Wanted), default="auto")
    parser.add_argument("--package", action="append", default=[])
    args = parser.parse_args()
    # Ctrl-C reaches the whole terminal; the driver decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = Control(args.control_fd)
    found = plan.make(args.sandbox, args.package)
    seal = Seal(plan.keeper_uid(found))
    driver = DriverLink(args.connect, args.keeper)
    try:
        driver.hello(found)
        Keeper(driver, control, found, seal).serve()
    except (ProtocolError, OSError) as error:
        sys.stderr.write(f"keeper {args.keeper}: {error}\n")
        return 1
    finally:
        driver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
