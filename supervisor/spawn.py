"""How a child and a jail are started: descriptors, credentials, groups.

Only the launcher calls this: it is single-threaded, so code may run between fork and exec.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from distill.protocol.sandbox_link import JailPlan
from distill.supervisor.cgroup import Cgroup

PR_SET_PDEATHSIG = 1
LOW_DESCRIPTORS = range(3, 32)
"""Numbers that a JailPlan may ask for; the launcher's own descriptors stay above."""
F_ADD_SEALS = 1033
ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, _SHRINK, _GROW and _WRITE of linux/fcntl.h."""

_libc = ctypes.CDLL(None, use_errno=True)


def reserve_low_descriptors(keep: int) -> None:
    """Occupy the low numbers, so that a jail's descriptors never hit one of ours."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for number in LOW_DESCRIPTORS:
        if number not in (keep, null):
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            os.dup2(null, number, inheritable=False)


def child(
    argv: Sequence[str], env: Mapping[str, str], output_path: str, control: socket.socket | None
) -> int:
    """Start a child as the leader of its own group; returns its pid. Raises OSError."""
    passed = [control.fileno()] if control is not None else []
    numbered = [word.replace("{control_fd}", str(*passed)) if passed else word for word in argv]
    with Path(output_path).open("ab") as output:
        return _popen(numbered, env, output.fileno(), passed, _die_with_launcher)


def jail(
    plan: JailPlan,
    end: socket.socket,
    context_end: socket.socket,
    status_fd: int,
    cgroup: Cgroup | None,
) -> int:
    """Start a jail by its plan; returns the pid of the outermost process. Raises OSError.

    ``end`` becomes the plan's socket, ``context_end`` the one over which its context comes,
    ``status_fd`` its status pipe, if it has one; blobs are sealed memory files. All of it lives in
    ``cgroup``, if there is one.
    """
    wanted = {plan.socket_fd: end.fileno(), plan.context_fd: context_end.fileno()}
    if plan.status_fd >= 0:
        wanted[plan.status_fd] = status_fd
    owned = {number: _sealed(f"blob-{number}", data) for number, data in plan.blobs.items()}
    wanted.update(owned)
    if not set(wanted) <= set(LOW_DESCRIPTORS):
        raise OSError(f"the plan's descriptors {sorted(wanted)} are not in {LOW_DESCRIPTORS}")
    try:
        return _popen(
            plan.argv,
            plan.env,
            subprocess.DEVNULL,
            list(wanted),
            lambda: _place(wanted, cgroup),
            uid=plan.uid if os.geteuid() == 0 else None,
        )
    finally:
        for descriptor in owned.values():
            os.close(descriptor)


def _popen(
    argv: Sequence[str],
    env: Mapping[str, str],
    output: int,
    passed: list[int],
    prepare: Callable[[], None],
    *,
    uid: int | None = None,
) -> int:
    process = subprocess.Popen(
        argv,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=passed,
        preexec_fn=prepare,  # noqa: PLW1509  (the launcher has one thread)
        process_group=0,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    )
    # The launcher reaps by pid; without this Popen would warn, and might reap first.
    process.returncode = 0
    return process.pid


def _place(wanted: Mapping[int, int], cgroup: Cgroup | None) -> None:
    """In the child: each descriptor under the number that the plan names; tied to the launcher."""
    if cgroup is not None:
        cgroup.enter()
    high = {
        target: fcntl.fcntl(source, fcntl.F_DUPFD, LOW_DESCRIPTORS.stop)
        for target, source in wanted.items()
    }
    for target, source in high.items():
        os.dup2(source, target)
    os.chdir("/")
    _die_with_launcher()


def _die_with_launcher() -> None:
    """In the child: be killed if the launcher is (bubblewrap has its own way)."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _sealed(name: str, data: bytes) -> int:
    """A memory file with these bytes that can't be written, grown or shrunk any more."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, F_ADD_SEALS, ALL_SEALS)
    return descriptor


def interpreter_pid(status_text: bytes) -> int | None:
    """The pid in bubblewrap's status so far (``{"child-pid": 123}``), None if not yet there."""
    match = re.search(rb'\{[^{}]*"child-pid"[^{}]*\}', status_text)
    return int(json.loads(match[0])["child-pid"]) if match else None


def reap_group(group: int, deadline_s: float) -> int:
    """Wait for the members of a killed group, whose orphans are ours; how many there were."""
    deadline = time.monotonic() + deadline_s
    count = 0
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(-group, os.WNOHANG)[0]:
                count += 1
                continue
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            break
        time.sleep(0.005)
    return count


def descendants(pid: int) -> list[int]:
    """Every living process below ``pid``."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]
