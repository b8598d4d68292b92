"""What the kernel tells of processes that are ending."""

import subprocess
import sys
import time

from distill.worker_server.process import is_ending

MEMORY_MIB = 512
HOLDING = f"""
held = bytearray(b'x') * ({MEMORY_MIB} << 20)
print('held', flush=True)
import time; time.sleep(60)
"""


def test_an_end_is_seen_while_the_memory_is_freed() -> None:
    """Its standard output, as any descriptor, is closed after that."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert not is_ending(process.pid)
    process.kill()
    deadline_s = time.monotonic() + 10
    while not is_ending(process.pid):
        assert time.monotonic() < deadline_s
    process.wait()
    process.stdout.close()
    assert not is_ending(process.pid)
