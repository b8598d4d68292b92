"""The conversation of a run that was cut off: where it stood, and the loose ends of its log."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.errors import InputError
from distill.models import Usage
from distill.supervisor.conversation import chars_of
from distill.supervisor.journal import now
from distill.supervisor.recorded import CUT_OFF, cell_numbers
from distill.supervisor.reply import Reply, Said
from distill.supervisor.text import clip
from distill.traces import Run, records


@dataclass(frozen=True, slots=True)
class RecordedCell:
    """A cell's outcome as the log has it, in the shape of an ExecResult."""

    cell: int
    stdout: str
    stderr: str
    elapsed: float
    dropped_bytes: int
    error: records.CellFailure | None
    lost: str | None
    restored: records.Restored | None
    variables: Mapping[str, records.Variable]
    is_final: bool
    answer: Any


@dataclass(slots=True)
class Standing:
    """A conversation that was cut off. ``reply`` is one whose cells are not all done yet."""

    messages: list[records.Message]
    compactions: list[records.Compaction]
    turn: int
    usage: Usage
    variables: Mapping[str, Any] = field(default_factory=dict)
    """The names in the REPL after the last cell."""
    reply: Said | None = None
    cells: list[RecordedCell] = field(default_factory=list)
    """Of that reply."""
    asked_last: bool = False
    """The last word was asked for: the next reply is the answer, whatever it is."""
    final: records.Final | None = None
    counted: tuple[int, int] | None = None
    """Tokens and characters of the last request that the endpoint counted."""


def standing_of(run: Run, output_limit: int) -> Standing:
    """Where the conversation stood. Raises InputError for a run that can't go on."""
    if run.start is None:
        raise InputError(f"run {run.id} has no start record: nothing of it can be resumed")
    if not run.messages:
        raise InputError(f"run {run.id} had not begun its conversation: ask the question anew")
    usage = Usage()
    for each in run.turns:
        used = each.usage
        usage += Usage(
            used.input_tokens,
            used.output_tokens,
            used.cached_input_tokens,
            used.cache_write_tokens,
            used.reasoning_tokens,
        )
    last = run.messages[-1]
    latest = max((turn.turn for turn in run.turns), default=0)
    found = Standing(list(run.messages), list(run.compactions), latest, usage)
    if run.cells:
        found.variables = {variable.name: variable for variable in run.cells[-1].variables}
    found.final = run.final
    found.counted = _counted(run)
    # Of all messages only this request belongs to a turn that has no reply yet.
    waits = last.role == "user" and last.turn > found.turn
    found.asked_last = waits or any(turn.forced for turn in run.turns)
    if last.role == "assistant":
        turn = run.turns[-1]
        found.reply = Said(last.content, turn.finish_reason or "stop", turn.refused)
        found.cells = [
            recorded_cell(cell, run, output_limit)
            for cell in run.cells
            if cell.turn == found.turn and cell.lost != CUT_OFF
        ]
    return found


def _counted(run: Run) -> tuple[int, int] | None:
    last = next((each for each in reversed(run.turns) if each.usage.input_tokens > 0), None)
    if last is None:
        return None
    return last.usage.input_tokens, chars_of(run.conversation(last.turn))


def recorded_cell(cell: records.Cell, run: Run, output_limit: int) -> RecordedCell:
    """The cell's outcome, its output cut to ``output_limit`` characters as it was shown."""
    return RecordedCell(
        cell.cell,
        clip(cell.stdout, output_limit),
        clip(cell.stderr, output_limit),
        cell.elapsed_s,
        cell.dropped_bytes,
        cell.error,
        cell.lost,
        cell.restored,
        {variable.name: variable for variable in cell.variables},
        cell.status == "final",
        run.answer,
    )


def loose_ends(
    run: Run, standing: Standing, read: Callable[[Said], Reply]
) -> Iterator[records.SupervisorRecord]:
    """Records of the cell that was running when the run was cut off, and of its open calls.

    ``read`` finds the code in a reply, as it did then.
    """
    assert run.start is not None
    common: dict[str, Any] = {"t": now(), "run": run.id, "producer": run.start.producer}
    blocks = read(standing.reply).blocks if standing.reply is not None else ()
    known = {cell.cell for cell in run.cells}
    for number in sorted(cell_numbers(run) - known):
        place = len(standing.cells)
        yield records.Cell(
            **common,
            turn=standing.turn,
            cell=number,
            code=blocks[place] if place < len(blocks) else "",
            status="lost",
            stdout="",
            stderr="",
            elapsed_s=0.0,
            cpu_s=0.0,
            lost=CUT_OFF,
        )
    done = {(batch.cell, batch.call) for batch in run.batches}
    lines: dict[tuple[int, int], list[records.Call]] = {}
    for line in run.calls:
        lines.setdefault((line.cell, line.call), []).append(line)
    for (cell, call), items in lines.items():
        if (cell, call) not in done:
            yield records.Batch(
                **common,
                cell=cell,
                call=call,
                function=items[0].function,
                items=len(items),
                failed=sum(item.response is None for item in items),
                elapsed_s=0.0,
                error=CUT_OFF,
            )
