"""Where a run's answer comes from, for people and for programs: coverage, instructions, flow."""

from collections import Counter
from typing import Any

from distill.budget import counted, percent
from distill.errors import InputError
from distill.supervisor.quotations import locate, quoted_in
from distill.supervisor.text import clip, visible
from distill.traces import coverage, flow, provenance
from distill.traces.flow import InAnswer
from distill.traces.provenance import Provenance
from distill.traces.reading import Run

SHOWN = 5
"""Instructions, answers and quotations each."""
TEXT_CHARS = 200
QUOTATIONS_LIMIT = 200
LOCATE_S = 30.0
COLUMNS = 12


def lines(run: Run) -> list[str]:
    """A run's provenance on one screen; what came from models is shown without control characters.

    Takes the time of a search through the text and through all prompts.
    """
    found = provenance.of(run)
    if not run.calls:
        return [_line("Read", "nothing: no worker was asked")]
    return [*_read(found), *_asked(found), *_answers(run, found), *_quotations(run)]


def told(run: Run) -> dict[str, Any]:
    """The same for programs, in full. What the log can't say is None."""
    found = provenance.of(run)
    return {
        "coverage": _coverage_told(found),
        "instructions": [
            {"pieces": each.pieces, "calls": each.calls, "first": each.first}
            for each in found.instructions
        ],
        "flow": {
            "method": flow.METHOD,
            "answers": [
                {
                    "call": each.call,
                    "returned": each.returned,
                    "printed": [[at.cell, at.start, at.end] for at in each.printed],
                    "in_answer": [[at.path, at.start, at.end] for at in each.in_answer],
                }
                for each in found.flow
            ],
        },
    }


def _coverage_told(found: Provenance) -> dict[str, Any] | None:
    try:
        covered = found.coverage
    except InputError:
        return None
    return {
        "method": coverage.METHOD,
        "chars": covered.chars,
        "read_chars": covered.read_chars,
        "ambiguous_chars": covered.ambiguous_chars,
        "crowded": covered.crowded,
        "parts": [
            {
                "part": part.part,
                "chars": part.chars,
                "read": part.read,
                "ambiguous": part.ambiguous,
            }
            for part in covered.parts
            if part.read or part.ambiguous
        ],
    }


def _line(name: str, text: str) -> str:
    return f"  {name:<{COLUMNS - 2}}{visible(text)}"


def _short(text: str) -> str:
    return " ".join(clip(text, TEXT_CHARS).split())


def _read(found: Provenance) -> list[str]:
    try:
        covered = found.coverage
    except InputError as error:
        return [_line("Read", f"not known: {error}")]
    count = sum(len(part.read) for part in covered.parts)
    stretches = f"{count:,} stretch{'' if count == 1 else 'es'}"
    share = f"{percent(covered.share)} of the text"
    said = [f"{share}: {covered.read_chars:,} of {covered.chars:,} characters, in {stretches}"]
    if covered.ambiguous_chars:
        more = f"maybe {percent(covered.ambiguous_chars / covered.chars)} more"
        said.append(f"{more}: {covered.ambiguous_chars:,} characters that stand elsewhere, too")
    if covered.crowded:
        crowded = counted(covered.crowded, "passage")
        said.append(f"{crowded} of too many places: each is marked in one of them")
    return _named("Read", [*said, f"({coverage.METHOD})"])


def _asked(found: Provenance) -> list[str]:
    said = [f"{counted(each.calls, 'call')}: {_short(each.text)}" for each in found.instructions]
    more = len(said) - SHOWN
    return _named("Asked", said[:SHOWN] + ([f"and {more:,} more instructions"] if more > 0 else []))


def _answers(run: Run, found: Provenance) -> list[str]:
    flows = found.flow
    ways = {
        "returned to the code": sum(each.returned for each in flows),
        "printed": sum(bool(each.printed) for each in flows),
        "likely in the final answer": sum(bool(each.in_answer) for each in flows),
    }
    went = ", ".join(f"{count:,} {way}" for way, count in ways.items())
    said = [f"{counted(len(flows), 'answer')} of workers: {went}"]
    responses = {call.id: call.response or "" for call in run.calls}
    likely: Counter[tuple[str, InAnswer]] = Counter()
    for each in flows:
        if each.in_answer:
            likely[_short(responses[each.call]), each.in_answer[0]] += 1
    for (text, at), count in likely.most_common(SHOWN):
        where = f"{at.path}:{at.start:,}-{at.end:,}" if at.path else f"{at.start:,}-{at.end:,}"
        said.append(f"{counted(count, 'call')}: “{text}” → [{where}] of the answer")
    if run.start is not None and run.start.redacted:
        said.append("the texts of this run are redacted: what was redacted in them is not found")
    return _named("Answers", [*said, f"({flow.METHOD})"])


def _quotations(run: Run) -> list[str]:
    """Passages in quotation marks in the final answer: do they stand in the text?"""
    quoted = list(dict.fromkeys(quoted_in(run.answer)))[:QUOTATIONS_LIMIT]
    if not quoted:
        return []
    try:
        found = locate(quoted, run.context(), LOCATE_S)
    except (InputError, TimeoutError):
        return [_line("Quoted", "not known: the text could not be searched")]
    passages = counted(len(quoted), "passage")
    said = [f"{len(found):,} of {passages} in quotation marks stand in the text"]
    missing = [each for each in quoted if each not in found]
    said += [f"not in the text: “{_short(each)}”" for each in missing[:SHOWN]]
    return _named("Quoted", said)


def _named(name: str, said: list[str]) -> list[str]:
    return [_line(name if number == 0 else "", text) for number, text in enumerate(said)]
