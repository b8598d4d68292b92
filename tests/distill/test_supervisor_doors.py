"""What a user sets of the supervisor's turns, at the command line; what of them is seen there."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from distill.clients import progress_fields
from distill.display import Display
from distill.engine import _progress
from distill.progress import Progress
from distill.protocol import client_link as wire
from tests.distill.commands import command, command_beside, engine
from tests.distill.scripted import cell, endpoint

TEXT = "A short text, of a few words."
WRITING = Progress("run", 2, 15, 0, 0, 0, 9, 4.0, 1, 0.5, "writing, 7 characters: …x\x1b[2J")


@pytest.fixture
def text(short: Path) -> Path:
    file = short / "text.txt"
    file.write_text(TEXT)
    return file


@pytest.mark.slow
def test_a_short_text_is_sent_where_that_is_allowed(short: Path, text: Path) -> None:
    with endpoint(lambda _: cell("FINAL('at once')")) as server:
        boss = ("--supervisor", "scripted", "--base-url", server.url)
        asked = ("-c", str(text), "-q", "What?", *boss)
        own = ("--worker-url", server.url, "--worker", "scripted")
        done = command(short, "up", *asked, *own, "--show-context-chars", "100")
        assert (done.code, done.out) == (0, "at once\n"), done.err
        with engine(short, server):
            for chars in ("100", "0"):
                done = command_beside(short, "run", *asked, "--show-context-chars", chars)
                assert (done.code, done.out) == (0, "at once\n"), done.err
    shown = [TEXT in str(request["messages"]) for request in server.requests]
    assert shown == [True, True, False]
    assert all(request["stream"] for request in server.requests)


def test_how_far_a_run_is_comes_to_its_client_whole() -> None:
    assert _progress(wire.Progress("ask", *progress_fields(WRITING))) == WRITING


def test_a_terminal_shows_what_is_being_written() -> None:
    file = io.StringIO()
    with Display(Console(file=file, width=60, force_terminal=True)) as display:
        display.progress(WRITING)
    told = file.getvalue()
    assert "turn 2/15" in told
    assert "writing, 7 characters: …x" in told
    assert "\x1b[2J" not in told


def test_a_file_is_not_told_what_is_being_written(capfd: pytest.CaptureFixture[str]) -> None:
    with Display(Console(file=io.StringIO(), force_terminal=False)) as display:
        display.progress(WRITING)
    assert "writing" not in capfd.readouterr().err
