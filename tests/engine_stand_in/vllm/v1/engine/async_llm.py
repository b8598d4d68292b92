"""The engine: answers at once, or after a while, by a function of the prompt's ids."""

import asyncio
import contextlib
import os
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs.engine import Tokens
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.tokens import Tokenizer, adapted, answer_ids, decode, encode
from vllm.v1.engine import core
from vllm.v1.engine.exceptions import EngineDeadError

WINDOW_TOKENS = 32_768
CACHE_BLOCKS = 1 << 18


class AsyncLLM:
    """Of its arguments, those that the constructor reads have an effect."""

    def __init__(self, arguments: AsyncEngineArgs, stat_loggers: Sequence[Callable[..., Any]]):
        asked = arguments.max_model_len
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(
                dtype="none",
                max_model_len=asked if asked > 0 else WINDOW_TOKENS,
                logprobs_mode=arguments.logprobs_mode,
            ),
            cache_config=SimpleNamespace(num_gpu_blocks=CACHE_BLOCKS, block_size=16),
        )
        self._loggers = [logger(vllm_config=self.vllm_config) for logger in stat_loggers]
        self._extension = arguments.worker_extension_cls
        self._core = core.start(self._extension)
        self._sentinel = os.pidfd_open(self._core.pid)
        manager = SimpleNamespace(sentinels=lambda: [self._sentinel], processes=[self._core])
        self.engine_core = SimpleNamespace(resources=SimpleNamespace(engine_manager=manager))
        self._loras: dict[int, int] = {}
        self._most_loras = getattr(arguments, "max_cpu_loras", 0)
        self._latency_s = float(os.environ.get("STAND_IN_LATENCY_S", "0"))
        self._words = int(os.environ.get("STAND_IN_WORDS", "8"))
        said = Path(arguments.model) / "answer.txt"
        self._text = said.read_text() if said.is_file() else ""
        self._cached_share = float(os.environ.get("STAND_IN_CACHED_SHARE", "0"))
        self._through_core = os.environ.get("STAND_IN_CORE") == "1"
        self._steps: core.Steps | None = None
        self._poison = encode(os.environ.get("STAND_IN_POISON", ""))[-2:]
        asked = os.environ.get("STAND_IN_ASKED")
        self._asked = os.open(asked, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if asked else None
        at_once = int(os.environ.get("STAND_IN_AT_ONCE", "0"))
        self._room: AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(at_once) if at_once else contextlib.nullcontext()
        )

    @classmethod
    def from_engine_args(
        cls, arguments: AsyncEngineArgs, *, usage_context: Any, stat_loggers: Sequence[Any]
    ) -> "AsyncLLM":
        return cls(arguments, stat_loggers)

    def get_tokenizer(self) -> Tokenizer:
        is_base = os.environ.get("STAND_IN_BASE") == "1"
        return Tokenizer(None if is_base else "<role>content, one a line; then <assistant>")

    async def collective_rpc(self, method: str) -> list[Any]:
        """Call a method of the worker's extension, as its one worker would."""
        return [getattr(core.extended(self._extension), method)()]

    async def add_lora(self, lora: LoRARequest) -> bool:
        """Load an adapter: what it changes is a function of its file's bytes."""
        weights = await asyncio.to_thread(
            Path(lora.lora_path, "adapter_model.safetensors").read_bytes
        )
        if b"broken" in weights:
            raise ValueError("LoRA rank 64 is greater than max_lora_rank 8.")
        assert lora.lora_int_id not in self._loras, "a version needs a number of its own"
        assert len(self._loras) < self._most_loras, "another would be evicted"
        self._loras[lora.lora_int_id] = zlib.crc32(weights)
        return True

    async def remove_lora(self, number: int) -> bool:
        """Forget an adapter, which nobody must be using."""
        return self._loras.pop(number, None) is not None

    async def generate(
        self,
        prompt: Tokens,
        parameters: SamplingParams,
        request_id: str,
        lora_request: LoRARequest | None = None,
    ) -> AsyncIterator[SimpleNamespace]:
        """The one, finished output of a request. Raises EngineDeadError."""
        queued_s = time.monotonic()
        async with self._room:
            scheduled_s = time.monotonic()
            await self._compute(prompt["prompt_token_ids"][-2:])
        changed = 0 if lora_request is None else self._loras[lora_request.lora_int_id]
        output = self._answer(prompt["prompt_token_ids"], parameters, changed)
        output.metrics = SimpleNamespace(
            queued_ts=queued_s, scheduled_ts=scheduled_s, last_token_ts=time.monotonic()
        )
        prompts = SimpleNamespace(
            total=len(output.prompt_token_ids), cached_tokens=output.num_cached_tokens
        )
        counts = SimpleNamespace(
            prompt_token_stats=prompts, num_generation_tokens=len(output.outputs[0].token_ids)
        )
        for logger in self._loggers:
            logger.record(None, counts)
        yield output

    async def _compute(self, checksum: list[int]) -> None:
        if self._asked is not None:
            os.write(self._asked, f"{checksum}\n".encode())
        if checksum == self._poison:
            self._core.kill()
            self._core.wait()
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        try:
            if self._through_core:
                self._steps = self._steps or core.Steps(self._core)
                await self._steps.step()
        except OSError as error:
            raise EngineDeadError from error
        if self._core.poll() is not None:
            raise EngineDeadError

    def _answer(
        self, prompt_ids: list[int], parameters: SamplingParams, changed: int
    ) -> SimpleNamespace:
        ids = adapted(answer_ids(prompt_ids, self._words), changed)
        ids = encode(self._text) if self._text else ids
        text, reason = self._text or decode(ids[: parameters.max_tokens]), "stop"
        if parameters.structured_outputs is not None:
            choices = parameters.structured_outputs.choice or [""]
            text = choices[sum(ids) % len(choices)]
        elif len(ids) > parameters.max_tokens:
            ids, reason = ids[: parameters.max_tokens], "length"
        logprobs = [{each: -1 / (1 + each)} for each in ids]
        completion = SimpleNamespace(
            text=text,
            token_ids=ids,
            finish_reason=reason,
            logprobs=None if parameters.logprobs is None else logprobs,
        )
        return SimpleNamespace(
            outputs=[completion],
            prompt_token_ids=prompt_ids,
            num_cached_tokens=int(self._cached_share * len(prompt_ids)),
            metrics=None,
        )

    def shutdown(self, timeout: float) -> None:
        """End the engine's process."""
        self._core.kill()
        self._core.wait(timeout + 1)
