"""What an attack aims at on the host, and how it is noticed that something was touched."""

import contextlib
import os
import resource
import secrets
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.security.attack import LIBC, sysv_key

SECRET_NAME = "DISTILL_CANARY_KEY"


class Canaries:
    """Files, sockets, a process, keys and limits of the host; ``changes`` tells what was hit."""

    def __init__(self) -> None:
        # Not under /tmp: the jail's scratch folder would hide it where the mounts are off.
        self.folder = Path(tempfile.mkdtemp(prefix="distill-canary-", dir="/var/tmp"))
        self.folder.chmod(0o777)
        self.secret = secrets.token_hex(16)
        self.environment = {SECRET_NAME: self.secret}
        self._segment = LIBC.shmget(sysv_key(), 4096, 0o1666)
        self._terminal, self._terminal_end = os.openpty()
        Path(os.ttyname(self._terminal_end)).chmod(0o666)
        self._listen()
        self._start()

    def _listen(self) -> None:
        loopback = "127.0.0.1"
        self._sockets = {
            "TCP": socket.create_server((loopback, 0)),
            "TCP6": socket.create_server(("::1", 0), family=socket.AF_INET6),
            "UDP": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "UNIX": socket.socket(socket.AF_UNIX),
            "ABSTRACT": socket.socket(socket.AF_UNIX),
            "DATAGRAMS": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        }
        self._sockets["UDP"].bind((loopback, 0))
        self._sockets["UNIX"].bind(str(self.folder / "socket"))
        self._sockets["ABSTRACT"].bind(f"\0{self.folder}")
        self._sockets["DATAGRAMS"].bind(f"\0{self.folder}/datagrams")
        (self.folder / "socket").chmod(0o777)
        for name in ("UNIX", "ABSTRACT"):
            self._sockets[name].listen()

    def _start(self) -> None:
        """(Re)make what an attack that was let through has spoiled."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "socket":
                path.unlink()
        for name, mode in (("secret", 0o666), ("private", 0o600)):
            (self.folder / name).write_text(self.secret)
            (self.folder / name).chmod(mode)
        (self.folder / "inner").mkdir()
        (self.folder / "inner").chmod(0o777)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("victim.py")), self.secret],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._address = int(self._process.stdout.readline())
        self._before = self._look()

    def names(self) -> dict[str, Any]:
        """The names under which an attack finds its aims."""
        ports = {name: self._sockets[name].getsockname()[1] for name in ("TCP", "TCP6", "UDP")}
        return {
            **ports,
            "FOLDER": str(self.folder),
            "FILE": str(self.folder / "secret"),
            "PRIVATE": str(self.folder / "private"),
            "SECRET": self.secret,
            "SECRET_NAME": SECRET_NAME,
            "VICTIM": self._process.pid,
            "ADDRESS": self._address,
            "HOSTNAME": socket.gethostname(),
            "SYSV_KEY": sysv_key(),
            "TERMINAL": os.ttyname(self._terminal_end),
        }

    def _look(self) -> dict[str, Any]:
        pid = self._process.pid
        files = {
            str(path): (path.lstat().st_mode, path.lstat().st_nlink, path.lstat().st_uid)
            for path in self.folder.rglob("*")
        }
        seen: dict[str, Any] = {
            "files": files,
            "contents": [_text(self.folder / name) for name in ("secret", "private")],
            "process": self._process.poll(),
            "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
            "host name": socket.gethostname(),
            "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
            "segment": LIBC.shmget(sysv_key(), 0, 0),
            "own limits": [resource.getrlimit(which) for which in range(16)],
        }
        if seen["process"] is None:
            seen["limits"] = Path(f"/proc/{pid}/limits").read_text()
            seen["scheduling"] = (
                os.getpriority(os.PRIO_PROCESS, pid),
                os.sched_getaffinity(pid),
                os.sched_getscheduler(pid),
                os.getpgid(pid),
                os.getsid(pid),
            )
        return seen

    def changes(self) -> list[str]:
        """What is not as it was, and who knocked."""
        now = self._look()
        found = [what for what, before in self._before.items() if now.get(what) != before]
        assert self._process.stdout is not None
        ears = {name: one.fileno() for name, one in self._sockets.items()}
        ears |= {"signals": self._process.stdout.fileno(), "terminal": self._terminal}
        heard = select.select(list(ears.values()), [], [], 0)[0]
        return found + [name for name, fd in ears.items() if fd in heard]

    def renew(self) -> None:
        """Make good what was touched."""
        self._stop()
        self._hush()
        self._start()

    def _hush(self) -> None:
        """Hear out who has knocked."""
        for one in self._sockets.values():
            one.setblocking(False)
            with contextlib.suppress(OSError):
                while True:
                    if one.type == socket.SOCK_STREAM:
                        one.accept()[0].close()
                    else:
                        one.recv(100)
        while select.select([self._terminal], [], [], 0)[0]:
            os.read(self._terminal, 100)

    def _stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def close(self) -> None:
        """Take everything away."""
        self._stop()
        for one in self._sockets.values():
            one.close()
        os.close(self._terminal)
        os.close(self._terminal_end)
        LIBC.shmctl(self._segment, 0, None)
        for path in self.folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(path.stat().st_mode | stat.S_IRWXU)
        shutil.rmtree(self.folder)


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
