"""LoRA adapters by the command line and by ``Engine``, on real worker servers that do no work."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill import Engine
from distill.cli import cli
from distill.errors import InputError, ModelError
from distill.traces import read, records
from tests.adapter_folder import write_adapter
from tests.distill.commands import QUESTION, TEXT, Command
from tests.engine_stand_in.spec import MODEL, worker_spec
from tests.supervisor.processes import environment

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

    def ask(log: str, *words: str, says: str = "") -> set[tuple[str, int]]:
        question = ("-c", str(text), "-q", QUESTION, "--log-dir", str(short / log))
        done = Command(short, "run", *question, *words).done()
        assert done.code in (0, 5), done.err
        assert says in done.err
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
        folder = os.path.relpath(write_adapter(short / "third", 3.0))  # from here, not from there
        third = engine.load_adapter(folder, "tuned")
        assert (third.version, third.model, len(third.files_hash)) == (3, str(MODEL), 64)
        with pytest.raises(ModelError, match="no adapter_model"):
            engine.load_adapter(short / "log-of-nothing")
        goes_on_with_what_had_answered(engine, short / "d")
    assert ask("f", "--answer-cache", "shared") == {("tuned", 3)}
    assert ask("g", "--answer-cache", "shared", says="more from the cache") == {("tuned", 3)}

    (told,) = read(short / "g").runs.values()
    prompt = told.conversation()[0]["content"]
    assert f"model=NAME): {str(MODEL)!r}, 'second'\n" in prompt


def cut_off(folder: Path, worker: str | None = None) -> None:
    """Leave of a run what a driver leaves that is killed at its supervisor's first reply."""
    log = folder / records.SUPERVISOR_LOG
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first = next(i for i, line in enumerate(lines) if line.get("role") == "assistant")
    kept = [{**line, "worker": worker or line["worker"]} if line["type"] == "run_start" else line
            for line in lines[:first]]  # fmt: skip
    log.write_text("".join(json.dumps(line) + "\n" for line in kept))
    (folder / records.WORKER_LOG).write_text("")


def goes_on_with_what_had_answered(engine: Engine, log: Path) -> None:
    """A run that "second" answered, which is not the engine's default."""

    def goes_on(**options: str) -> set[tuple[str, int]]:
        engine.ask("", [], None, {"resume": str(log), **options})
        return answered(log)

    cut_off(log)
    assert goes_on() == {("second", 1)}
    cut_off(log, str(MODEL))
    assert goes_on() == {("", 0)}
    cut_off(log, "gone")
    with pytest.raises(InputError, match="was 'gone', which this engine does not serve") as told:
        goes_on()
    assert "--adapter gone=PATH" in str(told.value)
    assert goes_on(adapter="tuned") == {("tuned", 3)}
    (run,) = read(log).runs.values()
    resumed = [event.detail["worker"] for event in run.events if event.event == "run_resumed"]
    assert resumed[-1] == "tuned"


def test_an_adapter_that_writes_the_code_leaves_the_worker_as_it_is(short: Path) -> None:
    text, log = short / "text.txt", short / "log"
    text.write_text(TEXT)
    boss = write_adapter(short / "trained", 1.0)
    engine = ("--worker", str(MODEL), "--cores", "0", "--adapter", f"boss={boss}")
    asked = ("--supervisor", "local:boss", "--dialect", "brief", "--max-iterations", "1")
    question = ("-c", str(text), "-q", QUESTION, "--log-dir", str(log))
    done = Command(short, "up", *engine, *asked, *question, **STAND_IN).done()
    assert done.code in (0, 5), done.err
    (run,) = read(log).runs.values()
    assert run.start is not None
    assert (run.start.supervisor, run.start.worker) == ("local:boss", str(MODEL))
    assert {turn.model for turn in run.turns} == {"local:boss"}
    assert "`FINAL(answer)` ends." in run.conversation()[0]["content"]


def _endpoint(up: Command) -> str:
    return up.err.partition("distill.Engine('")[2].partition("'")[0]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--adapter", "nowhere"], "nowhere is no LoRA adapter"),
        (["--adapter", "="], "give NAME=PATH"),
        (["--adapter", "x", "--worker-url", "http://127.0.0.1:9"], "not for --worker-url"),
        (["--adapter", "a/x", "--adapter", "b/x"], "the same name"),
    ],
)
def test_what_can_not_be_is_said_at_once(
    capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011  (what ends a command is its own)
        cli.main(["up", "--check-only", *words], standalone_mode=False)
    assert getattr(raised.value, "code", None) == 2
    assert why in capsys.readouterr().err


SCRIPT = """
import sys
import threading
from distill import LMResponse, ModelHandler, Usage, VLLMHandler, run
from distill.errors import InputError, ModelError
from distill.traces import read, records

class Code(ModelHandler):
    model = "code"
    def chat(self, messages, **kw):
        code = "FINAL([worker('p'), worker('p', n=2, temperature=1.0, seed=3, logprobs=True)])"
        return LMResponse(f"```repl\\n{code}\\n```", Usage(1, 1), "code", 0.1)
    def chat_batch(self, batches, **kw):
        return [self.chat(messages) for messages in batches]

model, one, two, broken, log = sys.argv[1:]
worker = VLLMHandler(model, engine_cores=(0,), engine_max_lora_rank=8)
answers = []
for number, adapter in enumerate((None, one, two, None)):
    if adapter is not None:
        print(worker.load_adapter(adapter, "tuned"))
    folder = f"{log}/{number}"
    result = run("q", "text", Code(), worker, log_dir=folder, answer_cache="shared")
    answers.append(result.answer)
    (told,) = read(folder).runs.values()
    card = told.calls[0].model
    print(card.adapter, card.weights_version, len(card.adapter_hash), result.worker_cached)
    seeds = [(call.cell, call.call, call.item, call.sampling.get("seed")) for call in told.calls]
    print([seed for *_, seed in sorted(seeds, key=str)])
    assert told.calls[0].token_ids or told.calls[0].source == "cached"
    assert set(result.answer[1][0]) == {"text", "token_ids", "logprobs"}
assert answers[0][0] != answers[1][0] != answers[2][0] == answers[3][0]
# Another thread loads while this one asks: what is asked is named for what is there then.
sys.setswitchinterval(1e-6)
loads = threading.Thread(target=lambda: [worker.load_adapter(one, "tuned") for _ in range(60)])
loads.start()
seen = set()
while loads.is_alive():
    seen.update(each.card.weights_version for each in worker.complete_batch(["p"] * 8))
assert len(seen) > 1
try:
    worker.load_adapter(broken)
except ModelError as error:
    print(error)
worker.close()
"""


def test_a_handler_in_ones_own_process_takes_adapters(short: Path) -> None:
    one, two = (write_adapter(short / name, float(len(name))) for name in ("a", "bb"))
    script = short / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(MODEL), *map(str, (one, two, short / "no", short))],
        env=environment(short) | STAND_IN | {"XDG_CACHE_HOME": str(short / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:10] == [
        *("None 0 0 0", "[None, 3, 4]"),
        *("1", "tuned 1 64 0", "[None, 3, 4]"),
        *("2", "tuned 2 64 0", "[None, 3, 4]"),
        *("tuned 2 64 1", "[None, 3, 4]"),
    ]
    assert "is no LoRA adapter" in done.stdout
