"""Primitives by name: every door takes them, what can't be had is refused, logs bring them back."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distill import Engine, replay, resume, run
from distill.cli import cli
from distill.errors import InputError
from distill.ready_primitives import READY, Ready, check_installed, named
from distill.traces import read
from tests.distill.commands import QUESTION, TEXT, command, engine
from tests.distill.conftest import Ask
from tests.distill.scripted import Endpoint, Supervisor, Worker, cell, endpoint

LOOK = "hit = search('champion Gath', k=1)[0]"
FOUND = "FINAL([hit['start'], 'Goliath' in hit['text']])"


def look(word: str) -> str:
    """A function of the caller."""
    return word


GIVEN: dict[str, tuple[Any, dict[str, Any]]] = {
    "none": (None, {}),
    "a list of names": (["search"], {"search": "search"}),
    "a tuple": (("search",), {"search": "search"}),
    "under another name": ({"grep": "search"}, {"grep": "search"}),
    "beside functions": (
        {"look": look, "search": "search"},
        {"look": look, "search": "search"},
    ),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_how_they_are_given(kind: str) -> None:
    given, made = GIVEN[kind]
    assert named(given) == made


@pytest.mark.parametrize(
    "given", ["search", 5, [look], {"search"}, ["nonsense"], {"x": "nonsense"}]
)
def test_what_is_neither_function_nor_name(ask: Ask, given: Any) -> None:
    worker = Worker()
    with pytest.raises(InputError, match="search"):
        ask(cell("FINAL(worker('x'))"), worker=worker, primitives=given)
    assert worker.prompts == []


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READY, "absent", Ready("distill.search", "retrieve", ("no_such_module",)))
    with pytest.raises(
        InputError, match=r"no_such_module.*--primitive absent.*distill\[retrieve\]"
    ):
        check_installed(named(["search", "absent"]))


def test_one_may_have_another_name_in_the_cells(ask: Ask) -> None:
    supervisor = Supervisor(cell("FINAL([len(grep('text')), 'search' in globals()])"))
    assert ask(supervisor=supervisor, primitives={"grep": "search"}).answer == [1, False]
    assert "- `grep(query: str" in supervisor.seen[0][0]["content"]


# -- the doors


@pytest.fixture
def text(short: Path) -> Path:
    file = short / "text.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def boss() -> Iterator[Endpoint]:
    """A supervisor whose code calls ``search``."""
    with endpoint(lambda request: cell(f"{LOOK}\n{FOUND}")) as server:
        yield server


def test_up_takes_them(short: Path, text: Path, boss: Endpoint) -> None:
    done = command(
        short, "up", "-c", str(text), "-q", QUESTION, "--primitive", "search", "--supervisor",
        "scripted", "--base-url", boss.url, "--worker-url", boss.url, "--worker", "scripted",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)[1] is True
    assert "the model's code can call" not in done.err  # nothing can leave by it


def test_up_refuses_a_name_that_nothing_has(text: Path) -> None:
    words = ["up", "-c", str(text), "-q", QUESTION, "--primitive", "nonsense"]
    for more in ([], ["--check-only"]):  # at once, and before anything is installed
        result = CliRunner().invoke(cli, [*words, *more])
        assert getattr(result.exception, "code", None) == 2, result.output
        assert "there is no ready primitive 'nonsense'; there are " in result.output


def test_an_extra_is_missed_only_when_it_could_have_been_installed(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The door has the arguments checked (--check-only) before it installs what they need."""
    monkeypatch.setitem(READY, "absent", Ready("distill.search", "retrieve", ("no_such_module",)))
    words = ["up", "-c", str(text), "-q", QUESTION, "--primitive", "absent"]
    assert CliRunner().invoke(cli, [*words, "--check-only"]).exit_code == 0
    result = CliRunner().invoke(cli, words)
    assert getattr(result.exception, "code", None) == 2, result.output
    assert "distill[retrieve]" in result.output


def test_an_engine_s_clients_take_them(short: Path, text: Path, boss: Endpoint) -> None:
    with engine(short, boss) as up:
        end = up.err.partition("distill.Engine('")[2].partition("'")[0]
        done = command_beside(short, end, text, boss)
        assert done[1] is True
        with Engine(end) as client:
            asked: dict[str, Any] = {"supervisor": "scripted", "base_url": boss.url}
            result = client.run(QUESTION, TEXT, **asked, primitives={"search": "search"})
            assert result.answer == done
            with pytest.raises(InputError, match="no ready primitive 'nonsense'"):
                client.run(QUESTION, TEXT, **asked, primitives=["nonsense"])
            with pytest.raises(InputError, match="ready primitives, by name"):
                client.run(QUESTION, TEXT, **asked, primitives={"look": look})


def command_beside(short: Path, end: str, text: Path, boss: Endpoint) -> Any:
    """What ``distill run`` prints, at an engine that is up."""
    from tests.distill.commands import Command

    asking = Command(
        short, "run", "--connect", end, "-c", str(text), "-q", QUESTION, "--primitive", "search",
        "--supervisor", "scripted", "--base-url", boss.url,
    )  # fmt: skip
    done = asking.done()
    assert done.code == 0, done.err
    return json.loads(done.out)


# -- what a log brings back


def broken(tmp_path: Path) -> Path:
    """The log of a run that was cut off after it had searched."""
    with pytest.raises(Exception, match="down"):
        run(
            "What?", TEXT, Supervisor(cell(LOOK), ValueError("down")), Worker(), log_dir=tmp_path,
            primitives=["search"],
        )  # fmt: skip
    return tmp_path


def tampered(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the log says of the primitives' calls."""
    path = folder / "supervisor.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    for line in lines:
        if line.get("function") == "search":
            change(line)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def elsewhere(line: dict[str, Any]) -> None:
    line["value"][0]["start"] = -7


def test_a_run_that_goes_on_has_them_again_and_their_answers(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    tampered(folder, elsewhere)
    result = resume(
        folder, Supervisor(cell("hit['n'] = len(search('sea'))"), cell(FOUND)), Worker()
    )
    assert result.answer == [-7, True], "the answer must be the log's"
    (told,) = read(folder).runs.values()
    assert [call.args for call in told.primitives] == [["champion Gath"], ["sea"]]


def test_a_recorded_run_is_done_again_with_their_answers(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    first = run(
        "What?", TEXT, Supervisor(cell(f"{LOOK}\n{FOUND}")), Worker(), log_dir=folder,
        primitives=["search"],
    )  # fmt: skip
    assert first.answer[0] == TEXT.find("And there went out")
    tampered(folder, elsewhere)
    again = replay(folder, log_dir=tmp_path / "again")
    assert again.answer == [-7, True]


def test_a_session_that_comes_back_asks_nothing_anew(ask: Ask, logged: Any) -> None:
    supervisor = Supervisor(cell(LOOK), cell("import os; os._exit(1)"), cell(FOUND))
    result = ask(supervisor=supervisor, context=TEXT, primitives=["search"])
    assert result.answer[1] is True
    assert len(logged().primitives) == 1
