"""The launcher: a small single-threaded process that starts, reaps and cleans.

::

    driver ══ SEQPACKET pair ══► launcher ──► keepers, worker servers   (a process group each)
                                    │    └──► jails                     (bubblewrap)
                                    └══ SEQPACKET pair a keeper: jail sockets, signals

The pair to the driver is its pulse. When it closes, or the driver's process ends, the
launcher kills every group it started, removes the run directory and exits. It is a
subreaper, so that what a killed worker server leaves behind (vLLM's EngineCore) becomes
its child and is reaped too.
"""

import argparse
import contextlib
import ctypes
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from distill.protocol.codec import LAUNCHER_TO_DRIVER, LAUNCHER_TO_KEEPER
from distill.protocol.errors import RemoteProtocolError
from distill.protocol.launcher_link import (
    PACKET_LIMIT_BYTES,
    BoundJail,
    Exited,
    FromLauncher,
    JailContext,
    Kill,
    LastWord,
    NotStarted,
    Spawn,
    SpawnJail,
    Started,
    ToLauncher,
)
from distill.protocol.sandbox_link import (
    JailExited,
    JailRefused,
    JailSocket,
    LauncherToKeeper,
    SignalJail,
)
from distill.supervisor import spawn
from distill.supervisor.cgroup import Cgroup, Division, divide
from distill.traces import records

PR_SET_CHILD_SUBREAPER = 36
GROUP_DEATH_S = 10.0
"""How long the members of a killed group may take to disappear (a GPU's driver is slow)."""


@dataclass(slots=True)
class Child:
    """A process that the launcher started; ``keeper`` is set for jails, ``cgroup`` for some."""

    name: str
    pid: int
    pidfd: int
    keeper: str | None = None
    cgroup: Cgroup | None = None
    control: socket.socket | None = None
    status_fd: int = -1
    jail_socket: socket.socket | None = None
    context_socket: socket.socket | None = None
    inner_pidfd: int = -1
    status_text: bytes = field(default=b"")


class Launcher:
    """The loop: one selector over the driver, the keepers, and every child's pidfd."""

    def __init__(self, pipe: socket.socket, driver_pid: int) -> None:
        self._pipe = pipe
        self._write_end = pipe.dup()
        self._outbox: deque[bytes] = deque()
        self._children: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ, self._on_driver)
        self._driver_fd = os.pidfd_open(driver_pid)
        self._selector.register(self._driver_fd, selectors.EVENT_READ, self._on_driver_exit)
        self._spools: tuple[str, ...] = ()
        self._division = _division()
        self._running = True

    def serve(self) -> None:
        """Work until the driver is gone, then kill everything that was started."""
        try:
            while self._running:
                for key, _ in self._selector.select():
                    handler: Callable[[], None] = key.data
                    handler()
        finally:
            for spool in self._spools:
                self._leave_word(Path(spool))
            self.kill_all()
            for child in self._children.values():
                if child.cgroup is not None:
                    child.cgroup.remove()

    def _leave_word(self, spool: Path) -> None:
        """Record that the driver is gone, for the next driver that opens this log folder."""
        event = records.Event(
            t=time.time(),
            run=None,
            producer=records.Producer("launcher", "launcher", os.getpid()),
            event="driver_lost",
            detail={"killed": sorted(self._children)},
        )
        # The folder may be gone too; there is nobody left to tell.
        with contextlib.suppress(OSError):
            spool.mkdir(mode=0o700, exist_ok=True)
            line = msgspec.json.encode(event) + b"\n"
            (spool / f"launcher-{os.getpid()}.jsonl").write_bytes(line)

    def kill_all(self) -> None:
        """SIGKILL every group and every descendant, and wait for them."""
        for child in list(self._children.values()):
            self._signal(child, signal.SIGKILL)
        deadline = time.monotonic() + GROUP_DEATH_S
        while time.monotonic() < deadline:
            for pid in spawn.descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    time.sleep(0.01)
            except ChildProcessError:
                return

    # -- the driver's side

    def _on_driver_exit(self) -> None:
        self._running = False

    def _on_driver(self) -> None:
        try:
            packet, attached, _, _ = socket.recv_fds(
                self._pipe, PACKET_LIMIT_BYTES, 1, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            packet, attached = b"", []
        try:
            # At its end the packet is empty, which is no message either.
            self._obey(LAUNCHER_TO_DRIVER.decode(packet, peer="driver"), attached)
        except RemoteProtocolError:
            self._running = False  # no driver of ours speaks so
        finally:
            for descriptor in attached:
                os.close(descriptor)

    def _obey(self, message: ToLauncher, attached: Sequence[int]) -> None:
        try:
            match message:
                case Spawn():
                    self._spawn(message)
                case SpawnJail():
                    self._spawn_jail(message)
                case JailContext():
                    self._pass_context(message.jail, attached)
                case BoundJail():
                    self._bound(message)
                case Kill():
                    if child := self._children.get(message.child):
                        self._signal(child, signal.SIGKILL)
                case LastWord():
                    self._spools = message.spools
        except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
            self._refused(message, str(error))

    def _refused(self, message: ToLauncher, detail: str) -> None:
        if isinstance(message, SpawnJail):
            self._tell_keeper(message.keeper, JailRefused(message.jail, detail))
            self._tell(NotStarted(message.jail, detail))
        elif isinstance(message, Spawn):
            self._tell(NotStarted(message.child, detail))

    def _tell(self, message: FromLauncher) -> None:
        self._outbox.append(LAUNCHER_TO_DRIVER.encode(message))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        """Send what the driver has room for; a driver that does not read never blocks us."""
        try:
            while self._outbox:
                self._write_end.send(self._outbox[0], socket.MSG_DONTWAIT)
                self._outbox.popleft()
        except BlockingIOError:
            if self._write_end not in self._selector.get_map():
                self._selector.register(self._write_end, selectors.EVENT_WRITE, self._flush)
            return
        except OSError:
            self._outbox.clear()  # the driver is gone; its pulse says so
        if self._write_end in self._selector.get_map():
            self._selector.unregister(self._write_end)

    # -- starting

    def _spawn(self, message: Spawn) -> None:
        if message.child in self._children:
            raise ValueError(f"a child named {message.child} is still there")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            pid = spawn.child(
                message.argv, message.env, message.output_path, theirs if message.control else None
            )
        child = self._watch(Child(message.child, pid, os.pidfd_open(pid)))
        if message.control:
            child.control = ours
            self._selector.register(ours, selectors.EVENT_READ, lambda: self._on_keeper(child))
        else:
            ours.close()
        self._tell(Started(child.name, pid))

    def _spawn_jail(self, message: SpawnJail) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        context_ours, context_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        status_read, status_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        group = None
        with theirs, context_theirs:
            try:
                if self._division is not None:
                    group = self._division.make(message.jail)
                pid = spawn.jail(message.plan, theirs, context_theirs, status_write, group)
            except OSError:
                ours.close()
                context_ours.close()
                os.close(status_read)
                if group is not None:
                    group.remove()
                raise
            finally:
                os.close(status_write)
        child = Child(message.jail, pid, os.pidfd_open(pid), keeper=message.keeper, cgroup=group)
        child.jail_socket, child.context_socket, child.status_fd = ours, context_ours, status_read
        self._watch(child)
        if message.plan.status_fd < 0:
            os.close(status_read)
            child.status_fd = -1
            self._hand_over(child, pid)
            return
        self._selector.register(
            status_read, selectors.EVENT_READ, lambda: self._on_jail_status(child)
        )

    def _pass_context(self, jail: str, attached: Sequence[int]) -> None:
        """Send the memory file into the jail, once; one that is gone needs none."""
        child = self._children.get(jail)
        if child is None or child.context_socket is None:
            return
        with child.context_socket as end, contextlib.suppress(OSError):
            socket.send_fds(end, [b"c"], attached)
        child.context_socket = None

    def _bound(self, message: BoundJail) -> None:
        """A cgroup that can't be bounded is no reason to go on without its bound: kill."""
        child = self._children.get(message.jail)
        if child is None or child.cgroup is None:
            return
        try:
            child.cgroup.bound(message.memory_bytes, message.tasks)
        except OSError:
            self._signal(child, signal.SIGKILL)

    def _watch(self, child: Child) -> Child:
        self._children[child.name] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._on_exit(child))
        return child

    def _on_jail_status(self, child: Child) -> None:
        """Bubblewrap names the interpreter's pid: hand the jail's socket to the keeper."""
        chunk = os.read(child.status_fd, 4096)
        child.status_text += chunk
        pid = spawn.interpreter_pid(child.status_text)
        if pid is None and chunk and len(child.status_text) < 4096:
            return
        self._selector.unregister(child.status_fd)
        os.close(child.status_fd)
        child.status_fd = -1
        if pid is not None:
            self._hand_over(child, pid)

    def _hand_over(self, child: Child, pid: int) -> None:
        """Give the jail's socket to its keeper; ``pid`` is the interpreter's."""
        if child.jail_socket is None or child.keeper is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.inner_pidfd = os.pidfd_open(pid)
        self._tell_keeper(child.keeper, JailSocket(child.name, pid), child.jail_socket.fileno())
        child.jail_socket.close()
        child.jail_socket = None
        controllers = child.cgroup.controllers if child.cgroup is not None else ()
        self._tell(Started(child.name, child.pid, controllers))

    # -- keepers

    def _tell_keeper(self, name: str, message: LauncherToKeeper, *descriptors: int) -> None:
        keeper = self._children.get(name)
        if keeper is None or keeper.control is None:
            return
        with contextlib.suppress(OSError):
            socket.send_fds(keeper.control, [LAUNCHER_TO_KEEPER.encode(message)], descriptors)

    def _on_keeper(self, keeper: Child) -> None:
        assert keeper.control is not None
        try:
            packet = keeper.control.recv(PACKET_LIMIT_BYTES)
            message = LAUNCHER_TO_KEEPER.decode(packet, peer=keeper.name) if packet else None
        except (OSError, RemoteProtocolError):
            message = None
        if message is None:
            self._forget_control(keeper)
            self._signal(keeper, signal.SIGKILL)
        elif isinstance(message, SignalJail):
            jail = self._children.get(message.jail)
            if jail is not None and jail.keeper == keeper.name:
                self._signal(jail, signal.SIGINT if message.signal == "INT" else signal.SIGKILL)

    def _forget_control(self, keeper: Child) -> None:
        if keeper.control is not None:
            self._selector.unregister(keeper.control)
            keeper.control.close()
            keeper.control = None

    # -- ending

    def _signal(self, child: Child, number: signal.Signals) -> None:
        """Signal a child's group, or the interpreter in a jail."""
        with contextlib.suppress(ProcessLookupError):
            if child.inner_pidfd >= 0:
                signal.pidfd_send_signal(child.inner_pidfd, number)
        if child.keeper is None or number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)

    def _on_exit(self, child: Child) -> None:
        """Kill what is left of the group before its leader is reaped and its id is free."""
        self._signal(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        group_size = spawn.reap_group(child.pid, GROUP_DEATH_S)
        if child.inner_pidfd >= 0:
            # Bubblewrap died first, and the interpreter, in a session of its own, became ours.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, child.inner_pidfd, os.WEXITED)
        self._selector.unregister(child.pidfd)
        for descriptor in (child.pidfd, child.inner_pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        if child.status_fd >= 0:
            self._selector.unregister(child.status_fd)
            os.close(child.status_fd)
        if child.context_socket is not None:
            child.context_socket.close()
        del self._children[child.name]
        self._forget_control(child)
        if child.keeper is not None:
            self._on_jail_exit(child, status)
        else:
            self._end_jails_of(child.name)
        self._tell(Exited(child.name, status, group_size))

    def _on_jail_exit(self, jail: Child, status: int) -> None:
        assert jail.keeper is not None
        out_of_memory = False
        if jail.cgroup is not None:
            out_of_memory = jail.cgroup.was_out_of_memory
            jail.cgroup.remove()
        if jail.jail_socket is not None:
            jail.jail_socket.close()
            detail = f"it ended with status {status} before it ran"
            self._tell_keeper(jail.keeper, JailRefused(jail.name, detail))
        else:
            self._tell_keeper(jail.keeper, JailExited(jail.name, status, out_of_memory))

    def _end_jails_of(self, keeper: str) -> None:
        for child in list(self._children.values()):
            if child.keeper == keeper:
                self._signal(child, signal.SIGKILL)


def _division() -> Division | None:
    """Where jails get cgroups, if anything was delegated; another manager there is left alone."""
    try:
        return divide()
    except OSError:
        return None


def main() -> int:
    """Serve the driver on the inherited pair until it is gone."""
    parser = argparse.ArgumentParser(prog="distill-launcher")
    parser.add_argument("--pipe-fd", type=int, required=True)
    parser.add_argument("--driver-pid", type=int, required=True)
    parser.add_argument("--run-directory", type=Path, required=True)
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        return 1
    os.umask(0o077)
    spawn.reserve_low_descriptors(args.pipe_fd)
    pipe = socket.socket(fileno=args.pipe_fd)
    pipe.set_inheritable(False)
    try:
        Launcher(pipe, args.driver_pid).serve()
    except ProcessLookupError:
        return 0  # the driver died before we began
    finally:
        shutil.rmtree(args.run_directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
