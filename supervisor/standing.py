"""Where a run stood when it was cut off, read from its log: all that is needed to go on.

messages ─► the conversation, byte for byte       cells ─► the session's history
batches, primitives, calls ─► what every finished call got, and what nothing came of
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec

from distill.errors import InputError, WorkerError
from distill.models import Usage
from distill.protocol.jail_link import CallError, Variable
from distill.protocol.worker_link import Sampling
from distill.supervisor.call_options import parse_answer
from distill.supervisor.history import FinishedCell, printed_hash
from distill.supervisor.host_calls import ITEM_DETAIL_CHARS, HostFunctions
from distill.supervisor.journal import now
from distill.supervisor.ledger import Answer, Ledger
from distill.supervisor.reply import read_reply
from distill.supervisor.requests import asked_key
from distill.supervisor.spares import Spares
from distill.supervisor.text import clip
from distill.traces import Run, records

CUT_OFF = "the driver died while it ran; its code is run again"


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

    messages: list[dict[str, str]]
    turn: int
    usage: Usage
    reply: str | None = None
    cells: list[RecordedCell] = field(default_factory=list)
    """Of that reply."""
    asked_last: bool = False
    """The last word was asked for: the next reply is the answer, whatever it is."""
    final: records.Final | None = None


def standing_of(run: Run, output_limit: int) -> Standing:
    """Where the conversation stood. Raises InputError for a run that can't go on."""
    if run.start is None:
        raise InputError(f"run {run.id} has no start record: nothing of it can be resumed")
    if not run.messages:
        raise InputError(f"run {run.id} had not begun its conversation: ask the question anew")
    usage = Usage()
    for turn in run.turns:
        used = turn.usage
        usage += Usage(
            used.input_tokens,
            used.output_tokens,
            used.cached_input_tokens,
            used.cache_write_tokens,
            used.reasoning_tokens,
        )
    last = run.messages[-1]
    found = Standing(run.conversation(), max((t.turn for t in run.turns), default=0), usage)
    found.final = run.final
    # Of all messages only this request belongs to a turn that has no reply yet.
    waits = last.role == "user" and last.turn > found.turn
    found.asked_last = waits or any(turn.forced for turn in run.turns)
    if last.role == "assistant":
        found.reply = last.content
        found.cells = [
            recorded_cell(cell, run, output_limit)
            for cell in run.cells
            if cell.turn == found.turn and cell.lost != CUT_OFF
        ]
    return found


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


def cell_numbers(run: Run) -> set[int]:
    """Every cell that the run began, also where no record of its end was written."""
    begun = {cell.cell for cell in run.cells} | {call.cell for call in run.calls}
    begun |= {each.cell for each in run.batches} | {each.cell for each in run.primitives}
    return begun - {0}


# -- the session


def history_of(run: Run) -> list[FinishedCell]:
    """The cells whose effects stood in the session, oldest first."""
    history: list[FinishedCell] = []
    for cell in run.cells:
        if cell.lost == CUT_OFF:
            continue
        if cell.lost is None:
            history.append(finished_cell(cell))
        else:
            upto = cell.restored.upto if cell.restored is not None else 0
            history = [each for each in history if each.number <= upto]
    return history


def finished_cell(cell: records.Cell) -> FinishedCell:
    """The cell as a session's history keeps it."""
    return FinishedCell(
        cell.cell,
        cell.code,
        tuple(Variable(v.name, v.type, v.repr, v.size) for v in cell.variables),
        printed_hash(cell.stdout, cell.stderr),
        cell.error.name if cell.error is not None else None,
        cell.blocked,
    )


def fill(functions: HostFunctions, run: Run, itemised: frozenset[str]) -> None:
    """Enter what the run's host calls got, and free what nothing came of."""
    fill_ledger(functions.ledger, run, {number: number for number in cell_numbers(run)})
    for number, good in _endings(run):
        for call in run.primitives:
            if call.cell == number and call.function not in itemised:
                if call.reused:
                    functions.spares.take(call.key)
                if call.error is None:
                    functions.spares.enter(number, call.key, Answer(call.value))
        functions.spares.settle(number, failed=not good)


def ledger_of(run: Run) -> Ledger:
    """What each call got, for the run to be done again: cells that were cut off don't count."""
    whole = [cell.cell for cell in run.cells if cell.lost != CUT_OFF]
    ledger = Ledger()
    fill_ledger(ledger, run, {cell: place for place, cell in enumerate(whole, 1)})
    return ledger


def fill_ledger(ledger: Ledger, run: Run, numbers: Mapping[int, int]) -> None:
    """Enter what the calls of these cells got, under the number that is given for each."""
    for call in run.primitives:
        if (cell := numbers.get(call.cell)) is not None:
            ledger.enter(cell, call.key, Answer(call.value, _error(call.error)))
    items: dict[tuple[int, int], dict[int, records.Call]] = {}
    for line in run.calls:
        items.setdefault((line.cell, line.call), {})[line.item] = line
    for batch in run.batches:
        if batch.key and (cell := numbers.get(batch.cell)) is not None:
            lines = items.get((batch.cell, batch.call), {})
            ledger.enter(cell, batch.key, _batch_answer(batch, lines))


def _endings(run: Run) -> Iterator[tuple[int, bool]]:
    """The number of each cell, in order, and whether it ended well."""
    good = {cell.cell for cell in run.cells if cell.status in ("ok", "final")}
    for number in sorted(cell_numbers(run)):
        yield number, number in good


def _error(told: str | None) -> CallError | None:
    """What the cell was raised, from what the log says of it."""
    if told is None:
        return None
    name, _, detail = told.partition(": ")
    names = get_args(CallError.__annotations__["name"])
    if name in names:
        return CallError(name, detail)  # type: ignore[arg-type]
    return CallError("PrimitiveError", told)


def _batch_answer(batch: records.Batch, items: Mapping[int, records.Call]) -> Answer:
    """What the cell got for a worker call, from its items."""
    answers: list[Any] = [_item_answer(items[item]) for item in sorted(items)]
    if batch.error is None:
        return Answer(answers[0] if batch.function == "worker" else answers)
    if batch.function == "worker" or not answers:
        return Answer(error=CallError("WorkerError", batch.error))
    reasons = {
        item: str(answer)[:ITEM_DETAIL_CHARS]
        for item, answer in enumerate(answers)
        if isinstance(answer, WorkerError)
    }
    good = tuple(None if isinstance(answer, WorkerError) else answer for answer in answers)
    return Answer(error=CallError("WorkerBatchError", batch.error, good, reasons))


def _item_answer(line: records.Call) -> Any:
    if line.response is None:
        failure = line.error
        return WorkerError(failure.detail if failure is not None else "it failed")
    return parse_answer(line.response, line.sampling)


# -- worker calls


def fill_spares(spares: Spares[records.Call], run: Run) -> None:
    """Free the responses that failed or unfinished cells had got, unless they were used since."""
    for number, good in _endings(run):
        for line in run.calls:
            if line.cell != number or line.response is None:
                continue
            key = line_key(line)
            if line.source == "reused":
                spares.take(key)
            spares.enter(number, key, line)
        spares.settle(number, failed=not good)


def line_key(line: records.Call) -> str:
    """``request_key`` of the request that this line tells of."""
    asked = {name: value for name, value in line.sampling.items() if name != "record"}
    messages = None if line.messages is None else [dict(each) for each in line.messages]
    prompt = line.prompt if messages is None else None
    return asked_key(messages, prompt, msgspec.convert(asked, Sampling))


def last_batch(run: Run) -> int:
    """The highest number among the ids of its worker calls, ``RUN-NUMBER.ITEM``."""
    numbers = (line.id.removeprefix(f"{run.id}-").partition(".")[0] for line in run.calls)
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def loose_ends(run: Run, standing: Standing) -> Iterator[records.SupervisorRecord]:
    """Records of the cell that was running when the run was cut off, and of its open calls."""
    assert run.start is not None
    common: dict[str, Any] = {"t": now(), "run": run.id, "producer": run.start.producer}
    blocks = read_reply(standing.reply or "").blocks
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
