"""A keeper whose loop is stuck is ended by its alarm, not by the jail's good will."""

import subprocess
import sys
import time
from queue import SimpleQueue

from distill.protocol.codec import DRIVER_TO_KEEPER
from distill.protocol.message import Shutdown
from distill.protocol.sandbox_link import FRAME_LIMIT_BYTES
from distill.protocol.sockets import Inbound, SocketThread
from tests.sandbox.harness import KEEPER

STUCK = """
import sys
from distill.protocol.sandbox_link import NoJail
from distill.sandbox.driver_link import DriverLink
DriverLink(sys.argv[1], sys.argv[2]).hello(NoJail((), ""))
while True: pass
"""


def test_shutdown_ends_a_stuck_loop() -> None:
    inbox: SimpleQueue[list[Inbound]] = SimpleQueue()
    sockets = SocketThread("test-driver", inbox.put)
    endpoint = sockets.bind("keepers", "tcp://127.0.0.1:*", limit_bytes=FRAME_LIMIT_BYTES)
    sockets.start()
    stuck = subprocess.Popen([sys.executable, "-c", STUCK, endpoint, KEEPER])
    try:
        inbox.get(timeout=20)
        started = time.monotonic()
        sockets.send("keepers", DRIVER_TO_KEEPER.encode(Shutdown()), peer=KEEPER.encode())
        stuck.wait(5)
        assert 1.0 < time.monotonic() - started < 2.0
    finally:
        stuck.kill()
        stuck.wait()
        sockets.close()
