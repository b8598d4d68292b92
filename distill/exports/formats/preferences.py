"""Preferences: of two answers to one prompt, the one whose runs scored better."""

from collections.abc import Callable, Iterator

from distill.exports.asked import messages_of, text_of
from distill.exports.conversations import REPLAY, incomplete
from distill.exports.graded import GradedRun
from distill.exports.levels import OF_CALLS, OF_TURNS
from distill.exports.material import Material
from distill.exports.pairs import Answer, Pair, Prompt, is_whole, pairs
from distill.exports.row import ChatMessage, Dropped, Format, Made, OriginRow, origin
from distill.traces import records


class PreferenceRow(OriginRow, frozen=True, kw_only=True):
    """Two answers to the same prompt, in runs that put the same question to the same text.

    Attributes:
    prompt: what was asked
    chosen: the answer whose runs scored better: one message, of the assistant
    rejected: the one whose runs scored worse
    chosen_score: the mean score of the runs with that answer
    rejected_score: the same, of the other one
    rejected_run: a run with the rejected answer; `run` has the chosen one
    """

    prompt: list[ChatMessage]
    chosen: list[ChatMessage]
    rejected: list[ChatMessage]
    chosen_score: float
    rejected_score: float
    rejected_run: str


class PreferenceTextRow(OriginRow, frozen=True, kw_only=True):
    """As in `worker-preferences`, as text.

    Attributes:
    prompt: the text as the model saw it, chat template included
    chosen: the answer whose runs scored better, without the token that ends it
    rejected: the one whose runs scored worse
    chosen_score: the mean score of the runs with that answer
    rejected_score: the same, of the other one
    rejected_run: a run with the rejected answer; `run` has the chosen one
    """

    prompt: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
    rejected_run: str


class WorkerPreferences(Format):
    """Worker answers to the same messages, in several runs."""

    name = "worker-preferences"
    about = "two worker answers to the same prompt, the better one chosen, for preference tuning"
    read_by = "TRL's DPOTrainer (conversational preference)"
    row = PreferenceRow
    asks = OF_CALLS
    may_lose_shots = True
    is_graded = True

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """One of each prompt whose answers score differently."""

        def prompt_of(call: records.Call) -> Prompt | Dropped:
            return messages_of(call, self.name, shots=material.shots)

        return _made(pairs(lambda: _answers(material, prompt_of)))


class WorkerPreferencesText(Format):
    """The same, for base models and prompts without a template."""

    name = "worker-preferences-text"
    about = "the same, as the text that the model saw"
    read_by = "TRL's DPOTrainer (standard preference)"
    row = PreferenceTextRow
    asks = OF_CALLS
    may_lose_shots = True
    is_graded = True

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """One of each prompt whose answers score differently."""

        def prompt_of(call: records.Call) -> Prompt | Dropped:
            return text_of(call, WorkerPreferences.name, shots=material.shots)

        return _made(pairs(lambda: _answers(material, prompt_of)))


class SupervisorPreferences(Format):
    """The supervisor's replies to the same conversation: to the same question, its first ones."""

    name = "supervisor-preferences"
    about = "two supervisor replies to the same conversation, the better one chosen"
    read_by = "TRL's DPOTrainer (conversational preference)"
    row = PreferenceRow
    asks = OF_TURNS
    is_graded = True

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """One of each conversation whose replies score differently."""
        found = [_turns(material, graded) for graded in material.runs]

        def replies() -> Iterator[Answer | Dropped]:
            for graded, turns in zip(material.runs, found, strict=True):
                if isinstance(turns, Dropped):
                    yield turns
                else:
                    yield from (_reply(graded, turn) for turn in turns)

        return _made(pairs(replies))


def _turns(material: Material, graded: GradedRun) -> list[records.Turn] | Dropped:
    if graded.is_replay:
        return Dropped(REPLAY)
    if (why := incomplete(graded.run)) is not None:
        return Dropped(why)
    return [turn for turn in graded.run.turns if material.passes(graded, turn)]


def _reply(graded: GradedRun, turn: records.Turn) -> Answer:
    reply = graded.run.messages[turn.reply_index].content
    asked = graded.run.conversation(turn.turn)
    prompt = [ChatMessage(each["role"], each["content"]) for each in asked]
    is_said = turn.finish_reason != "length" and not turn.refused and bool(reply.strip())
    return Answer(graded, prompt, reply, is_said)


def _answers(
    material: Material, prompt_of: Callable[[records.Call], Prompt | Dropped]
) -> Iterator[Answer | Dropped]:
    for graded, call in material.calls():
        if call.response is None:
            yield Dropped("the call failed")
        elif call.source in ("reused", "replayed"):
            yield Dropped(f"{call.source}: the answer stands in an earlier line")
        elif isinstance(prompt := prompt_of(call), Dropped):
            yield prompt
        else:
            yield Answer(graded, prompt, call.response, is_whole(call))


def _made(found: Iterator[Pair | Dropped]) -> Iterator[Made | Dropped]:
    for pair in found:
        if isinstance(pair, Dropped):
            yield pair
            continue
        chosen, rejected = pair.chosen, pair.rejected
        common = {
            **origin(chosen.graded),
            "chosen_score": pair.chosen_score,
            "rejected_score": pair.rejected_score,
            "rejected_run": rejected.graded.run.id,
        }
        row: PreferenceRow | PreferenceTextRow
        if isinstance(chosen.prompt, str):
            asked = chosen.prompt
            row = PreferenceTextRow(
                prompt=asked, chosen=chosen.text, rejected=rejected.text, **common
            )
        else:
            asked = "\n".join(each.content for each in chosen.prompt)
            row = PreferenceRow(
                prompt=chosen.prompt,
                chosen=[ChatMessage("assistant", chosen.text)],
                rejected=[ChatMessage("assistant", rejected.text)],
                **common,
            )
        yield Made(row, chosen.graded, (asked, chosen.text, rejected.text))
