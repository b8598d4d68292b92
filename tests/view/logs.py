"""Logs as a driver writes them, with whatever a test puts into them."""

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.supervisor.journal import Journal
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.traces import records

BENCH = Path(__file__).resolve().parents[2] / "bench"
TEXT = "".join(
    f"Line {number} tells of the lamp that was lit in year {number}.\n" for number in range(2000)
)
USED = records.TokenUsage(input_tokens=40, output_tokens=3)


class Log:
    """One run of a folder, written record by record."""

    def __init__(
        self, folder: Path, context: Any = TEXT, run: str = "20260101-000000-a1b2c3"
    ) -> None:
        self.folder, self.run = folder, run
        self.journal = Journal(folder)
        self._log = RunLog(self.journal, run)
        self._context = context
        self._index = SpanIndex(context)
        self._calls = 0
        self.sha256 = ""

    def begin(self, query: str = "Which lamp?", **fields: Any) -> None:
        """run_start and the opening messages."""
        ref, _ = self.journal.store_context(self._context)
        self.sha256 = ref.sha256
        given: dict[str, Any] = {
            "supervisor": "boss",
            "worker": "hand",
            "options": {},
            "versions": {},
        }
        self._log.start(query=query, context=ref, **given | fields)
        self._log.message("system", "You write Python.")
        self._log.message("user", f"Question: {query}")

    def turn(self, reply: str) -> None:
        """A reply of the supervisor."""
        self._log.turn += 1
        self._log.reply(
            reply, request_messages=2, model="boss", usage=USED, elapsed_s=0.5, cells=1
        )  # fmt: skip

    def cell(self, code: str, stdout: str = "", **fields: Any) -> None:
        """The cell of this turn, whose number it has."""
        given: dict[str, Any] = {"status": "ok", "stderr": "", "elapsed_s": 0.4, "cpu_s": 0.1}
        self._log.write(
            records.Cell, turn=self._log.turn, cell=self._log.turn, code=code, stdout=stdout,
            **given | fields,
        )  # fmt: skip

    def tell(self, text: str) -> None:
        """What the supervisor is told."""
        self._log.message("user", text)

    def calls(
        self, asked: list[tuple[str, str | None]], *, server: str = "worker-0", **fields: Any
    ) -> None:
        """Calls of the open turn: prompts with their answers, None for one that failed."""
        producer = records.Producer("worker_server", server, 99)
        lines = []
        for item, (prompt, answer) in enumerate(asked):
            self._calls += 1
            given: dict[str, Any] = {
                "id": f"{self.run}-{self._calls}", "turn": self._log.turn, "cell": self._log.turn,
                "call": 1, "item": item, "function": "worker_batch", "attempt": 1,
                "finish_reason": None if answer is None else "stop", "usage": USED, "sampling": {},
                "model": records.Model("hand"), "spans": self._index.spans(prompt),
                "context_sha256": self.sha256, "queue_s": 0.01, "compute_s": 0.02, "total_s": 0.05,
                "error": records.CallFailure("engine", "it broke") if answer is None else None,
            }  # fmt: skip
            lines.append(
                records.Call(
                    t=time.time(), run=self.run, producer=producer, prompt=prompt, response=answer,
                    **given | fields,
                )
            )  # fmt: skip
        self._log.calls(lines)
        failed = sum(answer is None for _, answer in asked)
        self._log.write(
            records.Batch, cell=self._log.turn, call=1, function="worker_batch", items=len(asked),
            failed=failed, elapsed_s=0.1,
        )  # fmt: skip

    def end(
        self, answer: Any = None, status: str = "final", elapsed_s: float = 2.0, **fields: Any
    ) -> None:
        """FINAL, and the end."""
        if status == "final":
            self._log.write(records.Final, cell=self._log.turn, value=answer)
        self._log.write(
            records.RunEnd, status=status, answer=answer, iterations=self._log.turn,
            supervisor_usage=USED, worker_usage=USED, worker_calls=self._calls,
            elapsed_s=elapsed_s,
            **fields,
        )  # fmt: skip

    def process(self) -> None:
        """The processes are named."""
        sandbox = records.Producer("sandbox", "sandbox", 97)
        self.journal.supervisor(records.Process(t=time.time(), run=self.run, producer=sandbox))

    def score(self, scorer: str, value: float, later_s: float = 0.0) -> None:
        """What ``distill score`` appends, so much later than now."""
        producer = records.Producer("driver", "score", 98)
        told = records.Score(
            t=time.time() + later_s, run=self.run, producer=producer, scorer=scorer, value=value
        )
        self.journal.supervisor(told)

    def close(self) -> None:
        self.journal.close()


def lamp_run(log: Log, query: str = "Which lamp?") -> None:
    """A run that ends well: two turns, three calls, one of which failed."""
    log.begin(query)
    log.turn("I look.\n```repl\nanswers = worker_batch(parts)\nprint(answers)\n```\nDone.")
    asked: list[tuple[str, str | None]] = [
        (f"Passage: {TEXT[0:400]}\nWhich lamp?", "the lamp of year 3"),
        (f"Passage: {TEXT[60000:60500]}\nWhich lamp?", "another needle"),
        ("nothing of the text", None),
    ]
    log.calls(asked)
    log.cell(
        "answers = worker_batch(parts)\nprint(answers)",
        "['the lamp of year 3', 'another needle']\n",
    )
    log.tell("cell 1 printed two answers")
    log.turn("```repl\nFINAL('It is the lamp of year 3')\n```")
    log.cell("FINAL('It is the lamp of year 3')", status="final")
    log.end("It is the lamp of year 3")


def logs_runs() -> ModuleType:
    """bench/logs_runs.py, which writes runs of any number of calls."""
    spec = importlib.util.spec_from_file_location("logs_runs", BENCH / "logs_runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
