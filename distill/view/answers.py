"""What the page asks for, and gets as JSON: the same of a server and of an exported file."""

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from distill.supervisor.text import printable_json
from distill.traces import records
from distill.view.columns import PAGE_ROWS, status_of
from distill.view.facts import RunFacts
from distill.view.follow import FollowedFolder, lock_holders, whole_call
from distill.view.highlight import LIMIT_CHARS, python_pieces
from distill.view.matches import matches
from distill.view.texts import SLICE_CHARS, ContextTexts

TITLE_CHARS = 300
TEXTS_KEPT = 2
TIMELINE_LIMIT = 20_000
"""Primitives and events of a run, that the timeline shows."""


class Answers:
    """Answers about the runs of some folders. Raises LookupError for what is not there."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [FollowedFolder(folder, number) for number, folder in enumerate(folders)]
        self._drivers: dict[int, int] = {}
        self._texts: OrderedDict[str, ContextTexts] = OrderedDict()
        self._texts_lock = threading.Lock()

    def look(self) -> bool:
        """Read on; whether there is more."""
        # Looked for before: a driver that has let go of its folder has written how its runs ended.
        drivers = lock_holders(self.folders)
        more = any(each.look() for each in self.folders)
        self._drivers = drivers
        return more

    def found(self, key: str) -> tuple[FollowedFolder, RunFacts]:
        """The folder and the run of a key. Raises LookupError, ValueError."""
        number, _, place = key.partition(".")
        folder = self.folders[int(number)]
        return folder, list(folder.runs.values())[int(place)]

    def keys(self) -> list[str]:
        """All runs."""
        return [run.key for folder in self.folders for run in folder.runs.values()]

    # -- all runs

    def state(self) -> dict[str, Any]:
        """Every run in short, what could not be read, and whether all has been read."""
        runs = []
        for folder in self.folders:
            with folder.lock:
                driver = self._drivers.get(folder.number)
                runs += [_in_short(run, folder, driver) for run in folder.runs.values()]
        skipped = [
            {"folder": str(folder.folder), "file": each.file, "line": each.line,
             "reason": each.reason[:TITLE_CHARS]}
            for folder in self.folders for each in folder.skipped
        ]  # fmt: skip
        return {
            "runs": runs,
            "skipped": skipped,
            "skipped_lines": sum(each.skipped_lines for each in self.folders),
            "is_read": all(each.is_read for each in self.folders),
        }

    # -- one run

    def run(self, key: str) -> dict[str, Any]:
        """All of a run but its texts and its calls."""
        folder, run = self.found(key)
        texts = self.texts(key)
        with folder.lock:
            told = run.told
            start, end = told.start, told.end
            return {
                "key": key,
                "id": told.id,
                "folder": str(folder.folder),
                "query": start.query if start else "",
                "answer": told.answer,
                "final_cell": told.final.cell if told.final else None,
                "end": end,
                "start": start and msgspec.structs.replace(start, query=""),
                "context": {
                    "missing": texts.missing,
                    "parts": [(name, len(text)) for name, text in texts.parts],
                    "slice_chars": SLICE_CHARS,
                },
                "turns": [_turn_in_short(run, turn) for turn in told.turns],
                "cells": [_cell_in_short(cell) for cell in told.cells],
                "primitives": [
                    _primitive_in_short(each) for each in told.primitives[-TIMELINE_LIMIT:]
                ],
                "events": [
                    {"t": each.t, "event": each.event, "who": each.producer.name}
                    for each in told.events[-TIMELINE_LIMIT:]
                ],
                "processes": [
                    {**msgspec.structs.asdict(each.producer), "detail": each.detail}
                    for each in told.processes
                ],
                "scores": [
                    {"scorer": each.scorer, "value": each.value, "detail": each.detail}
                    for each in told.scored.values()
                ],
                "opening": [_message_in_short(each) for each in told.messages if not each.turn],
            }

    def turn(self, key: str, number: int) -> dict[str, Any]:
        """The messages, cells and host calls of a turn; of 0 what came before the first."""
        folder, run = self.found(key)
        with folder.lock:
            told = run.told
            cells = [each for each in told.cells if each.turn == number]
            called = {each.cell for each in cells}
            messages = [each for each in told.messages if each.turn == number]
            turn = next((each for each in told.turns if each.turn == number), None)
            batches = [each for each in told.batches if each.cell in called]
            primitives = [each for each in told.primitives if each.cell in called]
            compactions = [each for each in told.compactions if each.turn == number]
        return {
            "messages": [_message(each, cells) for each in messages],
            "reasoning": turn.reasoning if turn else "",
            "turn": turn and {"refused": turn.refused, "finish_reason": turn.finish_reason,
                              "model": turn.model, "attempt": turn.attempt},
            "compactions": compactions,
            "cells": [{**msgspec.to_builtins(each), "code": python_pieces(each.code)}
                      for each in cells],
            "batches": batches[:TIMELINE_LIMIT],
            "primitives": primitives[:TIMELINE_LIMIT],
        }  # fmt: skip

    def columns(self, key: str, page: int) -> dict[str, Any]:
        """A page of the columns of a run's calls."""
        folder, run = self.found(key)
        if page < 0:
            raise IndexError(page)
        with folder.lock:
            return run.calls.page(page)

    def calls(self, key: str, rows: range) -> list[dict[str, Any]]:
        """Calls with their texts; of token ids, how many there are."""
        folder, run = self.found(key)
        with folder.lock:
            if rows and not 0 <= rows[0] <= rows[-1] < len(run.calls):
                raise IndexError(rows)
        return [_call(line) for line in folder.lines(run, rows)]

    def search(self, key: str, words: str) -> list[int]:
        """The rows whose prompt or response holds the words, whatever their case."""
        folder, run = self.found(key)
        with folder.lock:
            count = len(run.calls)
        wanted = words.casefold()
        found = []
        for start in range(0, count, PAGE_ROWS):
            rows = range(start, min(start + PAGE_ROWS, count))
            for row, line in zip(rows, folder.lines(run, rows), strict=True):
                if _holds(line, wanted):
                    found.append(row)
        return found

    def matches(self, key: str) -> dict[str, Any]:
        """What was read for certain, and what became of the answers."""
        folder, run = self.found(key)
        with folder.lock:
            count = len(run.calls)
        # Not under the lock: what comes meanwhile is only appended.
        return matches(run, self.texts(key), folder.lines(run, range(count)))

    def texts(self, key: str) -> ContextTexts:
        """The text of a run, of which the last few are kept."""
        folder, run = self.found(key)
        with folder.lock:
            start = run.told.start
        named = f"{folder.number}.{start.context.file}" if start else key
        with self._texts_lock:
            if named not in self._texts:
                self._texts[named] = ContextTexts(run)
                if start is None:  # it may still come
                    return self._texts.pop(named)
            self._texts.move_to_end(named)
            while len(self._texts) > TEXTS_KEPT:
                self._texts.popitem(last=False)
            return self._texts[named]


def as_json(value: Any) -> bytes:
    """An answer as JSON. A text may hold what UTF-8 can't, as paths do: it becomes ``?``."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(printable_json(msgspec.to_builtins(value)))


class _Texts(msgspec.Struct):
    prompt: str
    response: str | None


_TEXTS = msgspec.json.Decoder(_Texts)


def _holds(line: bytes, wanted: str) -> bool:
    try:
        texts = _TEXTS.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return wanted in texts.prompt.casefold() or wanted in (texts.response or "").casefold()


def _in_short(run: RunFacts, folder: FollowedFolder, driver: int | None) -> dict[str, Any]:
    told = run.told
    start, end = told.start, told.end
    is_open = driver is not None and driver == run.driver_pid
    without_end = "running" if is_open else "cut off" if folder.is_read else "reading"
    return {
        "key": run.key,
        "id": told.id,
        "folder": str(folder.folder),
        "query": (start.query if start else "")[:TITLE_CHARS],
        "answer": shown(told.answer)[:TITLE_CHARS],
        "status": end.status if end else without_end,
        "supervisor": start.supervisor if start else "",
        "worker": start.worker if start else "",
        "label": start.label if start else None,
        "parent": start.parent.run if start and start.parent else None,
        "turns": len(told.turns),
        "cells": len(told.cells),
        "calls": len(run.calls),
        "failed": run.calls.failed,
        "first_t": run.first_t,
        "last_t": run.last_t,
        "elapsed_s": end.elapsed_s if end else run.last_t - run.first_t,
        "dollars": _dollars(end),
        "version": run.version,
    }


def _dollars(end: records.RunEnd | None) -> float | None:
    if end is None or end.supervisor_dollars is None or end.worker_dollars is None:
        return None
    return end.supervisor_dollars + end.worker_dollars


def shown(value: Any) -> str:
    """An answer as text: as it stands, or as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode("utf-8", "replace")


def _turn_in_short(run: RunFacts, turn: records.Turn) -> dict[str, Any]:
    return {
        "turn": turn.turn,
        "t": turn.t,
        "elapsed_s": turn.elapsed_s,
        "queue_s": turn.queue_s,
        "input": turn.usage.input_tokens,
        "output": turn.usage.output_tokens,
        "cached": turn.usage.cached_input_tokens,
        "cells": turn.cells,
        "forced": turn.forced,
        "refused": turn.refused,
        "gpu_s": turn.gpu_s,
        "dollars": run.turn_dollars(turn),
    }


def _cell_in_short(cell: records.Cell) -> dict[str, Any]:
    return {
        "cell": cell.cell,
        "turn": cell.turn,
        "t": cell.t,
        "elapsed_s": cell.elapsed_s,
        "cpu_s": cell.cpu_s,
        "status": cell.status,
        "error": f"{cell.error.name}: {cell.error.message}"[:TITLE_CHARS] if cell.error else None,
        "lost": cell.lost,
    }


def _primitive_in_short(each: records.Primitive) -> dict[str, Any]:
    return {
        "cell": each.cell,
        "t": each.t,
        "elapsed_s": each.elapsed_s,
        "function": each.function[:TITLE_CHARS],
        "failed": each.error is not None,
    }


def _message_in_short(each: records.Message) -> dict[str, Any]:
    return {"role": each.role, "chars": len(each.content)}


def _message(each: records.Message, cells: Sequence[records.Cell]) -> dict[str, Any]:
    """A message; of a reply the code that ran is left out, where its cell is shown: ``pieces`` are
    texts and numbers of cells.
    """
    pieces: list[str | int] = [each.content]
    if each.role == "assistant":
        for cell in cells:
            last = pieces[-1]
            assert isinstance(last, str)
            found = fenced(cell.code).search(last) if len(last) <= LIMIT_CHARS else None
            if found is not None:
                pieces[-1:] = [last[: found.start()], cell.cell, last[found.end() :]]
    return {"role": each.role, "index": each.index, "chars": len(each.content), "pieces": pieces}


def fenced(code: str) -> re.Pattern[str]:
    """Where this code stands in a reply, with its fence if it has one."""
    fence = r"(?:^[ \t]*(?:`{3,}|~{3,})[^\n]*\n)?"
    end = r"(?:\n[ \t]*(?:`{3,}|~{3,})[ \t]*$)?"
    return re.compile(fence + re.escape(code.strip("\n")) + end, re.MULTILINE)


def _call(line: bytes) -> dict[str, Any]:
    try:
        call = whole_call(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return {"broken": str(error)}
    told: dict[str, Any] = msgspec.to_builtins(call)
    for name in ("prompt_token_ids", "token_ids", "logprobs"):
        ids = told.pop(name, None)
        told[f"{name}_count"] = None if ids is None else len(ids)
    told.pop("message_spans", None)
    if call.logprobs:
        told["mean_logprob"] = sum(call.logprobs) / len(call.logprobs)
    told["status"] = status_of(call)
    return told
