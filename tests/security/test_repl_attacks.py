"""Attacks from inside the REPL: a cell changes the interpreter that runs it.

It may: all of that is its own. What must stay true is the host's: which answer was given first,
which calls were made, with what, how many; and the next cell runs, in a fresh jail if need be.
Each case runs through the public REPL, launcher, keeper and jail, as a run does.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from distill.protocol.jail_link import Limits
from distill.repl import REPL, UNSET
from distill.sandbox.interpreter import SOCKET_FD
from distill.supervisor.host_calls import HostCallRecord
from tests.sandbox.conftest import MIB

LIMITS = Limits(
    memory_bytes=256 * MIB,
    output_bytes=MIB,
    cell_s=8.0,
    grace_s=0.5,
    calls_in_flight=4,
    calls_per_cell=20,
)
HURRIED = replace(LIMITS, cell_s=0.6)
HONEST = ("print(worker('after'))", "AFTER\n")

PRELUDE = """
import gc, os, sys, threading, time
def own(name):  # an object of the interpreter's own
    return next(o for o in gc.get_objects() if type(o).__name__ == name)
"""


@dataclass(frozen=True)
class Tampering:
    """``code`` runs as the first cell, ``after`` (code, output) as the next one."""

    code: str
    answer: Any = UNSET
    calls: tuple[str, ...] = ()
    """The prompts that the worker got before the second cell."""
    stdout: str | None = None
    error: str | None = None
    lost: str | None = None
    """Part of what is said of the jail's death."""
    after: tuple[str, str] = HONEST
    limits: Limits = field(default=LIMITS)


NAMES = {
    "worker overwritten": Tampering(
        "worker = lambda prompt: 'forged'\nprint(worker('x'))",
        stdout="forged\n",
        after=("print(worker('after'))", "forged\n"),
    ),
    "FINAL overwritten": Tampering("FINAL = print\nFINAL('no answer')", stdout="no answer\n"),
    "every name deleted": Tampering(
        "globals().clear()", after=("print('worker' in globals())", "False\n")
    ),
    "context deleted": Tampering("del context", after=("print('context' in globals())", "False\n")),
    "builtins overwritten": Tampering(
        "import builtins\nfor name in ('isinstance', 'len', 'type', 'enumerate', 'print'):\n"
        "    setattr(builtins, name, None)\nworker('never')",
        lost="ended itself",
    ),
    "__main__ replaced": Tampering("sys.modules['__main__'] = None; worker('x')", calls=("x",)),
    "every module forgotten": Tampering("sys.modules.clear(); worker('x')", calls=("x",)),
}
INTERPRETER = {
    "the conversion of values replaced": Tampering(
        "sys.modules['distill.sandbox.jail.host'].to_wire = lambda *a: 'what was really sent'\n"
        "print(worker('x'))",
        calls=("what was really sent",),
        stdout="WHAT WAS REALLY SENT\n",
        after=("print(worker('y'))", "WHAT WAS REALLY SENT\n"),
    ),
    "the channel reached through the collector": Tampering(
        "print(own('Channel').ask({'type': 'Call', 'function': 'worker', 'args': ['x'], "
        "'kwargs': {}})['value'])",
        calls=("x",),
        stdout="X\n",
    ),
    "the channel reached through frames": Tampering(
        "frame = sys._getframe()\n"
        "while 'self' not in frame.f_locals or not hasattr(frame.f_locals['self'], '_channel'):\n"
        "    frame = frame.f_back\n"
        "channel = frame.f_locals['self']._channel\n"
        "channel.send({'type': 'Output', 'stream': 'stderr', 'text': 'x'})\n"
        "print('sent')",
        stdout="sent\n",
    ),
    "call numbers set back": Tampering(
        "worker('a'); worker('b'); own('Channel')._last_call = 0; worker('c')",
        calls=("a", "b"),
        lost="not new",
    ),
    "the name in a host function's closure": Tampering(
        "cells = dict(zip(worker.__code__.co_freevars, worker.__closure__))\n"
        "cells['name'].cell_contents = 'FINAL'; worker('x')",
        lost="was not given",
    ),
    "the limit of calls in flight lifted": Tampering(
        "own('Host')._free = 10**6\n"
        "for i in range(40): threading.Thread(target=worker, args=('slow',), daemon=True).start()\n"
        "time.sleep(5)",
        calls=("slow",) * 4,
        lost="calls in flight",
    ),
    "the limit of output lifted": Tampering(
        "own('Printer')._limit_bytes = 10**12\nwhile True: print('x' * 100_000)",
        lost="bytes of output",
    ),
    "the limits themselves": Tampering(
        "own('Interpreter')._limits.update(calls_per_cell=10**9, call_bytes=10**12)\n"
        "while True: worker('x')",
        calls=("x",) * 20,
        error="LimitError",
    ),
    "the clock's interrupt disarmed": Tampering(
        "own('Shield')._on_interrupt = own('Shield').in_cell = None\n"
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        lost="cell_s",
        limits=HURRIED,
    ),
    "lies about the variables": Tampering(
        "sys.modules['distill.sandbox.jail.variables'].describe = (\n"
        "    lambda *_: [{'name': 'x', 'type': 'int', 'repr': '42'}])",
        after=("print(worker('after'))", "AFTER\n"),
    ),
    "the exception of FINAL without FINAL": Tampering(
        "raise sys.modules['distill.sandbox.jail.host'].Finished"
    ),
    "a number of the language changed": Tampering(
        "import ctypes; ctypes.c_uint32.from_address(id(211) + 24).value = 212\nworker(str(211))",
        calls=("212",),
        after=("print(worker(str(211)))", "212\n"),
    ),
}
SYSTEM = {
    "os.write doubled": Tampering(
        "write = os.write\n"
        "def twice(fd, data): write(fd, data); return write(fd, data)\n"
        "os.write = twice; worker('x'); worker('y')",
        calls=("x",),
        lost="not new",
    ),
    "os.write that swallows": Tampering(
        "os.write = lambda fd, data: len(data)\nworker('x')", lost="cell_s", limits=HURRIED
    ),
    "os._exit disarmed, and the socket closed": Tampering(
        "os._exit = lambda status: None\nos.close({fd})\nworker('x')", lost=""
    ),
    "another file over the socket": Tampering("os.dup2(0, {fd})\nworker('x')", lost="ended itself"),
    "all descriptors closed": Tampering("os.closerange(3, 256)\nworker('x')", lost="ended itself"),
    "replies read by another": Tampering(
        "threading.Thread(target=os.read, args=({fd}, 9999), daemon=True).start()\n"
        "time.sleep(0.5)  # until it reads\n"
        # Whoever waits for a reply needs the interpreter to take it; the kernel gives it to a
        # thread that is in os.read already.
        "def hold(until):\n    while time.monotonic() < until: pass\n"
        "sys.setswitchinterval(0.2)\n"
        "threading.Thread(target=hold, args=(time.monotonic() + 2,), daemon=True).start()\n"
        "worker('x')",
        calls=("x",),
        error="KeyboardInterrupt",
        limits=replace(LIMITS, cell_s=3.0, grace_s=10.0),
    ),
    "the next cell read by a thread of the last": Tampering(
        "def steal():\n    while True: os.read({fd}, 9999)\n"
        "for _ in range(3): threading.Thread(target=steal, daemon=True).start()",
        after=("print(1)", ""),
        limits=HURRIED,
    ),
    "sys.exit": Tampering("sys.exit(3)", error="SystemExit"),
    "os._exit in the middle of a call": Tampering(
        "threading.Thread(target=worker, args=('slow',), daemon=True).start()\n"
        "time.sleep(0.3); os._exit(5)",
        calls=("slow",),
        lost="status 5",
    ),
    "FINAL at exit": Tampering(
        "import atexit; atexit.register(FINAL, 'late'); sys.exit()", error="SystemExit"
    ),
    "a stack without a limit": Tampering(
        "x = ()\nfor _ in range(10**6): x = (x,)\nhash(x)", lost="SIGSEGV"
    ),
}
HOOKS = {
    "a trace function that raises": Tampering(
        "def trace(frame, event, argument):\n"
        "    if frame.f_code.co_name == '_write': raise OSError('traced')\n    return trace\n"
        "sys.settrace(trace); worker('x')",
        error="OSError",
    ),
    "a profile function that calls": Tampering(
        "def profile(frame, event, argument):\n"
        "    if event == 'call' and frame.f_code.co_name == 'mark':\n"
        "        sys.setprofile(None); worker('from a hook')\n"
        "def mark(): pass\nsys.setprofile(profile); mark()",
        calls=("from a hook",),
    ),
    "sys.excepthook": Tampering(
        "sys.excepthook = lambda *_: FINAL('hooked')\n1/0", error="ZeroDivisionError"
    ),
    "sys.displayhook": Tampering("sys.displayhook = lambda _: FINAL('shown')\n6", stdout="6\n"),
    "modules replaced as they are imported": Tampering(
        "class Evil:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('traceback', 're', 'linecache'): FINAL('import')\n"
        "sys.meta_path.insert(0, Evil())\nfor m in ('traceback', 're', 'linecache'): "
        "sys.modules.pop(m, None)\n1/0",
        answer="import",
        error="ZeroDivisionError",
    ),
    "the audit of everything": Tampering(
        "def audit(event, arguments):\n    if event == 'socket.sendto': raise OSError\n"
        "sys.addaudithook(audit); worker('x')",
        calls=("x",),
    ),
    "stdout replaced by what raises": Tampering(
        "sys.stdout = sys.stderr = None\nworker('x')\n1/0", calls=("x",), error="ZeroDivisionError"
    ),
    "print replaced": Tampering(
        "print = FINAL\ndel print\nimport builtins; builtins.print = lambda *a: None\nprint('x')",
        stdout="",
        after=("sys.stdout.write(worker('after'))\nNone", "AFTER"),
    ),
    "an error whose text is a call": Tampering(
        "class Evil(Exception):\n    def __str__(self): return worker('from __str__')\nraise Evil",
        calls=("from __str__", "from __str__"),
        error="Evil",
    ),
    "an error with the line of its choice": Tampering(
        "raise SyntaxError('x', ('Cell 1', -5, 0, ''))", error="SyntaxError"
    ),
    "an error with a line beyond all numbers": Tampering(
        "raise SyntaxError('x', ('Cell 1', 2**70, 0, ''))", error="SyntaxError"
    ),
    "an error with a line that is a list": Tampering(
        "raise SyntaxError('x', ('Cell 1', [], 0, ''))", error="SyntaxError"
    ),
    "the seed of random": Tampering("import random; random.seed(99); worker('x')", calls=("x",)),
}
ANSWERS = {
    "two answers": Tampering(
        "for value in ('first', 'second'):\n    try: FINAL(value)\n    except BaseException: pass",
        answer="first",
    ),
    "an answer, and another on the way out": Tampering(
        "try: FINAL('first')\nfinally: FINAL('second')", answer="first"
    ),
    "an answer withdrawn by a context manager": Tampering(
        "class Swallow:\n    def __enter__(self): pass\n    def __exit__(self, *_): return True\n"
        "with Swallow(): FINAL('first')\nFINAL = None",
        answer="first",
    ),
    "an answer out of a generator": Tampering(
        "def values():\n    try: yield 1\n    finally: FINAL('closed')\n"
        "for value in values(): break\ngc.collect()",
        answer="closed",
    ),
    "an answer out of __del__": Tampering(
        "class Dying:\n    def __del__(self): FINAL('last words')\nx = Dying(); del x",
        answer="last words",
    ),
    "an answer out of a signal handler": Tampering(
        "import signal; signal.signal(signal.SIGINT, lambda *_: FINAL('time'))\nwhile True: pass",
        answer="time",
        limits=replace(HURRIED, grace_s=5.0),
    ),
    "an answer after the cell": Tampering(
        "said = []\ndef late():\n    time.sleep(0.3)\n    try: FINAL('late')\n"
        "    except RuntimeError as error: said.append(str(error))\n"
        "threading.Thread(target=late, daemon=True).start()",
        after=("time.sleep(0)\nprint(worker('after'))", "AFTER\n"),
    ),
    "an answer in a task that nobody awaits": Tampering(
        "import asyncio\nasync def main():\n"
        "    asyncio.get_running_loop().call_soon(lambda: None)\n"
        "    try: FINAL('task')\n    except BaseException: return 'x'\nasyncio.run(main())",
        answer="task",
    ),
    "a changed answer": Tampering(
        "x = ['first']\ntry: FINAL(x)\nexcept BaseException: x[0] = 'second'", answer=["first"]
    ),
}
CASES = {**NAMES, **INTERPRETER, **SYSTEM, **HOOKS, **ANSWERS}


@dataclass
class Record:
    """What the host saw."""

    prompts: list[str] = field(default_factory=list)
    logged: list[HostCallRecord] = field(default_factory=list)
    finals: list[tuple[int, Any]] = field(default_factory=list)


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def repl(record: Record, request: pytest.FixtureRequest) -> Iterator[REPL]:
    def worker(prompt: str) -> str:
        record.prompts.append(prompt)
        if prompt == "slow":
            time.sleep(1.0)
        return prompt.upper()

    with REPL("the context", "the question", worker, lambda prompts: prompts) as repl:
        repl.on_call = record.logged.append
        repl.on_final = lambda cell, value: record.finals.append((cell, value))
        repl.limits = CASES[request.node.callspec.params["name"]].limits
        yield repl


@pytest.mark.parametrize("name", CASES)
def test_tampering(repl: REPL, record: Record, name: str) -> None:
    case = CASES[name]
    repl.start()
    assert repl.sandbox is not None
    result = repl.execute((PRELUDE + case.code).replace("{fd}", str(SOCKET_FD)))
    check_record(repl, record, case)
    if case.lost is not None:
        assert result.lost is not None, result
        assert case.lost in result.lost
    else:
        assert result.lost is None, result
        error = result.error and result.error.name
        assert error == case.error, result.error
    if case.stdout is not None:
        assert result.full_stdout == case.stdout
    code, expected = case.after
    assert repl.execute(code).full_stdout == expected
    check_answer(repl, record, case)


def check_record(repl: REPL, record: Record, case: Tampering) -> None:
    """The calls are those that were made, in their order; the answer is the first."""
    assert tuple(record.prompts) == case.calls
    check_answer(repl, record, case)


def check_answer(repl: REPL, record: Record, case: Tampering) -> None:
    assert repl.answer == case.answer or (repl.answer is case.answer is UNSET)
    assert record.finals == ([] if case.answer is UNSET else [(1, case.answer)])


def test_there_are_enough() -> None:
    assert len(CASES) >= 15
