"""One vLLM engine. The only module that imports vLLM, and only when an Engine starts.

::

    generate() ─► Tokeniser ─► AsyncLLM ─ zmq ─► EngineCore (a process of its own: the model)
                                  ▲ answers         │ its end wakes on_death
                                  └─────────────────┘

``start`` and ``close`` block and may be called from any thread; ``generate`` belongs to one
event loop. ``offline`` is the same for a synchronous program.
"""

import contextlib
import copy
import gc
import shutil
import threading
import time
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

from distill.protocol.worker_link import Failure, ModelCard, Request, Result, Sampling
from distill.user_folders import cache_folder
from distill.worker_server import translate
from distill.worker_server.adapters import Adapters, Held
from distill.worker_server.detokenise import Detokeniser, detokeniser_of
from distill.worker_server.device import Device
from distill.worker_server.errors import AdapterRefused, EngineDied, EngineFailed
from distill.worker_server.fingerprint import fingerprint
from distill.worker_server.model import ModelFolder
from distill.worker_server.process import (
    bound_to,
    children,
    hidden_main,
    is_ending,
    is_stopped,
    kill_children,
    make_scratch,
    temporary_environment,
)
from distill.worker_server.settings import engine_arguments, engine_environment, lora_arguments
from distill.worker_server.steps import StepClock
from distill.worker_server.tokenise import Tokeniser

LOGPROBS_MODE = "raw_logprobs"
PROBE_PROMPT = "Hello"
REASON_LIMIT_CHARS = 2000
ENDED = "the engine's process ended; its last words are in this log"
LOOK_S = 0.025
STOPPED_LOOK_S = 0.5
STOPPED_LIMIT_S = 4.0
"""An engine's process that a signal has stopped for so long is given up."""
SHUTDOWN_S = 0.2
"""Before SIGKILL: the engine has nothing to save, and takes more than 2 s to end by itself."""


class Engine:
    """A loaded model that answers requests.

    With ``max_lora_rank`` it takes adapters; ``chat_template`` (Jinja) takes the place of the
    model's. ``arguments`` are vLLM's AsyncEngineArgs and win over our choices. ``scratch`` is a
    folder for vLLM's sockets, removed by ``close``. ``on_death`` is called once, from a thread and
    with what has happened, if the engine's process ends without ``close``, or is stopped.
    """

    def __init__(
        self,
        folder: ModelFolder,
        device: Device,
        *,
        window_tokens: int | None = None,
        max_lora_rank: int | None = None,
        chat_template: str | None = None,
        arguments: dict[str, Any] | None = None,
        cache: Path | None = None,
        scratch: str | None = None,
        log_level: str = "WARNING",
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = folder
        self._device = device
        self._window_tokens = window_tokens
        self._arguments = lora_arguments(max_lora_rank) | dict(arguments or {})
        self._template = chat_template
        self._cache = cache or cache_folder()
        self._scratch = scratch or ""
        self._log_level = log_level
        self._on_death = on_death
        self._llm: Any = None
        self._tokeniser: Tokeniser | None = None
        self._detokeniser: Detokeniser | None = None
        self._died = False
        self._closed = False
        self._adapters = Adapters(folder, self._add_lora, self._remove_lora)
        self.clock = StepClock()

    def start(self) -> ModelCard:
        """Load the model; seconds to minutes. Raises EngineFailed with vLLM's reason."""
        self._scratch = self._scratch or make_scratch(None)
        environment = engine_environment(self._device, self._scratch, log_level=self._log_level)
        try:
            with temporary_environment(environment), bound_to(self._device.cores), hidden_main():
                self._llm = self._load()
            tokenizer = self._llm.get_tokenizer()
            self._tokeniser = Tokeniser(copy.deepcopy(tokenizer), self._template)
            self._detokeniser = detokeniser_of(tokenizer)
            threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()
            return self._card()
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                raise EngineFailed(_reason(error)) from error
            raise

    def _load(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = engine_arguments(self._folder, self._device, self._window_tokens)
        arguments |= {"logprobs_mode": LOGPROBS_MODE} | self._arguments
        # LLM_CLASS: the defaults of offline use; those of from_engine_args are small batches.
        return AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments),
            usage_context=UsageContext.LLM_CLASS,
            stat_loggers=[_step_logger(self.clock)],
        )

    def _card(self) -> ModelCard:
        import vllm

        config = self._llm.vllm_config.model_config
        hashes = fingerprint(self._folder, self._cache, self._template)
        return ModelCard(
            model=self._folder.name,
            weights_hash=hashes.weights,
            tokenizer_hash=hashes.tokenizer,
            template_hash=hashes.template,
            dtype=str(config.dtype).removeprefix("torch."),
            device=self._device.name,
            engine="vllm",
            engine_version=vllm.__version__,
            window_tokens=config.max_model_len,
            logprobs_mode=str(config.logprobs_mode),
        )

    @property
    def window_tokens(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return int(self._llm.vllm_config.model_config.max_model_len)

    @property
    def cache_tokens(self) -> int:
        """Tokens that fit the KV cache at once, over all requests."""
        config = self._llm.vllm_config.cache_config
        blocks = (config.num_gpu_blocks or 0) * (config.block_size or 0)
        return int(getattr(config, "kv_cache_size_tokens", None) or blocks)

    async def probe(self) -> None:
        """Generate one token: only then is the engine known to work.

        Raises EngineDied, EngineFailed.
        """
        await self._llm.collective_rpc("distill_keep_seeds")
        await self._llm.collective_rpc("distill_own_lora")
        probe = Request(
            id="probe",
            attempt=1,
            sampling=Sampling(max_tokens=1),
            prompt=PROBE_PROMPT,
            record="off",
        )
        outcome = await self.generate(probe)
        if isinstance(outcome, Failure):
            raise EngineFailed(f"the engine loaded but can't generate a token: {outcome.detail}")

    def own_process(self) -> None:
        """For a process that does nothing else: make what is loaded cheap to have around."""
        from vllm import envs

        envs.enable_envs_cache()  # vLLM looks into os.environ for each token
        gc.freeze()  # a million objects of torch and vLLM, which each full collection visits

    async def generate(self, request: Request) -> Result | Failure:
        """Answer one request; many may run at once and share the engine's batches.

        Whatever is wrong with the request comes back as a Failure; cancelling the task
        aborts it in the engine. Raises EngineDied when the engine is gone.
        """
        if self._llm is None or self._tokeniser is None or self._died or self._closed:
            raise EngineDied("the engine does not run")
        if request.adapter is None:
            return await self._generate(request, None)
        try:
            # Held before anything is awaited: a DropAdapter that came later finds it in use.
            with self._adapters.in_use(request.adapter, request.weights_version) as held:
                return await self._generate(request, _lora_request(held))
        except AdapterRefused as error:
            return translate.failure(request, "engine", str(error))
        finally:
            await self._adapters.sweep()

    async def _generate(self, request: Request, lora: Any) -> Result | Failure:
        if problem := translate.malformed(request):
            return translate.failure(request, "bad_request", problem)
        assert self._tokeniser is not None
        try:
            ids, prompt = await self._tokeniser.encode(request)
        except ValueError as error:
            return translate.failure(request, "bad_request", str(error))
        if not ids:
            return translate.failure(request, "bad_request", "the prompt is empty")
        if failed := translate.too_long(request, len(ids), self.window_tokens):
            return failed
        return await self._complete(request, ids, prompt, lora)

    async def _complete(
        self, request: Request, ids: list[int], prompt: str, lora: Any
    ) -> Result | Failure:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        final = None
        try:
            parameters = self._sampling_params(request, len(ids))
            name = f"{request.id}.{request.attempt}"
            with self.clock.in_flight():
                outputs = self._llm.generate(tokens_input(ids), parameters, name, lora_request=lora)
                async for output in outputs:
                    final = output
        except EngineDeadError as error:
            raise EngineDied(ENDED) from error
        except (VLLMClientError, ValueError, TypeError) as error:
            return translate.failure(request, "bad_request", _reason(error))
        except Exception as error:  # noqa: BLE001  (one request's failure is not the engine's)
            return translate.failure(request, "engine", _reason(error))
        if final is None:
            return translate.failure(request, "engine", "the engine gave no output")
        if not parameters.detokenize:
            self._spell(ids, final)
        return translate.answer(request, prompt, final)

    async def load_adapter(self, adapter: str, version: int, path: str) -> str:
        """Load a version of a LoRA adapter from a folder; the SHA-256 of its files.

        What is in flight goes on with what it began with. Raises AdapterRefused.
        """
        if not self._arguments.get("enable_lora"):
            raise AdapterRefused("this worker was started without --max-lora-rank: it takes none")
        if self._llm is None:
            raise AdapterRefused("the engine does not run")
        return await self._adapters.load(adapter, version, path)

    async def drop_adapters(self) -> None:
        """Let all versions go: who named them is gone."""
        await self._adapters.drop_all()

    async def drop_adapter(self, adapter: str, version: int) -> None:
        """No request will name it any more."""
        await self._adapters.drop(adapter, version)

    async def _add_lora(self, held: Held) -> None:
        try:
            await self._llm.add_lora(_lora_request(held))
        except Exception as error:
            said = _reason(error)
            if "max_lora_rank" in said:
                said += " Start the worker with a higher --max-lora-rank."
            raise AdapterRefused(said) from error

    async def _remove_lora(self, held: Held) -> None:
        if self._llm is not None and not self._died:
            with contextlib.suppress(Exception):  # an engine that has died holds nothing
                await self._llm.remove_lora(held.number)

    def _spell(self, prompt_ids: list[int], output: Any) -> None:
        """Fill in the texts that vLLM was told to leave out."""
        assert self._detokeniser is not None
        for completion in output.outputs:
            ended = completion.finish_reason == "stop"  # by a token that is no text
            ids = completion.token_ids[:-1] if ended else completion.token_ids
            completion.text = self._detokeniser.text(prompt_ids, ids)

    def _sampling_params(self, request: Request, prompt_tokens: int) -> Any:
        from vllm.sampling_params import (
            RequestOutputKind,
            SamplingParams,
            StructuredOutputsParams,
        )

        arguments = translate.sampling_arguments(request, prompt_tokens, self.window_tokens)
        constraint = translate.constraint_arguments(request.sampling)
        if constraint is not None:
            arguments["structured_outputs"] = StructuredOutputsParams(**constraint)
        # A stop string must be found while it is written; other texts can wait for their end.
        arguments["detokenize"] = self._detokeniser is None or bool(request.sampling.stop)
        # skip_clone: made for this request alone, so vLLM need not copy it.
        return SamplingParams(
            output_kind=RequestOutputKind.FINAL_ONLY, skip_clone=True, **arguments
        )

    def _watch(self) -> None:
        """In a thread: wait until any of the engine's processes has ended, or stands still."""
        manager = self._llm.engine_core.resources.engine_manager
        sentinels, pids = manager.sentinels(), [process.pid for process in manager.processes]
        processes = children(started_with=self._scratch)
        stopped_s, looked_s = 0.0, time.monotonic()
        ended = False
        while not ended and stopped_s <= STOPPED_LIMIT_S:
            ended = bool(connection.wait(sentinels, timeout=LOOK_S)) or any(map(is_ending, pids))
            if time.monotonic() - looked_s > STOPPED_LOOK_S:
                looked_s = time.monotonic()
                stopped = any(map(is_stopped, processes))
                stopped_s = stopped_s + STOPPED_LOOK_S if stopped else 0.0
        if not self._closed:
            self._died = True
            if self._on_death is not None:
                self._on_death(
                    ENDED
                    if ended
                    else f"the engine's process was stopped (SIGSTOP) for {stopped_s:.0f} s"
                )

    def close(self) -> None:
        """End the engine and every process it started; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._tokeniser is not None:
            self._tokeniser.close()
        started = self._llm
        self._llm = None
        if started is not None:
            with contextlib.suppress(Exception):
                started.shutdown(timeout=SHUTDOWN_S)
        kill_children(started_with=self._scratch)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _lora_request(held: Held) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(held.name, held.number, held.path)


def _step_logger(clock: StepClock) -> type[Any]:
    """A statistics logger that only feeds ``clock``.

    It passes as vLLM's Prometheus logger, which otherwise is added and paid for each step.
    """
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class Steps(PrometheusStatLogger):  # type: ignore[misc]
        def __init__(self, **_: Any) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
            if iteration_stats is not None:
                prompts = iteration_stats.prompt_token_stats
                generated = iteration_stats.num_generation_tokens
                clock.step(prompts.total, generated, prompts.cached_tokens)
            if scheduler_stats is not None:
                clock.load(scheduler_stats.num_waiting_reqs, scheduler_stats.kv_cache_usage)

        def log_engine_initialized(self) -> None:
            pass

        def record_admission_rejection(self, *_: Any) -> None:
            pass

    return Steps


def _reason(error: BaseException) -> str:
    """The words of vLLM, with the cause that it hides behind EngineGenerateError."""
    if error.__cause__ is not None and not str(error):
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    text = text.replace("See root cause above.", "The reason is in this worker's log.")
    return text[:REASON_LIMIT_CHARS]
