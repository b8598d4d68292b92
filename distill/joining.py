"""``distill worker``: one more worker server for an engine that is up."""

import os
import secrets
import socket
import sys
from typing import NoReturn

from distill.engine import find_endpoint
from distill.errors import InputError
from distill.supervisor.children import scrubbed_environment

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
    check_only: bool,
) -> None:
    """Become a worker server of the engine at ``connect`` (the newest of this user if None).

    Raises InputError for what can be seen to be wrong, MachineError if no engine is up.
    """
    if gpu is not None and cores is not None:
        raise InputError("--gpu and --cores exclude each other")
    if name is not None and not 0 < len(name) <= NAME_LIMIT_CHARS:
        raise InputError(f"--name has 1 to {NAME_LIMIT_CHARS} characters")
    if connect is not None:
        _workers_endpoint(connect)
    if check_only:
        return
    argv = [
        *(sys.executable, "-m", "distill.worker_server", "--outlive-parent", "--announce"),
        *("--connect", _workers_endpoint(connect or find_endpoint())),
        *("--worker", name or f"{socket.gethostname()[:40]}-{secrets.token_hex(3)}"),
        *(("--model", worker) if worker is not None else ()),
        *(("--gpu", gpu) if gpu is not None else ()),
        *(("--cores", cores.replace("+", ",")) if cores is not None else ()),
        *(("--window-tokens", str(window_tokens)) if window_tokens is not None else ()),
        *(("--max-lora-rank", str(max_lora_rank)) if max_lora_rank is not None else ()),
        *(("--chat-template", chat_template) if chat_template is not None else ()),
    ]
    _become(argv)


def _workers_endpoint(endpoint: str) -> str:
    """Where the engine's workers are heard, from either of its addresses."""
    path, _, socket_name = endpoint.rpartition("/")
    if not endpoint.startswith("ipc:///") or socket_name not in ("clients.sock", "workers.sock"):
        raise InputError(
            f"{endpoint} is no endpoint of an engine: it is what `distill up` prints, "
            "ipc:///…/clients.sock"
        )
    return f"{path}/workers.sock"


def _become(argv: list[str]) -> NoReturn:
    environment = scrubbed_environment()
    if token := os.environ.get("HF_TOKEN"):
        environment["HF_TOKEN"] = token  # gated models; the worker server has no other key
    os.execve(argv[0], argv, environment)  # noqa: S606  (the worker server takes this one's place)
