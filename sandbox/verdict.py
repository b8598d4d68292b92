"""How a jail ended: in one word, and in a sentence that names the limit and the amount."""

import signal
from dataclasses import dataclass
from typing import Literal

from distill.protocol.jail_link import Limits
from distill.sandbox.jail.confine import MEMORY_STATUS, STEP_STATUS
from distill.sandbox.jail.limits import told

Cause = Literal["exit", "signal", "deadline", "memory", "protocol", "output", "start"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a jail was killed, or how it died."""

    cause: Cause
    detail: str
    status: int | None = None


def death(status: int, limits: Limits, *, starting: bool, out_of_memory: bool) -> Verdict:
    """What an exit status says, where the keeper had not killed the jail itself."""
    memory = told("memory_bytes", limits.memory_bytes)
    if out_of_memory:
        scratch = told("scratch_bytes", limits.scratch_bytes)
        detail = f"killed by its cgroup: memory and scratch were used up {memory} {scratch}"
        return Verdict("memory", detail, status)
    if starting:
        step = next((name for name, code in STEP_STATUS.items() if code == status), None)
        why = f"its step {step!r} failed" if step else f"it ended with status {status}"
        hint = f": the context does not fit {memory}" if step == "context" else ""
        return Verdict("start", f"the jail did not start: {why}{hint}", status)
    if status == MEMORY_STATUS:
        return Verdict("memory", f"no memory was left to go on {memory}", status)
    # Bubblewrap passes a signal on as 128 + its number.
    number = -status if status < 0 else status - 128
    if 0 < number < signal.NSIG and (status < 0 or status > 128):
        name = signal.Signals(number).name
        if number == signal.SIGKILL:
            return Verdict(
                "memory",
                f"killed by {name}, most likely because the machine had no memory left",
                status,
            )
        hint = f": a crash in C code, or no memory left {memory}" if name == "SIGSEGV" else ""
        return Verdict("signal", f"the interpreter died of {name}{hint}", status)
    return Verdict("exit", f"the interpreter ended itself with status {status}", status)
