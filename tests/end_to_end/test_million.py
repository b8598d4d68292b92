"""A million tiny prompts queued at once, through the real path: bounded memory, nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = 1_000_000
BYTES_A_PROMPT = 400
"""Of the driver's memory at its most; half of it is Python's text and list, here and in a run."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_prompts_are_queued_and_answered() -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "queue"), "--json", "--prompts", str(PROMPTS)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert figures["lines"] == PROMPTS
    assert figures["most_waiting"] > PROMPTS / 2
    grown_bytes = figures["most_bytes"] - figures["before_bytes"]
    assert grown_bytes < PROMPTS * BYTES_A_PROMPT
