"""Of several answers to one prompt: which is the better one, by the scores of their runs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from distill.exports.graded import GradedRun
from distill.exports.row import ChatMessage, Dropped
from distill.exports.selection import UNSCORED
from distill.traces import records

Prompt = str | list[ChatMessage]
DIGEST_BYTES = 16

ALONE = "no other answer to its prompt"
ALIKE = "the answers to its prompt score alike"
BETWEEN = "neither the best nor the worst answer to its prompt"
AGAIN = "the same answer to the same prompt"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a prompt. ``is_whole``: it may be preferred; it was not cut off, and
    says something.
    """

    graded: GradedRun
    prompt: Prompt
    text: str
    is_whole: bool


def key_of(answer: Answer) -> bytes:
    """Equal for answers that are held against each other.

    The prompt is the same, and so is the question that their runs put, to the same text: a score
    tells nothing about an answer to another question.
    """
    if isinstance(answer.prompt, str):
        said = [answer.prompt]
    else:
        said = [part for each in answer.prompt for part in (each.role, each.content)]
    return _digest(answer.graded.group, answer.graded.document, *said)


def is_whole(call: records.Call) -> bool:
    """Whether a worker's answer was not cut off, and says something."""
    return call.finish_reason != "length" and bool((call.response or "").strip())


@dataclass(frozen=True, slots=True)
class Pair:
    """The best and the worst answer to a prompt, with the means of their runs' scores."""

    chosen: Answer
    rejected: Answer
    chosen_score: float
    rejected_score: float


@dataclass(slots=True)
class _Tally:
    """Of equal answers: the runs that got them, the sum of these runs' scores, their length."""

    chars: int
    runs: tuple[str, ...] = ()
    total: float = 0.0
    is_whole: bool = False

    def add(self, answer: Answer, score: float) -> None:
        """Count an answer; a run counts once, however often it got it."""
        self.is_whole = self.is_whole or answer.is_whole
        if answer.graded.run.id not in self.runs:
            self.runs += (answer.graded.run.id,)
            self.total += score

    @property
    def mean(self) -> float:
        """The score of these runs."""
        return self.total / len(self.runs)


@dataclass(slots=True)
class _Wanted:
    """Two answers of a prompt, by their digests, and the one that was found so far."""

    best: bytes
    worst: bytes
    best_score: float
    worst_score: float
    found: Answer | None = None
    is_done: bool = False


Answers = Callable[[], Iterable[Answer | Dropped]]


def pairs(answers: Answers) -> Iterator[Pair | Dropped]:
    """A pair for each prompt with answers that score differently; ``answers`` is called twice.

    An answer that several runs got has the mean of their scores; of equal means the shorter
    answer is the better one. In memory are digests, and those answers whose counterpart is still
    to come.
    """
    tallies: dict[bytes, dict[bytes, _Tally]] = {}
    for each in answers():
        if isinstance(each, Answer) and each.graded.score is not None:
            said = tallies.setdefault(key_of(each), {})
            tally = said.setdefault(_digest(each.text), _Tally(len(each.text)))
            tally.add(each, each.graded.score)
    verdicts = {key: _verdict(said) for key, said in tallies.items()}
    tallies.clear()
    for each in answers():
        if isinstance(each, Dropped):
            yield each
        elif each.graded.score is None:
            yield Dropped(UNSCORED)
        elif isinstance(verdict := verdicts[key_of(each)], str):
            yield Dropped(verdict)
        elif (found := _taken(verdict, each)) is not None:
            yield found


def _verdict(said: dict[bytes, _Tally]) -> "_Wanted | str":
    """Which two of the answers to a prompt; or why none."""
    if len(said) < 2:
        return ALONE
    ranked = sorted(said, key=lambda each: (-said[each].mean, said[each].chars, each))
    best = next((each for each in ranked if said[each].is_whole), None)
    worst = ranked[-1]
    if best is None or said[best].mean <= said[worst].mean:
        return ALIKE
    return _Wanted(best, worst, said[best].mean, said[worst].mean)


def _taken(wanted: _Wanted, answer: Answer) -> Pair | Dropped | None:
    """The pair that this answer completes; None: it is the first half of one."""
    digest = _digest(answer.text)
    if digest not in (wanted.best, wanted.worst):
        return Dropped(BETWEEN)
    first = wanted.found
    if wanted.is_done or (first is not None and _digest(first.text) == digest):
        return Dropped(AGAIN)
    if digest == wanted.best and not answer.is_whole:
        return Dropped(AGAIN)  # an equal one that is whole comes, or came
    if first is None:
        wanted.found = answer
        return None
    wanted.found, wanted.is_done = None, True
    chosen, rejected = (answer, first) if digest == wanted.best else (first, answer)
    return Pair(chosen, rejected, wanted.best_score, wanted.worst_score)


def _digest(*parts: str) -> bytes:
    """A hash of all parts, and of where each ends."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
