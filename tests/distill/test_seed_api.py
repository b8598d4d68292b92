"""The public API as the design prints it, with models and REPLs as a user writes them."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import distill
from distill import (
    REPL,
    LMResponse,
    ModelHandler,
    OpenAIHandler,
    RunResult,
    Usage,
    VLLMHandler,
    arun,
    build_system_prompt,
    prompts,
    run,
)
from distill.errors import DistillError, InputError, ModelError, WorkerBatchError, WorkerError
from distill.repl import ExecResult
from distill.supervisor import sandboxes
from distill.traces import Run, read
from tests.distill.scripted import SMALL, Supervisor, Worker, cell, run_bounded
from tests.supervisor.processes import wait_until

Ask = Callable[..., RunResult]
Logged = Callable[[], Run]


# -- names and signatures


def test_the_public_names_are_there_and_no_others() -> None:
    assert set(distill.__all__) >= {
        "run", "OpenAIHandler", "VLLMHandler", "ModelHandler", "LMResponse", "Usage",
    }  # fmt: skip
    for name in distill.__all__:
        assert getattr(distill, name) is not None
    with pytest.raises(AttributeError):
        getattr(distill, "nothing_of_the_kind")  # noqa: B009


def test_the_signatures_are_the_designs() -> None:
    names = list(inspect.signature(run).parameters)
    assert names[:4] == ["query", "context", "supervisor", "worker"]
    defaults = {n: p.default for n, p in inspect.signature(run).parameters.items()}
    wanted = {"max_iterations": 15, "log_dir": None, "output_limit": None, "worker_ctx_k": None,
              "label": None, "primitives": None, "repl_class": REPL}  # fmt: skip
    assert {name: defaults[name] for name in wanted} == wanted
    parameters = inspect.signature(REPL).parameters.values()
    assert [(each.name, each.default) for each in parameters] == [
        *((name, inspect.Parameter.empty) for name in ("context", "query", "worker_fn")),
        ("worker_batch_fn", inspect.Parameter.empty),
        ("output_limit", 2000),
        ("primitives", None),
    ]
    assert list(inspect.signature(build_system_prompt).parameters)[:4] == [
        "context", "query", "worker_ctx_k", "output_limit",
    ]  # fmt: skip
    assert [f.name for f in LMResponse.__dataclass_fields__.values()][:4] == [
        "text", "usage", "model", "elapsed",
    ]  # fmt: skip
    assert Usage(1, 2) + Usage(3, 4) == Usage(4, 6)
    assert issubclass(OpenAIHandler, ModelHandler)
    assert issubclass(VLLMHandler, ModelHandler)
    assert list(inspect.signature(VLLMHandler).parameters)[:2] == ["model", "model_path"]


# -- a run


def test_a_question_goes_all_the_way(ask: Ask, logged: Logged) -> None:
    supervisor = Supervisor(
        "I look.\n" + cell("print(type(context), len(context), query)"),
        cell("a = worker('one')\nb = worker_batch(['two', 'three'], temperature=0.5)\nprint(a, b)"),
        cell("FINAL({'a': a, 'b': b})"),
    )
    worker = Worker()
    result = ask(supervisor=supervisor, worker=worker, context="x" * 50, label="mine")
    assert result.answer == {"a": "<one>", "b": ["<two>", "<three>"]}
    assert (result.iterations, result.status) == (3, "final")
    assert result.supervisor_usage == Usage(30, 15)
    assert result.worker_usage == Usage(21, 9)
    assert result.elapsed > 0
    assert "<class 'str'> 50 What?" in supervisor.shown(2)
    assert "<one> ['<two>', '<three>']" in supervisor.shown(3)
    assert worker.options[1]["temperature"] == 0.5
    told = logged()
    assert told.answer == result.answer
    assert told.start is not None
    assert (told.start.label, told.start.query) == ("mine", "What?")
    assert told.context() == "x" * 50
    assert [(call.prompt, call.response) for call in told.calls] == [
        ("one", "<one>"), ("two", "<two>"), ("three", "<three>"),
    ]  # fmt: skip
    for turn, seen in enumerate(supervisor.seen, 1):
        assert told.conversation(turn) == seen, "the log must rebuild what was sent"


@pytest.mark.parametrize(
    ("context", "code"),
    [
        ("täxt \U0001f600 \x00 end", "context"),
        (["a", "b", {"c": [1, None, 2.5, True]}], "context"),
        ({"x.txt": "text", "n": 10**25}, "context"),
    ],
)
def test_the_context_arrives_as_it_is(ask: Ask, context: Any, code: str) -> None:
    result = ask(cell(f"FINAL({code})"), context=context)
    assert result.answer == context
    assert type(result.answer) is type(context)


ANSWERS: list[Any] = [
    None, 0, "", False, True, -1.5, [], {}, "None", [None, [0, ["", {"k": None}]]],
    {"é": [1.0, 2]}, 10**30, -(10**30), "line\nline", "\u2028 \x00",
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_any_json_like_value_can_be_final(ask: Ask, logged: Logged, answer: Any) -> None:
    result = ask(cell(f"FINAL({answer!r})"))
    assert (result.status, repr(result.answer)) == ("final", repr(answer))
    assert logged().answer == answer


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("object()", "object"),
        ("{1, 2}", "set"),
        ("{1: 2}", ""),
        ("[lambda: 0]", "function"),
        ("float('nan')", ""),
        ("b'x'", "bytes"),
        ("'\\ud800'", ""),
    ],
)
def test_any_other_value_is_an_error_of_the_cell(ask: Ask, value: str, kind: str) -> None:
    supervisor = Supervisor(cell(f"FINAL({value})"), cell("FINAL('second')"))
    assert ask(supervisor=supervisor).answer == "second"
    assert "Error" in supervisor.shown(2)
    assert kind in supervisor.shown(2)


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    FINAL('x')\nexcept Exception:\n    pass\nprint('on')",
        "try:\n    FINAL('x')\nexcept BaseException:\n    pass\nprint('on')",
        "try:\n    FINAL('x')\nfinally:\n    1/0",
        "FINAL('x')\nFINAL('y')",
        "try:\n    FINAL('x')\nexcept BaseException:\n    FINAL('y')",
        "import threading\nt = threading.Thread(target=FINAL, args=('x',)); t.start(); t.join()",
        "from threading import Thread\nfor i in 'xyz': Thread(target=FINAL, args=i).run()",
        "[FINAL(i) for i in 'xyz']",
        "try:\n    FINAL('x')\nexcept BaseException:\n    import os; os._exit(3)",
        "try:\n    FINAL('x')\nexcept BaseException:\n    import ctypes; ctypes.string_at(0)",
    ],
)
def test_the_first_final_stands_whatever_follows(ask: Ask, logged: Logged, code: str) -> None:
    supervisor = Supervisor(cell(code), cell("FINAL('too late')"))
    result = ask(supervisor=supervisor)
    assert (result.answer, result.iterations, result.status) == ("x", 1, "final")
    told = logged()
    assert told.answer == "x"
    assert told.end is not None
    assert told.end.answer == "x"
    assert told.cells[0].status == "final"


def test_a_cell_that_goes_on_for_ever_after_final_is_ended(ask: Ask) -> None:
    code = "try:\n    FINAL('x')\nexcept BaseException:\n    pass\nwhile True: pass"
    started_s = time.monotonic()
    assert ask(cell(code)).answer == "x"
    assert time.monotonic() - started_s < 15


# -- handlers as users write them


class Shaped(ModelHandler):
    """Returns whatever it is told to."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def chat(self, messages: Any, **kw: Any) -> LMResponse:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value  # type: ignore[no-any-return]

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value  # type: ignore[no-any-return]


OK = LMResponse("ok", Usage(), "m", 0.0)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        [OK],
        LMResponse(None, Usage(), "m", 0.0),  # type: ignore[arg-type]
        LMResponse("text", None, "m", 0.0),  # type: ignore[arg-type]
        LMResponse(5, Usage(), "m", 0.0),  # type: ignore[arg-type]
    ],
    ids=["None", "str", "list", "no text", "no usage", "number"],
)
def test_a_supervisor_that_returns_nonsense_is_a_typed_error(
    ask: Ask, logged: Logged, value: Any
) -> None:
    with pytest.raises(ModelError, match="Shaped"):
        ask(supervisor=Shaped(value))
    told = logged()
    assert told.end is not None
    assert told.end.status == "failed"
    assert "Shaped" in (told.end.error or "")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [OK, OK],
        ["text"],
        OK,
        [None],
        [LMResponse(None, Usage(), "m", 0.0)],  # type: ignore[arg-type]
        [LMResponse("x", None, "m", 0.0)],  # type: ignore[arg-type]
        RuntimeError("the user's own"),
        WorkerBatchError(["a", None], {1: WorkerError("x")}, 2),
        WorkerBatchError([None], {0: WorkerError("x")}, 1, ["not a reply"]),
        SystemExit(3),
        KeyboardInterrupt(),
        RuntimeError("\ud800"),
    ],
    ids=repr,
)
def test_a_worker_that_returns_nonsense_is_the_cells_error(ask: Ask, value: Any) -> None:
    code = (
        "try:\n    worker('x')\nexcept WorkerError as error:\n    print('typed', error)\n"
        "FINAL('went on')"
    )
    result = ask(cell(code), worker=Shaped(value))
    assert result.answer == "went on"
    assert (result.worker_calls, result.worker_failures) == (1, 1)


@pytest.mark.parametrize("text", ["\ud83d half an emoji", "\x00", "", "x" * 3_000_000])
def test_strange_texts_of_models_are_logged_and_passed_on(ask: Ask, text: str) -> None:
    result = ask(
        f"{text[:1000]}\n{cell('FINAL(len(worker(query)))')}", worker=Worker(lambda _: text)
    )
    assert result.answer == len(text)


def test_one_failed_item_loses_nothing(ask: Ask) -> None:
    class Flaky(Worker):
        def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
            replies = [self.chat(messages) for messages in message_batches]
            good = [None if "bad" in r.text else r for r in replies]
            errors = {i: WorkerError("too bad", kind="too_long")
                      for i, reply in enumerate(good) if reply is None}  # fmt: skip
            if errors:
                texts = [reply and reply.text for reply in good]
                raise WorkerBatchError(texts, errors, len(good), good)
            return replies

    code = (
        "try:\n    worker_batch(['a', 'bad', 'c'])\n"
        "except WorkerBatchError as error:\n"
        "    FINAL([error.answers, sorted(error.errors), str(error.errors[1])])"
    )
    result = ask(cell(code), worker=Flaky())
    answers, failed, reason = result.answer
    assert answers == ["<a>", None, "<c>"]
    assert failed == [1]
    assert "too bad" in reason
    assert (result.worker_calls, result.worker_failures) == (3, 1)


def test_many_items_keep_their_order_and_all_are_logged(ask: Ask, logged: Logged) -> None:
    def slow(prompt: str) -> str:
        time.sleep(0.001 * (int(prompt) % 7))
        return str(int(prompt) * 2)

    result = ask(cell("FINAL(worker_batch([str(i) for i in range(300)]))"), worker=Worker(slow))
    assert result.answer == [str(i * 2) for i in range(300)]
    assert len(logged().calls) == 300


def test_worker_options_and_messages_reach_the_worker(ask: Ask) -> None:
    worker = Worker()
    ask(
        cell(
            "worker([{'role': 'system', 'content': 's'}, {'role': 'user', 'content': 'u'}], "
            "max_tokens=5, stop='x', seed=3)\nFINAL(1)"
        ),
        worker=worker,
        worker_options={"temperature": 0.7},
    )
    (options,) = worker.options
    assert options["max_tokens"] == 5
    assert list(options["stop"]) == ["x"]
    assert (options["seed"], options["temperature"]) == (3, 0.7)


@pytest.mark.parametrize(
    "call",
    [
        "worker(5)", "worker([])", "worker(['x'])", "worker('x', nonsense=1)",
        "worker('x', temperature='hot')", "worker('x', temperature=-1)", "worker_batch('abc')",
        "worker_batch(5)", "worker('x', schema={}, choices=['a'], regex='b')", "worker()",
        "worker('x', max_tokens=0)", "worker('\\ud800')", "worker_batch([None])",
        "worker('x', 'y')", "worker('x', system=5, chat='z', max_tokens=-5)",
    ],
)  # fmt: skip
def test_a_bad_call_is_the_cells_error_and_the_run_goes_on(ask: Ask, call: str) -> None:
    supervisor = Supervisor(cell(call), cell("FINAL(1)"))
    assert ask(supervisor=supervisor).answer == 1
    assert "Error" in supervisor.shown(2)


def test_usage_does_not_leak_between_runs_that_share_handlers(tmp_path: Path) -> None:
    supervisor = Supervisor(*[cell("FINAL(worker('x'))")] * 3)
    worker = Worker()
    for number in range(3):
        result = run("q", "text", supervisor, worker, log_dir=tmp_path / str(number))
        assert (result.supervisor_usage, result.worker_usage) == (Usage(10, 5), Usage(7, 3))


def test_one_handler_can_be_both(ask: Ask) -> None:
    both = Supervisor(cell("FINAL(worker('x'))"), "I am the worker")
    assert ask(supervisor=both, worker=both).answer == "I am the worker"


# -- replies


@pytest.mark.parametrize(
    "reply",
    [
        "```repl\nFINAL('x')",
        "```python\nFINAL('x')\n```",
        "<think>FINAL('no') ```repl\nFINAL('no')\n``` </think>\n```repl\nFINAL('x')\n```",
        "```repl\r\nFINAL('x')\r\n```\r\n",
        "FINAL('x')",
        "1. So:\n   ```python\n   if True:\n       FINAL('x')\n   ```",
    ],
)
def test_code_is_found_in_any_clothes(ask: Ask, reply: str) -> None:
    assert ask(reply).answer == "x"


def test_no_code_gets_a_message_and_another_turn(ask: Ask) -> None:
    supervisor = Supervisor("I think it is 42.", "", cell("FINAL(1)"))
    assert ask(supervisor=supervisor).iterations == 3
    assert "no code block" in supervisor.shown(2)
    assert "empty" in supervisor.shown(3)


def test_an_error_stops_the_rest_of_that_turn_and_state_survives(ask: Ask) -> None:
    supervisor = Supervisor(
        "\n".join([cell("x = 1"), cell("y = 2\n1/0"), cell("x = 99")]), cell("FINAL([x, y])")
    )
    assert ask(supervisor=supervisor).answer == [1, 2]
    shown = supervisor.shown(2)
    assert "ZeroDivisionError" in shown
    assert "1 block(s) after it did not run" in shown
    assert "line 2" in shown
    assert "1/0" in shown


def test_the_nudge_and_the_forced_last_turn(ask: Ask, logged: Logged) -> None:
    supervisor = Supervisor(*[cell("1")] * 4, "It is Goliath.")
    result = ask(supervisor=supervisor, max_iterations=4)
    assert (result.answer, result.status, result.iterations) == ("It is Goliath.", "forced", 4)
    assert "turns left" not in supervisor.shown(2)
    assert "2 turns left" in supervisor.shown(3)
    assert "1 turn left" in supervisor.shown(4)
    assert "no turns left" in supervisor.shown(5)
    assert [turn.forced for turn in logged().turns] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("last", "status", "answer"),
    [
        (cell("FINAL([1])"), "final", [1]),
        (cell("x = 1"), "unanswered", None),
        ("", "unanswered", None),
        ("<think>hm</think>", "unanswered", None),
        ("<think>hm</think> 42 ", "forced", "42"),
    ],
)
def test_the_last_reply_is_the_answer_whatever_it_is(
    ask: Ask, last: str, status: str, answer: Any
) -> None:
    result = ask(cell("1"), last, max_iterations=1)
    assert (result.status, result.answer) == (status, answer)


def test_output_is_shown_head_and_tail_and_logged_in_full(ask: Ask, logged: Logged) -> None:
    code = "print('HEAD' + 'x' * 50_000 + 'TAIL')"
    supervisor = Supervisor(cell(code), cell("FINAL(1)"))
    ask(supervisor=supervisor, output_limit=300)
    shown = supervisor.shown(2)
    assert "HEAD" in shown
    assert "TAIL" in shown
    assert "49709 characters cut" in shown
    assert len(shown) < 700
    assert len(logged().cells[0].stdout) == 50_009


def test_a_flood_of_output_is_bounded_and_said(ask: Ask, logged: Logged) -> None:
    supervisor = Supervisor(cell("for _ in range(3000): print('y' * 1000)"), cell("FINAL(1)"))
    assert ask(supervisor=supervisor).answer == 1
    assert "were not kept (limit: output_bytes" in supervisor.shown(2)
    told = logged().cells[0]
    assert len(told.stdout) <= 100_000
    assert len(told.stdout) + told.dropped_bytes == 3000 * 1001


# -- ends of cells


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit(3)", "SystemExit"),
        ("exit()", ""),
        ("import os; os._exit(3)", "killed"),
        ("import ctypes; ctypes.string_at(0)", "killed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ""),
        ("x = 'a' * (1 << 30)", "MemoryError"),
        ("x = []\nwhile True: x.append('a' * (1 << 20))", "MemoryError"),
        ("while True: pass", ""),
        ("import time; time.sleep(600)", ""),
        ("while True:\n  try:\n    while True: pass\n  except BaseException: pass", "limit"),
        ("def f(): f()\nf()", "RecursionError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("x = (", "SyntaxError"),
        ("'\\ud800'", ""),
        ("raise Exception('\\ud800')", "Exception"),
        ("class E(Exception):\n    def __str__(self): 1/0\nraise E", ""),
        ("import threading as t\nt.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()", ""),
        ("await x", ""),
        ("\x00", ""),
    ],
)  # fmt: skip
def test_every_end_of_a_cell_is_told_and_the_run_goes_on(ask: Ask, code: str, said: str) -> None:
    supervisor = Supervisor(cell(code), cell("FINAL(len(context))"))
    is_endless = "while True: pass" in code or "sleep" in code
    limits = replace(SMALL, cell_s=1.0) if is_endless else SMALL
    result = ask(supervisor=supervisor, limits=limits, timeout_s=40)
    assert result.answer == 9
    assert said in supervisor.shown(2)


def test_a_killed_cell_says_how_and_what_is_lost(ask: Ask, logged: Logged) -> None:
    supervisor = Supervisor(
        cell("x = 1"), cell("import os; os._exit(7)"), cell("FINAL('x' in dir())")
    )
    assert ask(supervisor=supervisor).answer is True
    assert "7" in supervisor.shown(3)
    assert "Only what it had done is lost" in supervisor.shown(3)
    assert [each.status for each in logged().cells] == ["ok", "lost", "final"]


# -- the REPL itself


def make(**options: Any) -> REPL:
    repl = REPL("the text", "why?", lambda p, **_: f"<{p}>", lambda p, **_: p[::-1], **options)
    repl.limits = SMALL
    return repl


def test_the_repl_runs_cells_and_describes_its_names() -> None:
    with make(output_limit=200) as repl:
        assert "context" in repl._namespace
        result = repl.execute(
            "x = [1, 2, 3]\nprint('hi', worker('p'), worker_batch(['a', 'b']))\nx"
        )
        assert isinstance(result, ExecResult)
        assert result.stdout == "hi <p> ['b', 'a']\n[1, 2, 3]\n"
        assert result.stderr == ""
        assert result.elapsed > 0
        assert (result.variables["x"].type, result.variables["x"].size) == ("list", 3)
        assert not result.is_final
        failed = repl.execute("1/0")
        assert failed.error is not None
        assert failed.error.name == "ZeroDivisionError"
        assert repl.execute("FINAL(None)").is_final
        assert repl.answer is None
    repl.close()


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 4, 8, 16, 32])
def test_a_jail_that_dies_between_two_cells_hangs_nothing(delay_ms: int) -> None:
    """The next cell and the news of the death cross each other."""
    bomb = f"import os, threading\nthreading.Timer({delay_ms / 1000}, os._exit, (1,)).start()"

    def work() -> None:
        with make() as repl:
            for _ in range(2):
                repl.execute(bomb)
                repl.execute("x = 1")
                repl.execute("y = 1")
            time.sleep(0.1)
            after = repl.execute("print('fine')")
            assert after.lost is not None or after.stdout == "fine\n"
            assert repl.execute("print('fine')").stdout == "fine\n"

    run_bounded(work)


def test_a_repl_goes_on_after_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes, "AFTER_FINAL_S", 1.0)
    with make() as repl:
        assert repl.execute("FINAL(1)").is_final
        time.sleep(sandboxes.AFTER_FINAL_S + 0.5)
        later = repl.execute("import time; time.sleep(0.2); print('fine')")
        assert later.lost is None
        assert later.stdout == "fine\n"
        assert repl.execute("FINAL(2)").answer == 1


def test_a_namespace_of_ones_own() -> None:
    class Mine(REPL):
        def __init__(self, *args: Any, **kw: Any) -> None:
            super().__init__(*args, **kw)
            self._namespace["search"] = lambda word: [word.upper()]
            self._namespace["table"] = {"rows": [1, 2], "none": None}

    with Mine("text", "q", str, list, primitives={"now": lambda: 5}) as repl:
        result = repl.execute("print(search('a'), table['rows'], table['none'], now())")
        assert result.stdout == "['A'] [1, 2] None 5\n"


@pytest.mark.parametrize(
    "value",
    # Not the repr: an address in a test's name differs between the processes that share the suite.
    [object(), {1, 2}, float("nan"), {1: 2}, b"x", "\ud800"],
    ids=["an object", "a set", "nan", "a dict by int", "bytes", "a surrogate"],
)
def test_a_namespace_that_can_not_be_shipped_is_named(value: Any) -> None:
    with make() as repl:
        repl._namespace["strange"] = value
        with pytest.raises(DistillError, match=r"strange|namespace"):
            run_bounded(lambda: repl.execute("1"))


def test_a_repl_class_of_ones_own_in_a_run(ask: Ask, logged: Logged) -> None:
    class Mine(REPL):
        def __init__(self, *args: Any, **kw: Any) -> None:
            super().__init__(*args, **kw)
            self._namespace["search"] = self.search

        def search(self, word: str, limit: int = 3) -> list[str]:
            """Find pages that hold a word."""
            return [word] * limit

    supervisor = Supervisor(cell("FINAL(search('a', limit=2))"))
    assert ask(supervisor=supervisor, repl_class=Mine).answer == ["a", "a"]
    assert "search(word: str, limit: int = 3)" in supervisor.seen[0][0]["content"]
    assert "Find pages that hold a word." in supervisor.seen[0][0]["content"]
    (primitive,) = logged().primitives
    assert (primitive.function, primitive.args, primitive.kwargs) == ("search", ["a"], {"limit": 2})
    assert primitive.value == ["a", "a"]


def fail(error: BaseException) -> Callable[[], Any]:
    def failing() -> Any:
        raise error

    return failing


@pytest.mark.parametrize(
    "primitive",
    [
        fail(ValueError("no such page")),
        fail(ValueError("\ud800")),
        fail(SystemExit(1)),
        fail(KeyboardInterrupt()),
        fail(StopIteration()),
        fail(asyncio.CancelledError()),
        object,
        lambda: "\ud800",
        lambda: {1, 2},
        lambda: "x" * (90 << 20),
    ],
)
def test_a_primitive_that_fails_is_the_cells_error(ask: Ask, primitive: Any) -> None:
    code = "try:\n    r = p()\nexcept Exception as error:\n    print(type(error).__name__, error)"
    supervisor = Supervisor(cell(code), cell("FINAL(1)"))
    assert ask(supervisor=supervisor, primitives={"p": primitive}).answer == 1
    assert "killed" not in supervisor.shown(2)


# -- prompts


def test_the_system_prompt_can_be_edited_at_run_time(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "SYSTEM_PROMPT", "Mine: {output_limit}, {{braces}}.")
    supervisor = Supervisor(cell("FINAL(1)"))
    ask(supervisor=supervisor, output_limit=777)
    assert supervisor.seen[0][0] == {"role": "system", "content": "Mine: 777, {braces}."}


@pytest.mark.parametrize("text", ["a {brace}", "a { b", "a } b", "{}", "{0}", "{output_limit.x}"])
def test_a_brace_that_is_no_field_is_a_precise_error(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(prompts, "SYSTEM_PROMPT", text)
    with pytest.raises(InputError, match=r"brace.*doubled"):
        ask(cell("FINAL(1)"))


def test_the_prompt_tells_of_the_context_without_a_word_of_it() -> None:
    system, user = build_system_prompt("secretive\n" * 100, "why {this}?", worker_ctx_k=8)
    assert "1,000 characters in 101 lines" in system["content"]
    assert "8k tokens" in system["content"]
    assert "secretive" not in system["content"] + user["content"]
    assert "why {this}?" in user["content"]


# -- loops, threads, several at once


def test_run_works_inside_a_running_loop(tmp_path: Path) -> None:
    async def main() -> Any:
        return run("q", "text", Supervisor(cell("FINAL(1)")), Worker(), log_dir=tmp_path)

    assert run_bounded(lambda: asyncio.run(main())).answer == 1


def test_arun_is_awaited_and_the_loop_stays_free(tmp_path: Path) -> None:
    async def main() -> tuple[list[Any], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        results = await asyncio.gather(
            *[
                arun(
                    "q",
                    "text",
                    Supervisor(cell(f"import time; time.sleep(0.5)\nFINAL({n})")),
                    Worker(),
                    log_dir=tmp_path,
                )
                for n in range(3)
            ]
        )
        ticking.cancel()
        return [result.answer for result in results], ticks

    answers, ticks = run_bounded(lambda: asyncio.run(main()))
    assert answers == [0, 1, 2]
    assert ticks > 20
    assert len(read(tmp_path).runs) == 3


def test_runs_at_once_do_not_mix(tmp_path: Path) -> None:
    def one(number: int) -> Any:
        worker = Worker(lambda prompt: f"{number}:{prompt}")
        code = f"FINAL(worker_batch([str(i) for i in range({number} * 10)]))"
        return run("q", "same text", Supervisor(cell(code)), worker, log_dir=tmp_path).answer

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(1, 5)))
    assert answers == [[f"{n}:{i}" for i in range(n * 10)] for n in range(1, 5)]
    trace = read(tmp_path)
    assert sorted(len(each.calls) for each in trace.runs.values()) == [10, 20, 30, 40]


def is_ended(log: Path) -> bool:
    """Whether the log's only run has its end."""
    runs = list(read(log).runs.values())
    return bool(runs) and runs[0].end is not None


def test_a_cancelled_run_ends_at_once_and_leaves_nothing(log: Path) -> None:
    started, release = threading.Event(), threading.Event()
    before = set(threading.enumerate())

    def slow(prompt: str) -> str:
        started.set()
        release.wait(30)
        return "late"

    async def main() -> float:
        work = asyncio.create_task(
            arun("q", "text", Supervisor(cell("worker('x')")), Worker(slow), log_dir=log)
        )
        while not started.is_set():  # noqa: ASYNC110  (set by a thread)
            await asyncio.sleep(0.02)
        began_s = time.monotonic()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        while not is_ended(log):  # noqa: ASYNC110  (a file tells)
            await asyncio.sleep(0.02)
        return time.monotonic() - began_s

    assert run_bounded(lambda: asyncio.run(main())) < 3
    release.set()
    (told,) = read(log).runs.values()
    assert told.end is not None
    assert told.end.status == "cancelled"

    def left() -> set[str]:
        return {each.name for each in set(threading.enumerate()) - before}

    # The driver's own threads are the process's, if this was its first run.
    driver_threads = {"distill-loop", "distill-sockets"}
    wait_until(lambda: left() <= driver_threads, 20, "a cancelled run leaves no thread behind")


@pytest.mark.parametrize(
    ("query", "context", "options"),
    [
        ("", "text", {}), ("  ", "text", {}), (None, "text", {}), ("q", "", {}), ("q", " \n", {}),
        ("q", [], {}), ("q", {}, {}), ("q", None, {}), ("q", 5, {}), ("q", b"bytes", {}),
        ("q", ["\ud800"], {}), ("q", {"a": object()}, {}), ("\ud800", "text", {}),
        ("q", "text", {"max_iterations": 0}), ("q", "text", {"output_limit": 1}),
        ("q", "text", {"label": "\udcff"}), ("q", "text", {"log_dir": "/proc/x"}),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_starts(
    query: Any, context: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    supervisor = Supervisor(cell("FINAL(1)"))
    options = {"log_dir": tmp_path, **options}
    with pytest.raises(InputError):
        run_bounded(lambda: run(query, context, supervisor, Worker(), **options))
    assert supervisor.seen == []


def test_a_failing_supervisor_leaves_a_whole_trace(ask: Ask, logged: Logged) -> None:
    with pytest.raises(ModelError, match="out of credit"):
        ask(cell("x = worker('a')"), ModelError("out of credit"))
    told = logged()
    assert told.end is not None
    assert (told.end.status, told.end.iterations) == ("failed", 2)
    assert "out of credit" in (told.end.error or "")
    assert len(told.calls) == 1
