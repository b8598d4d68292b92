"""LoRA adapters by the command line and by ``Engine``, on real worker servers that do no work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill import Engine
from distill.errors import ModelError
from distill.traces import read
from tests.adapter_folder import write_adapter
from tests.distill.commands import QUESTION, TEXT, Command, command
from tests.engine_stand_in.spec import MODEL, worker_spec

SETTINGS = worker_spec("").env
STAND_IN: dict[str, Any] = {
    name: SETTINGS[name] for name in SETTINGS if name.startswith(("STAND_IN", "PYTHONPATH"))
}


@pytest.fixture
def up(short: Path) -> Iterator[Command]:
    """An engine that is up, with an adapter."""
    first = write_adapter(short / "first", 1.0)
    words = ("--worker", str(MODEL), "--cores", "0", "--adapter", f"tuned={first}")
    started = Command(short, "up", *words, **STAND_IN)
    try:
        started.wait_for("The engine is up")
        yield started
    finally:
        started.end()


def answered(folder: Path) -> set[tuple[str, int]]:
    (run,) = read(folder).runs.values()
    assert run.calls
    return {(call.model.adapter or "", call.model.weights_version) for call in run.calls}


def test_adapters_are_loaded_and_switched_while_the_engine_is_up(short: Path, up: Command) -> None:
    text = short / "text.txt"
    text.write_text(TEXT)

    def ask(log: str, *words: str) -> set[tuple[str, int]]:
        question = ("-c", str(text), "-q", QUESTION, "--log-dir", str(short / log))
        done = Command(short, "run", *question, *words).done()
        assert done.code in (0, 5), done.err
        return answered(short / log)

    assert ask("a") == {("tuned", 1)}
    second = write_adapter(short / "second", 2.0)
    assert ask("b", "--adapter", f"tuned={second}") == {("tuned", 2)}
    assert ask("c") == {("tuned", 2)}
    assert ask("d", "--adapter", str(second)) == {("second", 1)}
    assert ask("e", "--adapter", "tuned") == {("tuned", 2)}
    unknown = Command(short, "run", "-c", str(text), "-q", QUESTION, "--adapter", "other").done()
    assert unknown.code == 2
    assert "no adapter 'other'; loaded: tuned, second" in unknown.err
    with Engine(_endpoint(up)) as engine:
        third = engine.load_adapter(write_adapter(short / "third", 3.0), "tuned")
        assert (third.version, third.model, len(third.files_hash)) == (3, str(MODEL), 64)
        with pytest.raises(ModelError, match="no adapter_model"):
            engine.load_adapter(short / "log-of-nothing")
    assert ask("f") == {("tuned", 3)}


def _endpoint(up: Command) -> str:
    return up.err.partition("distill.Engine('")[2].partition("'")[0]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--adapter", "nowhere"], "nowhere is no LoRA adapter"),
        (["--adapter", "="], "give NAME=PATH"),
        (["--adapter", "x", "--worker-url", "http://127.0.0.1:9"], "not for --worker-url"),
        (["--adapter", "a/x", "--adapter", "b/x"], "the same name"),
        (["--max-lora-rank", "513"], "--max-lora-rank"),
    ],
)
def test_what_can_not_be_is_said_at_once(short: Path, words: list[str], why: str) -> None:
    done = command(short, "up", "--check-only", *words)
    assert done.code == 2
    assert why in done.err
