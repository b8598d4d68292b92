"""`distill score`: what it prints and draws, its exit codes, and how it goes on after its death."""

import json
import signal
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from distill.errors import InputError
from distill.score_command import exit_code, said, score_runs
from distill.scoring import score
from distill.scoring_lanes import Scores
from tests.distill.commands import Command, command
from tests.distill.scripted import endpoint, prompt_of
from tests.distill.written_logs import Told, scores_in, write

LABELS = '{"id": "a", "label": "yes"}\n{"id": "b", "label": "no"}\n'


@pytest.fixture
def place(short: Path) -> Path:
    """A folder with two logs and labels."""
    write(short / "one", Told("r1"), Told("r2", task="b", query="And that?"))
    late = Told("s2", None, supervisor="chief", status="unanswered")
    write(short / "two", Told("s1", supervisor="chief"), late)
    (short / "labels.jsonl").write_text(LABELS)
    return short


def test_a_table_and_a_picture(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs, picture = [str(place / name) for name in ("one", "two")], place / "scores.svg"
    labels = str(place / "labels.jsonl")
    done = command(
        place, "score", *logs, "--scorer", "exact", "--labels", labels, "--picture", str(picture)
    )
    assert done.code == 0, done.err
    assert "4 runs scored now" in done.err
    head, first, second = done.out.splitlines()[2:5]
    assert head.split()[:3] == ["Supervisor", "Worker", "Tasks"]
    assert first.split()[:7] == ["boss", "tiny", "2", "2", "0", "2", "0.500"]
    assert second.split()[:2] == ["chief", "tiny"]
    assert "These rest on different tasks, 1 of which all have a score of" in done.out
    assert ET.parse(picture).getroot().tag.endswith("svg")
    assert score_runs(logs, scorer=None, picture=None, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scorers"]["exact"]["standings"][0]["accuracy"] == 0.5
    assert told["scored"] == 0


def test_what_is_wrong_is_said_and_costs_nothing(place: Path) -> None:
    options: Any = {"scorer": "exact", "labels": place / "labels.jsonl", "as_json": False}
    for picture, wrong in (("a.png", "is an SVG: name it a.svg"), ("no/a.svg", "is not there")):
        with pytest.raises(InputError, match=wrong):
            score_runs([str(place / "one")], picture=place / picture, **options)
    assert scores_in(place / "one") == []
    done = command(place, "score", str(place / "one"))
    assert (done.code, done.out) == (2, "")
    assert "these runs have no scores: name a --scorer" in done.err


def test_a_picture_is_of_one_scorer(place: Path) -> None:
    for scorer in ("exact", "contains"):
        score(place / "one", scorer, labels=place / "labels.jsonl")
    picture = place / "scores.svg"
    with pytest.raises(InputError, match="there are exact, contains: name one"):
        score_runs([str(place / "one")], scorer=None, picture=picture, as_json=False)


def test_killed_half_way_it_goes_on_where_it_stopped(place: Path) -> None:
    held, let_go = threading.Event(), threading.Event()

    def answer(request: Any) -> str:
        if len(server.requests) > 1 and not let_go.is_set():
            held.set()
            let_go.wait(30)
        return "CORRECT"

    with endpoint(answer) as server:
        write(place / "one", *(Told(f"r{n}", query=f"Is it {n}?") for n in range(3, 6)))
        words = ("score", str(place / "one"), "--scorer", f"judge:scripted@{server.url}")
        first = Command(place, *words, "--concurrency", "1")
        try:
            assert held.wait(30), first.err
            first.process.send_signal(signal.SIGKILL)
            first.process.wait(10)
        finally:
            first.end()
        let_go.set()
        assert len(scores_in(place / "one")) == 1, "what was answered is in the log"
        done = command(place, *words)
        assert done.code == 0, done.err
        assert "4 runs scored now" in done.err
    asked = [prompt_of(each) for each in server.requests]
    assert len(asked) == 2 + 4
    assert len({each.run for each in scores_in(place / "one")}) == 5


def test_the_exit_code_and_what_is_said_of_a_bad_scoring(place: Path) -> None:
    def broken(_: Any) -> float:
        raise RuntimeError("no \x1b[2J")

    told = score([place / "one", place / "two"], broken)
    assert exit_code(told) == 4
    lines = list(said(told, "broken"))
    assert lines[0] == "1 run scored now", "no answer is 0, whatever the scorer"
    assert sum("could not be scored: broken raised RuntimeError" in line for line in lines) == 3
    assert exit_code(Scores(busy={place: "why"})) == 2
    assert exit_code(Scores()) == 0
