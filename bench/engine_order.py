"""Several questions about the same chunks: prompt tokens that the engines really compute.

Two worker servers are given the same calls in two orders: distill's, where those that begin
alike go to one worker together, and the naive one, where they go out as they were asked
(question by question over all chunks) to whoever has room. The cache holds far fewer chunks than
there are, as with a text of a million tokens.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dispatch_prompts import context
from engine_models import MIB, on_cores
from engine_ours import Distill

from distill.supervisor.backends import Backend
from distill.supervisor.requests import Submission

CHUNKS, CHUNK_CHARS = 40, 2_000
QUESTIONS = (
    "Who is named first in this passage?",
    "Which place is named in this passage?",
    "Which number stands in this passage?",
    "What is done by whom in this passage?",
    "How does this passage end?",
)
ANSWER_TOKENS = 8
CACHE_BYTES = 2 * MIB
"""Some 4,000 tokens of the random model: eight chunks."""
GROUPED, NAIVE = "distill's order", "as asked"


class AsAsked:
    """A backend without groups: single questions are served in the order in which they come."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.window_tokens = backend.name, backend.window_tokens
        self.models, self.cancel = backend.models, backend.cancel
        self.producers = backend.producers

    def submit(self, submission: Submission) -> None:
        """Queue the requests, each asked alone: those that are asked at once are grouped."""
        for request in submission.requests:
            alone = dataclasses.replace(submission, requests=[request], interactive=True)
            self._backend.submit(alone)


@dataclasses.dataclass(frozen=True)
class Prefill:
    """Tokens of one batch's prompts: in all, and those that no cache had."""

    prompt_tokens: int
    computed_tokens: int

    @property
    def computed_share(self) -> float:
        """Of all; the orders are given different chunks, so the shares are what compares."""
        return self.computed_tokens / self.prompt_tokens


class Order:
    """Two worker servers, a core each, with little cache."""

    def __init__(self, folder: Path, cores: tuple[int, ...]) -> None:
        self._distill = Distill(*(on_cores(folder, (core,), CACHE_BYTES) for core in cores[:2]))
        self._grouped = self._distill.backend
        self._text = context()
        self._first = 0
        (worker, *_) = self._distill.fleet.workers()
        self.cache_tokens = worker.token_budget

    def batch(self, name: str) -> Prefill:
        """All questions about chunks that were not asked about before."""
        self._distill.backend = self._grouped if name == GROUPED else AsAsked(self._grouped)
        starts = range(self._first, self._first + CHUNKS * CHUNK_CHARS, CHUNK_CHARS)
        self._first = starts.stop
        asked = [
            f"{self._text[start : start + CHUNK_CHARS]}\n\n{question}\n"
            for question in QUESTIONS
            for start in starts
        ]
        self._distill.ask(asked, ANSWER_TOKENS)
        usages = [call.usage for call in self._distill.logged()]
        prompt_tokens = sum(usage.input_tokens for usage in usages)
        return Prefill(prompt_tokens, prompt_tokens - sum(u.cached_input_tokens for u in usages))

    def close(self) -> None:
        """End the worker servers."""
        self._distill.close()


def measure(
    folder: Path, cores: tuple[int, ...], rounds: int
) -> tuple[int, dict[str, list[Prefill]]]:
    """A worker's cache in tokens, and by order a batch for each round."""
    order = Order(folder, cores)
    found: dict[str, list[Prefill]] = {GROUPED: [], NAIVE: []}
    try:
        for _ in range(rounds):
            for name, batches in found.items():
                batches.append(order.batch(name))
    finally:
        order.close()
    return order.cache_tokens, found
