"""The logs as tables: a flat row for each run, turn, cell, worker call or score.

``docs/traces.md`` says what each column means; a column has the same name in every table.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from distill.errors import InputError
from distill.traces import records
from distill.traces.joined import JoinedCall, JoinedCell, JoinedTurn, Logs
from distill.traces.reading import Run

Of = Literal["runs", "turns", "cells", "calls", "scores"]
Named = str | Path | Logs | Sequence[str | Path]
Row = dict[str, Any]


def rows(named: Named, of: Of = "calls", *, ids: bool = False) -> Iterator[Row]:
    """A row, by column, for each run, turn, cell, worker call or score of what is named.

    ``named`` is as for ``Logs``, one or several, or one. Token ids and log-probabilities are in the
    rows only with ``ids``: they are most of a log. Raises InputError as ``Logs`` does, and for an
    unknown table.
    """
    if of not in _TABLES:
        raise InputError(f"there is no table {of!r}: {', '.join(_TABLES)}")
    logs = named if isinstance(named, Logs) else Logs(*_several(named))
    each_of, row_of = _TABLES[of]
    if ids and of in ("turns", "calls"):
        return ({**row_of(each), **_ids_of(each.record)} for each in each_of(logs))
    return map(row_of, each_of(logs))


def _several(named: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [named] if isinstance(named, str | Path) else named


def _of_run(run: Run) -> Row:
    """What every row says of its run."""
    return {
        "folder": str(run.folder),
        "run": run.id,
        "label": run.start.label if run.start is not None else None,
    }


def run_row(run: Run) -> Row:
    """A run: how it began, how it ended, what it used. What the log lacks is None."""
    start, end = run.start, run.end
    return {
        **_of_run(run),
        "parent": start.parent.run if start is not None and start.parent is not None else None,
        **_fields(start, "t", "query", "supervisor", "worker"),
        "context_sha256": start.context.sha256 if start is not None else None,
        "context_chars": start.context.chars if start is not None else None,
        "redacted": bool(start.redacted) if start is not None else None,
        "schema": start.v if start is not None else None,
        **_fields(end, "status"),
        "answer": run.answer,
        **_fields(end, "error", "ended_by"),
        "turns": len(run.turns),
        "cells": len(run.cells),
        "failed_cells": _failed(run.cells),
        **_fields(end, "worker_calls", "worker_failures", "worker_cached", "read_chars"),
        "sub_runs": len(run.sub_runs),
        **_usage("supervisor_", end.supervisor_usage if end is not None else None),
        **_usage("worker_", end.worker_usage if end is not None else None),
        **_fields(end, "supervisor_dollars", "worker_dollars", "gpu_s", "elapsed_s"),
        **{f"score.{name}": score.value for name, score in run.scored.items()},
    }


def turn_row(joined: JoinedTurn) -> Row:
    """A turn, with its reply."""
    turn = joined.record
    return {
        **_of_run(joined.run),
        "turn": turn.turn,
        "t": turn.t,
        "model": turn.model,
        "reply": joined.reply.content if joined.reply is not None else None,
        "reasoning": turn.reasoning,
        "finish_reason": turn.finish_reason,
        "request_messages": turn.request_messages,
        "compactions": turn.compactions,
        "cells": turn.cells,
        "failed_cells": _failed(joined.cells),
        "forced": turn.forced,
        "refused": turn.refused,
        "attempt": turn.attempt,
        **_usage("", turn.usage),
        "queue_s": turn.queue_s,
        "elapsed_s": turn.elapsed_s,
        "gpu_s": turn.gpu_s,
        "device": turn.device,
    }


def cell_row(joined: JoinedCell) -> Row:
    """A cell, with how much it asked."""
    cell = joined.record
    return {
        **_of_run(joined.run),
        "turn": cell.turn,
        "cell": cell.cell,
        "t": cell.t,
        "code": cell.code,
        "status": cell.status,
        "stdout": cell.stdout,
        "stderr": cell.stderr,
        "error_kind": cell.error.name if cell.error is not None else None,
        "error": cell.error.message if cell.error is not None else cell.lost,
        "batches": len(joined.batches),
        "worker_calls": sum(batch.items - batch.refused for batch in joined.batches),
        "primitives": len(joined.primitives),
        "elapsed_s": cell.elapsed_s,
        "cpu_s": cell.cpu_s,
    }


def call_row(joined: JoinedCall) -> Row:
    """A worker call, with the first part of the text that its prompt holds, and its batch."""
    call, cell, batch = joined.record, joined.cell, joined.batch
    first = call.spans[0] if call.spans else None
    return {
        **_of_run(joined.run),
        "turn": call.turn,
        "cell": call.cell,
        "call": call.call,
        "item": call.item,
        "id": call.id,
        "t": call.t,
        "function": call.function,
        "source": call.source,
        "attempt": call.attempt,
        "prompt": call.prompt,
        "response": call.response,
        "finish_reason": call.finish_reason,
        "error_kind": call.error.kind if call.error is not None else None,
        "error": call.error.detail if call.error is not None else None,
        "chunks": len(call.spans),
        "chunk_chars": sum(span.end - span.start for span in call.spans),
        "chunk_part": first.part if first is not None else None,
        "chunk_start": first.start if first is not None else None,
        "chunk_end": first.end if first is not None else None,
        "context_sha256": call.context_sha256 or None,
        "model": call.model.model,
        "adapter": call.model.adapter,
        "weights_version": call.model.weights_version,
        "weights_hash": call.model.weights_hash,
        "server": call.producer.name,
        "sampling": sampling_of(call),
        **_usage("", call.usage),
        "queue_s": call.queue_s,
        "compute_s": call.compute_s,
        "total_s": call.total_s,
        "gpu_s": call.gpu_s,
        "cell_status": cell.status if cell is not None else None,
        "batch_items": batch.items if batch is not None else None,
        "batch_elapsed_s": batch.elapsed_s if batch is not None else None,
    }


def sampling_of(call: records.Call) -> dict[str, Any]:
    """How it was sampled; what of it was to be recorded is no part of that."""
    return {name: value for name, value in call.sampling.items() if name != "record"}


def _scores(logs: Logs) -> Iterator[tuple[Run, records.Score]]:
    for run in logs.runs():
        for score in run.scored.values():
            yield run, score


def score_row(scored: tuple[Run, records.Score]) -> Row:
    """A score that counts, and its run."""
    run, score = scored
    return {
        **_of_run(run),
        **_fields(run.start, "supervisor", "worker"),
        "scorer": score.scorer,
        "score": score.value,
        "detail": score.detail,
        "expected": score.label,
        "answer": run.answer,
        "t": score.t,
        "dollars": score.dollars,
        "elapsed_s": score.elapsed_s,
    }


def _fields(part: object, *names: str) -> Row:
    """These fields of a record or a part of one, under their own names."""
    return {name: getattr(part, name, None) for name in names}


def _usage(prefix: str, usage: records.TokenUsage | None) -> Row:
    told = _fields(usage, "input_tokens", "output_tokens", "cached_input_tokens")
    return {f"{prefix}{name}": count for name, count in told.items()}


def _failed(cells: Iterable[records.Cell]) -> int:
    return sum(cell.status in ("error", "lost") for cell in cells)


def _ids_of(record: records.Turn | records.Call) -> Row:
    return _fields(record, "prompt_token_ids", "token_ids", "logprobs")


_TABLES: Mapping[str, tuple[Callable[[Logs], Iterator[Any]], Callable[[Any], Row]]] = {
    "runs": (Logs.runs, run_row),
    "turns": (Logs.turns, turn_row),
    "cells": (Logs.cells, cell_row),
    "calls": (Logs.calls, call_row),
    "scores": (_scores, score_row),
}
