"""Lets the model in training answer logged prompts, and counts what its answers earn.

Nobody scores an answer here: it earns what the same answer to the same prompt has earned in the
log, and nothing where the log has no such answer.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distill.training.collapse import CollapseError, Sample

if TYPE_CHECKING:
    from torch import Tensor

    from distill.training.weights import Weights

PROMPTS = 16
ANSWERS = 32
"""In all, at least."""
TOKENS_LIMIT = 256
EXAMPLES = 4
EXAMPLE_CHARS = 200
TOKENS_AT_ONCE = 16_384
"""Of prompts and answers that are computed at once."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How answers to a prompt are drawn."""

    temperature: float
    stop: tuple[str, ...]
    max_tokens: int | None

    @staticmethod
    def of(sampling: str) -> "Drawing":
        """Of the column ``sampling``. What was greedy is drawn at temperature 1, to vary."""
        told = json.loads(sampling)
        stop = told.get("stop") or ()
        return Drawing(
            float(told.get("temperature") or 1.0),
            (stop,) if isinstance(stop, str) else tuple(stop),
            told.get("max_tokens"),
        )


@dataclass(slots=True)
class Prompt:
    """A logged prompt, with what each logged answer to it has earned at best."""

    ids: Sequence[int]
    drawing: Drawing
    earned: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    """Of its longest logged answer."""


def prompts(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> list[Prompt]:
    """Those of some episodes, each once; first those to which an answer has earned something."""
    found: dict[tuple[int, ...], Prompt] = {}
    for row in rows:
        ids = tuple(row["prompt_ids"])
        prompt = found.setdefault(ids, Prompt(ids, Drawing.of(row["sampling"])))
        text = _text(tokenizer, row["completion_ids"], prompt.drawing.stop)
        prompt.earned[text] = max(row["reward"], prompt.earned.get(text, 0.0))
        prompt.tokens = max(prompt.tokens, len(row["completion_ids"]))
    return sorted(found.values(), key=lambda each: not any(each.earned.values()))[:PROMPTS]


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    tokens: int
    is_cut: bool
    earned: float


class Answering:
    """A sampler of the model in training: the same prompts and the same noise each time."""

    def __init__(self, weights: "Weights", asked: Sequence[Prompt], seed: int) -> None:
        self._weights, self._seed = weights, seed
        self._asked: dict[Drawing, list[Prompt]] = defaultdict(list)
        for prompt in asked:
            self._asked[prompt.drawing].append(prompt)
        self._times = -(-ANSWERS // len(asked))
        longest = max(prompt.tokens for prompt in asked)
        self._tokens = min(TOKENS_LIMIT, 2 * longest + 8)

    def sample(self, step: int) -> Sample:
        """Let it answer; what is random elsewhere is left as it was. Raises CollapseError."""
        import torch

        model = self._weights.model
        was_training = model.training
        model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(self._seed)
            given = [each for drawing in self._asked for each in self._answers(drawing)]
        model.train(was_training)
        count = len(given)
        return Sample(
            step,
            count,
            tokens=sum(each.tokens for each in given) / count,
            empty=sum(not each.text for each in given) / count,
            cut=sum(each.is_cut for each in given) / count,
            earned=sum(each.earned for each in given) / count,
            examples=[each.text[:EXAMPLE_CHARS] for each in given[:: self._times][:EXAMPLES]],
        )

    def _answers(self, drawing: Drawing) -> Iterator[_Answer]:
        asked = self._asked[drawing]
        limit = min(self._tokens, drawing.max_tokens or self._tokens)
        longest = max(len(prompt.ids) for prompt in asked)
        at_once = max(1, TOKENS_AT_ONCE // ((longest + limit) * self._times))
        for start in range(0, len(asked), at_once):
            yield from self._some(asked[start : start + at_once], drawing, limit)

    def _some(self, asked: Sequence[Prompt], drawing: Drawing, limit: int) -> Iterator[_Answer]:
        import torch

        tokenizer, model = self._weights.tokenizer, self._weights.model
        before = max(len(prompt.ids) for prompt in asked)
        pads = [before - len(prompt.ids) for prompt in asked]
        ends = _ends(model, tokenizer)
        ids = [[ends[0]] * pad + list(prompt.ids) for pad, prompt in zip(pads, asked, strict=True)]
        seen = [[0] * pad + [1] * (before - pad) for pad in pads]
        stops = {"stop_strings": list(drawing.stop), "tokenizer": tokenizer} if drawing.stop else {}
        made = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(seen, device=model.device),
            do_sample=True,
            temperature=drawing.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=self._times,
            max_new_tokens=limit,
            eos_token_id=ends,
            pad_token_id=ends[0],
            logits_processor=[_checked],
            **stops,
        )
        for place, row in enumerate(made[:, before:].tolist()):
            yield _answer(tokenizer, row, ends, asked[place // self._times])


def _checked(_ids: "Tensor", scores: "Tensor") -> "Tensor":
    """The logits, of which something can be drawn. Raises CollapseError.

    The loss of this step, which would say so, too, is told after the model was looked at.
    """
    if scores.isnan().any() or scores.isposinf().any():
        raise CollapseError("what the model says next is no number: try a lower --learning-rate")
    return scores


def _answer(tokenizer: Any, row: Sequence[int], ends: Sequence[int], prompt: Prompt) -> _Answer:
    """What ended by a token of the model's counts with it; what follows is padding."""
    end = next((place + 1 for place, token in enumerate(row) if token in ends), None)
    ids = row[:end]
    text = _text(tokenizer, ids, prompt.drawing.stop)
    has_stopped = any(stop in tokenizer.decode(ids) for stop in prompt.drawing.stop)
    is_cut = end is None and not has_stopped
    return _Answer(text, len(ids), is_cut, prompt.earned.get(text, 0.0))


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, the tokenizer's first."""
    told = model.generation_config.eos_token_id
    more = [told] if isinstance(told, int) else list(told or ())
    found = dict.fromkeys([tokenizer.eos_token_id, *more])
    return [token for token in found if token is not None] or [0]


def _text(tokenizer: Any, ids: Sequence[int], stop: Sequence[str]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    for each in stop:
        text = text.partition(each)[0]
    return text.strip()
