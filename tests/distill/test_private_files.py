"""Whatever the umask is, only their owner can read the files that distill writes."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    os.umask(int(sys.argv[1], 8))

    from distill import evaluate, run
    from distill.exports.exporting import export
    from distill.supervisor.answer_cache import open_cache
    from distill.supervisor.keyring import server_keys
    from tests.distill.scripted import SMALL, Supervisor, Worker, cell

    home = Path.home()
    code = cell("FINAL(worker('p ' + str(context)[:50], temperature=0))")
    context = {"a": "the first text " * 9, "b": "another " * 9}
    run("What?", "a text", Supervisor(code), Worker(), limits=SMALL)  # the default log folder
    run("What?", context, Supervisor(code), Worker(), log_dir=home / "new/deep/log", limits=SMALL)
    tasks = [{"id": "t", "query": "What?", "context": "text", "label": "x"}]
    evaluate(tasks, Supervisor(code), Worker(), results=home / "out/r.jsonl", limits=SMALL)
    open_cache("shared").close()
    server_keys()
    for kind in ("jsonl", "parquet"):
        export(home / "new/deep/log", home / f"data/{kind}", format="worker-sft", as_=kind)
""")
KILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    os.umask(int(sys.argv[1], 8))
    from distill import run
    from tests.distill.scripted import SMALL, Supervisor, Worker

    def die(_messages):
        os.kill(os.getpid(), signal.SIGKILL)

    run("What?", "text", Supervisor(die), Worker(), log_dir=Path.home() / "killed", limits=SMALL)
""")
STAGED = ("sandbox",)
"""Of the cache: Python's own files, which a jail's user must be able to read."""


@pytest.mark.parametrize("umask", [pytest.param("022", marks=pytest.mark.slow), "000"])
def test_only_the_owner_can_read_what_is_written(umask: str, tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    env = {**bare, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, umask]
    subprocess.run(command, env=env, check=True, timeout=120)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, umask], env=env, timeout=120, check=False
    )
    assert killed.returncode == -9
    spool = tmp_path / "killed" / "spool"
    _wait_for(spool)
    written = [path for path in tmp_path.rglob("*") if not _is_staged(path.relative_to(tmp_path))]
    names = {path.name for path in written}
    assert {"supervisor.jsonl", "worker.jsonl", "r.jsonl", "r.summary.json", ".lock",
            "answers.sqlite", "worker.key", "train.jsonl", "train.parquet"} <= names  # fmt: skip
    open_to_others = [
        f"{path.relative_to(tmp_path)} {path.stat().st_mode & 0o777:o}"
        for path in written
        if path.stat().st_mode & 0o077
    ]
    assert open_to_others == []


def _is_staged(path: Path) -> bool:
    return path.parts[:2] == (".cache", "distill") and path.parts[2:3] == STAGED


def _wait_for(spool: Path) -> None:
    due_s = time.monotonic() + 20
    while not any(spool.glob("*.jsonl")):
        assert time.monotonic() < due_s
        time.sleep(0.02)
