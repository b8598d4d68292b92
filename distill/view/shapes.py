"""Records as the page has them: what of each it shows, and under which names."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from distill.supervisor.text import printable_json
from distill.traces import Run, records
from distill.view.columns import status_of
from distill.view.facts import RunFacts
from distill.view.follow import FollowedFolder, whole_call
from distill.view.highlight import LIMIT_CHARS

TITLE_CHARS = 300
_OPENING_FENCE = re.compile(r"[ \t]*(?:`{3}|~{3})[^\n]*\n")
_CLOSING_FENCE = re.compile(r"\n[ \t]*(?:`{3,}|~{3,})[ \t]*$", re.MULTILINE)


def as_json(value: Any) -> bytes:
    """An answer as JSON. A text may hold what UTF-8 can't, as paths do: it becomes ``?``."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(printable_json(msgspec.to_builtins(value)))


def run_in_short(run: RunFacts, folder: FollowedFolder, driver: int | None) -> dict[str, Any]:
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
        "scores": scores(told),
        "version": run.version,
    }


def scores(told: Run) -> list[dict[str, Any]]:
    """What counts of a run's scores."""
    return [
        {"scorer": name[:TITLE_CHARS], "value": each.value, "detail": each.detail}
        for name, each in told.scored.items()
    ]


def _dollars(end: records.RunEnd | None) -> float | None:
    if end is None or end.supervisor_dollars is None or end.worker_dollars is None:
        return None
    return end.supervisor_dollars + end.worker_dollars


def shown(value: Any) -> str:
    """An answer as text: as it stands, or as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode("utf-8", "replace")


def turn_in_short(run: RunFacts, turn: records.Turn) -> dict[str, Any]:
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


def cell_in_short(cell: records.Cell) -> dict[str, Any]:
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


def primitive_in_short(each: records.Primitive) -> dict[str, Any]:
    return {
        "cell": each.cell,
        "t": each.t,
        "elapsed_s": each.elapsed_s,
        "function": each.function[:TITLE_CHARS],
        "failed": each.error is not None,
    }


def message(each: records.Message, cells: Sequence[records.Cell]) -> dict[str, Any]:
    """A message; of a reply the code that ran is left out, where its cell is shown: ``pieces`` are
    texts and numbers of cells.
    """
    pieces: list[str | int] = [each.content]
    if each.role == "assistant":
        for cell in cells:
            last = pieces[-1]
            assert isinstance(last, str)
            found = fenced(last, cell.code) if len(last) <= LIMIT_CHARS else None
            if found is not None:
                begin, end = found
                pieces[-1:] = [last[:begin], cell.cell, last[end:]]
    return {"role": each.role, "index": each.index, "chars": len(each.content), "pieces": pieces}


def fenced(reply: str, code: str) -> tuple[int, int] | None:
    """From where to where this code stands in a reply, with its fence if it has one."""
    code = code.strip("\n")
    begin = reply.find(code)
    if begin < 0:
        return None
    closed = _CLOSING_FENCE.match(reply, begin + len(code))
    end = closed.end() if closed else begin + len(code)
    line = reply.rfind("\n", 0, max(0, begin - 1)) + 1
    if _OPENING_FENCE.fullmatch(reply, line, begin):
        begin = line
    return begin, end


def call(line: bytes) -> dict[str, Any]:
    """A call's line with its texts; of token ids, how many there are."""
    try:
        whole = whole_call(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return {"broken": str(error)}
    told: dict[str, Any] = msgspec.to_builtins(whole)
    for name in ("prompt_token_ids", "token_ids", "logprobs"):
        ids = told.pop(name, None)
        told[f"{name}_count"] = None if ids is None else len(ids)
    told.pop("message_spans", None)
    if whole.logprobs:
        told["mean_logprob"] = sum(whole.logprobs) / len(whole.logprobs)
    told["status"] = status_of(whole)
    return told
