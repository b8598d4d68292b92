"""How soon the standard library tells that a child was killed: what any program could have."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing import connection

SETTLE_S = 0.2


def measure(count: int) -> list[float]:
    """Seconds from SIGKILL to the return of ``connection.wait`` on the child's sentinel."""
    context = multiprocessing.get_context("spawn")
    times = []
    for _ in range(count):
        child = context.Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(SETTLE_S)
        killed_s = time.monotonic()
        child.kill()
        connection.wait([child.sentinel])
        times.append(time.monotonic() - killed_s)
        child.join()
    return times
