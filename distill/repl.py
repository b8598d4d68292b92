"""The REPL that a supervisor's code runs in: names on this side, code in a jail.

``_namespace``, built in ``__init__``, is the whole interface: its data is shipped into the
jail, its callables stay here and appear inside as functions that call back. A subclass
adds names there; ``primitives=`` adds functions without one.
"""

import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distill.closing import Closing
from distill.errors import InputError, SandboxError
from distill.limits import check
from distill.packages import prepare
from distill.primitives import Budgets, Terms, is_marked, terms_of
from distill.protocol.jail_link import CellError, Limits
from distill.protocol.sandbox_link import Wanted
from distill.supervisor import background, driver, sandboxes
from distill.supervisor.context import ContextFile
from distill.supervisor.host_calls import HostCallRecord, is_json
from distill.supervisor.recording import Recording
from distill.supervisor.text import clip
from distill.traces import Run
from distill.traces.records import Restored

UNSET: Any = object()
"""No answer yet; None is an answer."""


@dataclass(frozen=True, slots=True)
class VariableInfo:
    """A name in the namespace: its type's name, a short repr, its length where it has one."""

    type: str
    repr: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What came of one cell. Values stay in the jail: ``variables`` describes them.

    ``stdout`` and ``stderr`` are cut to the REPL's ``output_limit`` (characters, head and
    tail); ``full_stdout`` and ``full_stderr`` are not. ``error`` is the exception that ended
    the cell; ``lost`` says how the jail died, and ``restored`` what came back: every cell that
    had finished, unless it can't be run again (``blocked`` says why). ``answer`` is UNSET
    unless FINAL was called, in this cell or before.
    """

    stdout: str
    stderr: str
    variables: Mapping[str, VariableInfo]
    elapsed: float
    cell: int
    cpu_s: float
    full_stdout: str
    full_stderr: str
    error: CellError | None = None
    lost: str | None = None
    answer: Any = UNSET
    dropped_bytes: int = 0
    interrupted: bool = False
    live_threads: int = 0
    blocked: str | None = None
    spent_s: float = 0.0
    restored: Restored | None = None

    @property
    def is_final(self) -> bool:
        """Whether FINAL has been called."""
        return self.answer is not UNSET


class REPL(Closing):
    """Runs cells one after another in one jail. A context manager; starts with the first cell.

    ``context`` is a str, list or dict; ``output_limit`` the characters of a cell's output
    that are shown. ``worker_fn(prompt, **options)`` and ``worker_batch_fn(prompts,
    **options)`` run on this side, in threads. Raises SandboxError if no safe jail can be
    built, InputError for a namespace that can't be shipped, and for limits that can't be kept.
    """

    def __init__(
        self,
        context: Any,
        query: str,
        worker_fn: Callable[..., Any],
        worker_batch_fn: Callable[..., Any],
        output_limit: int = 2000,
        primitives: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.output_limit = output_limit
        self.limits = Limits()
        self.tier: Wanted = "auto"
        """How its jail is confined: the best way that works, or this one and no other."""
        self.packages: tuple[str, ...] = ()
        """Names of installed distributions that cells may import, with all they depend on."""
        self.budgets = Budgets({})
        """What its primitives may still be called; made with the sandbox."""
        self.answer: Any = UNSET
        self.check_answer: Callable[[Any], str | None] | None = None
        """Says, in a thread, why FINAL can't take a value; None where it can."""
        self.on_final: Callable[[int, Any], None] = lambda _cell, _value: None
        self.on_call: Callable[[HostCallRecord], None] = lambda _record: None
        self.on_cell: Callable[[int, bool], None] = lambda _cell, _failed: None
        """Called with a cell's number when it has ended, and whether it failed."""
        self.itemised: frozenset[str] = frozenset()
        """Functions that keep the answers of failed cells themselves, item by item."""
        self.context_file: Callable[[Any], ContextFile] = ContextFile
        """Makes the memory file that the jail maps; runs about one text share one."""
        self.recorded: Run | None = None
        """The run whose session this one goes on with."""
        self.recording: Recording | None = None
        """The run that this one does again."""
        self._making = threading.Lock()
        self._is_closed = False
        self._sandbox: sandboxes.Sandbox | None = None
        self._context_file: ContextFile | None = None
        self._namespace: dict[str, Any] = {
            "context": context,
            "query": query,
            "worker": worker_fn,
            "worker_batch": worker_batch_fn,
            **(primitives or {}),
        }

    @property
    def namespace(self) -> dict[str, Any]:
        """The names that the first cell finds; to be changed before it runs."""
        return self._namespace

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The names whose values are functions of this side."""
        return {name: value for name, value in self._namespace.items() if callable(value)}

    @property
    def terms(self) -> dict[str, Terms]:
        """The terms of its primitives: all functions but the two that ask workers."""
        return {
            name: terms_of(function)
            for name, function in self.functions.items()
            if name not in ("worker", "worker_batch") or is_marked(function)
        }

    @property
    def sandbox(self) -> sandboxes.Sandbox | None:
        """The sandbox behind it, once it has started."""
        return self._sandbox

    def start(self) -> None:
        """Make the jail ready now instead of with the first cell. Raises SandboxError: closed."""
        background.wait(self._made().start())

    def _made(self) -> sandboxes.Sandbox:
        """The sandbox; one that is being made as another thread closes all is closed, too."""
        with self._making:
            if self._is_closed:
                raise SandboxError("the REPL was closed")
            if self._sandbox is None:
                self._sandbox = self._make_sandbox(driver.shared())
            return self._sandbox

    def execute(self, code: str) -> ExecResult:
        """Run one cell to its end, whatever end that is."""
        if self._sandbox is None:
            self.start()
        outcome = background.wait(self._made().execute(code))
        return ExecResult(
            stdout=clip(outcome.stdout, self.output_limit),
            stderr=clip(outcome.stderr, self.output_limit),
            variables={v.name: VariableInfo(v.type, v.repr, v.size) for v in outcome.variables},
            elapsed=outcome.elapsed_s,
            cell=outcome.cell,
            cpu_s=outcome.cpu_s,
            full_stdout=outcome.stdout,
            full_stderr=outcome.stderr,
            error=outcome.error,
            lost=outcome.lost,
            answer=self.answer,
            dropped_bytes=outcome.dropped_bytes,
            interrupted=outcome.interrupted,
            live_threads=outcome.live_threads,
            blocked=outcome.blocked,
            spent_s=outcome.spent_s,
            restored=outcome.restored,
        )

    def _budgeted(self, functions: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
        """The functions as cells call them: each call is counted before it is made."""
        budgets = self.budgets = Budgets(self.terms)

        def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                budgets.spend(name)
                return function(*args, **kwargs)

            return call

        return {name: counted(name, function) for name, function in functions.items()}

    def _make_sandbox(self, host: driver.Driver) -> sandboxes.Sandbox:
        functions = self.functions
        context = self._namespace.get("context")
        data = {
            name: value
            for name, value in self._namespace.items()
            if name not in functions and name != "context"
        }
        for name, value in data.items():
            if not is_json(value):
                raise InputError(
                    f"_namespace[{name!r}] is of type {type(value).__name__}: only JSON-like "
                    "data and functions can be given to the sandbox"
                )
        prepare(self.packages)
        if context is not None:
            self._context_file = self.context_file(context)
        contents = sandboxes.Contents(
            data,
            self._budgeted(functions),
            self._context_file,
            check(self.limits),
            self.itemised,
            self.packages,
            self.tier,
        )
        sandbox = sandboxes.Sandbox(
            host,
            contents,
            on_final=self._record_final,
            on_call=self._record_call,
            on_cell=self.on_cell,
        )
        sandbox.finals.check = self.check_answer
        if self.recording is not None:
            sandbox.do_again(self.recording)
        if self.recorded is not None:
            sandbox.take_up(self.recorded)
            for call in self.recorded.primitives:
                self.budgets.charge(call.function, not call.reused)
        return sandbox

    def _record_final(self, cell: int, value: Any) -> None:
        if self.answer is UNSET:
            self.answer = value
            self.on_final(cell, value)

    def _record_call(self, record: HostCallRecord) -> None:
        self.on_call(record)

    def close(self) -> None:
        """End the jail and its keeper. It may be called twice."""
        with self._making:
            self._is_closed = True
        if self._sandbox is not None:
            background.wait(self._sandbox.close())
            self._sandbox = None
        if self._context_file is not None:
            self._context_file.close()
            self._context_file = None


def describe(name: str, function: Callable[..., Any]) -> str:
    """A primitive as the prompt shows it: its signature and the first line of its docstring."""
    try:
        signature = str(inspect.signature(function)).replace("typing.", "")
    except (TypeError, ValueError):
        signature = "(…)"
    summary = " ".join((inspect.getdoc(function) or "").split("\n", 1)[0].split())
    return f"- `{name}{signature}`" + (f": {summary}" if summary else "")
