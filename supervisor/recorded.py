"""What the cells and calls of a recorded run had got, from its log: all but the conversation.

::

    cells ─► the session's history
    batches, primitives, calls ─► what every finished call got, and what nothing came of
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar, get_args

import msgspec

from distill.errors import WorkerError
from distill.protocol.jail_link import CallError, Variable
from distill.protocol.worker_link import Sampling
from distill.supervisor.answer_form import AnswerForm
from distill.supervisor.call_options import parse_answer
from distill.supervisor.history import FinishedCell, printed_hash
from distill.supervisor.host_calls import ITEM_DETAIL_CHARS, HostFunctions
from distill.supervisor.ledger import Answer, Ledger
from distill.supervisor.requests import asked_key
from distill.supervisor.spares import Spares
from distill.supervisor.text import clip
from distill.traces import Run, records

Called = TypeVar("Called", records.Call, records.Primitive)
CUT_OFF = "the driver died while it ran; its code is run again"
"""Of a cell that was running when its run was cut off."""


def cell_numbers(run: Run) -> set[int]:
    """Every cell that the run began, also where no record of its end was written."""
    begun = {cell.cell for cell in run.cells} | {call.cell for call in run.calls}
    begun |= {each.cell for each in run.batches} | {each.cell for each in run.primitives}
    return begun - {0}


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
    calls = _by_cell(call for call in run.primitives if call.function not in itemised)
    for number, good in _endings(run):
        for call in calls[number]:
            if call.reused:
                functions.spares.take(call.key)
            if call.error is None:
                functions.spares.enter(number, call.key, Answer(call.value))
        functions.spares.settle(number, failed=not good)


def fill_ledger(ledger: Ledger, run: Run, numbers: Mapping[int, int]) -> None:
    """Enter what the calls of these cells got, under the number that is given for each.

    A call some of whose lines can't be read is left out: it counts as one never made.
    """
    for call in run.primitives:
        if (cell := numbers.get(call.cell)) is not None:
            place = (call.cell, call.call)
            ledger.enter(cell, call.key, replace(_primitive_answer(call), place=place))
    items: dict[tuple[int, int], dict[int, records.Call]] = {}
    for line in run.calls:
        items.setdefault((line.cell, line.call), {})[line.item] = line
    for batch in run.batches:
        if batch.key and (cell := numbers.get(batch.cell)) is not None:
            lines = items.get((batch.cell, batch.call), {})
            if len(lines) + batch.refused == batch.items:
                answer = replace(_batch_answer(batch, lines), place=(batch.cell, batch.call))
                ledger.enter(cell, batch.key, answer)


def _by_cell(called: Iterable[Called]) -> dict[int, list[Called]]:
    """Calls by the cell that made them, in their order."""
    found: dict[int, list[Called]] = defaultdict(list)
    for call in called:
        found[call.cell].append(call)
    return found


def _endings(run: Run) -> Iterator[tuple[int, bool]]:
    """The number of each cell, in order, and whether it ended well."""
    good = {cell.cell for cell in run.cells if cell.status in ("ok", "final")}
    for number in sorted(cell_numbers(run)):
        yield number, number in good


def _primitive_answer(call: records.Primitive) -> Answer:
    """What the cell got for it."""
    if call.error is None:
        return Answer(call.value)
    error = _error(call.error)
    if call.value is None:
        return Answer(error=error)
    answers, reasons = tuple(call.value["answers"]), call.value["errors"]
    numbered = {int(index): str(reason) for index, reason in reasons.items()}
    return Answer(error=msgspec.structs.replace(error, answers=answers, errors=numbered))


def _error(told: str) -> CallError:
    """What the cell was raised, from what the log says of it."""
    name, _, detail = told.partition(": ")
    names = get_args(CallError.__annotations__["name"])
    if name in names:
        return CallError(name, detail)  # type: ignore[arg-type]
    return CallError("PrimitiveError", told)


def _batch_answer(batch: records.Batch, items: Mapping[int, records.Call]) -> Answer:
    """What the cell got for a worker call, from its items."""
    form = AnswerForm(batch.n)
    refused = WorkerError(batch.refusal or "", kind="budget")
    answers: list[Any] = [
        _item_answer(items[item]) if item in items else refused for item in range(batch.items)
    ]
    if batch.error is None:
        by_prompt = form.gathered(answers)
        return Answer(by_prompt[0] if batch.function == "worker" else by_prompt)
    if (batch.function == "worker" and not batch.refused) or not answers:
        return Answer(error=CallError("WorkerError", batch.error))
    errors = {item: each for item, each in enumerate(answers) if isinstance(each, WorkerError)}
    reasons = {
        prompt: clip(str(error), ITEM_DETAIL_CHARS)
        for prompt, error in form.by_prompt(errors).items()
    }
    good = [None if isinstance(answer, WorkerError) else answer for answer in answers]
    name: Any = "WorkerBudgetError" if batch.refused else "WorkerBatchError"
    return Answer(error=CallError(name, batch.error, tuple(form.gathered(good)), reasons))


def _item_answer(line: records.Call) -> Any:
    if line.response is None:
        failure = line.error
        return WorkerError(failure.detail if failure is not None else "it failed")
    try:
        return parse_answer(AnswerForm.of_line(line).answer_again(line), line.sampling)
    except WorkerError as error:
        return error


def fill_spares(spares: Spares[records.Call], run: Run) -> None:
    """Free the responses that failed or unfinished cells had got, unless they were used since."""
    lines = _by_cell(line for line in run.calls if line.response is not None)
    for number, good in _endings(run):
        for line in lines[number]:
            if AnswerForm.of_line(line).logprobs:
                continue
            key = line_key(line)
            if line.source == "reused":
                spares.take(key)
            spares.enter(number, key, line)
        spares.settle(number, failed=not good)


def line_key(line: records.Call) -> str:
    """``request_key`` of the request that this line tells of."""
    asked = {k: v for k, v in line.sampling.items() if k not in ("record", "n", "logprobs")}
    model = asked.pop("model", None)
    messages = None if line.messages is None else [dict(each) for each in line.messages]
    prompt = line.prompt if messages is None else None
    return asked_key(messages, prompt, msgspec.convert(asked, Sampling), model)


def times_resumed(run: Run) -> int:
    """How often it has gone on after a cut. Nothing was asked before the log said so."""
    return sum(event.event == "run_resumed" for event in run.events)
