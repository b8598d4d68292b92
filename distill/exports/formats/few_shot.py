"""Demonstrations for a worker's prompt: a chunk of text, and what was answered about it.

Few, and unlike each other. Out of all calls a bounded pool is kept, the same number for each length
of chunk (in powers of two) and of each text, by a hash of the seed and the chunk, and of each chunk
one answer: demonstrations that contradict each other teach neither. Out of the pool comes, again
and again, what is farthest from all that came before, the lengths in turn: farthest-point sampling
(Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"), by the Jaccard distance
of the words of chunk and of response; texts that were drawn on less go before others.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from distill.exports.duplicates import plain
from distill.exports.formats.worker_sft import unfit
from distill.exports.graded import GradedRun
from distill.exports.levels import OF_CALLS
from distill.exports.material import Material
from distill.exports.overlap import Texts
from distill.exports.row import Dropped, Format, Made, OriginRow, origin
from distill.traces import records

DEFAULT_ROWS = 32
POOL = 256
"""Candidates for each length of chunk."""
LEAST_CHARS = 40
"""Of a chunk: what is shorter may be the question's own words."""
WORDS_CHARS = 4_000
"""Of a chunk, whose words are compared."""
GAP_CHARS = 40
"""Between pieces of one passage: a label that was taken out of it, a line break that was put in."""
PLACE = "{chunk}"
NO_PASSAGE = Dropped("no passage of the text stands in the prompt")
SEVERAL = Dropped("several passages of the text stand in the prompt")
ENOUGH = "not picked: there are enough"
ALIKE = "the same answer about the same passage"
OTHER = "another answer about the same passage"


class FewShotRow(OriginRow, frozen=True, kw_only=True):
    """A demonstration.

    Attributes:
    chunk: the passage, as it stands in the prompt
    instruction: what was asked, with `{chunk}` where the passage stood
    response: what was answered
    chunk_chars: length of the passage
    response_chars: length of the answer
    call: the call's id
    model: the model that answered
    """

    chunk: str
    instruction: str
    response: str
    chunk_chars: int
    response_chars: int
    call: str
    model: str


class FewShot(Format):
    """Rows in ascending length of the chunk, so that a budget is met by cutting the end."""

    name = "few-shot"
    about = "demonstrations for the prompts of workers, unlike each other and of all lengths"
    read_by = "whoever writes a worker's prompt"
    row = FewShotRow
    asks = OF_CALLS
    is_picked = True

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """The demonstrations that were picked; each call that was not is dropped, with why."""
        forbidden = Texts(material.not_from)
        pools: dict[int, _Pool] = {}
        for graded, call in material.calls():
            if (why := unfit(call)) is not None:
                yield Dropped(why)
            elif isinstance(shown := _shown(call), Dropped):
                yield shown
            elif forbidden.share(shown[0]):
                yield Dropped("from a text that it must not be from (--not-from)")
            else:
                candidate = _candidate(graded, call, *shown, material.seed)
                pool = pools.setdefault(candidate.row.chunk_chars.bit_length(), _Pool())
                if (why := pool.take(candidate)) is not None:
                    yield Dropped(why)
        wanted = material.rows or DEFAULT_ROWS
        picked = _picked([pools[length].candidates() for length in sorted(pools)], wanted)
        for _ in range(sum(len(pool.candidates()) for pool in pools.values()) - len(picked)):
            yield Dropped(ENOUGH)
        for each in sorted(picked, key=lambda each: (each.row.chunk_chars, each.rank)):
            yield Made(each.row, each.graded, (each.row.chunk, each.row.response))


def _passages(call: records.Call) -> Iterator[str]:
    """What a prompt shows of the text; pieces that follow each other in both are one passage."""
    pieces = sorted(
        (span for span in call.spans if span.prompt_start >= 0), key=lambda span: span.prompt_start
    )
    first = last = None
    for span in pieces:
        if first is None or last is None or not _goes_on(last, span):
            if first is not None and last is not None:
                yield call.prompt[first.prompt_start : _end(last)]
            first = span
        last = span
    if first is not None and last is not None:
        yield call.prompt[first.prompt_start : _end(last)]


def _end(span: records.Span) -> int:
    return span.prompt_start + span.end - span.start


def _goes_on(one: records.Span, other: records.Span) -> bool:
    """Whether little was left out of the text between the two, and little put between them."""
    left_out, put_in = other.start - one.end, other.prompt_start - _end(one)
    return one.part == other.part and 0 <= left_out <= GAP_CHARS and 0 <= put_in <= GAP_CHARS


def _shown(call: records.Call) -> tuple[str, str] | Dropped:
    """The passage in a prompt, and the instruction around it.

    It has no other one: that would stand in the instruction, which is used with other texts.
    """
    passages = set(_passages(call))
    chunk = max(sorted(passages), key=len, default="")
    if len(chunk) < LEAST_CHARS:
        return NO_PASSAGE
    if any(len(each) >= LEAST_CHARS and each not in chunk for each in passages):
        return SEVERAL
    for message in call.messages or ({"content": call.prompt},):
        if chunk in message["content"]:
            return chunk, message["content"].replace(chunk, PLACE)
    return NO_PASSAGE


@dataclass(frozen=True, slots=True)
class _Candidate:
    """``rank`` is that of all answers about its chunk."""

    row: FewShotRow
    graded: GradedRun
    rank: bytes
    chunk_words: frozenset[str]
    response_words: frozenset[str]

    def is_better(self, other: "_Candidate") -> bool:
        """By the score of the run, and then whether it came into the final answer."""
        one, two = (-1.0 if each.row.score is None else each.row.score for each in (self, other))
        if one != two or self.row.response == other.row.response:
            return one > two
        return self.is_in_answer() and not other.is_in_answer()

    def is_in_answer(self) -> bool:
        """Whether it is likely in the final answer of its run."""
        return self.graded.has_in_answer(self.row.response)

    def distance(self, other: "_Candidate") -> float:
        """0 to 1: half of it by the words of the chunk, half by those of the response."""
        return (
            _jaccard(self.chunk_words, other.chunk_words)
            + _jaccard(self.response_words, other.response_words)
        ) / 2


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    shared = len(one & other)
    both = len(one) + len(other) - shared
    return 1 - shared / both if both else 0.0


def _candidate(
    graded: GradedRun, call: records.Call, chunk: str, instruction: str, seed: int
) -> _Candidate:
    assert call.response is not None
    row = FewShotRow(
        chunk=chunk,
        instruction=instruction,
        response=call.response,
        chunk_chars=len(chunk),
        response_chars=len(call.response),
        call=call.id,
        model=call.model.model,
        **origin(graded),
    )
    return _Candidate(
        row,
        graded,
        blake2b(f"{seed}:{chunk}".encode("utf-8", "replace"), digest_size=16).digest(),
        frozenset(plain(chunk[:WORDS_CHARS]).split()),
        frozenset(plain(call.response[:WORDS_CHARS]).split()),
    )


class _Pool:
    """The chunks of one length, the same number of each text as far as it has so many, and of each
    the best answer.

    Those that come first by how many of their text have lower ranks, and then by rank. Both can
    only rise for a chunk when others come, so what had to go once would have to go again.
    """

    def __init__(self) -> None:
        self._of_texts: dict[str, list[bytes]] = {}
        """Heaps of ranks, by the hash of the text in which a chunk came first."""
        self._best: dict[bytes, _Candidate] = {}

    def take(self, candidate: _Candidate) -> str | None:
        """Why one had to go for it, itself or another; None: none had to."""
        rank = candidate.rank
        if (known := self._best.get(rank)) is not None:
            if candidate.is_better(known):
                self._best[rank] = candidate
            return ALIKE if candidate.row.response == known.row.response else OTHER
        self._best[rank] = candidate
        heapq.heappush(self._of_texts.setdefault(candidate.row.document, []), _turned(rank))
        if len(self._best) <= POOL:
            return None
        self._drop()
        return ENOUGH

    def _drop(self) -> None:
        """Let one go, of the text that has most; of several such texts the highest rank."""
        heaps = self._of_texts
        most = max(heaps, key=lambda text: (len(heaps[text]), _turned(heaps[text][0])))
        del self._best[_turned(heapq.heappop(heaps[most]))]
        if not heaps[most]:
            del heaps[most]

    def candidates(self) -> list[_Candidate]:
        """By rank."""
        return [self._best[rank] for rank in sorted(self._best)]


def _turned(rank: bytes) -> bytes:
    """The highest rank as the lowest, which goes first from a heap; and back."""
    return bytes(255 - byte for byte in rank)


def _picked(pools: Sequence[list[_Candidate]], wanted: int) -> list[_Candidate]:
    """Candidates far from each other, one of each length in turn."""
    left = [[(each, 1.0) for each in pool] for pool in pools]
    picked: list[_Candidate] = []
    drawn_on: Counter[str] = Counter()
    while len(picked) < wanted and any(left):
        for pool in left:
            if not pool or len(picked) == wanted:
                continue
            best = max(
                range(len(pool)),
                key=lambda place: (-drawn_on[pool[place][0].row.document], pool[place][1], -place),
            )
            newest, _ = pool.pop(best)
            picked.append(newest)
            drawn_on[newest.row.document] += 1
            for others in left:
                others[:] = [
                    (each, min(nearest, each.distance(newest))) for each, nearest in others
                ]
    return picked
