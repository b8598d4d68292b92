"""One launcher and keeper for the folder's tests; a fresh jail for each that asks for one."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.protocol.jail_link import Limits
from distill.protocol.sandbox_link import JailReady
from tests.sandbox.harness import Host

MIB = 1 << 20
SMALL = Limits(
    memory_bytes=256 * MIB,
    scratch_bytes=16 * MIB,
    scratch_inodes=256,
    output_bytes=1 * MIB,
    open_files=64,
    threads=16,
    cell_s=10.0,
    grace_s=1.0,
    calls_in_flight=8,
    calls_per_cell=50,
    call_bytes=1 * MIB,
)


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    # Not tmp_path: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        host = Host(Path(folder))
        yield host
        host.close()
        assert host.launcher.returncode == 0, (Path(folder) / "keeper.log").read_text()


@pytest.fixture
def jail(host: Host) -> Host:
    """A fresh jail with small limits and no context."""
    ready = host.open(SMALL)
    assert isinstance(ready, JailReady), ready
    return host


_shared = {"jail": ""}


@pytest.fixture
def session(host: Host) -> Host:
    """One jail for many tests, of those that leave nothing behind that matters."""
    if host.jail == _shared["jail"] and host.idle:
        return host
    ready = host.open(SMALL, context="the context ☃", functions={"echo": lambda value: value})
    assert isinstance(ready, JailReady), ready
    _shared["jail"] = host.jail
    return host


os.environ.setdefault("DISTILL_CANARY_KEY", "canary-secret")
