"""What the page asks for, and gets as JSON: the same of a server and of an exported file."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from distill.view import shapes
from distill.view.facts import RunFacts
from distill.view.follow import FollowedFolder, lock_holders
from distill.view.highlight import python_pieces
from distill.view.matches import matches
from distill.view.texts import SLICE_CHARS, ContextTexts

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
                runs += [shapes.run_in_short(run, folder, driver) for run in folder.runs.values()]
        skipped = [
            {"folder": str(folder.folder), "file": each.file, "line": each.line,
             "reason": each.reason[:shapes.TITLE_CHARS]}
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
                "end": end,
                "start": start and msgspec.structs.replace(start, query=""),
                "context": {
                    "missing": texts.missing,
                    "parts": [(name, len(text)) for name, text in texts.parts],
                    "slice_chars": SLICE_CHARS,
                },
                "turns": [shapes.turn_in_short(run, turn) for turn in told.turns],
                "cells": [shapes.cell_in_short(cell) for cell in told.cells],
                "primitives": [
                    shapes.primitive_in_short(each) for each in told.primitives[-TIMELINE_LIMIT:]
                ],
                "events": [
                    {"t": each.t, "event": each.event, "who": each.producer.name}
                    for each in told.events[-TIMELINE_LIMIT:]
                ],
                "processes": [
                    {**msgspec.structs.asdict(each.producer), "t": each.t, "detail": each.detail}
                    for each in told.processes
                ],
                "scores": shapes.scores(told),
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
            "messages": [shapes.message(each, cells) for each in messages],
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
        return [shapes.call(line) for line in folder.lines(run, rows)]

    def search(self, key: str, words: str) -> list[int]:
        """The rows whose prompt or response holds the words, whatever their case."""
        folder, run = self.found(key)
        with folder.lock:
            count = len(run.calls)
        wanted = words.casefold()
        lines = folder.lines(run, range(count))
        return [row for row, line in enumerate(lines) if _holds(line, wanted)]

    def matches(self, key: str) -> dict[str, Any]:
        """What was read for certain, and what became of the answers."""
        folder, run = self.found(key)
        with folder.lock:
            count = len(run.calls)
        # Not under the lock: what comes meanwhile is only appended.
        return matches(run, self.texts(key), folder.lines(run, range(count)), count)

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
