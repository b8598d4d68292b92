"""A small soak: runs whose cells, jails and keepers are killed leave nothing behind.

The long one is ``bench/soak``; this is the same command with less of everything.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"


@pytest.mark.slow
def test_nothing_is_left_of_runs_that_are_killed() -> None:
    command = [sys.executable, str(BENCH / "soak"), "--json"]
    amount = ["--runs", "10", "--cells", "100", "--kills", "14"]
    # As a person calls it: bin/test's own environment hides the modules beside a script.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [*command, *amount], capture_output=True, text=True, check=False, timeout=300, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["runs"], told["cells"], sum(told["kills"].values())) == (10, 100, 14)
    # A control: some did die, of each kind that can't be survived.
    assert {kind for kind, count in told["lost"].items() if count} >= {"os._exit", "timeout"}


def _census() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak_census", BENCH / "soak_census.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["soak_census"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_census_sees_what_is_left(tmp_path: Path) -> None:
    census = _census()
    before = census.take(tmp_path, None)
    assert before.unlike(before) == {}
    descriptor = os.open(tmp_path / "left", os.O_CREAT | os.O_RDWR)
    child = subprocess.Popen(["sleep", "60"])
    try:
        after = census.take(tmp_path, None)
    finally:
        child.kill()
        child.wait()
        os.close(descriptor)
    assert {"processes", "descriptors", "files"} <= set(after.unlike(before))
