"""What a training tells, and whom."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from distill import export
from distill.training.settings import LORA_RANK, TrainSettings
from distill.training.sft import train

pytest.importorskip("trl", reason="needs the extra train")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other


@pytest.mark.parametrize("full", [False, True], ids=["adapter", "full"])
def test_what_is_trained_is_its_owners_alone(
    tmp_path: Path, logs: Path, tiny: Path, full: bool
) -> None:
    """As all that distill writes, whatever the user's umask is."""
    export(logs, tmp_path / "data", format="worker-sft")
    out = tmp_path / "train" / "1"
    rank = None if full else LORA_RANK
    settings = TrainSettings(
        out=out, model=str(tiny), device="cpu", lora_rank=rank, max_steps=2, save_every_steps=1
    )
    found: dict[str, int] = {}

    def look(_: object = None) -> None:
        found.update({str(path): path.stat().st_mode & 0o077 for path in out.rglob("*")})

    before = os.umask(0o022)
    try:
        train(tmp_path / "data", settings, look)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert any("/checkpoint-1/" in each for each in found)
    look()
    assert any(each.endswith("model.safetensors") for each in found)
    assert not {path for path, open_to in found.items() if open_to}
    assert out.parent.stat().st_mode & 0o077 == 0


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
