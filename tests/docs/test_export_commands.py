"""The commands of the documents and of ``--help`` that export ``runs/kjv.logs`` give rows.

Those of the default models are made here: of ``recipe:find``, whose calls are bare prompts, with a
worker that has a tokenizer.
"""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill import evaluate
from distill.cli import cli
from tests.distill.scripted import SMALL
from tests.training.sampled import Letters, Sampler

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"^ *(?:bin/)?distill export (runs/kjv\.logs .*)$", re.MULTILINE)
TEXTS = ("README.md", "docs/export.md", "distill/cli.py")
TEXT = "\n\n".join(
    f"In the {year}. year the giant of Gath came out, whose name was Goliath, {year} cubits high."
    for year in range(40)
)


def commands() -> list[str]:
    found = [COMMAND.findall((ROOT / name).read_text("utf-8")) for name in TEXTS]
    assert all(found)
    return list(dict.fromkeys(line for lines in found for line in lines))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the logs and scores that the documents' first command leaves."""
    folder = tmp_path_factory.mktemp("clone")
    task = {"id": "a", "query": "What was the giant's name?", "context": TEXT, "label": "x"}
    done = evaluate(
        [task], "recipe:find", Sampler(Letters()), results=folder / "runs" / "kjv.jsonl",
        scorer=lambda _: 1.0, limits=SMALL,
    )  # fmt: skip
    assert done.summary.answered == 1
    assert done.log_dir == folder / "runs" / "kjv.logs"
    return folder


@pytest.mark.parametrize("command", commands())
def test_a_documents_export_gives_rows(
    command: str, clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").symlink_to(clone / "runs")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["export", *shlex.split(command)])
    assert done.exception is None, done.output
    assert re.search(r"Rows +train [1-9]", done.output)
