"""The anchors: the recipe's code in rlms, BM25 with one worker call, the text cut off.

Their packages are in quality_requirements.txt. The prompts of the single calls are *find*'s: its
examples, one passage, the question; and their answers are tidied as *find*'s are.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from http.server import ThreadingHTTPServer
from typing import Any

import quality_recipe
from model_endpoint import handler_of
from quality_contestant import ANSWER_TOKENS, SAMPLING, Answer, Answering, Asked, Engine

CHARS_PER_TOKEN = 5.0
"""More than the text has: what does not fit is then left out, as the endpoint counts it."""
SHRINK = 0.97


class Rlms(Answering):
    """*find* as the code of a supervisor of rlms, with its REPL and its batched worker calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._code = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(lambda _: self._reply()))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _reply(self) -> str:
        return f"```repl\n{self._code}\n```"

    def answer(self, asked: Asked) -> Answer:
        from rlm import RLM

        engine = self._engine
        self._code = quality_recipe.adapted("find", asked.question, engine.window_tokens)
        url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        rlm = RLM(
            backend_kwargs={"model_name": "code", "base_url": url, "api_key": "none"},
            other_backends=["openai"],
            other_backend_kwargs=[
                {
                    "model_name": engine.model,
                    "base_url": engine.url,
                    "api_key": "none",
                    "sampling_args": SAMPLING,
                }
            ],
            max_iterations=1,
        )
        done = rlm.completion(asked.text, root_prompt=asked.question)
        used = done.usage_summary.model_usage_summaries[engine.model]
        return Answer(
            done.response, used.total_calls, used.total_input_tokens, used.total_output_tokens
        )


class OneCall(Answering):
    """What of the text is shown to the worker, in a single call."""

    def __init__(self, engine: Engine) -> None:
        import httpx
        from openai import OpenAI

        self._engine = engine
        self._find = quality_recipe.functions(engine.window_tokens)
        self._http = httpx.Client(base_url=engine.url.removesuffix("/v1"), timeout=600)
        self._client = OpenAI(base_url=engine.url, api_key="none")

    def _ask(self, shown: str, question: str) -> Answer:
        prompt = self._find["build_prompt"](shown, question)
        done = self._client.chat.completions.create(
            model=self._engine.model, messages=[{"role": "user", "content": prompt}], **SAMPLING
        )
        said, used = done.choices[0].message.content or "", done.usage
        assert used is not None
        tidied = self._find["tidy"](said)
        return Answer(tidied, 1, used.prompt_tokens, used.completion_tokens)

    def _fits(self, shown: str, question: str) -> bool:
        prompt = self._find["build_prompt"](shown, question)
        message = {"model": self._engine.model, "prompt": prompt}
        counted = self._http.post("/tokenize", json=message).raise_for_status().json()["count"]
        return bool(counted <= self._engine.window_tokens - ANSWER_TOKENS)


class Truncated(OneCall):
    """The text from its beginning, as much as the window holds."""

    def answer(self, asked: Asked) -> Answer:
        chars = int(self._engine.window_tokens * CHARS_PER_TOKEN)
        while not self._fits(asked.text[:chars], asked.question):
            chars = int(chars * SHRINK)
        return self._ask(asked.text[:chars], asked.question)


class Bm25(OneCall):
    """The best passages by BM25, as many as the window holds; the best stands last."""

    most: int | None = None

    def answer(self, asked: Asked) -> Answer:
        ranked = self._ranked(asked.text, asked.question)[: self.most]
        chars = int(self._engine.window_tokens * CHARS_PER_TOKEN)
        while not self._fits(shown := self._within(ranked, chars), asked.question):
            chars = int(chars * SHRINK)
        return self._ask(shown, asked.question)

    def _ranked(self, text: str, question: str) -> Sequence[str]:
        import bm25s
        import Stemmer

        stemmer = Stemmer.Stemmer("english")

        def words(texts: Any) -> Any:
            return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

        source = self._find["Source"]("", 0)
        spans = self._find["split_passages"](text, self._find["PASSAGE_CHARS"], [source])
        passages = [text[start:end] for start, end in spans]
        index = bm25s.BM25()
        index.index(words(passages), show_progress=False)
        wanted = min(len(passages), self._engine.window_tokens // 100)
        found, _ = index.retrieve(words([question]), k=wanted, show_progress=False)
        return [passages[place] for place in found[0]]

    def _within(self, ranked: Sequence[str], chars: int) -> str:
        """The best of them that have so many characters together."""
        kept: list[str] = []
        for passage in ranked:
            chars -= len(passage)
            if chars < 0 and kept:
                break
            kept.append(passage)
        return "\n".join(reversed(kept))


class Bm25Few(Bm25):
    """The best three passages only: the cheapest of all."""

    most = 3


class Shown(OneCall):
    """No contestant but their ceiling: the verses with the facts, which nobody had to find."""

    def answer(self, asked: Asked) -> Answer:
        return self._ask("\n".join(asked.facts), asked.question)
