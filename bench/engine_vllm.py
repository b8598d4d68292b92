"""vLLM by itself, with the arguments and the environment of a worker server's engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from typing import Any

from engine_contestant import Answer, Answering
from engine_models import Setting

from distill.user_folders import cache_folder
from distill.worker_server import device
from distill.worker_server.model import ModelFolder, resolve
from distill.worker_server.process import kill_children, make_scratch
from distill.worker_server.settings import engine_arguments, engine_environment


class Vllm(Answering):
    """What both ways have in common."""

    def __init__(self, setting: Setting) -> None:
        self._scratch = make_scratch(None)
        chosen = device.choose(setting.gpu, setting.cores or None)
        os.environ.update(engine_environment(chosen, self._scratch, log_level="ERROR"))
        if setting.cores:
            os.sched_setaffinity(0, setting.cores)
        folder: ModelFolder = resolve(setting.folder, cache_folder())
        arguments = engine_arguments(folder, chosen, setting.window_tokens)
        self._start(arguments | {"logprobs_mode": "raw_logprobs"} | setting.arguments)
        self._outputs: list[Any] = []

    def _start(self, arguments: dict[str, Any]) -> None:
        raise NotImplementedError

    def _sampling(self, answer_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,
            max_tokens=answer_tokens,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def answers(self) -> list[Answer]:
        """Of the last ``ask``."""
        return [
            Answer(
                output.outputs[0].text,
                len(output.prompt_token_ids),
                len(output.outputs[0].token_ids),
            )
            for output in self._outputs
        ]

    def close(self) -> None:
        """End what is left of the engine."""
        kill_children()
        shutil.rmtree(self._scratch, ignore_errors=True)


class BareAsyncLlm(Vllm):
    """A task for each prompt, all at once."""

    def _start(self, arguments: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self._numbers = iter(range(1 << 62))
        self._runner = asyncio.Runner()
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS
        )

    def ask(self, asked: list[str], answer_tokens: int) -> None:
        """Gather them."""
        self._outputs = self._runner.run(self._ask(asked, self._sampling(answer_tokens)))

    async def _ask(self, asked: list[str], sampling: Any) -> list[Any]:
        return await asyncio.gather(*(self._one(prompt, sampling) for prompt in asked))

    async def _one(self, prompt: str, sampling: Any) -> Any:
        final = None
        async for output in self._llm.generate(prompt, sampling, str(next(self._numbers))):
            final = output
        return final

    def close(self) -> None:
        """End the engine."""
        with contextlib.suppress(Exception):
            self._llm.shutdown(timeout=0.2)
        del self._llm  # now: at the interpreter's end vLLM fails to end it again
        super().close()


class OfflineLlm(Vllm):
    """``LLM.generate`` with the whole list."""

    def _start(self, arguments: dict[str, Any]) -> None:
        from vllm import LLM

        self._llm = LLM(**arguments)

    def ask(self, asked: list[str], answer_tokens: int) -> None:
        """Generate."""
        self._outputs = self._llm.generate(asked, self._sampling(answer_tokens), use_tqdm=False)
