"""What is blotted out of all that is written of a run: patterns, and texts without their matches.

A match is replaced character by character, so every text keeps its length: offsets that a record
has stay true. Patterns are RE2's, which takes linear time whatever the text.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill.errors import InputError
from distill.ready_patterns import READY, Span

MASK = "█"
"""In place of each character of a match; U+2588, which hardly any text has."""
OWN = "re:"
"""What a pattern of the user's own begins with: a misspelled name must not redact nothing."""
PATTERN_LIMIT_BYTES = 8 << 20
"""That RE2 may use for one pattern."""
NUMBER_FROM = 10**6
"""Smaller numbers are counts and sizes; a phone or card number may come as a larger one."""

MATCHES_LIMIT = 20_000
"""Of a text that is written on the driver's loop: with more than that, a quarter of a second's
work, it is blotted out as a whole."""
CUT = re.compile(
    r"\n?… (?:\[\d+ characters cut\]|\d+ characters left out) …\n?"
    r"|(?P<end>\d+ bytes were not kept \(limit: )"
)
"""What distill writes where it leaves out a part of a text: ``supervisor.text.clip``, the jail in
tracebacks, and the sandbox at the end of too much output."""
CUT_REACH_CHARS = 100
"""Of what is blotted out on each side of a cut, as far as the next white space from there."""
WORD_CHARS = 4096
"""And not farther than this."""


@dataclass(frozen=True)
class Redaction:
    """Patterns, by name or as ``re:EXPRESSION``; without any it changes nothing.

    Raises InputError for a name that nothing ready has and an expression that RE2 can't take.
    """

    wanted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.wanted:
            _any_of(self.wanted)

    @classmethod
    def of(cls, wanted: Any) -> "Redaction":
        """What a user gave: a sequence of patterns, or None."""
        if isinstance(wanted, str) or not all(isinstance(each, str) for each in wanted or ()):
            raise InputError(
                'redact is a list of patterns, for example ["email", "re:ACME-\\\\d+"], not '
                f"{wanted!r}"
            )
        return cls(tuple(dict.fromkeys(wanted or ())))

    @classmethod
    def again(cls, told: Sequence[str]) -> "Redaction":
        """That of a recorded run, for what is added to its log later (``told`` of it).

        Its own expressions are not in the log: where it had any, all is blotted out.
        """
        names = [each for each in told if each in READY]
        return cls(tuple(names) if len(names) == len(told) else (f"{OWN}(?s).",))

    def __bool__(self) -> bool:
        return bool(self.wanted)

    @property
    def told(self) -> tuple[str, ...]:
        """As a log may tell it: an expression of the user's own may be the secret itself."""
        own = [each for each in self.wanted if each.startswith(OWN)]
        names = tuple(each for each in self.wanted if each not in own)
        return (*names, *(f"{OWN}{number}" for number, _ in enumerate(own, 1)))

    def text(self, text: str, *, most: int | None = MATCHES_LIMIT) -> str:
        """The text with every match blotted out, and what is beside a cut; as long as it was. The
        same object if nothing is.

        All of a text with more matches, or cuts, than ``most`` is blotted out.
        """
        if not text or not self.wanted:
            return text
        return _without_edges(self._without_matches(text, most), most)

    def _without_matches(self, text: str, most: int | None) -> str:
        data = text.encode("utf-8", "surrogatepass")
        if _any_of(self.wanted).search(data) is None:
            return text
        found = list(itertools.islice(self._spans(data), None if most is None else most + 1))
        if most is not None and len(found) > most:
            return MASK * len(text)
        spans = sorted(span for span in found if span is not None)
        if not spans:
            return text
        pieces: list[bytes] = []
        done = 0
        for start, end in spans:
            first, after = max(done, _begin(data, start)), _end(data, end)
            if first < after and start < end:
                pieces += (data[done:first], _mask(data[first:after]))
                done = after
        pieces.append(data[done:])
        return b"".join(pieces).decode("utf-8", "surrogatepass")

    def _spans(self, data: bytes) -> Iterator[Span | None]:
        """Those of matches, and None for each place that looked like one."""
        for each in self.wanted:
            for pattern, found in _patterns(each):
                for match in pattern.finditer(data):
                    start, end = match.span(pattern.groups)
                    if found is None:
                        yield start, end
                    else:
                        yield None
                        piece = data[start:end]
                        yield from ((start + a, start + b) for a, b in found(piece))

    def value(self, value: Any, *, numbers: bool = True, most: int | None = MATCHES_LIMIT) -> Any:
        """A JSON-like value with every text (see ``text``) and key in it redacted, and every number
        that is one of those that are looked for, if ``numbers``. The same object where nothing is.
        """
        if isinstance(value, str):
            return self.text(value, most=most)
        if isinstance(value, dict):
            items = [
                (self.text(str(key)), self.value(item, numbers=numbers, most=most))
                for key, item in value.items()
            ]
            return _changed(value, _apart(items))
        if isinstance(value, list | tuple):
            redacted = (self.value(item, numbers=numbers, most=most) for item in value)
            return _changed(value, type(value)(redacted))
        if numbers and isinstance(value, int | float) and not isinstance(value, bool):
            return self._number(value)
        return value

    def _number(self, value: float) -> Any:
        if abs(value) < NUMBER_FROM:
            return value
        told = str(value)
        redacted = self.text(told)
        return value if redacted == told else redacted


NOTHING = Redaction()


def edge(text: str) -> int:
    """How much of the end of a text that was cut there may be the first part of a match."""
    whole = max(0, len(text) - CUT_REACH_CHARS)
    before = text[max(0, whole - WORD_CHARS) : whole]
    return len(text) - whole + len(before) - 1 - max(map(before.rfind, " \n\t"))


def _without_edges(text: str, most: int | None) -> str:
    """The text without what stands beside its cuts, which stay."""
    cuts = list(itertools.islice(CUT.finditer(text), None if most is None else most + 1))
    if not cuts:
        return text
    if most is not None and len(cuts) > most:
        return MASK * len(text)
    pieces = []
    begins = [0, *(cut.end() for cut in cuts)]
    ends = [*(cut.start() for cut in cuts), len(text)]
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        piece = text[begin:end]
        first = edge(piece[::-1]) if number and cuts[number - 1]["end"] is None else 0
        last = edge(piece) if number < len(cuts) else 0
        if first + last >= len(piece):
            first, last = len(piece), 0
        pieces += [MASK * first, piece[first : len(piece) - last], MASK * last]
        if number < len(cuts):
            pieces.append(cuts[number][0])
    return "".join(pieces)


def _changed(value: Any, redacted: Any) -> Any:
    return value if redacted == value else redacted


def _apart(items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of these; names that have become one are told apart by a number."""
    made: dict[str, Any] = {}
    for key, item in items:
        name, number = key, 2
        while name in made:
            name, number = f"{key}#{number}", number + 1
        made[name] = item
    return made


@functools.lru_cache(maxsize=256)
def _patterns(
    wanted: str,
) -> tuple[tuple[Any, Callable[[bytes], Iterator[Span]] | None], ...]:
    """The compiled expressions of one pattern. Raises InputError."""
    if wanted.startswith(OWN):
        return ((_compiled(wanted.removeprefix(OWN), own=True), None),)
    if wanted not in READY:
        raise InputError(
            f"there is no pattern {wanted!r} to redact; there are {', '.join(READY)}, and "
            f"expressions of your own: {OWN}EXPRESSION"
        )
    return tuple((_compiled(each.expression), each.found) for each in READY[wanted])


@functools.lru_cache(maxsize=64)
def _any_of(wanted: tuple[str, ...]) -> Any:
    """All expressions as one: most texts have no match, and one pass says so."""
    expressions = [f"(?:{pattern.pattern})" for each in wanted for pattern, _ in _patterns(each)]
    return _compiled("|".join(expressions), own=True)


def _compiled(expression: str, *, own: bool = False) -> Any:
    """For RE2. Raises InputError: it is none, or too large, or matches nothing at all."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = PATTERN_LIMIT_BYTES
    options.never_capture = own
    try:
        pattern = re2.compile(expression, options)
    except (re2.error, UnicodeEncodeError) as error:
        told = error.args[0] if isinstance(error, re2.error) else "it is no UTF-8"
        why = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
        raise InputError(
            f"redact: RE2 can't take the expression {expression!r}: {why}. It has no look-around "
            "and no backreferences"
        ) from None
    if pattern.fullmatch(b"") is not None:
        raise InputError(
            f"redact: the expression {expression!r} matches an empty text, so it may match at "
            "every place and blot out nothing; write + in place of *"
        )
    return pattern


def _mask(piece: bytes) -> bytes:
    return MASK.encode() * len(piece.decode("utf-8", "surrogatepass"))


def _begin(data: bytes, place: int) -> int:
    """The begin of the character at this byte: RE2 can be asked for single bytes."""
    while 0 < place < len(data) and data[place] & 0xC0 == 0x80:
        place -= 1
    return place


def _end(data: bytes, place: int) -> int:
    """The end of the character that the byte before is of."""
    while place < len(data) and data[place] & 0xC0 == 0x80:
        place += 1
    return place
