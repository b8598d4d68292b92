"""What a cell is promised (design §5), in real jails."""

import math
import time
from typing import Any

import msgpack
import psutil
import pytest

from distill.protocol.jail_link import CallError, Limits
from distill.protocol.sandbox_link import CallReply, CellDone, HostCall, JailLost, JailReady
from tests.sandbox.conftest import SMALL
from tests.sandbox.harness import Host, Refusal


def test_state_survives_an_exception(session: Host) -> None:
    done = session.done("kept = 5\nraise ValueError('no')")
    assert done.error is not None
    assert (done.error.name, done.error.message, done.error.line) == ("ValueError", "no", 2)
    assert session.printed("print(kept)") == "5\n"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("1 + 1", "2\n"),
        ("'text'", "'text'\n"),
        ("None", ""),
        ("x = 3", ""),
        ("x = 3\nx", "3\n"),
        ("print('a')\n'b'", "a\n'b'\n"),
        ("1\n2", "2\n"),
        ("", ""),
        ("# only a comment", ""),
        ("if True:\n    5", ""),
    ],
)
def test_last_expression_is_shown(session: Host, code: str, shown: str) -> None:
    assert session.printed(code) == shown


def test_traceback_names_cell_line_and_source(session: Host) -> None:
    first = session.done("def broken(n):\n    return 1 / n").cell
    done = session.done("x = 1\nbroken(0)")
    assert done.error is not None
    told = done.error.traceback
    assert f"Cell {done.cell}, line 2, in <module>" in told
    assert "    broken(0)" in told
    assert f"Cell {first}, line 2, in broken" in told
    assert "    return 1 / n" in told
    assert "distill" not in told
    assert "/jail" not in told
    assert done.error.line == 2


def test_traceback_of_a_chain_has_no_frames_of_ours(session: Host) -> None:
    done = session.done("try: echo(object())\nexcept TypeError as e: raise KeyError('k') from e")
    assert done.error is not None
    assert "/jail" not in done.error.traceback
    assert "direct cause" in done.error.traceback


def test_syntax_error(session: Host) -> None:
    done = session.done("x = 1\ny = (")
    assert done.error is not None
    assert done.error.name == "SyntaxError"
    assert done.error.line == 2
    assert f"Cell {done.cell}, line 2" in done.error.traceback


@pytest.mark.parametrize(
    "code", ["import sys; sys.exit(3)", "exit()", "quit()", "raise SystemExit('bye')"]
)
def test_exit_ends_the_cell_only(session: Host, code: str) -> None:
    done = session.done(code)
    assert done.error is not None
    assert done.error.name == "SystemExit"
    assert "ends the cell, not the session" in done.error.message
    assert session.printed("print('alive')") == "alive\n"


def test_error_with_a_hostile_text(session: Host) -> None:
    done = session.done("class E(Exception):\n    def __str__(self): raise E\nraise E")
    assert done.error is not None
    assert done.error.name == "E"


def test_very_long_error(session: Host) -> None:
    done = session.done("raise ValueError('x' * 500_000)")
    assert done.error is not None
    assert len(done.error.message) < 65_000
    assert "characters left out" in done.error.message


def test_recursion_error(session: Host) -> None:
    done = session.done("def f(): f()\nf()")
    assert done.error is not None
    assert done.error.name == "RecursionError"


# -- output


def test_output_of_both_streams_and_threads(session: Host) -> None:
    done = session.done(
        "import sys, threading\n"
        "t = threading.Thread(target=print, args=('from a thread',)); t.start(); t.join()\n"
        "print('err', file=sys.stderr)\nsys.stdout.buffer.write(b'raw\\n')"
    )
    assert done.stdout == "from a thread\nraw\n4\n"
    assert done.stderr == "err\n"


def test_output_past_sys(session: Host) -> None:
    done = session.done("import os\nos.write(1, b'fd one')\nos.write(2, 'zwölf'.encode())\nNone")
    assert done.stdout == "fd one"
    assert done.stderr == "zwölf"


def test_lone_surrogates_are_replaced_when_printed(session: Host) -> None:
    assert session.printed(r"print('a\ud800b ☃ 😀')") == "a?b ☃ 😀\n"


def test_output_over_the_limit_is_counted(jail: Host) -> None:
    done = jail.done("for i in range(40): print('y' * 99_999)")
    assert len(done.stdout) == SMALL.output_bytes
    assert done.dropped_bytes == 4_000_000 - SMALL.output_bytes
    assert jail.printed("print('the next cell has its own allowance')")


def test_output_before_a_kill_survives(host: Host) -> None:
    host.open(Limits(cell_s=0.3, grace_s=0.2))
    lost = host.lost("import os\nprint('line')\nprint('no newline', end='')\nos._exit(0)")
    assert lost.stdout == "line\nno newline"


def test_exception_in_a_thread_names_the_cell(session: Host) -> None:
    done = session.done(
        "import threading\ndef f():\n    1/0\n"
        "t = threading.Thread(target=f, name='mine'); t.start(); t.join()"
    )
    assert done.error is None
    assert "Exception in thread mine" in done.stderr
    assert f"Cell {done.cell}, line 3, in f" in done.stderr
    assert "start_new" not in done.stdout


def test_redirected_stdout_is_given_back(session: Host) -> None:
    session.done("import sys, io\nsys.stdout = io.StringIO()")
    assert session.printed("print('back')") == "back\n"
    session.done("import sys; sys.stdout.close()")
    assert session.printed("print('again')") == "again\n"


# -- FINAL


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        "",
        False,
        True,
        -7,
        1.5,
        "ünï",
        [],
        {},
        [1, [2, {"a": None}]],
        10**40,
        -(10**30),
        {"k": 10**25},
        math.pi,
    ],
)
def test_final_takes_json_like_values(jail: Host, value: Any) -> None:
    assert jail.done(f"FINAL({value!r})\nprint('not reached')").error is None
    assert jail.finals == [value]


def test_final_takes_a_tuple_as_a_list(jail: Host) -> None:
    jail.done("FINAL((1, 2))")
    assert jail.finals == [[1, 2]]


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("FINAL({1, 2})", "TypeError", "the answer is of type set"),
        ("FINAL([1, object()])", "TypeError", "the answer[1] is of type object"),
        ("FINAL({'a': {'b': b'x'}})", "TypeError", "the answer['a']['b'] is of type bytes"),
        ("FINAL({'a': [1, float('nan')]})", "TypeError", "the answer['a'][1] is nan"),
        ("FINAL(-float('inf'))", "TypeError", "the answer is -inf"),
        ("FINAL([0] * 1_000_000)", "ValueError", "1000001 values"),
        (
            "import datetime; FINAL([datetime.date.today()])",
            "TypeError",
            "the answer[0] is of type",
        ),
        ("FINAL({1: 2})", "TypeError", "the key 1 of type int"),
        (r"FINAL('\ud800')", "ValueError", "lone surrogate"),
        ("x = []\nx.append(x)\nFINAL(x)", "ValueError", "deep"),
        ("FINAL()", "TypeError", "answer"),
        ("import sys; sys.set_int_max_str_digits(0); FINAL(10**5000)", "ValueError", "digits"),
    ],
)
def test_final_refuses_by_type_and_path(jail: Host, code: str, kind: str, message: str) -> None:
    done = jail.done(code)
    assert done.error is not None
    assert done.error.name == kind
    assert message in done.error.message
    assert jail.finals == []


def test_no_except_exception_catches_final(jail: Host) -> None:
    done = jail.done("try: FINAL(1)\nexcept Exception: print('caught')\nprint('went on')")
    assert done.error is None
    assert done.stdout == ""
    assert jail.finals == [1]


def test_catching_base_exception_changes_nothing(jail: Host) -> None:
    assert jail.printed("try: FINAL(1)\nexcept BaseException: print('went on')") == "went on\n"
    assert jail.finals == [1]


def test_final_from_a_thread(jail: Host) -> None:
    done = jail.done(
        "import threading\nt = threading.Thread(target=FINAL, args=('t',)); t.start(); t.join()"
    )
    assert jail.finals == ["t"]
    assert done.stderr == ""


# -- calls


def test_calls_both_ways(session: Host) -> None:
    assert session.printed("echo({'a': [1, None, 2.5, 'ü', 10**30, (1,)]})") == (
        "{'a': [1, None, 2.5, 'ü', 1000000000000000000000000000000, [1]]}\n"
    )


def test_a_large_answer(host: Host) -> None:
    host.open(Limits(), functions={"big": lambda: "é" * 3_000_000})
    assert host.printed("x = big()\nprint(len(x), x == 'é' * 3_000_000)") == "3000000 True\n"


def test_calls_from_many_threads_keep_their_answers(host: Host) -> None:
    host.open(SMALL, functions={"double": lambda x: 2 * x})
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(10) as pool:
    print(list(pool.map(double, range(40))) == [2 * i for i in range(40)])
"""
    assert host.printed(code) == "True\n"


def test_many_calls_are_in_flight_and_no_more_than_allowed(host: Host) -> None:
    host.open(SMALL, functions={"f": lambda x: x})
    host.start(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(12) as pool: print(sum(pool.map(f, range(12))))"
    )
    calls = [host.expect(HostCall) for _ in range(SMALL.calls_in_flight)]
    time.sleep(0.1)
    for call in reversed(calls):
        host.send(CallReply(call.jail, call.call, value=call.args[0]))
    done = host.finish()
    assert isinstance(done, CellDone)
    assert done.stdout == "66\n"


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("echo(object())", "TypeError", "echo(): argument 1 is of type object"),
        ("echo(value=[print])", "TypeError", "echo(): value[0] is of type builtin"),
        ("echo({'a': {1: 2}})", "TypeError", "echo(): argument 1['a'] has the key 1 of type int"),
        ("echo([b'x'])", "TypeError", "echo(): argument 1[0] is of type bytes"),
        (
            "import datetime; echo(value={'t': datetime.datetime.now()})",
            "TypeError",
            "echo(): value['t'] is of type datetime",
        ),
        ("echo([[]] * 999_999)", "ValueError", "echo() holds 1000002 values"),
        (r"echo('pro\udfffmpt')", "ValueError", "lone surrogate"),
    ],
)
def test_arguments_are_checked(session: Host, code: str, kind: str, message: str) -> None:
    done = session.done(code)
    assert done.error is not None
    assert done.error.name == kind
    assert message in done.error.message


@pytest.mark.parametrize("name", ["WorkerError", "PrimitiveError", "LimitError", "FinalError"])
def test_host_errors_are_raised_by_name(host: Host, name: str) -> None:
    def fail() -> None:
        raise Refusal(CallError(name, "the reason"))  # type: ignore[arg-type]

    host.open(SMALL, functions={"f": fail})
    assert host.printed(f"try: f()\nexcept {name} as e: print(e)") == "the reason\n"
    done = host.done("f()")
    assert done.error is not None
    assert done.error.name == name
    assert done.error.traceback.endswith(f"{name}: the reason\n")


def test_batch_error_carries_the_answers(host: Host) -> None:
    def fail(prompts: list[str]) -> None:
        raise Refusal(CallError("WorkerBatchError", "1 of 2", ("good", None), {1: "too long"}))

    host.open(SMALL, functions={"batch": fail})
    code = "try: batch(['a', 'b'])\nexcept WorkerError as e: print(e, e.answers, e.errors)"
    assert host.printed(code) == "1 of 2 ['good', None] {1: 'too long'}\n"


def test_a_thread_that_outlives_its_cell_can_not_call(host: Host) -> None:
    host.open(SMALL, functions={"f": lambda: 1})
    code = """
import threading
go, said = threading.Event(), []
def late():
    go.wait()
    try: f()
    except RuntimeError as error: said.append(str(error))
    go.clear()
threading.Thread(target=late, daemon=True).start()
class Later:
    def __del__(self): pass
threading.Timer(0.2, go.set).start()
"""
    done = host.done(code)
    assert done.live_threads == 2
    time.sleep(0.5)
    assert "outside a cell" in host.printed("print(said)")


def test_a_call_open_at_the_end_of_its_cell(host: Host) -> None:
    """Its thread hears that nobody will answer, and the next cells run all the same."""
    host.open(SMALL, functions={"f": lambda: 1})
    host.start(
        "import threading, time\nsaid = []\ndef late():\n"
        "    try: f()\n    except RuntimeError as error: said.append(str(error))\n"
        "threading.Thread(target=late, daemon=True).start()\ntime.sleep(0.2)"
    )
    call = host.expect(HostCall)
    done = host.expect(CellDone)
    assert done.live_threads == 1
    host.send(CallReply(call.jail, call.call, value=1))
    for number in range(3):
        assert host.printed(f"print({number}, f())") == f"{number} 1\n"
    assert host.printed("print(said)") == "['its cell ended before the answer came']\n"


def test_calls_open_at_the_end_of_their_cell_give_their_slots_back(host: Host) -> None:
    host.open(SMALL, functions={"f": lambda: 1})
    slots = SMALL.calls_in_flight
    host.start(
        "import threading, time\n"
        f"for _ in range({slots}): threading.Thread(target=f, daemon=True).start()\n"
        "time.sleep(0.3)"
    )
    for _ in range(slots):
        host.expect(HostCall)
    host.expect(CellDone)
    assert host.printed("print(f())") == "1\n"


def test_calls_that_cross_the_end_of_their_cell_never_follow_it(host: Host) -> None:
    """A Call after Done would be the jail's death."""
    code = """
import threading, time
def spam():
    while True:
        try: f()
        except RuntimeError: pass
for _ in range(4): threading.Thread(target=spam, daemon=True).start()
time.sleep(0.01)
"""
    for _ in range(8):
        host.open(SMALL, functions={"f": lambda: 1})
        for cell in (code, "time.sleep(0.01)"):
            host.done(cell)


# -- interrupts


def test_the_soft_deadline_interrupts(host: Host) -> None:
    host.open(Limits(cell_s=0.3, grace_s=5.0))
    done = host.done("kept = 1\nwhile True: pass")
    assert done.interrupted
    assert done.error is not None
    assert done.error.name == "KeyboardInterrupt"
    assert "0.3 s" in done.error.message
    assert host.printed("print(kept)") == "1\n"


def test_the_soft_deadline_interrupts_sleep(host: Host) -> None:
    host.open(Limits(cell_s=0.3, grace_s=5.0))
    done = host.done("import time; time.sleep(60)")
    assert done.error is not None
    assert done.error.name == "KeyboardInterrupt"
    assert done.elapsed_s < 2


def test_interrupts_never_cut_a_frame(host: Host) -> None:
    """Cells that print and call without pause are interrupted at any moment; none is lost."""
    host.open(Limits(cell_s=0.05, grace_s=5.0, calls_per_cell=10**6), functions={"f": lambda: 1})
    for _ in range(15):
        done = host.done("while True:\n    print('x' * 50); f()")
        assert done.error is not None
        assert done.error.name == "KeyboardInterrupt"
    assert host.printed("print('whole')") == "whole\n"


def test_an_interrupt_that_is_late_does_not_hit_the_next_cell(host: Host) -> None:
    """It was sent as the cell was ending, and the launcher is slow to pass it on."""
    host.open(Limits(cell_s=0.1, grace_s=5.0))
    launcher = psutil.Process(host.launcher.pid)
    for _ in range(5):
        launcher.suspend()
        try:
            done = host.done("import time; time.sleep(0.115)")
            host.start("import time; time.sleep(0.05)")
            time.sleep(0.01)
        finally:
            launcher.resume()
        assert done.error is None
        assert done.interrupted
        after = host.finish()
        assert isinstance(after, CellDone)
        assert after.error is None


def test_waiting_for_the_host_does_not_count(host: Host) -> None:
    def slow() -> str:
        time.sleep(0.8)
        return "late"

    host.open(Limits(cell_s=0.3, grace_s=0.3), functions={"slow": slow})
    done = host.done("print(slow())")
    assert done.error is None
    assert not done.interrupted
    assert done.elapsed_s >= 0.8
    assert done.cpu_s < 0.3


def test_the_budget_of_the_whole_run(host: Host) -> None:
    host.open(Limits(cell_s=5.0, grace_s=0.2, run_s=0.5))
    lost = None
    for _ in range(4):
        outcome = host.run(
            "import time\ndef nap():\n    time.sleep(0.3)\ntry: nap()\n"
            "except KeyboardInterrupt: time.sleep(9)"
        )
        if isinstance(outcome, JailLost):
            lost = outcome
            break
    assert lost is not None
    assert lost.cause == "deadline"
    assert "run_s" in lost.detail


# -- the namespace


def test_context_as_text(session: Host) -> None:
    assert session.printed("print(context, type(context).__name__)") == "the context ☃ str\n"


def test_context_as_json(host: Host) -> None:
    host.open(SMALL, context={"a": [1, "é"]})
    assert host.printed("context") == "{'a': [1, 'é']}\n"


def test_no_context(jail: Host) -> None:
    assert jail.printed("print('context' in globals())") == "False\n"


def test_json_context_over_the_memory_limit(host: Host) -> None:
    lost = host.open(Limits(memory_bytes=48 << 20), context=["x" * (64 << 20)])
    assert isinstance(lost, JailLost)
    assert lost.cause == "start"
    assert "does not fit (limit: memory_bytes = " in lost.detail
    assert isinstance(host.open(SMALL), JailReady)


def test_data_is_shipped_in(host: Host) -> None:
    host.open(SMALL, namespace={"query": "why?", "n": 10**30})
    assert host.printed("print(query, n + 1)") == f"why? {10**30 + 1}\n"


def test_variables(jail: Host) -> None:
    done = jail.done(
        "import re\n_hidden = 1\ntext = 'a' * 500\nrows = [[1, 2], {'k': None}]\n"
        "class Thing:\n    def __repr__(self): raise SystemExit\nthing = Thing()\nbig = 10 ** 500"
    )
    found = {v.name: (v.type, v.repr, v.size) for v in done.variables}
    assert found["text"][0] == "str"
    assert found["text"][2] == 500
    assert len(found["text"][1]) <= 120
    assert found["rows"] == ("list", "[[1, 2], {'k': None}]", 2)
    assert found["thing"] == ("Thing", "<Thing>", None)
    assert found["big"][1] == "<int of 1661 bits>"
    assert found["re"] == ("module", "<module>", None)
    assert not {"_hidden", "FINAL", "WorkerError", "exit"} & set(found)


def test_random_and_hash_are_the_same_in_every_jail(host: Host) -> None:
    seen = set()
    for _ in range(2):
        host.open(SMALL)
        seen.add(host.printed("import random; print(random.random(), hash('x'))"))
    assert len(seen) == 1


def test_main_is_the_namespace(jail: Host) -> None:
    code = """
import dataclasses, pickle, typing
@dataclasses.dataclass
class Point:
    x: 'int'
    y: typing.Optional['Point'] = None
print(pickle.loads(pickle.dumps(Point(1))), typing.get_type_hints(Point)['x'])
"""
    assert jail.printed(code) == "Point(x=1, y=None) <class 'int'>\n"


def test_memory_error_leaves_the_session_alive(jail: Host) -> None:
    done = jail.done("kept = []\nwhile True: kept.append(bytes(100_000))")
    assert done.error is not None
    assert done.error.name == "MemoryError"
    assert jail.printed("n = len(kept); kept.clear(); print(n > 1000)") == "True\n"


def test_messages_are_packed_by_compiled_code(session: Host) -> None:
    """msgpack falls back to Python without a word where its extension can't be loaded."""
    assert msgpack.Packer.__module__ == "msgpack._cmsgpack"
    inside = session.printed("import msgpack; print(msgpack.Packer.__module__)")
    assert inside == "msgpack._cmsgpack\n"
