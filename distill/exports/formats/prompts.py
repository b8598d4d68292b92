"""Prompts to sample again, on policy: of the model as it is then, for a teacher to judge."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from distill.exports.asked import messages_of, text_of
from distill.exports.graded import GradedRun
from distill.exports.levels import OF_CALLS
from distill.exports.material import Material
from distill.exports.pairs import Answer, Prompt, is_whole, key_of
from distill.exports.row import ChatMessage, Dropped, Format, Made, OriginRow, origin
from distill.traces import records
from distill.traces.rows import sampling_of

AGAIN = "the same prompt"
TOO_LONG = "the prompt did not fit the worker's window"


class TaughtRow(OriginRow, frozen=True, kw_only=True):
    """What a teacher, or a reward, needs beside the prompt.

    Attributes:
    question: what the run was asked, for which this is a part of the text
    label: the expected answer to the question, as JSON; null where nobody knows it
    reference: the best answer so far, by the score of its run; null: none
    reference_score: the score of that run; null: not scored
    call: id of the call with the reference, or of a call with this prompt
    model: the model that answered
    sampling: how it was sampled, as JSON: temperature, max_tokens, stop, … where not the default
    """

    question: str
    label: str | None
    reference: str | None
    reference_score: float | None
    call: str
    model: str
    sampling: str


class PromptRow(TaughtRow, frozen=True, kw_only=True):
    """A prompt that a worker was asked.

    Attributes:
    prompt: what it was asked
    """

    prompt: list[ChatMessage]


class PromptTextRow(TaughtRow, frozen=True, kw_only=True):
    """The same, as text.

    Attributes:
    prompt: the text as the model saw it, chat template included
    """

    prompt: str


@dataclass(slots=True)
class _Best:
    """Of the calls with one prompt the best answered one: its place among all calls."""

    rank: tuple[bool, float, int]
    place: int


class Prompts(Format):
    """Each prompt once."""

    name = "prompts"
    about = "prompts of workers to sample again, with the question and the best answer so far"
    read_by = "TRL's GRPOTrainer, RLOOTrainer and DistillationTrainer (conversational prompt)"
    row = PromptRow
    asks = OF_CALLS
    may_lose_shots = True
    is_graded = True

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """One of each prompt with messages."""

        def made(answer: Answer, taught: dict[str, Any]) -> Made:
            assert not isinstance(answer.prompt, str)
            row = PromptRow(prompt=answer.prompt, **taught)
            return Made(row, answer.graded, tuple(each.content for each in answer.prompt))

        def prompt_of(call: records.Call) -> Prompt | Dropped:
            return messages_of(call, self.name, shots=material.shots)

        return _rows(material, prompt_of, made)


class PromptsText(Format):
    """The same, for base models and prompts without a template."""

    name = "prompts-text"
    about = "the same, as the text that the model saw"
    read_by = "TRL's GRPOTrainer, RLOOTrainer and DistillationTrainer (standard prompt)"
    row = PromptTextRow
    asks = OF_CALLS
    may_lose_shots = True
    is_graded = True

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """One of each prompt whose text is known."""

        def made(answer: Answer, taught: dict[str, Any]) -> Made:
            assert isinstance(answer.prompt, str)
            return Made(
                PromptTextRow(prompt=answer.prompt, **taught), answer.graded, (answer.prompt,)
            )

        def prompt_of(call: records.Call) -> Prompt | Dropped:
            return text_of(call, Prompts.name, shots=material.shots)

        return _rows(material, prompt_of, made)


Asked = Iterator[tuple[records.Call, Answer | Dropped]]


def _rows(
    material: Material,
    prompt_of: Callable[[records.Call], Prompt | Dropped],
    made: Callable[[Answer, dict[str, Any]], Made],
) -> Iterator[Made | Dropped]:
    """Each prompt at the place of its best answer; in memory are digests."""

    def asked() -> Asked:
        for graded, call in material.calls():
            prompt = prompt_of(call)
            if isinstance(prompt, Dropped):
                yield call, prompt
            elif call.error is not None and call.error.kind == "too_long":
                yield call, Dropped(TOO_LONG)
            else:
                yield call, Answer(graded, prompt, call.response or "", is_whole(call))

    best = _best(asked())
    for place, (call, answer) in enumerate(asked()):
        if isinstance(answer, Dropped):
            yield answer
        elif best[key_of(answer)].place != place:
            yield Dropped(AGAIN)
        else:
            yield made(answer, _taught(answer, call))


def _best(asked: Asked) -> dict[bytes, _Best]:
    found: dict[bytes, _Best] = {}
    for place, (_, answer) in enumerate(asked):
        if isinstance(answer, Dropped):
            continue
        now = _Best(_rank(answer), place)
        known = found.setdefault(key_of(answer), now)
        if now.rank > known.rank:
            known.rank, known.place = now.rank, place
    return found


def _rank(answer: Answer) -> tuple[bool, float, int]:
    """More is better; of equal scores the shorter answer is."""
    score = answer.graded.score
    return answer.is_whole, -1.0 if score is None else score, -len(answer.text)


def _taught(answer: Answer, call: records.Call) -> dict[str, Any]:
    graded = answer.graded
    return {
        **origin(graded),
        "question": graded.start.query,
        "label": _label(graded),
        "reference": answer.text if answer.is_whole else None,
        "reference_score": graded.score if answer.is_whole else None,
        "call": call.id,
        "model": call.model.model,
        "sampling": json.dumps(sampling_of(call), ensure_ascii=False, sort_keys=True),
    }


def _label(graded: GradedRun) -> str | None:
    label = graded.root.label
    return None if label is None else json.dumps(label, ensure_ascii=False)
