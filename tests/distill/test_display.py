"""What a person sees of the workers: on terminals of any width, and in files."""

import io
import time
from typing import Any

import pytest
from rich.console import Console

from distill.display import Display
from distill.progress import Progress
from distill.protocol.client_link import EngineStatus, WorkerStatus
from distill.worker_lines import FOLD_AT, ODD_SHOWN, in_words, lines

FIELDS: dict[str, Any] = {
    "worker": "worker-0",
    "role": "worker",
    "model": "Qwen/Qwen3-4B-Instruct-2507",
    "device": "NVIDIA H100 80GB HBM3",
    "state": "ready",
    "in_flight": 94,
    "slots": 96,
    "waiting": 3,
    "prompt_tokens": 1_000_000,
    "cached_tokens": 600_000,
    "completion_tokens": 100_000,
    "prompt_tokens_per_s": 23_456.7,
    "completion_tokens_per_s": 2_345.6,
    "cached_share": 0.61,
    "cache_usage": 0.4,
    "failures": 0,
    "restarts": 0,
    "last_step_age_s": 0.3,
    "silent_s": 0.2,
}


def worker(number: int = 0, **fields: Any) -> WorkerStatus:
    return WorkerStatus(**{**FIELDS, "worker": f"worker-{number}", **fields})


def engine(*workers: WorkerStatus) -> EngineStatus:
    return EngineStatus("0.1.0", 1, 99.0, "m", workers, 3400, 2, 3, {}, 0)


def texts(*workers: WorkerStatus, width: int = 200) -> list[str]:
    return [text for text, _ in lines(engine(*workers), width)]


def test_a_line_that_says_nothing_new_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(Console(file=io.StringIO()))
    moved = Progress("run", 1, 15, 3, 3, 0, 20, 1.0)
    for _ in range(3):
        display.progress(moved)
    assert capsys.readouterr().err.count("turn 1/15 · worker calls 3/3") == 1


def test_a_name_between_colons_is_no_picture() -> None:
    written = io.StringIO()
    Display(Console(file=written)).line("3 runs of recipe:ledger: [red]by hand[/red]")
    assert written.getvalue() == "3 runs of recipe:ledger: [red]by hand[/red]\n"


def test_a_line_says_all_of_a_worker() -> None:
    head, line = texts(worker())
    assert head.split()[:2] == ["worker", "state"]
    for part in ("worker-0", "ready", "94/96", "23,457+2,346", "61 %", "0.3 s", "H100"):
        assert part in line
    assert "Qwen3-4B-Instruct-2507" in line


@pytest.mark.parametrize("width", [30, 60, 78, 100, 118, 198])
@pytest.mark.parametrize("count", [1, FOLD_AT])
def test_no_line_is_wider_than_the_terminal(width: int, count: int) -> None:
    for text in texts(*(worker(number) for number in range(count)), width=width):
        assert len(text) <= width


def test_a_narrow_terminal_keeps_what_matters() -> None:
    head, line = texts(worker(), width=78)
    assert "device" not in head
    assert "Qwen3-4B-I" in line
    assert "…" in line
    head, _ = texts(worker(restarts=1), width=78)
    assert "restarts" in head


def test_many_are_one_line_and_those_that_need_a_look() -> None:
    crowd = [worker(number) for number in range(20)]
    crowd[3] = worker(3, state="restarting", in_flight=0, restarts=1)
    boss = worker(0, worker="supervisor-0", role="supervisor", model="Qwen/Qwen3-32B")
    head, all_of_them, odd, supervisor = lines(engine(*crowd, boss), 200)
    assert head[1] == "dim"
    assert all_of_them[0].startswith("20 workers")
    assert "19/20 ready" in all_of_them[0]
    assert f"{19 * 94}/{20 * 96}" in all_of_them[0]
    assert odd[0].startswith("worker-3")
    assert (all_of_them[1], odd[1], supervisor[1]) == ("yellow", "yellow", "")
    assert "Qwen3-32B" in supervisor[0]
    dead = [worker(n, state="frozen" if n < 10 else "ready") for n in range(20)]
    assert len(texts(*dead)) == 2 + ODD_SHOWN
    assert len(texts(*(worker(n, state="loading") for n in range(20)))) == 2


def test_what_a_worker_calls_itself_can_not_move_the_cursor() -> None:
    assert "\x1b" not in "".join(texts(worker(worker="\x1b[2J", model="\x1b]0;x\x07")))


def test_all_in_words() -> None:
    told = in_words([worker(0), worker(1, prompt_tokens_per_s=0.0, cached_share=0.0)])
    assert told.startswith("2 workers: ready, 188/192 in flight, 23,457+4,691 tokens/s, 61 %")


# -- the display


def shown(width: int, **console: Any) -> str:
    """All that a live display has written to a terminal."""
    file = io.StringIO()
    terminal = Console(file=file, width=width, **{"force_terminal": True, **console})
    with Display(terminal) as display:
        display.progress(Progress("run", 2, 15, 30, 120, 0, 999, 4.0))
        display.status(engine(worker(), worker(1, state="frozen")))
        time.sleep(0.5)
    return file.getvalue()


def test_a_terminal_has_a_line_a_worker() -> None:
    told = shown(100)
    for part in ("turn 2/15", "worker-0", "worker-1", "frozen", "94/96"):
        assert part in told
    assert "\x1b[31m" in told  # the frozen one is red


def test_without_colours_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    told = shown(100)
    assert "worker-1" in told
    assert "\x1b[31m" not in told


def test_a_file_is_told_of_trouble_only(capfd: pytest.CaptureFixture[str]) -> None:
    with Display(Console(file=io.StringIO(), force_terminal=False)) as display:
        for state in ("starting", "loading", "ready", "ready", "frozen", "frozen"):
            display.status(engine(worker(state=state, fault="no step for 9 s\nlog")))
        for state in ("restarting", "loading", "ready", "ready"):
            display.status(engine(worker(state=state, restarts=1, fault="killed\nlog")))
    assert capfd.readouterr().err.splitlines() == [
        "worker-0: frozen: no step for 9 s",
        "worker-0: is started again: killed",
        "worker-0: ready",
    ]
