"""Where attacks are run: the real launcher, the real keeper, a jail of its own for each attempt."""

import contextlib
import os
import queue
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from distill.protocol.jail_link import Limits
from distill.protocol.sandbox_link import CellDone, FromKeeper, HostCall, JailLost, JailReady
from distill.supervisor.context import ContextFile
from tests.sandbox import harness
from tests.sandbox.harness import Host
from tests.security.attack import Attack
from tests.security.canaries import Canaries
from tests.security.layers import ALL, Layer
from tests.security.variants import Variant, Workshop

MIB = 1 << 20
PRELUDE = Path(__file__).with_name("prelude.py").read_text()
CONTEXT = "the text of another question"
LIMITS = Limits(
    memory_bytes=256 * MIB,
    scratch_bytes=16 * MIB,
    scratch_inodes=256,
    output_bytes=MIB,
    open_files=64,
    threads=16,
    cell_s=20.0,
    grace_s=1.0,
    calls_in_flight=4,
    calls_per_cell=10,
    call_bytes=MIB,
)
SHORT = {"cell_s": 0.4, "grace_s": 0.3}
"""For attacks on the clock; without a clock they are watched for ``PATIENCE_S``."""
PATIENCE_S = 1.0
IS_ROOT = os.geteuid() == 0


class OpenContextFile(ContextFile):
    """The context's memory file as a careless driver would make it: open for writing, unsealed."""

    def _make(self, context: Any) -> None:
        super()._make(context)
        sealed = self._fd
        self._fd = os.memfd_create("context", os.MFD_ALLOW_SEALING)
        os.sendfile(self._fd, sealed, 0, self.size_bytes)
        os.close(sealed)


class Arena:
    """One launcher and keeper, one set of canaries, and a variant of the jail for each attempt."""

    def __init__(self, folder: Path, tier: str = "namespaces") -> None:
        self.canaries = Canaries()
        with contextlib.suppress(KeyError):
            del os.environ["DISTILL_CANARY_KEY"]
        self.host = Host(folder, tier)
        self.plan = self.host.plan
        leak = (str(self.canaries.folder), str(self.canaries.folder / "secret"))
        variants = self.canaries.folder.with_name(f"{self.canaries.folder.name}-variants")
        variants.mkdir(mode=0o755)
        self.variants = variants
        self._workshop = Workshop(self.plan, variants, leak)

    def attempt(self, attack: Attack, off: Iterable[Layer] = ()) -> str:
        """Run the attack with these layers off; its outcome in one word."""
        missing = frozenset(off)
        variant = self._workshop.without(
            missing, self.canaries.environment, spoiled=attack.owner_writes
        )
        ready = self.open(variant, missing, attack)
        assert isinstance(ready, JailReady), ready
        watched = "the clock" in attack.stopped
        limited = watched and "the clock" not in missing
        try:
            return self._outcome(PATIENCE_S if watched and not limited else 60.0)
        finally:
            self.host.close_jail()
            self._workshop.sweep()
            if attack.owner_writes and missing:
                self._workshop.forget()

    def open(
        self, variant: Variant, missing: frozenset[Layer], attack: Attack
    ) -> JailReady | JailLost:
        """A fresh jail of this variant, with everything that the attack may name."""
        names: dict[str, Any] = {
            **self.canaries.names(),
            "CODE": attack.code,
            "MODULES": variant.modules,
            "PYTHON": variant.python,
            "SOCKET_FD": self.plan.socket_fd,
        }
        limits = LIMITS
        if "the clock" in attack.stopped:
            timed = SHORT if "the clock" not in missing else {"cell_s": 3600.0}
            limits = Limits(**{**_fields(LIMITS), **timed})
        self.host.plan = variant.plan
        kind = OpenContextFile if "sealed context" in missing else ContextFile
        with patch.object(harness, "ContextFile", kind):
            return self.host.open(limits, context=CONTEXT, functions={"ask": str}, namespace=names)

    def _outcome(self, patience_s: float) -> str:
        """``worked``, what denied it, or how the jail ended; ``still running`` after a while."""
        self.host.printed(PRELUDE)
        self.host.start("attempt(CODE, globals())")
        deadline = time.monotonic() + patience_s
        ended: FromKeeper = HostCall(self.host.jail, 0, 0, "", (), {})
        try:
            while isinstance(ended, HostCall):  # never answered
                ended = self.host.receive(deadline - time.monotonic())
        except queue.Empty:
            return "still running"
        if isinstance(ended, JailLost):
            return ended.detail.rsplit(" ", 1)[-1] if ended.cause == "signal" else ended.cause
        assert isinstance(ended, CellDone)
        assert ended.error is None, ended.error.traceback
        return ended.stdout.strip() or "nothing printed"

    def close(self) -> None:
        """End all of it."""
        self.host.close()
        self.canaries.close()
        shutil.rmtree(self.variants)


def _fields(limits: Limits) -> dict[str, Any]:
    return {name: getattr(limits, name) for name in limits.__struct_fields__}


def complement(attack: Attack, kept: Layer | None = None) -> frozenset[Layer]:
    """Every layer but those that stay on for this attack, and ``kept``."""
    always = attack.keeps | (frozenset() if IS_ROOT else {"user namespace"})
    return ALL - always - ({kept} if kept is not None else frozenset())
