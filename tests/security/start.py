"""Runs in front of a jail, in its place: opens what should be closed.

``start.py WANTED COMMAND…``, where WANTED is a JSON object: what to leave open, the environment.
"""

import json
import os
import socket
import sys
from typing import Any

FOLDER_FD, FILE_FD, PATH_FD, LISTENER_FD, DATAGRAM_FD = range(20, 25)


def _leak(folder: str, file: str) -> None:
    """What a careless starter leaves open: a folder, a secret, sockets."""
    os.dup2(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), FOLDER_FD)
    os.dup2(os.open(file, os.O_RDONLY), FILE_FD)
    os.dup2(os.open(file, os.O_PATH), PATH_FD)
    listener = socket.create_server(("127.0.0.1", 0))
    os.dup2(listener.fileno(), LISTENER_FD)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    os.dup2(datagrams.fileno(), DATAGRAM_FD)


def main() -> None:
    """Prepare, and become the command."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    command = sys.argv[2:]
    if "leak" in wanted:
        _leak(*wanted["leak"])
    environment: dict[str, str] = wanted["environment"]
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
