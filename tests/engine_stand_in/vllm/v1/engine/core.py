"""A process in EngineCore's place: it holds nothing, but it can be killed, and must not outlive.

::

    python -m vllm.v1.engine.core EngineCore <worker_extension_cls>
"""

import importlib
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any


def start(extension: str) -> "subprocess.Popen[bytes]":
    """Start the process; its environment is this one's, as it is now."""
    return subprocess.Popen([sys.executable, "-m", __name__, "EngineCore", extension])


def extended(name: str) -> Any:
    """A worker with the class ``name`` mixed in, whose model runs on no device."""
    module, _, kind = name.rpartition(".")
    mixed_in = getattr(importlib.import_module(module), kind)
    worker = type("Worker", (mixed_in,), {})()
    worker.model_runner = SimpleNamespace(device="none")
    return worker


if __name__ == "__main__":
    extended(sys.argv[2])  # its import ties this process to the worker server
    signal.pause()
