"""The anchors: the SDK alone with the very same requests, a plain loop with exec, and rlms."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from turns_contestant import Block, Running, Took, timed
from turns_script import QUESTION, WORKER, WORKER_CALLS, prompts, text

CODE = re.compile(r"```repl\n(.*?)\n```", re.DOTALL)
SYSTEM = "Write Python in a fenced block marked repl. It has context, worker_batch, FINAL."


def at_once(work: Callable[[], None], runs: int) -> float:
    """Do it in so many threads; the sum of their seconds."""
    seconds: list[float] = []
    threads = [threading.Thread(target=lambda: seconds.append(timed(work))) for _ in range(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seconds) == runs
    return sum(seconds)


class Asking(Running):
    """What the SDK alone and the plain loop have in common: one client."""

    def __init__(self, url: str) -> None:
        from openai import OpenAI

        self._client = OpenAI(base_url=url, api_key="none", max_retries=0)
        self._pool = ThreadPoolExecutor(16 * WORKER_CALLS)

    def _ask(self, model: str, messages: list[dict[str, Any]]) -> str:
        request: Any = {"model": model, "messages": messages}
        done = self._client.chat.completions.create(**request)
        return done.choices[0].message.content or ""

    def _batch(self, prompts: list[str]) -> list[str]:
        asked = ([{"role": "user", "content": prompt}] for prompt in prompts)
        return list(self._pool.map(lambda messages: self._ask(WORKER, messages), asked))


class Sdk(Asking):
    """The requests of distill's runs and nothing else."""

    def run(self, block: Block) -> Took:
        (conversation,) = block.conversations
        places = [at for at, each in enumerate(conversation) if each["role"] == "assistant"]
        source = text()

        def one() -> None:
            for turn, place in enumerate(places):
                self._ask("distill", conversation[:place])
                if turn < len(places) - 1:
                    self._batch(prompts(source, turn))

        return Took(at_once(one, block.runs))


class Loop(Asking):
    """Some twenty lines: ask, take the code out, ``exec`` it in this process, show its output."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._context = text()

    def run(self, block: Block) -> Took:
        # redirect_stdout is the whole process': more at once would mix what cells print.
        assert block.runs == 1
        return Took(timed(lambda: self._one(QUESTION.format(turns=block.turns))))

    def _one(self, question: str) -> None:
        answers: list[Any] = []
        names = {
            "context": self._context,
            "query": question,
            "worker_batch": self._batch,
            "FINAL": answers.append,
        }
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question},
        ]
        while not answers:
            said = self._ask("distill", messages)
            printed = StringIO()
            with redirect_stdout(printed):
                for code in CODE.findall(said):
                    exec(code, names)  # noqa: S102  (that is what is measured)
            messages.append({"role": "assistant", "content": said})
            messages.append({"role": "user", "content": printed.getvalue()})


class Rlms(Running):
    """rlms' own loop, its REPL, and its client; without its logger."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._context = text()

    def run(self, block: Block) -> Took:
        assert block.runs == 1  # its REPL redirects the stdout of the process
        from rlm import RLM

        def client(model: str) -> dict[str, Any]:
            return {"model_name": model, "base_url": self._url, "api_key": "none"}

        rlm = RLM(
            backend_kwargs=client("rlms"),
            other_backends=["openai"],
            other_backend_kwargs=[client(WORKER)],
            max_iterations=block.turns,
        )
        question, said = QUESTION.format(turns=block.turns), []
        seconds = timed(
            lambda: said.append(rlm.completion(self._context, root_prompt=question).response)
        )
        float(said[0])  # it ended with the last cell's answer
        return Took(seconds)
