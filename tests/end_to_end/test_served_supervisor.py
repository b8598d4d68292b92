"""A real model behind a real OpenAI-compatible server, as supervisor and as worker.

The small model writes poor code or none. What counts is that the run ends in an orderly way,
whatever it wrote, with everything in the log.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.traces import validate
from distill.user_folders import cache_folder
from distill.worker_server import model

START_S = 300
RUN_S = 300
NAME = "small"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vllm serve did not come up in {START_S} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of `vllm serve` with the default worker model."""
    folder = model.resolve(None, cache_folder()).path
    log = tmp_path_factory.mktemp("serve") / "log"
    port = free_port()
    command = [
        # What `vllm serve` runs; the command itself looks for a package named exactly vllm.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)),
        *("--enforce-eager", "--max-model-len", "2048", "--max-num-batched-tokens", "1024"),
    ]
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": str(os.cpu_count()),
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}/v1", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.vllm
@pytest.mark.slow
def test_a_local_supervisor_that_writes_poor_code_ends_in_an_orderly_way(tmp_path: Path) -> None:
    """One engine for both: the small model answers for the supervisor as well."""
    text, logs = tmp_path / "text.txt", tmp_path / "logs"
    text.write_text("Anna keeps the red key. Bert keeps the blue key.\n" * 40)
    command = [
        *(sys.executable, "-m", "distill", "up", "-c", str(text), "-q", "Who keeps the red key?"),
        *("--supervisor", "local:default", "--window-tokens", "2048"),
        *("--max-iterations", "2", "--log-dir", str(logs)),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=START_S + RUN_S, check=False
    )
    assert done.returncode in (0, 4, 5), done.stderr
    assert "Traceback" not in done.stderr
    trace, problems = validate(logs)
    assert problems == []
    (run,) = trace.runs.values()
    assert run.start is not None
    assert run.start.supervisor.startswith("local:SmolLM2")
    assert run.end is not None
    if done.returncode == 4:
        assert "a supervisor with a larger window" in str(run.end.error)
    for turn in run.turns:
        assert turn.usage.input_tokens == len(turn.prompt_token_ids or ()) > 0
        assert turn.usage.output_tokens == len(turn.token_ids or ()) <= 2048 // 4


@pytest.mark.vllm
def test_a_supervisor_that_writes_poor_code_ends_in_an_orderly_way(
    url: str, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Anna keeps the red key. Bert keeps the blue key.\n" * 40)
    logs = tmp_path / "logs"
    command = [
        *(sys.executable, "-m", "distill", "up", "-c", str(text), "-q", "Who keeps the red key?"),
        *("--supervisor", NAME, "--base-url", url, "--worker", NAME, "--worker-url", url),
        *("--max-iterations", "2", "--log-dir", str(logs)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    # 4: its replies, which run to the window's end, may leave no room for another turn.
    assert done.returncode in (0, 4, 5), done.stderr
    assert "Traceback" not in done.stderr
    trace, problems = validate(logs)
    assert problems == []
    (run,) = trace.runs.values()
    assert run.end is not None
    if done.returncode == 4:
        assert run.end.status == "failed"
        assert "maximum context length" in str(run.end.error)
    else:
        assert run.end.status in ("final", "forced", "unanswered")
    assert 1 <= len(run.turns) <= 3
    # Every reply is logged as it came, with the tokens that the server counted.
    for turn in run.turns:
        assert run.messages[turn.reply_index].role == "assistant"
        assert turn.usage.input_tokens > 0
    assert sum(turn.usage.output_tokens for turn in run.turns) > 0
