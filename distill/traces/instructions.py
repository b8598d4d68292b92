"""What of a prompt is instruction: what a worker was told beside the passages of the text.

A prompt is its template's marks, passages of the context (the log's spans), and the rest: the
instruction. Where a passage ends is known only roughly: a few characters of the instruction may
stand beside it in the text as well, and of a passage that was rewritten in places (line breaks,
labels) what is too short to be matched is left over. So white space beside a passage is left out,
and an instruction that differs from a much used one only by a little text beside a passage is the
same.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from distill.traces.records import Call, Span

PASSAGE = "⟨passage⟩"
LABEL_CHARS = 40
"""So much between two spans that follow each other in the text, too, belongs to one passage."""
REWRITTEN_CHARS = 200
"""More than that does if about as much is left out of the text."""
LEFT_OVER_CHARS = 60
"""So much may be left over beside a passage: what is too short to be matched, and a label."""
MUCH_USED = 20
"""Instructions with which others are compared."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction: what stands before, between and after passages; and how many answered calls
    of a run used it. ``first`` is the id of one of them.
    """

    pieces: tuple[str, ...]
    calls: int
    first: str

    @property
    def text(self) -> str:
        """On one page, with a mark where each passage was."""
        return PASSAGE.join(self.pieces)


def of(calls: Iterable[Call]) -> tuple[Instruction, ...]:
    """The distinct instructions of all calls that were answered, the most used first."""
    used: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], str] = {}
    for call in calls:
        if call.response is None:
            continue
        pieces = pieces_of(call)
        used[pieces] += 1
        first.setdefault(pieces, call.id)
    much_used = [pieces for pieces, _ in used.most_common(MUCH_USED)]
    for pieces in [each for each, _ in used.most_common()][::-1]:
        same = next((each for each in much_used if _goes_on(pieces, each)), None)
        if same is not None and used[same] >= used[pieces]:
            used[same] += used.pop(pieces)
    return tuple(Instruction(each, count, first[each]) for each, count in used.most_common())


def _goes_on(pieces: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether pieces are another's, with a little more beside the passages."""
    if pieces == other or len(pieces) != len(other) or len(pieces) == 1:
        return False
    sides = (pieces[0], other[0]), (pieces[-1], other[-1])
    # Where the other says nothing, more is not a rest but an instruction of its own.
    if any(more and not less for more, less in sides):
        return False
    if any(len(more) - len(less) > LEFT_OVER_CHARS for more, less in sides):
        return False
    begins, ends = pieces[0].startswith(other[0]), pieces[-1].endswith(other[-1])
    return begins and ends and pieces[1:-1] == other[1:-1]


def pieces_of(call: Call) -> tuple[str, ...]:
    """The instruction of one call, cut where its passages are; one piece if there is none."""
    passages = passages_of(call)
    pieces: list[str] = []
    told: list[str] = []
    for start, end in _told(call):
        at = start
        for begin, stop in passages:
            if stop <= start or begin >= end:
                continue
            told.append(call.prompt[at : max(begin, at)])
            between = "".join(told).strip()
            # Passages that follow each other are one mark: how many there were is no instruction.
            if between or not pieces:
                pieces.append(between)
            told, at = [], max(at, stop)
        told.append(call.prompt[at:end] + "\n")
    pieces.append("".join(told).strip())
    return tuple(pieces)


def passages_of(call: Call) -> list[tuple[int, int]]:
    """Where the passages of the context are in the prompt: ``start:end``, in order."""
    found: list[tuple[int, int]] = []
    last: Span | None = None
    for span in sorted(call.spans, key=lambda each: each.prompt_start):
        end = min(span.prompt_start + span.end - span.start, len(call.prompt))
        if not 0 <= span.prompt_start < end:
            continue
        if last is not None and _is_one(last, span):
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((span.prompt_start, end))
        last = span
    return found


def _is_one(last: Span, span: Span) -> bool:
    """Whether two spans are one passage of which a few characters were rewritten."""
    between = span.prompt_start - (last.prompt_start + last.end - last.start)
    left_out = span.start - last.end
    if span.part != last.part or left_out < 0:
        return False
    if max(between, left_out) <= LABEL_CHARS:
        return True
    return between <= REWRITTEN_CHARS and between <= 2 * left_out <= 4 * between


def _told(call: Call) -> list[tuple[int, int]]:
    """Where in the prompt the messages are; all of it, where the log does not say."""
    if call.message_spans is None:
        return [(0, len(call.prompt))]
    return [(each.start, each.end) for each in call.message_spans]
