"""The process of a training, as a loop starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distill.errors import MachineError
from distill.training.trainer import TrainerProcess
from tests.training.loops import ROOT

ORPHANING = """\
import os, signal, subprocess
from pathlib import Path
from distill.training.trainer import TrainerProcess

trainer = TrainerProcess("sft", "model", {"--help": True})
subprocess.Popen(trainer.command(Path("data"), Path("out"), None))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_notices_that_its_loop_was_killed_before_it_could_look() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANING],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
    )  # fmt: skip
    # Its output ends when the training, which writes there too, has ended.
    assert done.returncode == -signal.SIGKILL
    assert "the parent process is gone" in done.stdout
    assert "Usage" not in done.stdout


def test_it_starts_when_there_is_room(tmp_path: Path) -> None:
    def fails() -> None:
        raise MachineError("the engine does not end")

    trainer = TrainerProcess("sft", "model", {}, fails)
    with pytest.raises(MachineError, match="does not end"):
        trainer(tmp_path / "data", tmp_path / "train", None, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_one_that_the_kernel_killed_is_told_as_a_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    (tmp_path / "sitecustomize.py").write_text(dying)  # Python begins with it
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    trainer = TrainerProcess("sft", "model", {})
    with pytest.raises(MachineError, match="memory is short: free some"):
        trainer(tmp_path / "data", tmp_path / "train", None, lambda _: None)
