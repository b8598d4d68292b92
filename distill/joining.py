"""``distill worker``: one more worker server for an engine that is up."""

import os
import secrets
import socket
from pathlib import Path
from typing import NoReturn

from distill.engine import find_endpoint
from distill.errors import InputError
from distill.protocol.endpoints import host_and_port, is_private
from distill.protocol.errors import LocalProtocolError
from distill.protocol.keys import (
    KEY_VARIABLE,
    KeyRefused,
    read_worker_key,
    worker_key_from,
)
from distill.supervisor import keyring
from distill.supervisor.worker_command import worker_argv, worker_environment

NAME_LIMIT_CHARS = 64


def join(
    *,
    connect: str | None,
    worker: str | None,
    gpu: str | None,
    cores: str | None,
    name: str | None,
    window_tokens: int | None,
    max_lora_rank: int | None,
    chat_template: str | None,
    key: str | None,
    redial_s: int,
    check_only: bool,
) -> None:
    """Become a worker server of the engine at ``connect`` (the newest of this user if None).

    ``key`` is the file that an engine at a tcp address needs; without it the user's own is taken,
    unless the key's text is in the environment.

    Raises InputError for what can be seen to be wrong, MachineError if no engine is up.
    """
    if gpu is not None and cores is not None:
        raise InputError("--gpu and --cores exclude each other")
    if name is not None and not 0 < len(name) <= NAME_LIMIT_CHARS:
        raise InputError(f"--name has 1 to {NAME_LIMIT_CHARS} characters")
    if connect is not None:
        _workers_endpoint(connect)
    if key is not None and (connect is None or is_private(connect)):
        raise InputError("--key is for an engine on another machine: --connect tcp://HOST:PORT")
    if connect is not None and not is_private(connect):
        key = _key_file(key)
    if check_only:
        return
    argv = worker_argv(
        _workers_endpoint(connect or find_endpoint()),
        name or f"{socket.gethostname()[:40]}-{secrets.token_hex(3)}",
        worker,
        gpu=gpu,
        cores=cores,
        window_tokens=window_tokens,
        max_lora_rank=max_lora_rank,
        chat_template=chat_template,
    )
    argv += ["--outlive-parent", "--announce", "--redial-s", str(redial_s)]
    argv += ["--key", key] if key is not None else []
    _become(argv)


def _key_file(given: str | None) -> str | None:
    """The file to take, looked into; None where the environment has the key's text."""
    try:
        if given is None and (text := os.environ.get(KEY_VARIABLE)):
            worker_key_from(text, KEY_VARIABLE)
            return None
        path = Path(given) if given is not None else keyring.worker_key_path()
        read_worker_key(path)
    except KeyRefused as error:
        raise InputError(str(error)) from error
    return str(path.absolute())


def _workers_endpoint(endpoint: str) -> str:
    """Where the engine's workers are heard, from either of its addresses."""
    path, _, socket_name = endpoint.rpartition("/")
    if endpoint.startswith("ipc:///") and socket_name in ("clients.sock", "workers.sock"):
        return f"{path}/workers.sock"
    try:
        host_and_port(endpoint)
    except LocalProtocolError:
        raise InputError(
            f"{endpoint} is no endpoint of an engine: it is what `distill up` prints, "
            "ipc:///…/clients.sock, or, of another machine, tcp://HOST:PORT"
        ) from None
    return endpoint


def _become(argv: list[str]) -> NoReturn:
    text = os.environ.get(KEY_VARIABLE)
    key = worker_key_from(text, KEY_VARIABLE) if text and "--key" not in argv else None
    # The worker server takes this one's place.
    os.execve(argv[0], argv, worker_environment(key))  # noqa: S606
