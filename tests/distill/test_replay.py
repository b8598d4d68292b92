"""A recorded run is done again: exactly and in silence, or with another worker."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill import Budget, Engine, ModelHandler, RunResult, replay, resume, run
from distill.errors import InputError, ModelError
from distill.traces import read, validate
from tests.distill.commands import QUESTION, TEXT, Command, command, command_here, engine
from tests.distill.recordings import (
    CALLS,
    Functions,
    Two,
    asked_of,
    calls_of,
    cells_of,
    record,
    the_run,
    two,
)
from tests.distill.scripted import Supervisor, Worker, cell, endpoint


class Recorded:
    """A run that does everything, and the endpoints that it asked."""

    def __init__(self, folder: Path, models: Two) -> None:
        self.folder, self.models, self.functions = folder, models, Functions()
        self.result = record(models.boss.url, models.hand.url, folder, self.functions)
        self.heard = len(models.hand.requests), len(models.boss.requests)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with two() as models:
        yield Recorded(tmp_path_factory.mktemp("recorded"), models)


def is_same(one: RunResult, other: RunResult) -> bool:
    """But for what it cost and how long it took."""
    return (one.answer, one.status, one.iterations, one.evidence) == (
        other.answer,
        other.status,
        other.iterations,
        other.evidence,
    )


def test_a_replay_is_exact_and_sends_nothing(recorded: Recorded, tmp_path: Path) -> None:
    told = the_run(recorded.folder)
    assert len(told.turns) >= 10
    assert len(recorded.models.hand.requests) == CALLS >= 200
    assert [c.status for c in told.cells].count("lost") == 3
    again = replay(recorded.folder, log_dir=tmp_path)
    assert recorded.heard == (
        len(recorded.models.hand.requests),
        len(recorded.models.boss.requests),
    )
    assert recorded.functions.called == {"look": 1, "fail": 1, "kill_the_jail": 1}
    assert is_same(again, recorded.result)
    assert (again.worker_calls, again.worker_usage.input_tokens) == (0, 0)
    assert again.replay is not None
    assert again.replay.run == told.id
    assert (again.replay.cells, again.replay.differing, again.replay.is_whole) == (14, (), True)
    did = the_run(tmp_path)
    assert did.start is not None
    assert did.start.options["replay_of"]["run"] == told.id
    assert cells_of(did) == cells_of(told)
    assert calls_of(did) == calls_of(told)
    assert {c.source for c in did.calls} == {"replayed"}
    assert validate(tmp_path)[1] == []


@pytest.mark.slow
def test_a_replay_is_done_again_itself(recorded: Recorded, tmp_path: Path) -> None:
    replay(recorded.folder, log_dir=tmp_path / "one")
    again = replay(tmp_path / "one", log_dir=tmp_path / "two")
    assert is_same(again, recorded.result)
    assert calls_of(the_run(tmp_path / "two")) == calls_of(the_run(recorded.folder))


def test_another_worker_under_the_same_code(recorded: Recorded, tmp_path: Path) -> None:
    boss_heard = recorded.heard[1]
    with two(prefix="other ") as other:
        again = replay(recorded.folder, asked_of(other.hand.url), log_dir=tmp_path)
        # Cell 8 was not killed: nobody did it again. So cell 9 did not get its answers.
        twice = Counter(f"c{number}" for number in range(10))
        assert other.prompts() == recorded.models.prompts() + twice
        assert again.worker_calls == CALLS + 10
        assert not other.boss.requests
    assert len(recorded.models.boss.requests) == boss_heard
    assert set(recorded.functions.called.values()) == {1}  # all had been called so
    assert again.status == "final"
    ours, theirs = again.answer, recorded.result.answer
    assert [each[: len("other ")] for each in ours[0]] == ["other "] * len(theirs[0])
    assert ours[2:4] == theirs[2:4]
    assert again.replay is not None
    assert (again.replay.answers, again.replay.is_whole) == ("worker", True)
    assert {c.source for c in the_run(tmp_path).calls} == {"sampled", "reused"}


def test_replies_that_end_without_an_answer_are_no_failure(tmp_path: Path) -> None:
    """Another worker's answer leads the code elsewhere, and nobody is there to mend it."""
    code = "x = worker('how many?')\nprint(int(x))", "FINAL(int(x))"
    run("What?", "a text", Supervisor(*map(cell, code)), Worker(lambda _: "7"),
        log_dir=tmp_path / "log")  # fmt: skip
    again = replay(tmp_path / "log", Worker(lambda _: "seven"), log_dir=tmp_path / "again")
    assert (again.answer, again.status, again.iterations) == (None, "unanswered", 2)
    assert again.replay is not None
    assert again.replay.is_whole is False
    assert validate(tmp_path / "again")[1] == []
    assert [c.status for c in the_run(tmp_path / "again").cells] == ["error", "error"]


def test_a_function_that_nobody_gives_is_named(tmp_path: Path) -> None:
    code = "try: x = look(worker('which?'))\nexcept PrimitiveError as e: x = str(e)\nFINAL(x)"
    given: dict[str, Any] = {"look": lambda which: f"seen {which}"}
    run("What?", "a text", Supervisor(cell(code)), Worker(lambda _: "a"), log_dir=tmp_path,
        primitives=given)  # fmt: skip
    assert replay(tmp_path, log_dir=tmp_path / "1").answer == "seen a"
    assert replay(tmp_path, Worker(lambda _: "a"), log_dir=tmp_path / "2").answer == "seen a"
    without = replay(tmp_path, Worker(lambda _: "b"), log_dir=tmp_path / "3").answer
    assert "look is not there" in without
    other = replay(tmp_path, Worker(lambda _: "b"), log_dir=tmp_path / "4", primitives=given)
    assert other.answer == "seen b"


def test_what_came_out_otherwise_is_named(tmp_path: Path) -> None:
    code = "import time\nnow = time.time()", "FINAL(1)"
    run("What?", "a text", Supervisor(*map(cell, code)), Worker(), log_dir=tmp_path)
    again = replay(tmp_path, log_dir=tmp_path / "again")
    assert again.replay is not None
    assert again.replay.differing == (1, 2)  # the name is there in both


def test_examples_before_the_first_turn_are_no_replies(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Write code."},
        {"role": "user", "content": "An example"},
        {"role": "assistant", "content": cell("FINAL('of an example')")},
        {"role": "user", "content": "What?"},
    ]
    boss = Supervisor(cell("x = 1"), cell("FINAL(x)"))
    run("What?", "a text", boss, Worker(), log_dir=tmp_path, messages=messages)
    assert replay(tmp_path, log_dir=tmp_path / "again").answer == 1
    assert the_run(tmp_path / "again").conversation()[:4] == messages


def test_a_run_that_a_budget_ended(tmp_path: Path) -> None:
    """Nothing is used now, and yet the last word is asked for where it was."""
    code = """\
try: worker_batch(['a', 'b', 'c', 'd', 'e'])
except WorkerBatchError as error: print(error, error.answers)
try: worker('f')
except WorkerError as error: print(error)"""
    first = run("What?", "a text", Supervisor(cell(code), "It is three."), Worker(),
                log_dir=tmp_path / "log", budget=Budget(worker_calls=3))  # fmt: skip
    assert (first.status, first.ended_by, first.worker_calls) == ("forced", "worker_calls", 3)
    again = replay(tmp_path / "log", log_dir=tmp_path / "again")
    assert (again.answer, again.status) == (first.answer, "forced")
    assert again.replay is not None
    assert (again.replay.differing, again.replay.is_whole, again.worker_calls) == ((), True, 0)


# -- which run


def three_runs(folder: Path) -> list[str]:
    for answer in "abc":
        run("What?", "a text", Supervisor(cell(f"FINAL('{answer}')")), Worker(), log_dir=folder)
    return list(read(folder).runs)


def test_one_of_several_runs_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "a#folder"
    ids = three_runs(folder)
    answers = [replay(f"{folder}#{each}", log_dir=tmp_path / each).answer for each in ids]
    assert answers == ["a", "b", "c"]
    assert replay(folder, log_dir=tmp_path / "newest").answer == "c"
    with pytest.raises(InputError, match=f"no run nine; there are {ids[0]}, {ids[1]}, {ids[2]}"):
        replay(f"{folder}#nine")
    with pytest.raises(InputError, match="not a log folder"):
        replay(f"{tmp_path}/nowhere#{ids[0]}")
    with pytest.raises(InputError, match=rf"{ids[0]} has ended"):
        resume(f"{folder}#{ids[0]}", Supervisor(), Worker())


def test_a_run_that_goes_on_is_named(tmp_path: Path) -> None:
    broken: list[ModelHandler] = [Supervisor(cell("x = 1"), ModelError("down")) for _ in "ab"]
    for boss in broken:
        with pytest.raises(ModelError):
            run("What?", "a text", boss, Worker(), log_dir=tmp_path)
    first, second = read(tmp_path).runs
    result = resume(f"{tmp_path}#{first}", Supervisor(cell("FINAL(x)")), Worker())
    assert (result.run_id, result.answer) == (first, 1)
    assert read(tmp_path).runs[second].answer is None


def test_what_is_no_replay(tmp_path: Path) -> None:
    three_runs(tmp_path)
    with pytest.raises(InputError, match=r"distill\.replay"):
        run("What?", "a text", f"replay:{tmp_path}", Worker())
    silent = replay(tmp_path, log_dir=tmp_path / "again")
    log = silent.log_dir / "supervisor.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"type":"run_end"' not in line))
    with pytest.raises(InputError, match="is a replay"):
        resume(silent.log_dir)


def test_a_replay_with_another_worker_goes_on(tmp_path: Path) -> None:
    code = "x = worker('one')", "y = worker('two')", "FINAL([x, y])"
    run("What?", "a text", Supervisor(*map(cell, code)), Worker(), log_dir=tmp_path)
    replay(tmp_path, Worker(lambda prompt: f"other {prompt}"), log_dir=tmp_path / "again")
    log = tmp_path / "again" / "supervisor.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    cut = next(place for place, line in enumerate(lines) if '"type":"turn","turn":2' in line)
    log.write_text("".join(lines[: cut + 1]))
    other = Worker(lambda prompt: f"other {prompt}")
    assert resume(tmp_path / "again", None, other).answer == ["other one", "other two"]
    assert other.prompts in ([], ["two"])


# -- by the command line


def words_of(server: Any) -> tuple[str, ...]:
    return ("--worker-url", server.url, "--worker", "scripted")


def test_by_the_command_line(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(short))
    text = short / "text.txt"
    text.write_text(TEXT)
    log = short / "log"
    code = cell("FINAL(sorted(set(worker_batch(['a', 'b', 'c']))))")
    with endpoint(lambda _: "first") as first, endpoint(lambda _: code) as boss:
        done = command(short, "up", "-c", str(text), "-q", QUESTION, "--log-dir", str(log),
                       "--supervisor", "scripted", "--base-url", boss.url,
                       *words_of(first))  # fmt: skip
        assert (done.code, done.out) == (0, '["first"]\n'), done.err
        named = f"replay:{log}#{the_run(log).id}"
        with endpoint(lambda _: "second") as second:
            asked = ("--supervisor", named, "--replay-answers", "worker")
            done = command(short, "up", *asked, *words_of(second))
            assert (done.code, done.out) == (0, '["second"]\n'), done.err
            assert f"Replay      of run {the_run(log).id}" in done.err
            with engine(short, second):
                done = Command(short, "run", *asked).done(30)
                assert (done.code, done.out) == (0, '["second"]\n'), done.err
                done = Command(short, "run", "--supervisor", named).done(30)
                assert (done.code, done.out) == (0, '["first"]\n'), done.err
                assert "all 1 cells came out as recorded" in done.err
                with Engine() as client:
                    recorded = named.removeprefix("replay:")
                    assert client.replay(recorded).answer == ["first"]
                    assert client.replay(recorded, answers="worker").answer == ["second"]
                    with pytest.raises(InputError, match="has ended"):
                        client.resume(recorded)
            assert len(second.requests) == 9
        assert (len(first.requests), len(boss.requests)) == (3, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-q", "Who?", "-c", "text.txt", "--replay-answers", "worker"), "--replay-answers is for"),
        (("--supervisor", "replay:log", "--max-iterations", "3"), "leave out --max-iterations"),
        (("--resume", "log", "--base-url", "http://127.0.0.1:1"), "need --supervisor"),
    ],
)
def test_what_is_refused_at_once(short: Path, words: tuple[str, ...], said: str) -> None:
    (short / "text.txt").write_text(TEXT)
    with pytest.raises(ModelError):
        run("What?", "a text", Supervisor(cell("x = 1"), ModelError("down")), Worker(),
            log_dir=short / "log")  # fmt: skip
    there = [word.replace("log", str(short / "log")) if "log" in word else word for word in words]
    there = [str(short / word) if word == "text.txt" else word for word in there]
    done = command_here(short, "up", *there, "--worker-url", "http://127.0.0.1:1", "--worker", "x")
    assert done.code == 2
    assert said in done.err
