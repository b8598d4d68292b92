"""Every option of a run comes back from its log: one that is forgotten fails here, by its name."""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from distill import REPL, Budget, Limits, resume, run
from distill.again import resume_on_loop
from distill.ask_options import AskOptions
from distill.errors import InputError, ModelError
from distill.prices import price_table
from distill.recorded_options import FUNCTIONS, LOGGED_APART, logged, read_back
from distill.run_options import Options
from distill.supervisor.recording import ReplayOf
from distill.traces import read
from tests.distill.scripted import Supervisor, Worker, cell

OTHERS: dict[str, Any] = {
    "max_iterations": 3,
    "output_limit": 150,
    "record": "off",
    "worker_options": {"max_tokens": 7, "stop": ["x"]},
    "limits": Limits(memory_bytes=300 << 20, open_files=77),
    "sandbox": "namespaces",
    "answer_cache": "run",
    "replay_of": ReplayOf("/log", "20260101-000000-abcdef", "worker"),
    "max_depth": 3,
    "sub_supervisor": "recipe:find",
    "dialect": "rlm",
    "budget": Budget(tokens=10_000_000, wall_s=900.0),
    "prices": price_table({"models": [{"models": ["m*"], "input": 1.0, "output": 2.0}]}),
    "show_context_chars": 12,
}
"""A value for each option, which is not its default."""
BY_THE_LOG = {
    **{f"max_{kind}": "Options.budget" for kind in Budget.__slots__},
    "answer_schema": "Options.answer_rules",
    "quote_check": "Options.answer_rules",
    "adapter": "resident.Resident: the worker's name in run_start is the adapter's",
    "label": "stands in run_start",
    "log_dir": "is where the run is",
    "otlp": "is of who resumes: it is where spans go now",
    "otlp_content": "as otlp",
    "redact": "is in run_start.redacted, and such a run is not gone on with",
    "replay_answers": "Options.replay_of",
    "sandbox_packages": "Options.packages",
    "worker_ctx_k": "stands in the first messages, which are the log's",
}
"""What a client may set and Options lack: why it needs no place there."""


def options(**changed: Any) -> Options:
    """A run's options, as ``run`` makes them."""
    plain: dict[str, Any] = {
        "max_iterations": 15,
        "output_limit": 2000,
        "primitives": {},
        "repl_class": REPL,
        "record": "ids",
        "worker_options": {},
        "packages": (),
        "sources": (),
        "on_progress": None,
    }
    return Options(**{**plain, **changed})


def given(of: Options) -> dict[str, Any]:
    """What a log does not hold."""
    return {name: getattr(of, name) for name in FUNCTIONS | LOGGED_APART}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Options)])
def test_an_option_comes_back(field: str) -> None:
    if field in FUNCTIONS:
        parameters = inspect.signature(resume_on_loop).parameters
        name = "answer_check" if field == "answer_rules" else field  # the rest of them is data
        assert name in parameters, f"{name} can't be logged, so resume must take it"
        return
    if field in LOGGED_APART:
        return  # test_the_options_of_a_run_that_goes_on holds these
    assert field in OTHERS, f"give the new option {field} a value in OTHERS that is no default"
    before = options(**{field: OTHERS[field]})
    assert getattr(before, field) != getattr(options(), field)
    written = json.loads(json.dumps(logged(before)))
    assert read_back(Options, written, **given(before)) == before


def test_a_clients_options_are_a_runs() -> None:
    fields = {field.name for field in dataclasses.fields(Options)}
    for name in AskOptions.__struct_fields__:
        assert (name in fields) != (name in BY_THE_LOG), f"say how {name} comes back"


def test_an_option_of_the_wrong_type_is_an_input_error() -> None:
    with pytest.raises(InputError, match="options can't be read"):
        read_back(Options, {**logged(options()), "max_iterations": "many"}, **given(options()))


def test_the_options_of_a_run_that_goes_on(tmp_path: Path) -> None:
    broken = Supervisor(cell("x = worker('one')"), ModelError("down"))
    unfit = ("record", "replay_of", "dialect", "prices")
    asked = {name: OTHERS[name] for name in OTHERS if name not in unfit}
    with pytest.raises(ModelError):
        run("What?", "a text", broken, Worker(), log_dir=tmp_path, label="mine",
            sandbox_packages=("numpy",), sources=("a.txt",), **asked)  # fmt: skip
    code = "import numpy, resource\nprint('y' * 1000, resource.getrlimit(7)[0], worker('two'))"
    boss, worker = Supervisor(cell(code), "no code", cell("pass")), Worker()
    result = resume(tmp_path, boss, worker)
    assert (result.iterations, result.status) == (3, "unanswered")
    assert "77 <two>" in boss.shown(2)
    assert len(boss.shown(2)) < 600
    assert worker.options[0]["max_tokens"] == 7
    (told,) = read(tmp_path).runs.values()
    assert told.start is not None
    assert told.start.context.sources == ("a.txt",)
    assert all(call.sampling["max_tokens"] == 7 for call in told.calls)


def test_no_log_takes_the_jail_away(tmp_path: Path) -> None:
    broken = Supervisor(cell("x = 1"), ModelError("down"))
    with pytest.raises(ModelError):
        run("What?", "a text", broken, Worker(), log_dir=tmp_path)
    log = tmp_path / "supervisor.jsonl"
    log.write_text(log.read_text().replace('"sandbox":"auto"', '"sandbox":"none"'))
    boss = Supervisor(cell("import os\nFINAL(os.path.exists('/proc/self'))"))
    assert resume(tmp_path, boss, Worker()).answer is False
    (told,) = read(tmp_path).runs.values()
    tiers = {each.detail["tier"] for each in told.processes if "tier" in each.detail}
    assert tiers
    assert "none" not in tiers
