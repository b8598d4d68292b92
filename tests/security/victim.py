"""A process beside the jail that must feel nothing: it holds a secret, and tells each signal.

``python victim.py SECRET``: writes the address of its copy of the secret, then one line a signal.
"""

import ctypes
import os
import signal
import sys


def main() -> None:
    """Say where the secret lies, then wait for signals until stdin ends."""
    buffer = ctypes.create_string_buffer(sys.argv[1].encode())
    for number in (signal.SIGUSR1, signal.SIGIO, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda which, _: os.write(1, b"signal %d\n" % which) and None)
    os.write(1, b"%d\n" % ctypes.addressof(buffer))
    while os.read(0, 1):
        pass


if __name__ == "__main__":
    main()
