"""Tasks that were evaluated, to be exported: several texts, questions, attempts and scores."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill import LMResponse, ModelHandler, Usage, evaluate
from distill.evaluation import Evaluation
from tests.distill.scripted import SMALL, Worker, cell, run_bounded

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("lor", "nim", "sket", "ran")]
READS = "found = worker_batch([f'Is it here? {context[i:i + 300]}' for i in (0, 300, 600)])"
READS_PARTS = "found = worker_batch([f'Is it here? {part[:300]}' for part in context])"


def text(seed: int, words: int = 400) -> str:
    """A text like no other."""
    drawn = random.Random(seed)
    return " ".join(drawn.choice(WORDS) for _ in range(words))


TEXTS = {name: text(seed) for seed, name in enumerate("ABCDE")}


def task(name: str, context: Any, attempts: int = 1) -> dict[str, Any]:
    return {
        "id": name, "query": f"do {name}", "context": context, "label": "yes",
        "attempts": attempts,
    }  # fmt: skip


TASKS = [
    task("long-and-short", TEXTS["A"], 2),
    task("wrong", TEXTS["A"]),
    task("plain", TEXTS["B"]),
    task("linked", [TEXTS["C"], TEXTS["B"]]),
    task("bare", TEXTS["E"]),
    task("other", TEXTS["D"]),
]
SCRIPTS: dict[str, list[list[str]]] = {
    "long-and-short": [
        [READS, "1 / 0", "'no code here'", "FINAL('yes')"],
        [f"{READS}\nFINAL('yes')"],
    ],
    "wrong": [[f"{READS}\nFINAL('no')"]],
    "plain": [[READS, "FINAL('Yes.')"]],
    "linked": [[READS_PARTS, "FINAL('yes')"]],
    "other": [[READS, "FINAL(found)"]],
    "bare": [[READS.replace("])", "], chat=False)"), "FINAL('no')"]],
}


class Boss(ModelHandler):
    """Follows the scripts: which one says the question, which attempt is counted."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def chat(self, messages: Sequence[Mapping[str, str]], **kw: Any) -> LMResponse:
        (name,) = [each for each in SCRIPTS if f"do {each}" in messages[1]["content"]]
        said = sum(each["role"] == "assistant" for each in messages)
        self._begun[name] += not said
        code = SCRIPTS[name][self._begun[name] - 1][said]
        reply = code.strip("'") if code.startswith("'") else cell(code)
        return LMResponse(reply, Usage(100, 20), "boss", 0.01)

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]


def answer(prompt: str) -> str:
    """Says yes or no, and quotes what it was asked about, so that no two answers are alike."""
    return f"{'yes' if 'balor' in prompt else 'no'}, {prompt[-30:]}"


def evaluated(folder: Path) -> Evaluation:
    """All tasks, one after another, with their results and logs in a folder."""
    done: Evaluation = run_bounded(
        lambda: evaluate(
            TASKS, Boss(), Worker(answer), results=folder / "tasks.results.jsonl",
            concurrency=1, limits=SMALL,
        ),
        timeout_s=60,
    )  # fmt: skip
    assert done.summary.failed == 0
    return done
