"""vLLM's own way to its EngineCore: AsyncMPClient, and EngineCoreProc's own socket threads.

The core between these threads is replaced: it takes what has come, as a step does, and answers
each request with eight tokens. Requests are token ids, made beforehand; nothing is logged.

``python dispatch_vllm.py INPUT OUTPUT`` is the peer, with the addresses of the client's sockets.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from dispatch_contestant import Asking, die_with_parent
from dispatch_prompts import IN_FLIGHT
from vllm.config import ParallelConfig
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import (
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreReadyResponse,
    EngineCoreRequest,
    EngineCoreRequestType,
    FinishReason,
)
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.core_client import AsyncMPClient

ANSWER_IDS = list(range(1000, 1008))
WINDOW_TOKENS = 32_768
CHARS_A_TOKEN = 4


class Contestant(Asking):
    """As AsyncLLM uses the client: a task takes the outputs, each request waits for its own."""

    def __init__(self) -> None:
        logging.disable()
        self._folder = tempfile.mkdtemp(prefix="dispatch-")
        addresses = {
            "input_address": f"ipc://{self._folder}/input.sock",
            "output_address": f"ipc://{self._folder}/output.sock",
        }
        self._process = subprocess.Popen([sys.executable, __file__, *addresses.values()])
        self.peer = self._process.pid
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._connect(addresses))
        self._parameters = SamplingParams(
            temperature=0.0, max_tokens=8, output_kind=RequestOutputKind.FINAL_ONLY
        )
        self._numbers = iter(range(1 << 62))

    async def _connect(self, addresses: dict[str, str]) -> AsyncMPClient:
        config: Any = SimpleNamespace(
            parallel_config=ParallelConfig(),
            cache_config=SimpleNamespace(num_gpu_blocks=0),
            model_config=SimpleNamespace(max_model_len=WINDOW_TOKENS, multimodal_config=None),
        )
        unused: Any = None
        return AsyncMPClient(config, unused, log_stats=False, client_addresses=addresses)

    def prepare(self, asked: list[str]) -> None:
        """Token ids in the number that a tokenizer would give."""
        self._ids = [list(prompt.encode()[::CHARS_A_TOKEN]) for prompt in asked]
        self._answers: list[list[int]] = []

    def ask(self, asked: list[str]) -> None:  # noqa: ARG002
        """The prompts of ``prepare``."""
        self._runner.run(self._ask())

    async def _ask(self) -> None:
        waiting: dict[str, asyncio.Future[EngineCoreOutput]] = {}
        outputs = asyncio.create_task(self._take(waiting))
        ids = iter(self._ids)
        await asyncio.gather(*(self._one_by_one(ids, waiting) for _ in range(IN_FLIGHT)))
        outputs.cancel()

    async def _take(self, waiting: dict[str, asyncio.Future[EngineCoreOutput]]) -> None:
        while True:
            for output in (await self._client.get_output_async()).outputs:
                waiting.pop(output.request_id).set_result(output)

    async def _one_by_one(
        self, prompts: Iterator[list[int]], waiting: dict[str, asyncio.Future[EngineCoreOutput]]
    ) -> None:
        for prompt in prompts:
            name = str(next(self._numbers))
            answer = waiting[name] = asyncio.get_running_loop().create_future()
            await self._client.add_request_async(self._request(name, prompt))
            self._answers.append((await answer).new_token_ids)

    def _request(self, name: str, prompt: list[int]) -> EngineCoreRequest:
        return EngineCoreRequest(
            request_id=name,
            prompt_token_ids=prompt,
            mm_features=None,
            sampling_params=self._parameters,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )

    def check(self, asked: list[str]) -> None:
        """Each got eight tokens."""
        assert self._answers == [ANSWER_IDS] * len(asked)

    def close(self) -> None:
        """Kill the peer."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder)


class IdleCore(EngineCoreProc):
    """The threads of an EngineCore, and no engine."""

    def __init__(self, input_address: str, output_address: str) -> None:
        self.input_queue = queue.Queue()
        self.output_queue = queue.Queue()
        self.aborts_queue = queue.Queue()
        self.tensor_ipc_receiver = None
        name, ready = (0).to_bytes(2, "little"), threading.Event()
        for thread, *arguments in (
            (self.process_input_sockets, [input_address], None, name, ready),
            (self.process_output_sockets, [output_address], None, 0),
        ):
            threading.Thread(target=thread, args=arguments, daemon=True).start()

    def _make_ready_response(self) -> EngineCoreReadyResponse:
        plain = {"dtype": "none", "vllm_version": "", "instance_id": "", "supports_lora": False}
        fields = dataclasses.fields(EngineCoreReadyResponse)
        needed = [field.name for field in fields if field.default is dataclasses.MISSING]
        return EngineCoreReadyResponse(
            **{**dict.fromkeys(needed, 1), **plain, "dp_stats_address": None}
        )

    def preprocess_add_request(self, request: EngineCoreRequest) -> Any:
        """As it came: a scheduler's Request is the engine's business."""
        return request

    def run(self) -> None:
        """Answer what has come, in one message, for ever."""
        while True:
            came = [self.input_queue.get()]
            while not self.input_queue.empty():
                came.append(self.input_queue.get())
            outputs = [
                EngineCoreOutput(request.request_id, ANSWER_IDS, finish_reason=FinishReason.STOP)
                for kind, request in came
                if kind is EngineCoreRequestType.ADD
            ]
            self.output_queue.put((0, EngineCoreOutputs(outputs=outputs)))


if __name__ == "__main__":
    die_with_parent()
    IdleCore(sys.argv[1], sys.argv[2]).run()
