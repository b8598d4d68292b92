"""Real keepers for attacks on them, and how much memory an attack made one use."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.sandbox.harness import Host

RESET_PEAK = "5"
"""Written to clear_refs it makes VmHWM start again from what is resident now."""


@contextlib.contextmanager
def running_host() -> Iterator[Host]:
    """A launcher and a keeper of one's own."""
    # Not tmp_path: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        host = Host(Path(folder))
        try:
            yield host
        finally:
            host.close()


class PeakMemory:
    """The most that a process had resident (VmHWM) since ``start``, in bytes."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def start(self) -> None:
        (self._folder / "clear_refs").write_text(RESET_PEAK)

    @property
    def peak_bytes(self) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
