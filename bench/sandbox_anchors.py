"""The anchors: other ways to run a model's Python, each as its own documentation has it used.

Their packages are in sandbox_requirements.txt; each is imported when its session opens.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

from sandbox_contestant import CELL_S, LONG_S, Contestant, Lost

TIMED_CALLS = """
import time
def timed_calls(count):
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        {call}
        seconds.append(time.perf_counter() - started)
    return seconds
"""
SHARED_MEMORY = "/dev/shm"  # noqa: S108  (a tmpfs, the fastest file that there is)


@contextlib.contextmanager
def file_of(text: str):  # noqa: ANN201
    """The path of a file on tmpfs with this text."""
    with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY, suffix=".txt") as file:
        file.write(text.encode())
        file.flush()
        yield file.name


class Kernel(Contestant):
    """ipykernel through jupyter_client's blocking client."""

    def __init__(self) -> None:
        self._manager: Any = None
        self._client: Any = None

    def open(self) -> None:
        from jupyter_client.manager import start_new_kernel

        self._manager, self._client = start_new_kernel(kernel_name="python3")

    def open_with(self, text: str) -> None:
        """By a file: as a cell's code, 100 MB would have to be compiled."""
        self.open()
        with file_of(text) as path:
            self.cell(f"with open({path!r}) as file: context = file.read()", LONG_S)

    def cell(self, code: str, limit_s: float = CELL_S) -> str:
        printed: list[str] = []

        def note(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])
            elif message["msg_type"] == "error":
                printed.append(message["content"]["ename"])

        try:
            self._client.execute_interactive(
                code, timeout=limit_s, output_hook=note, allow_stdin=False
            )
        except (TimeoutError, RuntimeError):
            self._interrupt()
        return "".join(printed)

    def _interrupt(self) -> None:
        if not self._manager.is_alive():
            raise Lost("the kernel died")
        self._manager.interrupt_kernel()
        try:
            self._client.get_shell_msg(timeout=CELL_S / 2)
        except Exception:  # noqa: BLE001  (queue.Empty, of a queue that is jupyter_client's own)
            raise Lost("the kernel did not stop when interrupted") from None

    def trips(self, count: int) -> list[float]:
        """Only to the shell's reply, without waiting for the output channel to fall silent."""
        return super().trips(count)

    def _timed(self, code: str) -> float:
        import time

        started = time.perf_counter()
        self._client.execute(code, reply=True, timeout=LONG_S, store_history=False)
        return time.perf_counter() - started

    def revive(self) -> None:
        self._manager.restart_kernel(now=True)
        self._client.wait_for_ready(timeout=LONG_S)

    def close(self) -> None:
        if self._manager is not None:
            self._client.stop_channels()
            self._manager.shutdown_kernel(now=True)
            self._manager = None


class Dspy(Contestant):
    """dspy's LocalInterpreter, which dspy.RLM takes: a subprocess that is no sandbox."""

    def __init__(self) -> None:
        self._interpreter: Any = None

    def open(self) -> None:
        from dspy.primitives.local_interpreter import LocalInterpreter

        self._interpreter = LocalInterpreter(tools={"worker": lambda prompt: prompt})
        self._interpreter.start()

    def open_with(self, text: str) -> None:
        self.open()
        self._execute("None", LONG_S, {"context": text})

    def cell(self, code: str, limit_s: float = CELL_S) -> str:
        return self._execute(code, limit_s, None)

    def _execute(self, code: str, limit_s: float, variables: dict[str, Any] | None) -> str:
        from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError

        self._interpreter.execution_timeout = limit_s
        try:
            return str(self._interpreter.execute(code, variables) or "")
        except CodeExecutionError as error:
            return str(error)
        except CodeInterpreterError as error:
            raise Lost(str(error)) from None

    def calls(self, count: int) -> list[float]:
        self.cell(TIMED_CALLS.format(call="worker('x')"))
        seconds: list[float] = json.loads(
            self.cell(f"import json\nprint(json.dumps(timed_calls({count})))", LONG_S)
        )
        return seconds

    def close(self) -> None:
        if self._interpreter is not None:
            self._interpreter.shutdown()


class Rlms(Contestant):
    """rlms' LocalREPL: ``exec`` in the very process that holds the keys."""

    options: dict[str, Any] = {}  # noqa: RUF012
    call = "worker('x')"

    def __init__(self) -> None:
        self._repl: Any = None

    def _make(self, text: str | None) -> Any:
        from rlm.environments.local_repl import LocalREPL

        return LocalREPL(context_payload=text, custom_tools={"worker": lambda prompt: prompt})

    def open(self) -> None:
        self._repl = self._make(None)

    def open_with(self, text: str) -> None:
        self._repl = self._make(text)

    def cell(self, code: str, limit_s: float = CELL_S) -> str:  # noqa: ARG002  (it has none)
        result = self._repl.execute_code(code)
        return result.stdout or result.stderr

    def calls(self, count: int) -> list[float]:
        self.cell(TIMED_CALLS.format(call=self.call))
        seconds: list[float] = json.loads(self.cell(f"print(timed_calls({count}))", LONG_S))
        return seconds

    def close(self) -> None:
        if self._repl is not None:
            self._repl.cleanup()
            self._repl = None


class RlmsKernel(Rlms):
    """rlms' IPythonREPL with its kernel in a subprocess, the one with a time limit."""

    call = "rlm_query('x')"

    def _make(self, text: str | None) -> Any:
        from rlm.environments.ipython_repl import IPythonREPL

        return IPythonREPL(
            kernel_mode="subprocess", cell_timeout=CELL_S, context_payload=text, subcall_fn=_echo
        )

    def cell(self, code: str, limit_s: float = CELL_S) -> str:
        self._repl.cell_timeout = limit_s
        result = self._repl.execute_code(code)
        if "Kernel died" in result.stderr or "DeadKernelError" in result.stderr:
            raise Lost(result.stderr.strip().splitlines()[-1])
        return result.stdout or result.stderr


def _echo(prompt: str, model: str | None = None) -> Any:
    """A sub-call that answers at once."""
    from rlm.core.types import RLMChatCompletion, UsageSummary

    return RLMChatCompletion(
        root_model=model or "",
        prompt=prompt,
        response=prompt,
        usage_summary=UsageSummary(model_usage_summaries={}),
        execution_time=0.0,
    )


class MappedFile(Contestant):
    """For the context only: a file on tmpfs, mapped. Its bytes, not a str."""

    def __init__(self) -> None:
        self._file: Any = None
        self._space: dict[str, Any] = {}

    def open(self) -> None:
        self._space = {}

    def open_with(self, text: str) -> None:
        path = Path(SHARED_MEMORY) / f"bench-{os.getpid()}.txt"
        path.write_bytes(text.encode())
        with path.open("rb") as file:
            self._file = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        path.unlink()

    def cell(self, code: str, limit_s: float = CELL_S) -> str:  # noqa: ARG002
        data = self._file
        if "find" in code:
            return str(data.find(b"needle"))
        return f"{len(data)} {data[-6:].decode()}"

    def pid(self) -> int:
        return os.getpid()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
