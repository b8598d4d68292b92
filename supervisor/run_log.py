"""What one run writes to its journal, under its id."""

import os
from collections.abc import Iterable
from typing import Any

from distill.supervisor.journal import Journal, now
from distill.traces import records


class RunLog:
    """A run's records, stamped with its id and the turn that is open."""

    def __init__(self, journal: Journal, run: str, messages: int = 0) -> None:
        self.journal = journal
        self.run = run
        self.turn = 0
        self.driver = records.Producer("driver", "driver", os.getpid())
        self._messages = messages

    def stamp(self, producer: records.Producer | None = None) -> dict[str, Any]:
        """The fields that every record of this run has."""
        return {"t": now(), "run": self.run, "producer": producer or self.driver}

    def start(self, **fields: Any) -> None:
        """The run begins."""
        self.journal.supervisor(records.RunStart(**self.stamp(), **fields))

    def processes(self, producers: Iterable[tuple[records.Producer, dict[str, Any]]]) -> None:
        """Name the processes that take part, in both logs."""
        named = [records.Process(**self.stamp(p), detail=detail) for p, detail in producers]
        self.journal.supervisor(*named)
        self.journal.worker(named)

    def message(self, role: Any, content: str) -> None:
        """A message was added to the conversation."""
        self.journal.supervisor(self._message(role, content))

    def reply(self, content: str, **fields: Any) -> None:
        """The supervisor model replied: the message and the turn, both or neither."""
        message = self._message("assistant", content)
        turn = records.Turn(**self.stamp(), turn=self.turn, reply_index=message.index, **fields)
        self.journal.supervisor(message, turn)

    def _message(self, role: Any, content: str) -> records.Message:
        index = self._messages
        self._messages += 1
        return records.Message(
            **self.stamp(), index=index, turn=self.turn, role=role, content=content
        )

    def write(self, kind: type[records.SupervisorRecord], **fields: Any) -> None:
        """A record of any other kind, in supervisor.jsonl."""
        self.journal.supervisor(kind(**self.stamp(), **fields))

    def calls(self, calls: Iterable[records.Call]) -> list[int]:
        """Worker calls that ended, in one write; at which bytes of the log they begin."""
        return self.journal.worker(calls)

    def call_line(self, start: int) -> bytes:
        """The line of a worker call that begins at this byte of the log."""
        return self.journal.line(records.WORKER_LOG, start)
