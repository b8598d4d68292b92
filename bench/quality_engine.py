"""The one engine of bench/quality: vLLM's own OpenAI-compatible server, which all ask over HTTP.

Its chat template is the bare text of the messages, so that a chat message is completed as it
stands: that is how *find* asks, and rlms can only chat.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from engine_models import MIB, small
from quality_contestant import Engine

MODEL = "worker"
BARE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
START_S = 300
CACHE_BYTES = 1024 * MIB
STEP_TOKENS, SEQUENCES = 1024, 64


@contextlib.contextmanager
def serving(window_tokens: int) -> Iterator[Engine]:
    """The engine while it lasts. Raises RuntimeError if it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="quality-engine-"))
    (folder / "bare.jinja").write_text(BARE)
    with (folder / "log").open("wb") as log:
        port = _free_port()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
                *_arguments(folder, port, window_tokens),
            ],
            env={**os.environ, **_environment()},
            stdout=log,
            stderr=log,
        )
    try:
        _await_ready(process, port, folder / "log")
        yield Engine(f"http://127.0.0.1:{port}/v1", MODEL, window_tokens)
    finally:
        process.terminate()  # it ends what it has started
        process.wait()
        shutil.rmtree(folder)


def forget(engine: Engine) -> None:
    """Empty its prefix cache, in which every contestant would find what others asked before."""
    httpx.post(f"{engine.url.removesuffix('/v1')}/reset_prefix_cache").raise_for_status()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _arguments(folder: Path, port: int, window_tokens: int) -> list[str]:
    return [
        *("--model", str(small()), "--served-model-name", MODEL),
        *("--max-model-len", str(window_tokens), "--chat-template", str(folder / "bare.jinja")),
        *("--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"),
        *("--enforce-eager", "--kv-cache-memory-bytes", str(CACHE_BYTES)),
        *("--max-num-batched-tokens", str(STEP_TOKENS), "--max-num-seqs", str(SEQUENCES)),
    ]


def _environment() -> dict[str, str]:
    """As distill starts an engine on cores (worker_server/device.py says why)."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "OMP_WAIT_POLICY": "passive",
        "TORCHDYNAMO_DISABLE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _await_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            last = log.read_text(errors="replace").splitlines()[-5:]
            raise RuntimeError("vLLM's server ended: " + " / ".join(last))
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health").is_success:
                return
        time.sleep(0.5)
    raise RuntimeError(f"vLLM's server was not ready within {START_S} s")
