"""The process of a training, as a loop starts it."""

import os
import signal
import subprocess
import sys

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
