"""How a worker server is started: its command and its environment, here or on another machine."""

import os
import sys

from distill.protocol.keys import KEY_VARIABLE, WorkerKey
from distill.supervisor.children import scrubbed_environment


def worker_argv(
    endpoint: str,
    name: str,
    model: str | None,
    *,
    gpu: str | None = None,
    cores: str | None = None,
    window_tokens: int | None = None,
    max_lora_rank: int | None = None,
    chat_template: str | None = None,
) -> list[str]:
    """The command of a worker server for the engine at ``endpoint``.

    It ends with the process that starts it, unless ``--outlive-parent`` is added. The key of a tcp
    endpoint goes beside it, by ``--key FILE`` or in its environment.
    """
    return [
        *(sys.executable, "-m", "distill.worker_server", "--connect", endpoint, "--worker", name),
        *(("--model", model) if model is not None else ()),
        *(("--gpu", gpu) if gpu is not None else ()),
        *(("--cores", cores.replace("+", ",")) if cores is not None else ()),
        *(("--window-tokens", str(window_tokens)) if window_tokens is not None else ()),
        *(("--max-lora-rank", str(max_lora_rank)) if max_lora_rank is not None else ()),
        *(("--chat-template", chat_template) if chat_template is not None else ()),
    ]


def worker_environment(key: WorkerKey | None = None) -> dict[str, str]:
    """This process's environment without any key but those that a worker server needs."""
    environment = scrubbed_environment()
    if token := os.environ.get("HF_TOKEN"):
        environment["HF_TOKEN"] = token  # gated models
    if key is not None:
        environment[KEY_VARIABLE] = key.text
    return environment
