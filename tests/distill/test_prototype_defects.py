"""What goes wrong in systems that do the same job, each by its project (and issue), and what we do.

The tests here ask through the public API, with real jails. ELSEWHERE names the tests of other files
that hold the rest: that each is there is a test as well.
"""

import ast
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from distill import RunResult, run
from distill.protocol.jail_link import Limits
from distill.traces import Run
from tests.distill.scripted import MIB, Supervisor, Worker, cell

Ask = Callable[..., RunResult]
TESTS = Path(__file__).parents[1]
REPLAY = "distill/test_replay.py::test_a_replay_is_exact_and_sends_nothing"
ELSEWHERE = {
    # supervisor_distillation, the research prototype
    "supervisor_distillation: except Exception swallows FINAL": "sandbox/test_repl.py::"
    "test_no_except_exception_catches_final",
    "supervisor_distillation: FINAL(None) never ends": "distill/test_seed_api.py::"
    "test_any_json_like_value_can_be_final",
    "supervisor_distillation: sys.exit() kills the driver": "sandbox/test_repl.py::"
    "test_exit_ends_the_cell_only",
    "supervisor_distillation: python fences and unclosed ones are ignored": "distill/"
    "test_seed_api.py::test_code_is_found_in_any_clothes",
    "supervisor_distillation: one failed item loses the batch": "distill/test_seed_api.py::"
    "test_one_failed_item_loses_nothing",
    "supervisor_distillation: messages are logged again at each step": "distill/"
    "test_log_size.py::test_the_supervisors_log_has_each_message_once",
    "supervisor_distillation: usage leaks between runs that share a handler": "distill/"
    "test_seed_api.py::test_usage_does_not_leak_between_runs_that_share_handlers",
    "supervisor_distillation: no limits": "sandbox/test_limits.py::test_told",
    "supervisor_distillation: no timeouts": "distill/test_openai_handler.py::"
    "test_an_endpoint_that_is_too_slow",
    "supervisor_distillation: no retries": "distill/test_openai_handler.py::"
    "test_passing_trouble_is_tried_again",
    # alexzhang13/rlm
    "rlm: the log of 10 MB over 10 turns is 220 MB": "distill/test_log_size.py::"
    "test_ten_turns_over_ten_megabytes",
    "rlm: os._exit hangs until the timeout, and the session is gone": "distill/"
    "test_restore.py::test_a_killed_cell_costs_only_itself",
    "rlm 129: budgets don't count sub-calls": "distill/test_sub_runs.py::"
    "test_the_whole_tree_is_counted",
    "rlm 129: calls beyond a budget are sent": "distill/test_budgets.py::"
    "test_calls_beyond_the_budget_are_not_sent_and_the_others_answers_are_carried",
    "rlm 82, 118: nothing is cached": "distill/test_answer_cache.py::"
    "test_equal_calls_of_a_run_are_asked_once_if_it_is_wanted",
    "rlm 28: a run can't be reproduced": REPLAY,
    "rlm 127: FINAL in the prose of a reply ends the run": "supervisor/test_reply.py::"
    "test_final_in_prose_does_not_run",
    "rlm: failures are returned as texts": "distill/test_seed_api.py::"
    "test_a_bad_call_is_the_cells_error_and_the_run_goes_on",
    # dspy.RLM
    "dspy 9035: no timeout": "sandbox/test_limits.py::test_the_time_of_a_cell",
    "dspy: a timeout loses the session": "distill/test_restore.py::"
    "test_a_killed_cell_costs_only_itself",
    "dspy 9446: budgets of parallel calls are overspent": "distill/test_budgets.py::"
    "test_batches_at_once_never_send_more_than_the_budget",
    "dspy 9643: a reply without code ends the run": "distill/test_seed_api.py::"
    "test_no_code_gets_a_message_and_another_turn",
    # others
    "smolagents 2197: a timeout of 2 s returns after 8": "sandbox/test_limits.py::"
    "test_the_time_of_a_cell_that_does_not_stop",
    "smolagents 2125, 2144: the sandbox is not the kernel's": "sandbox/test_plan.py::"
    "test_a_plan_is_made_and_passes_its_probe",
    "smolagents: an interpreter that can be talked out of its rules": "sandbox/"
    "test_side_by_side.py::test_out_of_its_jail_one_could_still_not_touch_the_other",
    "verifiers 1602: no local sandboxes beside the work": "sandbox/test_side_by_side.py::"
    "test_a_run_at_its_limits_takes_no_more_than_its_share",
    "nano-rlm 62: nobody says what survived a restart": "distill/test_seed_api.py::"
    "test_a_killed_cell_says_how_and_what_is_lost",
    "grishahq/recursive-llm: the clock of a cell that waits for a call": "sandbox/"
    "test_repl.py::test_waiting_for_the_host_does_not_count",
    "rlm-code: resume": "distill/test_resume_exactly.py::test_a_killed_driver",
    "pyrlm-runtime: a cache on disk": "worker_server/test_answers.py::"
    "test_runs_share_answers_but_not_those_of_other_weights",
}


@pytest.mark.parametrize("defect", list(ELSEWHERE))
def test_a_test_elsewhere_holds_it(defect: str) -> None:
    path, _, name = ELSEWHERE[defect].partition("::")
    functions = ast.walk(ast.parse((TESTS / path).read_text()))
    assert name in {each.name for each in functions if isinstance(each, ast.FunctionDef)}


def test_final_0_on_the_last_turn_is_not_lost(ask: Ask) -> None:
    """supervisor_distillation: FINAL(0) on the last turn is lost."""
    result = ask(cell("x = 1"), cell("FINAL(0)"), max_iterations=2)
    assert (result.status, result.answer) == ("final", 0)
    for value in (0, None):  # and when the last word is asked for
        forced = ask("no code", cell(f"FINAL({value!r})"), max_iterations=1)
        assert (forced.status, forced.answer) == ("final", value)


def test_final_is_not_swallowed_by_the_models_own_except(ask: Ask) -> None:
    """supervisor_distillation: FINAL is an Exception."""
    code = (
        "for _ in range(3):\n    try: FINAL('kept')\n    except BaseException: x = 1\nFINAL('no')"
    )
    assert ask(cell(code)).answer == "kept"


def test_names_assigned_before_an_exception_are_kept(ask: Ask) -> None:
    """rlm 172: variables that were assigned before an exception are lost."""
    result = ask(cell("a = worker('dear')\nb = [a]\nc = 1 / 0"), cell("FINAL([a, b])"))
    assert (result.answer, result.worker_calls) == (["<dear>", ["<dear>"]], 1)


def test_ways_to_end_a_program_end_the_cell_only(ask: Ask) -> None:
    """rlm, supervisor_distillation: sys.exit() kills the host; os._exit() hangs it."""
    exits = ["import sys; sys.exit(3)", "raise SystemExit", "quit()", "import os; os._exit(1)"]
    result = ask(cell("kept = 7"), *map(cell, exits), cell("FINAL(kept)"))
    assert (result.answer, result.iterations) == (7, 6)


def test_the_hosts_secrets_are_not_there(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """rlm: code sees the host's environment, files and network."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = """\
import os, socket
seen = [str(dict(os.environ)), *os.listdir('/')]
for look in (lambda: open('/proc/self/environ').read(), lambda: open('/etc/passwd').read(),
             lambda: str(socket.socket())):
    try: seen.append(look())
    except OSError: pass
FINAL(seen)"""
    seen = " ".join(ask(cell(code)).answer)
    assert "sk-secret" not in seen
    assert "root:" not in seen
    assert "socket" not in seen


def test_six_gigabytes_are_refused_and_the_session_goes_on(ask: Ask) -> None:
    """dspy: an allocation of 6 GB is allowed."""
    codes = "kept = 1\nbig = bytearray(6 << 30)", "FINAL([kept, 'big' in globals()])"
    result = ask(*map(cell, codes), limits=Limits(memory_bytes=300 * MIB))
    assert result.answer == [1, False]


def test_malformed_code_costs_a_turn_and_no_more(ask: Ask, logged: Callable[[], Run]) -> None:
    """dspy 9632, 9643: a local model's malformed code crashes the run."""
    malformed = [
        cell("print('unclosed"),
        cell("x = “curly”"),
        cell("\tif True:\nprint(1)"),
        cell("x = 1\x00\x1b[2J"),
        cell("```python\nnested = 1\n```"),
        cell("\ud800 = 1"),
        "<think>I wonder",
        '{"name": "python", "arguments": ',
        "",
        "```repl\n```",
    ]
    result = ask(cell("kept = 1"), *malformed, cell("FINAL(kept)"), max_iterations=20)
    assert (result.answer, result.iterations) == (1, len(malformed) + 2)
    assert {each.status for each in logged().cells} <= {"ok", "error", "final"}


def test_an_answer_beside_code_that_failed_is_not_taken(ask: Ask) -> None:
    """rlm 127, dspy 9210: a final answer before the code that it rests on has run."""
    hasty = f"{cell('found = worker(context[:9])[99]')}\n\n{cell('FINAL(found)')}"
    said = "I will call FINAL(42) when I know.\nFINAL(later) once it is done."
    result = ask(hasty, f"{said}\n{cell('n = 1')}", cell("FINAL(n)"))
    assert (result.answer, result.iterations) == (1, 3)


def test_calls_of_threads_are_in_flight_together(ask: Ask) -> None:
    """rlm 26, 135: sub-calls wait for each other."""
    together = threading.Barrier(2)

    def answer(prompt: str) -> str:
        together.wait(20)  # breaks unless both are asked at once
        return prompt

    code = """\
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool: FINAL(list(pool.map(worker, 'ab')))"""
    assert ask(cell(code), worker=Worker(answer)).answer == ["a", "b"]


def test_the_same_code_draws_the_same(tmp_path: Path) -> None:
    """rlm 28: random numbers and the order of sets differ from run to run."""
    code = "import random\nFINAL([random.random(), list({'a', 'b', 'c', 'd'}), hash('a')])"

    def draw(number: int) -> Any:
        folder = tmp_path / str(number)
        return run("What?", "text", Supervisor(cell(code)), Worker(), log_dir=folder).answer

    first, second = map(draw, range(2))
    assert first == second


def test_usage_is_each_runs_own_though_they_go_on_at_once(tmp_path: Path) -> None:
    """supervisor_distillation: usage leaks between runs that share a handler."""
    worker = Worker()

    def ask_times(count: int) -> RunResult:
        boss = Supervisor(cell(f"FINAL(len(worker_batch(['p'] * {count})))"))
        return run("What?", "text", boss, worker, log_dir=tmp_path / str(count))

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(ask_times, (1, 5, 9)))
    assert [each.answer for each in results] == [1, 5, 9]
    assert [each.worker_usage.input_tokens for each in results] == [7, 35, 63]
    assert [each.supervisor_usage.output_tokens for each in results] == [5, 5, 5]
