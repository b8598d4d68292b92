"""A task that a tiny model can learn, and what it has sampled of it, as an export has it.

To each prompt one token is the right answer. The model of ``toy_model`` says it half of the time,
often after some words that say nothing, and now and then it says nothing at all.
"""

import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from distill.exports import manifest
from distill.exports.compression import Lengths, reward
from distill.exports.formats.episodes import EpisodeRow
from distill.exports.formats.token_sft import TokenSftRow
from distill.exports.row import Row
from distill.exports.writing import DataFiles, sha256
from distill.protocol.worker_link import ModelCard
from distill.training.completions import Completion, Padding
from distill.training.settings import TrainSettings

PROMPTS = 12
TOKENS_LIMIT = 8
Earns = Callable[[float, int, Lengths], float]
"""Of the score of an answer, its tokens, and the lengths of its group: the reward."""


def gated(score: float, tokens: int, lengths: Lengths) -> float:
    """As exported."""
    return reward(score, tokens, lengths)


def subtracted(score: float, tokens: int, _lengths: Lengths) -> float:
    """What collapsed: each token costs, whether the answer is right or not."""
    return score - tokens


@dataclass(frozen=True)
class Toy:
    """Token ids of the prompts, of the right answer to each, and of what says nothing."""

    prompts: list[list[int]]
    right: list[int]
    idle: list[int]
    end: int

    @staticmethod
    def of(tokenizer: Any) -> "Toy":
        """Of the letters that a tokenizer has."""
        letters = [tokenizer.convert_tokens_to_ids(each) for each in "abcdefghijklmnopqrst"]
        prompts = [[letters[place % 5], letters[5 + place // 5], letters[9]] for place in range(12)]
        right = [letters[10 + place % 6] for place in range(PROMPTS)]
        return Toy(prompts, right, letters[16:], tokenizer.eos_token_id)

    def score(self, prompt: int, ids: Sequence[int]) -> float:
        """Whether the last word is the right one, and nothing follows."""
        return float(list(ids[-2:]) == [self.right[prompt], self.end])

    def answer(self, prompt: int, drawn: random.Random) -> list[int]:
        """As a model that has not yet learnt the task might say."""
        if drawn.random() < 0.1:
            return [self.end]
        is_right = drawn.random() < 0.5
        said = self.right[prompt] if is_right else drawn.choice(self.right)
        idle = [drawn.choice(self.idle) for _ in range(drawn.choice((0, 2, 3)))]
        return [*idle, said, self.end]


def toy_model(folder: Path, tiny: Path, tokenizer: Any) -> Path:
    """The tiny model, once it answers like ``Toy.answer``."""
    import torch
    from transformers import AutoModelForCausalLM

    from distill.training.completion_trainer import completion_ids, completion_logits
    from distill.training.loss import sampled_logprobs

    toy, drawn, pad = Toy.of(tokenizer), random.Random(0), Padding(tokenizer.pad_token_id)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(160):
        places = [drawn.randrange(PROMPTS) for _ in range(64)]
        batch = pad(
            [
                Completion(array("i", toy.prompts[each]), array("i", toy.answer(each, drawn)))
                for each in places
            ]
        )
        logprobs = sampled_logprobs(completion_logits(model, batch), completion_ids(batch))
        loss = -logprobs[batch["mask"]].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Drawn:
    """An answer that was sampled."""

    prompt: int
    ids: list[int]
    logprobs: list[float]


def sampled(weights: Any, toy: Toy, times: int, seed: int = 0) -> list[Drawn]:
    """Answers of a model (``distill.training.weights.Weights``), with true log-probabilities."""
    import torch

    weights.model.eval()
    prompt = torch.tensor(toy.prompts).repeat_interleave(times, 0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        made = weights.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0,
            temperature=1.0, max_new_tokens=TOKENS_LIMIT, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    ids = made.sequences[:, prompt.shape[1] :]
    logprobs = torch.stack(made.logits, 1).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    found = []
    for place, (row, each) in enumerate(zip(ids.tolist(), logprobs.tolist(), strict=True)):
        tokens = row.index(toy.end) + 1 if toy.end in row else len(row)
        found.append(Drawn(place // times, row[:tokens], each[:tokens]))
    return found


def episodes(
    drawn: Sequence[Drawn], toy: Toy, card: ModelCard, earns: Earns = gated
) -> list[EpisodeRow]:
    """Rows of answers, each of a run of its own; a group is a prompt."""
    groups: dict[int, list[Drawn]] = {}
    for each in drawn:
        groups.setdefault(each.prompt, []).append(each)
    rows = []
    for prompt, group in groups.items():
        scores = [toy.score(prompt, each.ids) for each in group]
        lengths = Lengths()
        for each, score in zip(group, scores, strict=True):
            lengths.add(len(each.ids), score)
        earned = [
            earns(score, len(each.ids), lengths) for each, score in zip(group, scores, strict=True)
        ]
        mean = sum(earned) / len(earned)
        for place, (each, score, value) in enumerate(zip(group, scores, earned, strict=True)):
            name = f"{prompt}-{place}"
            rows.append(
                EpisodeRow(
                    run=name, task=f"t{prompt}", document=f"{prompt:064}", score=score,
                    prompt_ids=toy.prompts[prompt], completion_ids=each.ids,
                    logprobs=each.logprobs, logprobs_mode="raw_logprobs", reward=value,
                    advantage=value - mean, weight=1.0, group=f"g{prompt}", call=f"{name}-1.1.0",
                    finish_reason="stop" if each.ids[-1] == toy.end else "length",
                    sampling='{"max_tokens": 8, "temperature": 1}', **of(card),
                )
            )  # fmt: skip
    return rows


def exact_rows(drawn: Sequence[Drawn], toy: Toy, card: ModelCard) -> list[TokenSftRow]:
    """Rows of answers, without what they earned."""
    return [
        TokenSftRow(
            run=f"r{place}", task=None, document="0" * 64, score=None,
            input_ids=toy.prompts[each.prompt] + each.ids,
            labels=[-100] * 3 + each.ids, completion_mask=[0] * 3 + [1] * len(each.ids),
            finish_reason="stop", call=f"r{place}-1.1.0", **of(card),
        )
        for place, each in enumerate(drawn)
    ]  # fmt: skip


def of(card: ModelCard) -> dict[str, Any]:
    """The columns that say which weights answered."""
    return {
        "model": card.model, "adapter": card.adapter, "weights_version": card.weights_version,
        "weights_hash": card.weights_hash, "adapter_hash": card.adapter_hash,
        "tokenizer_hash": card.tokenizer_hash,
    }  # fmt: skip


def data_set(folder: Path, name: str, rows: Sequence[Row]) -> Path:
    """A folder as `distill export` writes it, as far as a training reads it."""
    folder.mkdir(parents=True)
    files = DataFiles(folder, "jsonl", type(rows[0]))
    for row in rows:
        files.write("train", row)
    files.close()
    told = {
        "manifest_version": manifest.MANIFEST_VERSION,
        "options": {"format": name},
        "files": [
            {"split": "train", "file": "train.jsonl", "sha256": sha256(folder / "train.jsonl")}
        ],
        "warnings": [],
    }
    (folder / manifest.FILE).write_bytes(msgspec.json.encode(told))
    return folder


def settings(out: Path, model: Path, **more: Any) -> TrainSettings:
    """A short training on the CPU, of all weights where no rank is given."""
    given = {"lora_rank": None, "learning_rate": 0.003, "epochs": 4.0, "batch_rows": 16}
    return TrainSettings(out=out, model=str(model), device="cpu", **(given | more))
