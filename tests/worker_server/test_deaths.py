"""The engine or its owner killed: seen at once, typed, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill.protocol.worker_link import (
    Drain,
    Request,
    Requests,
    Sampling,
    WorkerFailed,
)

pytestmark = pytest.mark.vllm

OFFLINE = """
import sys, time
from distill.worker_server.offline import OfflineEngine
engine = OfflineEngine(sys.argv[1], window_tokens=512)
contents = [f"What is {i} and {i}?" for i in range(5)] + ["x " * 600]
conversations = [[{"role": "user", "content": content}] for content in contents]
replies = engine.chat(conversations, {"max_tokens": 8})
print([type(reply).__name__ for reply in replies], getattr(replies[-1], "kind", None))
try:
    engine.chat(conversations, {"temprature": 1})
except ValueError as error:
    print(error)
print("READY", flush=True)
if sys.argv[2] == "close":
    engine.close()
else:
    time.sleep(100)
"""


def test_a_killed_engine_is_reported_at_once(start: Callable[..., Any], model_folder: str) -> None:
    worker = start("--model", model_folder, "--window-tokens", "512")
    driver = worker.driver
    driver.await_ready()
    endless = Request(id="a", attempt=1, sampling=Sampling(max_tokens=400), prompt="Story:")
    driver.send(Requests(requests=(endless,)))
    time.sleep(0.3)
    worker.engine_core.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    failed = driver.receive(WorkerFailed)
    assert time.monotonic() - killed < 1.0
    assert failed.kind == "engine"
    assert worker.process.wait(timeout=10) == 4
    worker.await_empty_group()


def test_a_loading_worker_goes_when_told(start: Callable[..., Any], model_folder: str) -> None:
    worker = start("--model", model_folder)
    worker.driver.greet()
    deadline = time.monotonic() + 120
    while not any("EngineCore" in " ".join(p.cmdline()) for p in worker.group):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    worker.driver.send(Drain())
    assert worker.process.wait(timeout=10) == 0
    worker.await_empty_group()


@pytest.mark.parametrize("end", ["close", pytest.param("kill", marks=pytest.mark.slow)])
def test_offline_engine_leaves_nothing(model_folder: str, end: str, tmp_path: Path) -> None:
    """A script without the __main__ guard, too; killed with SIGKILL its engine ends by itself."""
    script = tmp_path / "script.py"
    script.write_text(OFFLINE)
    with subprocess.Popen(
        [sys.executable, script, model_folder, end],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        printed: list[str] = []
        for line in process.stdout:
            printed.append(line.strip())
            if line.startswith("READY"):
                break
        below = psutil.Process(process.pid).children(recursive=True)
        assert any("EngineCore" in " ".join(child.cmdline()) for child in below)
        if end == "kill":
            process.kill()
        process.wait(timeout=20)
    assert printed[0].endswith("'RequestRefused'] too_long")
    assert "temprature" in printed[1]
    _, alive = psutil.wait_procs(below, timeout=5)
    assert not alive
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py"]
