"""A jail tried out before it is trusted: a real one, with a harmless and a hostile cell.

The keeper runs this before its Hello, and only where the same jail has not passed since the
machine was started. The hostile cell must be stopped by each layer; the harmless one must
work, else a jail in which nothing works would pass.
"""

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Mapping

from distill.protocol.codec import KEEPER_TO_JAIL
from distill.protocol.errors import ProtocolError
from distill.protocol.jail_link import (
    HEADER_BYTES,
    Done,
    FromJail,
    Init,
    Limits,
    Output,
    Ready,
    RunCell,
    ToJail,
)
from distill.protocol.sandbox_link import JailPlan
from distill.sandbox import probe_cell
from distill.sandbox.verdict import death

PROBE_S = 20.0
END_S = 2.0


class ProbeError(Exception):
    """The jail does not start, or does not hold; the text says which."""


def run(plan: JailPlan) -> None:
    """Start a jail by the plan and try it. Raises ProbeError."""
    ours, theirs = socket.socketpair()
    context_ours, context_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    status_read, status_write = os.pipe()
    with ours, context_ours, open(status_read, "rb"):
        with theirs, context_theirs, open(status_write, "wb"):
            process = _start(plan, theirs, context_theirs, status_write)
        ours.settimeout(PROBE_S)
        try:
            context_bytes = _send_context(context_ours)
            form = "mapped" if plan.argv[-1] == "map" else "copied"
            _converse(ours, context_bytes, form, probe_cell.code(plan.tier))
            # Its socket's end is its own: bubblewrap reaps it, and nobody inherits a zombie.
            ours.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        except (OSError, ProtocolError) as error:
            told = _end(process) or _death(process.returncode)
            raise ProbeError(told or f"{type(error).__name__}: {error}") from error
        finally:
            _end(process)


def _death(status: int) -> str:
    """What its exit status says, if it was not we who ended it."""
    if status == -signal.SIGKILL:
        return ""
    return death(status, Limits(), starting=True, out_of_memory=False).detail


def _end(process: "subprocess.Popen[bytes]") -> str:
    """Kill the jail; what bubblewrap had said."""
    assert process.stderr is not None
    if process.stderr.closed:
        return ""
    if process.poll() is None:
        # The whole group: a bubblewrap that is killed while it sets up leaves its child waiting.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with process.stderr as told:
        said = told.read()
    process.wait(END_S)
    return said.decode(errors="replace").strip()[:500]


def _send_context(end: socket.socket) -> int:
    """What the launcher does with a run's memory file; its size."""
    data = "".join(map(chr, (*probe_cell.CODES, 0))).encode("utf-32-le")
    fd = _memory_file(data)
    socket.send_fds(end, [b"c"], [fd])
    os.close(fd)
    return len(data)


def _start(
    plan: JailPlan, end: socket.socket, context_end: socket.socket, status_write: int
) -> "subprocess.Popen[bytes]":
    blobs = {number: _memory_file(data) for number, data in plan.blobs.items()}
    wanted = {plan.socket_fd: end.fileno(), plan.context_fd: context_end.fileno()}
    if plan.status_fd >= 0:
        wanted[plan.status_fd] = status_write
    wanted.update(blobs)
    try:
        return subprocess.Popen(
            plan.argv,
            env=plan.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=list(wanted),
            preexec_fn=lambda: _place(wanted),  # noqa: PLW1509  (before the keeper has threads)
            user=plan.uid,
            group=plan.uid,
            extra_groups=None if plan.uid is None else [],
            cwd="/",
            process_group=0,
        )
    except OSError as error:
        raise ProbeError(f"{plan.argv[0]}: {error.strerror}") from error
    finally:
        for fd in blobs.values():
            os.close(fd)


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("blob")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _place(wanted: Mapping[int, int]) -> None:
    """In the child: each descriptor under the number that the plan names."""
    high = {target: fcntl.fcntl(source, fcntl.F_DUPFD, 64) for target, source in wanted.items()}
    for target, source in high.items():
        os.dup2(source, target)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _converse(end: socket.socket, context_bytes: int, form: str, cell: str) -> None:
    deadline = time.monotonic() + PROBE_S
    init = Init(
        limits=Limits(),
        namespace={},
        functions=(),
        context_kind="ucs4",
        context_fd=-1,
        context_bytes=context_bytes,
    )
    _send(end, init)
    printed = ""
    while time.monotonic() < deadline:
        message = _receive(end)
        match message:
            case Ready(context=held) if held != form:
                raise ProbeError("a string made over a mapping is not like others in this Python")
            case Ready(filtered=True):
                _send(end, RunCell(1, cell))
            case Output():
                printed += message.text
            case Done(error=None) if not printed.strip():
                return
            case Done(error=None):
                raise ProbeError(f"the jail does not hold: not true that {printed.strip()}")
            case Done(error=error):
                raise ProbeError(f"the probe's cell failed: {error and error.traceback}")
            case _:
                raise ProbeError(f"unexpected {type(message).__name__}")
    raise ProbeError(f"no answer within {PROBE_S:g} s")


def _send(end: socket.socket, message: ToJail) -> None:
    body = KEEPER_TO_JAIL.encode(message)
    end.sendall(struct.pack(">I", len(body)) + body)


def _receive(end: socket.socket) -> FromJail:
    (size,) = struct.unpack(">I", _exactly(end, HEADER_BYTES))
    return KEEPER_TO_JAIL.decode(_exactly(end, min(size, 1 << 20)))


def _exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = end.recv(size - len(data))
        if not chunk:
            raise ConnectionError("the jail ended before it answered")
        data += chunk
    return data
