"""``distill export``: which runs and rows, how they are shared out, what is written and told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill import RunResult, export
from tests.distill.scripted import cell

Ask = Callable[..., RunResult]
TEXT = "The quick brown fox jumps over the lazy dog, again and again. " * 20
CALLS = "print(worker_batch(['Who? ' + context[:200], 'What? ' + context[200:400]]))"


def rows_in(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()
    ]


def test_worker_calls_become_prompts_and_completions(ask: Ask, log: Path, tmp_path: Path) -> None:
    run = ask(cell(CALLS), cell("FINAL('x')"), context=TEXT, label="fox")
    made = export(log, tmp_path / "out", format="worker-sft")
    first, second = rows_in(tmp_path / "out")
    assert first["prompt"] == [{"role": "user", "content": "Who? " + TEXT[:200]}]
    assert second["completion"] == [{"role": "assistant", "content": f"<What? {TEXT[200:400]}>"}]
    assert (first["run"], first["task"], first["score"]) == (run.run_id, "fox", None)
    assert (made.runs, made.rows, made.dropped_rows) == (1, {"train": 2}, {})
