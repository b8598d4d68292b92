"""The process that runs the model's cells, from its first instruction to its last.

Started as ``python … interpreter.py SOCKET_FD CONTEXT_FD TIER SITE [READABLE…] map|copy``; SITE is
a folder of packages, or nothing. In order: it hears Init, receives the context's memory file,
shuts the jail behind itself, makes the context of it, says Ready, runs cells. It ends when its
socket does.
"""

from __future__ import annotations

import _thread
import os
import sys
from types import ModuleType

from distill.sandbox.jail import confine, context, variables
from distill.sandbox.jail.cells import Cells
from distill.sandbox.jail.channel import Channel
from distill.sandbox.jail.host import EXCEPTIONS, Finished, Host
from distill.sandbox.jail.interrupts import Shield
from distill.sandbox.jail.output import Printer

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from distill.sandbox.jail.wire import Wire

SEED = 0
"""``random`` and numpy start here in every jail: a session can be replayed."""


class Seeding:
    """Seeds ``random`` and ``numpy.random`` when a cell first imports them.

    Importing ``random`` at the start would cost 5 ms.
    """

    def __init__(self) -> None:
        self._seeds: dict[str, Any] = {"random": _seed_random, "numpy.random": _seed_numpy}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The usual spec of these modules, whose loader seeds them as well."""
        seed = self._seeds.get(name)
        if seed is None:
            return None
        # The usual finder, without importing importlib for it.
        usual: Any = sys.meta_path[-1]
        spec = usual.find_spec(name, path, target)
        if spec is not None:
            del self._seeds[name]
            execute = spec.loader.exec_module

            def execute_and_seed(module: ModuleType) -> None:
                execute(module)
                seed(module)

            spec.loader.exec_module = execute_and_seed
        return spec


def _seed_random(module: Any) -> None:
    module.seed(SEED)


def _seed_numpy(module: Any) -> None:
    """The global generator, and what ``default_rng()`` asks for where a cell names no seed."""
    module.seed(SEED)
    from random import Random

    module.bit_generator.randbits = Random(SEED).getrandbits


def _leave(code: object = None) -> NoReturn:
    """What ``exit`` and ``quit`` are in a cell."""
    raise SystemExit(code)


def _namespace(init: Wire, given: Any, host: Host) -> tuple[dict[str, Any], dict[str, Any]]:
    """A fresh ``__main__``'s namespace with the context ``given``, and what of it is ours."""
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    space = module.__dict__
    hidden: dict[str, Any] = {kind.__name__: kind for kind in EXCEPTIONS}
    hidden.update({name: host.function(name) for name in init["functions"]})
    hidden.update(exit=_leave, quit=_leave)
    space.update(hidden)
    space.update(init["namespace"])
    if init["context_kind"] != "none":
        space["context"] = given
    return space, hidden


class Interpreter:
    """One session: a namespace and the cells that run in it."""

    def __init__(self, channel: Channel, shield: Shield, init: Wire, given: Any) -> None:
        limits = self._limits = init["limits"]
        self._channel = channel
        self._shield = shield
        self._printer = Printer(channel, limits["output_bytes"])
        self._host = Host(channel, self._printer, limits["calls_in_flight"])
        self._space, self._hidden = _namespace(init, given, self._host)
        self._cells = Cells(self._space, limits)
        shield.reason = "the time for this cell is used up"
        _thread._excepthook = self._on_thread_error  # noqa: SLF001

    def serve(self) -> NoReturn:
        """Run cells for ever."""
        while True:
            try:
                command = self._channel.next_command()
                self._run(command["cell"], command["code"])
            except MemoryError:
                os._exit(confine.MEMORY_STATUS)

    def _run(self, number: int, code: str) -> None:
        self._printer.start_cell()
        confine.keep_reserve(self._limits, kept=True)
        self._channel.takes_calls = self._shield.in_cell = True
        try:
            error = self._cells.run(number, code)
        except KeyboardInterrupt:  # it came while the error was being told
            error = {"name": "KeyboardInterrupt", "message": self._shield.reason, "traceback": ""}
        # From here on an interrupt is late: the cell has ended.
        self._shield.in_cell = self._shield.pending = False
        self._channel.refuse_calls()
        confine.keep_reserve(self._limits, kept=False)
        self._printer.collect()
        done: Wire = {
            "type": "Done",
            "cell": number,
            "variables": variables.describe(self._space, self._hidden),
            "open_calls": self._channel.open_calls(),
            "live_threads": _thread._count(),  # noqa: SLF001
            "dropped_bytes": self._printer.dropped_bytes,
        }
        self._channel.send(done if error is None else {**done, "error": error})
        self._channel.abandon_calls()

    def _on_thread_error(self, told: Any) -> None:
        """``threading.excepthook``: an exception that ended a thread, cells named."""
        if told.exc_value is None or isinstance(told.exc_value, Finished | SystemExit):
            return
        name = told.thread.name if told.thread is not None else "?"
        text = self._cells.format(told.exc_value)
        sys.stderr.write(f"Exception in thread {name}:\n{text}")


def _prepare(
    init: Wire, end_fd: int, tier: str, readable: list[str], mapped: bool
) -> tuple[Any, str]:
    """Shut the jail, then make the context: nothing is parsed outside. Exits on failure."""
    kind = init["context_kind"]
    try:
        context_fd = context.receive(end_fd, expected=kind != "none")
        confine.close_behind(tier, readable, init["limits"], init["context_bytes"])
        if tier != "none" and not confine.filtered():
            os._exit(confine.STEP_STATUS["filter"])
    except confine.StepError as error:
        os._exit(error.status)
    except OSError:
        os._exit(confine.STEP_STATUS["privileges"])
    try:
        return context.load(context_fd, kind, mapped=mapped)
    except (MemoryError, ValueError, RecursionError, OSError):
        os._exit(confine.STEP_STATUS["context"])


def main() -> None:
    """Live."""
    from time import perf_counter

    socket_fd, end_fd = int(sys.argv[1]), int(sys.argv[2])
    tier, site, *readable, how = sys.argv[3:]
    sys.path += [site] if site else []
    sys.argv = [""]
    shield = Shield()
    channel = Channel(socket_fd, shield)
    mapped = how == "map" and context.strings_can_be_made()
    finder: Any = Seeding()
    sys.meta_path.insert(0, finder)
    _thread.stack_size(confine.THREAD_STACK_BYTES)
    python = ".".join(map(str, sys.version_info[:3]))
    init = channel.next_command()
    started = perf_counter()
    given, form = _prepare(init, end_fd, tier, readable, mapped)
    session = Interpreter(channel, shield, init, given)
    channel.send(
        {
            "type": "Ready",
            "python": python,
            "filtered": confine.filtered(),
            "context": form,
            "context_s": perf_counter() - started,
        }
    )
    session.serve()


if __name__ == "__main__":
    main()
