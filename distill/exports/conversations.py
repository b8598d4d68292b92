"""A supervisor's conversations as they were sent, and which of its replies are worth learning."""

from collections.abc import Iterator
from dataclasses import dataclass

from distill.exports.graded import GradedRun
from distill.exports.material import Material
from distill.exports.row import Dropped
from distill.traces import Run, records

REPLAY = "a replay: its replies are those of another run"


@dataclass(frozen=True, slots=True)
class Said:
    """A message of a conversation; ``weight`` is 1 for a reply that is to be learnt, else 0."""

    role: str
    content: str
    weight: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """What stood in the supervisor's window at its last reply before the next cut, that included.

    A conversation that was never shortened is one of these; of one that was, each is what was sent
    between two cuts, and a reply has weight in one of them only.
    """

    graded: GradedRun
    said: list[Said]
    model: str


def conversations(material: Material) -> Iterator[Conversation | Dropped]:
    """Those of all runs that have a reply to learn; a reply without weight stays, as what was seen.

    Weight 0 have replies whose code raised or lost the jail, that had no code (unless it was the
    turn that must answer), that were cut off or refused, and that ``--where`` leaves out.
    """
    for graded in material.runs:
        run = graded.run
        if graded.is_replay:
            yield Dropped(REPLAY)
        elif not run.turns:
            yield Dropped("the supervisor never replied")
        elif (why := incomplete(run)) is not None:
            yield Dropped(why)
        else:
            good = {
                turn.reply_index
                for turn in run.turns
                if is_good(run, turn) and material.passes(graded, turn)
            }
            yield from _stretches(graded, good)


def is_good(run: Run, turn: records.Turn) -> bool:
    """Whether a reply is one to learn from: its code ran to its end."""
    if turn.refused or turn.finish_reason == "length":
        return False
    cells = [cell.status for cell in run.cells if cell.turn == turn.turn]
    if not cells:
        return turn.forced
    return all(status in ("ok", "final") for status in cells)


def incomplete(run: Run) -> str | None:
    """Why its conversation can't be told as it was sent, None if it can."""
    if [each.index for each in run.messages] != list(range(len(run.messages))):
        return "messages are missing from its log"
    for turn in run.turns:
        is_there = 0 <= turn.request_messages <= turn.reply_index < len(run.messages)
        if not is_there or turn.compactions > len(run.compactions):
            return "messages are missing from its log"
    return None


def _stretches(graded: GradedRun, good: set[int]) -> Iterator[Conversation | Dropped]:
    by_cuts: dict[int, list[records.Turn]] = {}
    for turn in graded.run.turns:
        by_cuts.setdefault(turn.compactions, []).append(turn)
    for turns in by_cuts.values():
        learnt = good & {turn.reply_index for turn in turns}
        if learnt:
            last = max(turns, key=lambda turn: turn.reply_index)
            yield Conversation(graded, _said(graded.run, last, learnt), last.model)
        else:
            yield Dropped("no reply whose code ran to its end")


def _said(run: Run, turn: records.Turn, learnt: set[int]) -> list[Said]:
    """The request of a turn, and its reply; messages of these indices have weight 1."""
    said = [Said(each.role, each.content, int(each.index in learnt)) for each in run.messages]
    sent = said[: turn.request_messages]
    if turn.compactions:
        cut = run.compactions[turn.compactions - 1]
        added = [Said(m.get("role", ""), m.get("content", ""), 0) for m in cut.added]
        sent = [*sent[: cut.opening], *added, *sent[cut.kept_from :]]
    return [*sent, said[turn.reply_index]]
