"""An engine as it is seen from outside, and one whose own model is the supervisor.

The engine is the real command, with real worker servers on the engine that does no work.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distill.adapters import NamedAdapter
from distill.engine import Engine
from distill.engine_arguments import metrics_address, supervisor_settings
from distill.errors import InputError, MachineError, ModelError
from distill.local_supervisor import queue_of
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import client_link as wire
from distill.protocol.codec import CLIENT_TO_DRIVER
from distill.traces import Run, read, validate
from distill.worker_settings import WorkerSettings
from tests.distill.commands import Command, Done, command
from tests.distill.scripted import cell
from tests.engine_stand_in.spec import HERE, MODEL, ROOT
from tests.supervisor.processes import environment, kill, tree, wait_until

CELL = cell("""\
answers = worker_batch(context.split(','))
if len(answers) == 3:
    answers.append(worker('Who are you?', model='boss'))
FINAL(len(answers))""")
MANY = 4000
"""Prompts that take longer than any look at them: 20 s."""
CORES = [str(core) for core in sorted(os.sched_getaffinity(0))]
STAND_IN: dict[str, str | None] = {
    "PYTHONPATH": f"{HERE}:{ROOT}",
    "STAND_IN_LATENCY_S": "0.05",
    "STAND_IN_AT_ONCE": "10",
    "STAND_IN_CACHED_SHARE": "0.25",
}


class Up:
    """An engine that is up, and where it is reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.boss = folder / "boss"
        shutil.copytree(MODEL, self.boss)
        (self.boss / "answer.txt").write_text(CELL)
        words = ("--worker", str(MODEL), "--cores", CORES[0], "--metrics-port", "0")
        own = ("--supervisor", f"local:{self.boss}", "--supervisor-cores", CORES[-1])
        self.engine = Command(folder, "up", *words, *own, stdin=None, **STAND_IN)
        self.engine.wait_for("Ctrl-C ends it.")
        told = re.sub(r"\s", "", self.engine.err)
        self.endpoint = re.findall(r"(ipc://.*?clients\.sock)", told)[0]
        self.metrics = re.findall(r"(http://[\d.:]+/metrics)", told)[0]

    def distill(self, *words: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "distill", *words],
            env={**environment(self.folder), "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def ask(self, passages: int, *words: str) -> tuple[str, ...]:
        """The words of a question about a text of so many passages, each of which is asked."""
        text = self.folder / f"{passages}.txt"
        text.write_text(",".join(f"passage {number}" for number in range(passages)))
        words = words if "--supervisor" in words else ("--supervisor", "local:boss", *words)
        return ("run", "-c", str(text), "-q", "How many?", *words)

    def pid_of(self, worker: str) -> int:
        """The worker server of this name."""
        commands = {pid: command.split() for pid, command in tree(self.engine.pid).items()}
        (pid,) = (pid for pid, words in commands.items() if worker in words)
        return pid

    def scrape(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Samples by name and the values of their labels, in the order of the labels' names."""
        with urllib.request.urlopen(self.metrics, timeout=10) as reply:
            text = reply.read().decode()
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[values] = sample.value
        return found


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with tempfile.TemporaryDirectory(prefix="dst-", ignore_cleanup_errors=True) as name:
        up = Up(Path(name))
        try:
            yield up
            up.engine.interrupt()
            assert up.engine.done().code == 0
            up.engine.nothing_left()
        finally:
            up.engine.end()


def run_in(folder: Path) -> Run:
    assert validate(folder)[1] == []
    (run,) = read(folder).runs.values()
    return run


def test_a_run_as_it_is_seen_while_it_goes_on(up: Up) -> None:
    asked = Command(up.folder, *up.ask(MANY, "--log-dir", str(up.folder / "log")))
    try:
        tokens, labels = "distill_worker_tokens_total", (str(MODEL), "worker", "worker-0")
        wait_until(lambda: up.scrape()["distill_queue_waiting"][()] > 0, 20)
        wait_until(lambda: up.scrape()[tokens]["completion", *labels] > 100, 20)  # a heartbeat
        seen = up.scrape()
        assert seen["distill_runs_active"] == {(): 1.0}
        slots = seen["distill_worker_slots"][labels]
        assert 0 < seen["distill_worker_in_flight"][labels] <= slots
        assert seen["distill_queue_waiting"][()] > 0
        prompt, cached = (seen[tokens][kind, *labels] for kind in ("prompt", "cached"))
        assert 0 < cached < prompt
        done = up.distill("doctor", "--engine", "--json")
        told = json.loads(done.out)
        assert (done.code, told["fine"]) == (0, True), done.out
        worker, boss = told["engine"]["workers"]
        assert (worker["worker"], worker["role"]) == ("worker-0", "worker")
        assert worker["state"] == "ready"
        assert worker["prompt_tokens_per_s"] > 0
        assert 0 < worker["cached_share"] < 0.3
        assert (boss["role"], boss["model"], boss["device"]) == ("supervisor", str(up.boss), "cpu")
        assert (told["engine"]["runs"], told["engine"]["model"]) == (1, str(MODEL))
        asked.interrupt()
        assert asked.done().code == 130
    finally:
        asked.end()
    wait_until(lambda: up.scrape()["distill_runs_active"] == {(): 0.0}, 10)
    states = up.scrape()["distill_worker_state"]
    assert states[str(MODEL), "worker", "ready", "worker-0"] == 1
    assert states[str(MODEL), "worker", "frozen", "worker-0"] == 0


def test_the_engines_own_model_writes_the_code(up: Up) -> None:
    done = up.distill(*up.ask(2, "--log-dir", str(up.folder / "own")))
    assert (done.code, done.out) == (0, "2\n"), done.err
    run = run_in(up.folder / "own")
    (turn,) = run.turns
    assert turn.model == f"local:{up.boss}"
    assert turn.usage.input_tokens == len(turn.prompt_token_ids or ()) > 100
    assert turn.usage.output_tokens == len(turn.token_ids or ()) > 0
    assert turn.logprobs is None
    # It answers for the supervisor alone.
    assert {call.producer.name for call in run.calls} == {"worker-0"}


def test_a_supervisors_model_answers_a_cell_that_names_it(up: Up) -> None:
    statuses: list[wire.EngineStatus] = []
    options = {"log_dir": str(up.folder / "named"), "record": "off"}
    up.ask(3)
    with Engine(up.endpoint) as engine:
        path = str(up.folder / "3.txt")
        result, _ = engine.ask("?", [path], "local:boss", options, on_status=statuses.append)
    assert result.answer == 4
    run = run_in(up.folder / "named")
    assert [call.producer.name for call in run.calls].count("supervisor-0") == 1
    named = next(call for call in run.calls if call.producer.name == "supervisor-0")
    assert (named.response, named.sampling["model"]) == (CELL, f"local:{up.boss}")
    assert (run.turns[0].prompt_token_ids, run.turns[0].token_ids) == (None, None)
    assert [worker.worker for worker in statuses[0].workers] == ["worker-0", "supervisor-0"]
    calls = up.scrape()["distill_host_calls_total"]
    assert calls["worker",] == 1
    assert calls["worker_batch",] >= 1


def test_what_a_local_supervisor_can_not_do(up: Up) -> None:
    for words, said in (
        (("--supervisor", "local:another"), f"there is local:{MODEL}, local:{up.boss}"),
        (("--base-url", "http://127.0.0.1:1"), "uses none"),
        (("--supervisor-tokens-per-minute", "9"), "uses none"),
    ):
        done = up.distill(*up.ask(3, *words))
        assert (done.code, done.out) == (2, ""), words
        assert said in done.err, done.err
    with Engine(up.endpoint) as engine, pytest.raises(ModelError) as raised:
        engine.run("why? " * 30_000, "text", "local:boss", log_dir=str(up.folder / "long"))
    assert "local:" in str(raised.value)
    assert "a supervisor with a larger window" in str(raised.value)
    (run,) = read(up.folder / "long").runs.values()
    assert run.end is not None
    assert run.end.status == "failed"


def test_a_port_that_is_taken(up: Up) -> None:
    port = up.metrics.rpartition("/")[0].rpartition(":")[2]
    done = command(up.boss, "up", "--metrics-port", port, stdin=None, **STAND_IN)
    assert done.code == 3
    assert "Address already in use" in done.err
    assert "--metrics-port" in done.err


def test_a_client_of_another_version_hears_so(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = CLIENT_TO_DRIVER.encode

    def older(message: Any) -> bytes:
        if isinstance(message, wire.ClientHello):
            message = wire.ClientHello(99, message.client, message.pid)
        return encode(message)

    monkeypatch.setattr(CLIENT_TO_DRIVER, "encode", older)
    monkeypatch.setattr("distill.engine.PROTOCOL_VERSION", 99)
    with pytest.raises(
        MachineError, match=f"version {PROTOCOL_VERSION} of the protocol, this distill 99"
    ):
        Engine(up.endpoint)
    monkeypatch.undo()
    with Engine(up.endpoint) as engine:
        assert engine.status().runs == 0


def test_a_worker_that_dies_is_seen(up: Up) -> None:
    """And in the end it is there again; last, because of what it does to the others' engine."""
    kill(up.pid_of("worker-0"), signal.SIGKILL)
    with Engine(up.endpoint) as engine:
        wait_until(lambda: engine.status().workers[0].restarts == 1, 10)
        done = up.distill("doctor", "--connect", up.endpoint)
        assert "started again once: ended with status -9" in done.out, done.out
        wait_until(lambda: engine.status().workers[0].state == "ready", 20)
    wait_until(lambda: "worker-0: ready" in up.engine.err, 5)
    assert "worker-0: is started again: ended with status -9" in up.engine.err
    assert up.scrape()["distill_worker_restarts_total"][str(MODEL), "worker", "worker-0"] == 1
    done = up.distill("doctor", "--engine")
    assert done.code == 0, done.out
    assert "worker-0      ready" in done.out


@pytest.mark.slow
def test_a_run_of_a_local_supervisor_goes_on(up: Up) -> None:
    """Its log names the supervisor, and the engine that goes on with it has that."""
    log = str(up.folder / "cut")
    asked = Command(up.folder, *up.ask(400, "--log-dir", log))
    try:
        lines = Path(log) / "worker.jsonl"
        wait_until(lambda: lines.exists() and lines.read_bytes().count(b'"type":"call"') > 20, 20)
        asked.interrupt()
        assert asked.done().code == 130
    finally:
        asked.end()
    done = up.distill("run", "--resume", log)
    assert (done.code, done.out) == (0, "400\n"), done.err
    (run,) = read(log).runs.values()
    assert len(run.turns) == 1


@pytest.mark.slow
def test_a_worker_that_freezes_is_red_with_its_remedy(up: Up) -> None:
    kill(up.pid_of("worker-0"), signal.SIGSTOP)
    with Engine(up.endpoint) as engine:
        wait_until(lambda: engine.status().workers[0].state == "frozen", 10)
        done = up.distill("doctor", "--engine")
        assert done.code == 3, done.out
        assert "BAD  worker" in done.out
        assert "→ its process or its device hangs" in done.out
        wait_until(lambda: engine.status().workers[0].state == "ready", 30)


# -- arguments


@pytest.mark.parametrize(
    ("supervisor", "gpus", "cores", "said"),
    [
        ("recipe:find", "4", None, "need --supervisor local:"),
        ("local:", "4", None, "name a model"),
        ("local:big", None, None, "where should local:big run"),
        ("local:big", "4", "0", "exclude each other"),
        ("local:big", "4,4", None, "give each once"),
        ("local:big", "1+4", None, "both name 1: give each its own"),
    ],
)
def test_a_local_supervisor_that_has_no_place(
    supervisor: str, gpus: str | None, cores: str | None, said: str
) -> None:
    workers = WorkerSettings("small", gpus=("0", "1+2"))
    with pytest.raises(InputError, match=re.escape(said)):
        supervisor_settings(supervisor, gpus, cores, workers)


def test_an_adapter_that_writes_the_code_does_not_answer_for_the_workers() -> None:
    both = (NamedAdapter("boss", "/a"), NamedAdapter("tuned", "/b"))
    assert WorkerSettings("small", adapters=both).default_adapter == "boss"
    settings = WorkerSettings("small", adapters=both, supervisor_adapter="boss")
    assert settings.default_adapter == "tuned"
    assert replace(settings, adapters=both[:1]).default_adapter is None


def test_where_a_local_supervisor_runs() -> None:
    workers = WorkerSettings("small", gpus=("0", "1+2"))
    assert supervisor_settings("gpt-5", None, None, workers) is None
    assert supervisor_settings("local:small", None, None, workers) is None  # theirs
    tuned = WorkerSettings("small", adapters=(NamedAdapter("tuned", "/a"),))
    assert supervisor_settings("local:tuned", None, None, tuned) is None
    own = supervisor_settings("local:big", "4+5+6+7", None, workers)
    assert own == WorkerSettings("big", gpus=("4+5+6+7",))
    with pytest.raises(InputError, match="need --gpus or --cores as well"):
        supervisor_settings("local:big", "4", None, WorkerSettings("small"))
    cores = WorkerSettings(cores=("0-3",))
    with pytest.raises(InputError, match="both name 3"):
        supervisor_settings("local:default", None, "3-4", cores)


def test_which_queue_a_local_supervisor_has() -> None:
    served = ["org/small", "org/big", "local:org/big"]
    assert queue_of("org/big", served) == queue_of("big", served) == "local:org/big"
    assert queue_of("small", served) == "org/small"
    with pytest.raises(InputError, match="there is local:org/small, local:org/big, local:org/big"):
        queue_of("bigger", served)
    with pytest.raises(InputError, match="no local model"):
        queue_of("small", [])


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:9100", ("::1", 9100)),
        ("65536", None),
        ("host:", None),
        ("::1:9100", None),
        ("-1", None),
    ],
)
def test_where_metrics_are_asked(given: str, address: tuple[str, int] | None) -> None:
    if address is not None:
        assert metrics_address(given) == address
        return
    with pytest.raises(InputError, match="--metrics-port"):
        metrics_address(given)
