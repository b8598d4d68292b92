"""``distill train rl`` and ``opd``, from the logs of runs to an adapter, as they are typed."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra train")

from distill import LMResponse, ModelHandler, Usage, cli, evaluate
from tests.distill.scripted import SMALL, cell
from tests.training.tiny import TinyWorker, tiny_adapter

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other
CODE = """\
said = worker(context[:20], chat=False, temperature=1.0, max_tokens=8)
FINAL("odd" if len(said) % 2 else "even")"""
SHORT = ("--device", "cpu", "--lora-rank", "4", "--max-steps", "3", "--batch-rows", "4")


class Boss(ModelHandler):
    """Asks the worker once, about the beginning of the text."""

    model = "boss"

    def chat(self, messages: Sequence[Mapping[str, str]], **kw: Any) -> LMResponse:
        return LMResponse(cell(CODE), Usage(9, 9), self.model, 0.01)

    def chat_batch(self, message_batches: Sequence[Any], **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]


class Wordless(TinyWorker):
    """Tells no log-probabilities, as one whose engine was started with --record ids."""

    def complete_batch(self, prompts: Sequence[str], **kw: Any) -> list[LMResponse]:
        return [replace(each, logprobs=None) for each in super().complete_batch(prompts, **kw)]


def asked(folder: Path, worker: TinyWorker, attempts: int = 4) -> Path:
    """The logs of some attempts at two questions; some are right, by their length."""
    tasks: list[dict[str, Any]] = [
        {"id": name, "query": "Which?", "context": f"{name} it was told", "label": "odd",
         "attempts": attempts}
        for name in ("boat", "lion")
    ]  # fmt: skip
    done = evaluate(
        tasks, Boss(), worker, scorer="exact", limits=SMALL, concurrency=1,
        results=folder / "tasks.jsonl",
    )  # fmt: skip
    assert {result.status for result in done.results} == {"final"}
    return done.log_dir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    return asked(tmp_path_factory.mktemp("asked"), TinyWorker(tiny))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Types a command, in this process; its exit code."""

    def run(*words: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["distill", *map(str, words)])
        return cli.main()

    return run


def test_runs_are_reinforced(
    runs: Path, tiny: Path, tmp_path: Path, typed: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("train", "rl", runs, "--model", tiny, "-o", out, *SHORT)
    assert typed(*words, "--length-weight", "0.3", "--kl", "0.1") == 0
    printed = capfd.readouterr()
    assert printed.out.strip() == str(out / "adapter")
    phases = ("loading the model", "replaying 8 logged calls", "32 answers of the model as it is")
    places = [printed.err.index(each) for each in phases]
    assert places == sorted(places)
    assert "Trained     3 steps, 1.5 epochs of 8 rows" in printed.err
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert typed(*words, "--length-weight", "0.3", "--kl", "0.1") == 0
    assert "Already trained: 3 steps" in capfd.readouterr().err
    told = json.loads((out / "training.json").read_bytes())["asked"]
    assert (told["method"], told["settings"]["kl"], told["settings"]["clip_high"]) == (
        "rl",
        0.1,
        0.2,
    )
    made = json.loads((out / "data" / "manifest.json").read_bytes())["options"]
    assert (made["format"], made["length_weight"]) == ("episodes", 0.3)
    assert [each["step"] for each in json.loads((out / "samples.json").read_bytes())] == [
        0,
        1,
        2,
        3,
    ]


def test_runs_are_taught(
    runs: Path, tiny: Path, tmp_path: Path, typed: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher, out = tiny_adapter(tmp_path / "teacher", tiny), tmp_path / "out"
    words = ("train", "opd", runs, "--model", tiny, "-o", out, *SHORT)
    assert typed(*words) == 2
    assert "--teacher-adapter" in capfd.readouterr().err
    assert not out.exists()
    assert typed(*words, "--teacher-adapter", teacher) == 0
    assert capfd.readouterr().out.strip() == str(out / "adapter")
    made = json.loads((out / "data" / "manifest.json").read_bytes())["options"]
    assert made["format"] == "token-sft"


def test_a_version_goes_on_from_its_own_answers(
    runs: Path, tiny: Path, tmp_path: Path, typed: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those of another version are none of its own, but of one before it they may be."""
    adapter = tiny_adapter(tmp_path / "mine", tiny)
    now = asked(tmp_path, TinyWorker(tiny, adapter))
    words = ("--model", tiny, "--adapter", adapter, "--device", "cpu", "--max-steps", "1")
    assert typed("train", "rl", runs, *words, "-o", tmp_path / "a") == 2
    assert "no row was sampled by the weights in training" in capfd.readouterr().err
    assert typed("train", "rl", runs, now, *words, "-o", tmp_path / "b") == 0
    told = capfd.readouterr().err
    assert "8 rows dropped: sampled by weights that are not in training" in told
    assert typed("train", "rl", runs, now, *words, "--staleness", "1", "-o", tmp_path / "c") == 0
    assert "16 rows" in capfd.readouterr().err


def test_log_probabilities_that_were_not_logged_are_asked_for(
    tiny: Path, tmp_path: Path, typed: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = asked(tmp_path, Wordless(tiny), attempts=1)
    assert typed("train", "rl", runs, "--model", tiny, "-o", tmp_path / "out") == 5
    assert "record=ids+logprobs keeps them" in capfd.readouterr().err
