"""Episodes for reinforcement learning: what a worker sampled, and what that was worth."""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from distill.exports.compression import Lengths, reward
from distill.exports.exact_tokens import OneTokenizer, why_not
from distill.exports.graded import GradedRun
from distill.exports.levels import OF_CALLS
from distill.exports.material import Material
from distill.exports.row import Dropped, Format, Made, OriginRow, origin
from distill.exports.selection import UNSCORED
from distill.traces import records
from distill.traces.rows import sampling_of

NO_LOGPROBS = "no log-probabilities (record=ids+logprobs keeps them)"


class EpisodeRow(OriginRow, frozen=True, kw_only=True):
    """One worker call of a scored run, with what a policy gradient needs.

    Attributes:
    prompt_ids: what the model read
    completion_ids: what it sampled; never retokenised
    logprobs: nats, one for each of `completion_ids`, of the weights that sampled them
    logprobs_mode: `raw_logprobs`: of the model's own distribution; `processed_logprobs`: after
        temperature and the sampling filters
    reward: 0 to 1: the run's score, less for length where it was right
    advantage: `reward` less the mean reward of the group, in which each run counts once
    weight: 1 by the number of rows of this run: all runs weigh the same, however many calls
    group: equal for runs that put the same question to the same text
    call: id of the worker call
    finish_reason: `stop` or `length`: whether the completion came to its end
    sampling: how it was sampled, as JSON: temperature, top_p, … where not the default
    model: the model that answered
    adapter: the LoRA adapter that answered; null: the model itself
    weights_version: of the adapter
    weights_hash: SHA-256 of the model's weights
    adapter_hash: SHA-256 of the adapter's files
    tokenizer_hash: SHA-256 of the tokenizer; one in a data set
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    logprobs_mode: str
    reward: float
    advantage: float
    weight: float
    group: str
    call: str
    finish_reason: str | None
    sampling: str
    model: str
    adapter: str | None
    weights_version: int
    weights_hash: str
    adapter_hash: str
    tokenizer_hash: str


@dataclass(slots=True)
class _Group:
    """The runs that answered one question: the tokens of each one's completions."""

    runs: "dict[str, tuple[float, array[int]]]" = field(default_factory=dict)
    lengths: Lengths = field(default_factory=Lengths)
    mean_reward: float = 0.0

    def settle(self, length_weight: float) -> None:
        """Work out what needs all of its runs."""
        for score, tokens in self.runs.values():
            for each in tokens:
                self.lengths.add(each, score / len(tokens))
        means = [
            sum(reward(score, each, self.lengths, length_weight) for each in tokens) / len(tokens)
            for score, tokens in self.runs.values()
        ]
        self.mean_reward = sum(means) / len(means)


class Episodes(Format):
    """Sub-runs are episodes of their own, with the score of the run at the top."""

    name = "episodes"
    about = "worker calls with token ids, log-probabilities and the reward of the final answer"
    read_by = "TRL's GRPOTrainer (by `rollout_func`), and trainers of your own"
    row = EpisodeRow
    asks = OF_CALLS
    is_graded = True
    is_rewarded = True

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """One of each call of a scored run whose ids and log-probabilities are there."""
        groups: dict[str, _Group] = {}
        for graded, call in material.calls():
            if graded.score is not None and _why_not(graded, call) is None:
                runs = groups.setdefault(graded.group, _Group()).runs
                _, tokens = runs.setdefault(graded.run.id, (graded.score, array("I")))
                tokens.append(len(call.token_ids or ()))
        for group in groups.values():
            group.settle(material.length_weight)
        tokenizer = OneTokenizer()
        for graded, call in material.calls():
            if (why := _why_not(graded, call)) is not None:
                yield Dropped(why)
                continue
            tokenizer.check(call.model)
            row = _row(graded, call, groups[graded.group], material.length_weight)
            # Equal samples are no duplicates: how often a policy says a thing is what it learns by.
            yield Made(row, graded, (call.id,))


def _why_not(graded: GradedRun, call: records.Call) -> str | None:
    why = why_not(graded, call)
    if why is None and (call.logprobs is None or len(call.logprobs) != len(call.token_ids or ())):
        why = NO_LOGPROBS
    if graded.score is None:  # both at once: who mends one alone tries twice
        return UNSCORED if why is None else f"{UNSCORED}, and {why}"
    return why


def _row(graded: GradedRun, call: records.Call, group: _Group, length_weight: float) -> EpisodeRow:
    score, tokens = group.runs[graded.run.id]
    earned = reward(score, len(call.token_ids or ()), group.lengths, length_weight)
    return EpisodeRow(
        **origin(graded),
        prompt_ids=list(call.prompt_token_ids or ()),
        completion_ids=list(call.token_ids or ()),
        logprobs=list(call.logprobs or ()),
        logprobs_mode=call.model.logprobs_mode,
        reward=earned,
        advantage=earned - group.mean_reward,
        weight=1 / len(tokens),
        group=graded.group,
        call=call.id,
        finish_reason=call.finish_reason,
        sampling=json.dumps(sampling_of(call), ensure_ascii=False, sort_keys=True),
        model=call.model.model,
        adapter=call.model.adapter,
        weights_version=call.model.weights_version,
        weights_hash=call.model.weights_hash,
        adapter_hash=call.model.adapter_hash,
        tokenizer_hash=call.model.tokenizer_hash,
    )
