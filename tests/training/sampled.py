"""Runs whose workers gave token ids: a worker with a tokenizer, and scripted answers."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill import LMResponse, ModelHandler, Usage, evaluate
from distill.protocol.worker_link import ModelCard
from tests.distill.scripted import SMALL, cell

Messages = Sequence[Mapping[str, str]]
LABELS = {"giant": "Goliath", "boat": "Noah", "lions": "Daniel"}
TEXTS = {
    name: f"It is told of {name}: " + f"the {name} and more of the {name}, and so it went on. " * 9
    for name in LABELS
}
BARE = "worker(context[:60] + 'Answer:', chat=False, temperature=1.0)"
ONE = f"""\
{BARE}
FINAL(worker_batch([context[:90] + 'Who?'], temperature=1.0, max_tokens=16)[0])"""
THREE = f"""\
{BARE}
said = worker_batch([context[i:i + 90] + 'Who?' for i in (0, 30, 60)], temperature=1.0, n=2)
worker('why?', temperature=1.0)
FINAL(said[0][0])"""


def card(tokenizer_hash: str) -> ModelCard:
    return ModelCard(
        model="smollm2", weights_hash="a" * 64, tokenizer_hash=tokenizer_hash,
        template_hash="c" * 64, dtype="float32", device="cpu", engine="vllm",
        engine_version="0", window_tokens=2048,
        logprobs_mode="raw_logprobs", adapter="mine", weights_version=3, adapter_hash="d" * 64,
    )  # fmt: skip


class Letters:
    """As much of a tokenizer as the worker below calls: an id for each character."""

    eos_token_id = 2

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> list[int]:
        text = "".join(f"<{each['role']}>{each['content']}" for each in messages)
        return [*self(text)["input_ids"], 1]

    def convert_tokens_to_ids(self, letter: str) -> int:
        return ord(letter)


class Sampler(ModelHandler):
    """A worker with a tokenizer. It names another one at first, then the right one."""

    model = "smollm2"

    def __init__(self, tokenizer: Any, tokenizer_hash: str = "b" * 64) -> None:
        self.tokenizer = tokenizer
        self.seen: Counter[str] = Counter()
        self._card = card(tokenizer_hash)
        self._lock = threading.Lock()

    def card(self) -> ModelCard:
        return self._card

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        asked = messages[-1]["content"]
        ids = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, return_dict=False
        )
        return self._said(asked, list(ids), kw)

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]

    def complete_batch(self, prompts: Sequence[str], **kw: Any) -> list[LMResponse]:
        return [self._said(prompt, self.tokenizer(prompt)["input_ids"], kw) for prompt in prompts]

    def _said(self, asked: str, prompt_ids: list[int], kw: Mapping[str, Any]) -> LMResponse:
        with self._lock:
            self.seen[asked] += 1
            is_first = self.seen[asked] == 1
        right = next((LABELS[name] for name in LABELS if name in asked), "nobody knows")
        text = f"Ahab, the {right} of his time" if is_first else right
        # Another way to spell the text than the tokenizer's own: a token a letter.
        ids = [self.tokenizer.convert_tokens_to_ids(letter) for letter in text.replace(" ", "Ġ")]
        ids.append(self.tokenizer.eos_token_id)
        return LMResponse(
            text, Usage(len(prompt_ids), len(ids)), self.model, 0.01, card=self._card,
            prompt_token_ids=tuple(prompt_ids), token_ids=tuple(ids),
            logprobs=tuple(-0.5 - index / 100 for index in range(len(ids))),
        )  # fmt: skip


class Boss(ModelHandler):
    """In a run about a text it fails, then asks about one passage; in the next about three."""

    model = "boss"

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        asked = next(name for name in LABELS if name in messages[1]["content"])
        self.begun[asked] += 1
        code = ("print(1 / 0)", ONE, THREE)[self.begun[asked] - 1]
        return LMResponse(f"So.\n{cell(code)}", Usage(120, 20, 100), self.model, 0.01)

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]


def short_opening(_context: Any, query: str, **_: Any) -> list[dict[str, str]]:
    """A tiny model on a CPU reads the whole conversation of each run."""
    return [{"role": "system", "content": "Write Python."}, {"role": "user", "content": query}]


def evaluated(folder: Path, worker: ModelHandler, names: Sequence[str] = tuple(TEXTS)) -> Path:
    """The logs of two attempts at each question: the first is wrong, the second right."""
    tasks = [
        {"id": name, "query": f"Who was it, of the {name}?", "context": TEXTS[name],
         "label": LABELS[name], "attempts": 2}
        for name in names
    ]  # fmt: skip
    done = evaluate(
        tasks, Boss(), worker, concurrency=1, scorer="exact", limits=SMALL,
        results=folder / "tasks.jsonl", messages=short_opening,
    )  # fmt: skip
    assert [result.status for result in done.results] == ["final"] * 2 * len(names), done.results
    return done.log_dir
