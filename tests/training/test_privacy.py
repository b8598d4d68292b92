"""What a training tells, and whom."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from distill import export
from distill.training.settings import TrainSettings
from distill.training.sft import train

pytest.importorskip("trl", reason="needs the extra train")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other


class Hub(BaseHTTPRequestHandler):
    """TRL reports to one."""

    heard: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.heard.append(self.path)
        self.send_response(200)
        self.end_headers()


def test_no_training_is_reported_to_anybody(
    tmp_path: Path, logs: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _telemetry

    export(logs, tmp_path / "data", format="worker-sft")
    monkeypatch.delenv("CI", raising=False)  # TRL reports none of these
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    settings = TrainSettings(out=tmp_path / "out", model=str(tiny), max_steps=1, device="cpu")
    with HTTPServer(("127.0.0.1", 0), Hub) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        serving = threading.Thread(target=hub.serve_forever, daemon=True)
        serving.start()
        train(tmp_path / "data", settings)
        _telemetry._TELEMETRY_QUEUE.join()
        hub.shutdown()
        serving.join()
    assert not Hub.heard
