"""Check the files of a folder: every line against the schema, every join, every hash.

worker.jsonl is gone through line by line: a run of any number of calls is checked in little memory.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from distill.errors import InputError
from distill.traces import records
from distill.traces.contexts import read_context, texts_of
from distill.traces.joined import Joins
from distill.traces.reading import Run, Skipped, Trace, lines, read_runs

HELD_LIMIT_CHARS = 256 << 20
"""Of texts that are held at once; one is, whatever its length."""
ENDED = ("final", "forced", "unanswered")
"""How a run ends that was not cut off: what its cells had begun has come to its end."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a log folder: where, and what."""

    where: str
    what: str


def validate(folder: str | Path) -> tuple[Trace, list[Problem]]:
    """Read ``folder`` and name all that is wrong with it. Raises InputError: no log there.

    The runs of the trace are without their calls; ``call_counts`` says how many there are.
    """
    trace = read_runs(folder)
    texts = _Texts(Path(folder))
    seen = {id_: _Seen(run, texts) for id_, run in trace.runs.items()}
    strays: Counter[str] = Counter()
    for _, record in lines(Path(folder), records.WORKER_LOG):
        if isinstance(record, Skipped):
            trace.skipped.append(record)
        elif isinstance(record, records.Call) and record.run is not None:
            trace.call_counts[record.run] += 1
            if record.run in seen:
                seen[record.run].add(record)
            else:
                strays[record.run] += 1
    problems = [Problem(f"{s.file}:{s.line}", s.reason) for s in trace.skipped]
    for run in trace.runs.values():
        problems += [Problem(f"run {run.id}", what) for what in _run_problems(run, texts)]
        problems += [Problem(f"run {run.id}", what) for what in seen[run.id].problems()]
    for id_, count in strays.items():
        problems.append(Problem(f"run {id_}", f"{_calls(count)} of a run that has no run_start"))
    return trace, problems


def _run_problems(run: Run, texts: "_Texts") -> list[str]:
    """What is wrong with its half in supervisor.jsonl, and with its text."""
    if run.start is None:
        return ["has no run_start"]
    found = [] if run.end is not None else ["has no run_end: it was cut off"]
    found += _numbering_problems(run)
    if run.final is None and run.end is not None and run.end.status == "final":
        found.append("ended by a FINAL that is not there")
    mute = sum(not _has_messages(run, turn) for turn in run.turns)
    if mute:
        found.append(f"{mute} turns lack messages of their request, or their reply")
    exact = sum(turn.token_ids is not None or turn.logprobs is not None for turn in run.turns)
    if run.start.redacted and exact:
        found.append(f"{exact} turns have token ids, though the run was redacted")
    if texts.problem(run.start.context):
        found.append(f"its context {texts.problem(run.start.context)}")
    return found


def _numbering_problems(run: Run) -> list[str]:
    """Records that are not there, or twice, or belong to none."""
    found = []
    turns = {turn.turn for turn in run.turns}
    # Before the first turn comes the prelude of a dialect.
    astray = sum(1 for cell in run.cells if cell.turn and cell.turn not in turns)
    if astray:
        found.append(f"{astray} cells have no turn")
    numbered = {
        "messages": ([message.index for message in run.messages], 0),
        "turns": ([turn.turn for turn in run.turns], 1),
    }
    if _has_ended(run):
        cells = {cell.cell for cell in run.cells}
        called = [batch.cell for batch in run.batches]
        called += [primitive.cell for primitive in run.primitives]
        called += [run.final.cell] if run.final is not None else []
        loose = sum(cell not in cells for cell in called)
        if loose:
            found.append(f"{loose} batches, calls of functions or answers have no cell")
        numbered["cells"] = [cell.cell for cell in run.cells], 1
    for what, (numbers, first) in numbered.items():
        if numbers != list(range(first, first + len(numbers))):
            found.append(f"the {what} are not numbered {first}, {first + 1}, {first + 2}, …")
    return found


def _has_messages(run: Run, turn: records.Turn) -> bool:
    """Whether the messages of the turn's request and its reply are in the log."""
    count = len(run.messages)
    return turn.request_messages <= turn.reply_index < count and 0 <= turn.compactions <= len(
        run.compactions
    )


def _has_ended(run: Run) -> bool:
    """The open cell of a run that was cut off has calls but no record of its own."""
    return run.end is not None and run.end.status in ENDED


@dataclass(slots=True)
class _Seen:
    """The calls of one run, of which only what is wrong with them is kept, and their names."""

    run: Run
    texts: "_Texts"
    joins: Joins = field(init=False)
    ids: set[str] = field(default_factory=set)
    lines: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many there are, by cell and call."""
    wrong: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.joins = Joins(self.run)

    def add(self, call: records.Call) -> None:
        """Look at one call."""
        joined = self.joins.call(call)
        if _has_ended(self.run):
            self.wrong["have no cell"] += joined.cell is None
            self.wrong["have no batch"] += joined.batch is None
            self.wrong["have no turn"] += joined.turn is None and call.turn != 0
        self.wrong["are logged twice"] += call.id in self.ids
        self.ids.add(call.id)
        self.lines[call.cell, call.call] += 1
        self.wrong["have neither a response nor an error, or both"] += (call.response is None) == (
            call.error is None
        )
        ids, chances = call.token_ids, call.logprobs
        self.wrong["have not one log-probability a token"] += chances is not None and (
            ids is None or len(ids) != len(chances)
        )
        start = self.run.start
        if start is None:
            return
        if start.redacted:
            exact = call.prompt_token_ids, ids, chances
            self.wrong["have token ids, though the run was redacted"] += any(
                each is not None for each in exact
            )
        if call.spans:
            stands = call.context_sha256 == start.context.sha256 and self.texts.hold(
                start.context, call
            )
            self.wrong["hold a chunk that does not stand in the text there"] += not stands

    def problems(self) -> list[str]:
        """What is wrong with the calls."""
        found = [f"{_calls(count)} {what}" for what, count in self.wrong.items() if count]
        if _has_ended(self.run) and (lost := self._lost()):
            found.append(f"{lost} items of batches have no line in {records.WORKER_LOG}")
        return found

    def _lost(self) -> int:
        """Items that were sent, by their batch, and that no line tells of."""
        told: Counter[tuple[int, int]] = Counter()
        for batch in self.run.batches:
            told[batch.cell, batch.call] += batch.items - batch.refused
        return sum(max(0, count - self.lines[place]) for place, count in told.items())


class _Texts:
    """The texts of a folder's runs: the last ones asked about are held, up to a size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, dict[str | None, str]] = {}
        """The parts of each by its file, longest not asked for first."""
        self._problems: dict[str, str] = {}

    def problem(self, ref: records.ContextRef) -> str:
        """What is wrong with one, empty if nothing is."""
        self._parts(ref)
        return self._problems.get(ref.file, "")

    def hold(self, ref: records.ContextRef, call: records.Call) -> bool:
        """Whether the text says at each of the call's spans what the prompt does there.

        True where the text can't be read: that is said once, not by each call.
        """
        parts = self._parts(ref)
        if ref.file in self._problems:
            return True
        for span in call.spans:
            text, size = parts.get(span.part, ""), span.end - span.start
            if not 0 <= span.start < span.end <= len(text) or span.prompt_start < 0:
                return False
            if (
                call.prompt[span.prompt_start : span.prompt_start + size]
                != text[span.start : span.end]
            ):
                return False
        return True

    def _parts(self, ref: records.ContextRef) -> dict[str | None, str]:
        parts = self._held.pop(ref.file, None)
        if parts is None:
            parts = self._read(ref)
            while self._held and _chars(parts, *self._held.values()) > HELD_LIMIT_CHARS:
                del self._held[next(iter(self._held))]
        self._held[ref.file] = parts
        return parts

    def _read(self, ref: records.ContextRef) -> dict[str | None, str]:
        try:
            return dict(texts_of(read_context(self._folder, ref)))
        except InputError as error:
            self._problems[ref.file] = str(error)
            return {}


def _chars(*texts: dict[str | None, str]) -> int:
    return sum(len(text) for parts in texts for text in parts.values())


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"
