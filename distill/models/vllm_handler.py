"""A model on vLLM inside this process."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import InputError, ModelError, WorkerBatchError, WorkerError
from distill.models.handler import Messages, ModelHandler, all_or_error
from distill.models.response import LMResponse, Usage

if TYPE_CHECKING:
    from distill.protocol.worker_link import ModelCard
    from distill.worker_server.offline import OfflineEngine


class VLLMHandler(ModelHandler):
    """A model on vLLM inside this process, with no server; as supervisor or as worker.

    ``model_path`` is a folder to load instead of the id ``model``. Keywords that begin with
    ``engine_`` go to the engine without the prefix, the rest are sampling parameters. The
    engine starts with ``prepare`` or the first request, which raise ModelError if it can't.
    With ``engine_max_lora_rank`` it takes LoRA adapters (``load_adapter``).
    Raises InputError for an unknown sampling parameter.
    """

    endpoint = ""

    def __init__(self, model: str, model_path: str | Path | None = None, **kw: Any) -> None:
        self.model = model
        self._source = str(model_path or model)
        prefix = "engine_"
        self._engine_options = {
            key.removeprefix(prefix): value for key, value in kw.items() if key.startswith(prefix)
        }
        self._sampling = {key: value for key, value in kw.items() if not key.startswith(prefix)}
        _check_sampling(self._sampling)
        self._opened: OfflineEngine | None = None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Start the engine: ``window_tokens`` is its to say, and a run plans with it."""
        self._engine()

    def _engine(self) -> "OfflineEngine":
        with self._lock:
            if self._opened is None:
                from distill.worker_server.errors import WorkerError as EngineError
                from distill.worker_server.offline import OfflineEngine

                try:
                    self._opened = OfflineEngine(self._source, **self._engine_options)
                except EngineError as error:
                    raise ModelError(str(error)) from error
                self.window_tokens = self._opened.window_tokens
            return self._opened

    def load_adapter(self, path: str | Path, name: str | None = None) -> int:
        """Answer with this LoRA adapter from the next call on; its version, from 1.

        ``name`` is the folder's unless given; a name that was loaded before gets a new version.
        Calls that are open end on what they began with. Raises ModelError: it can't be served.
        """
        from distill.worker_server.errors import AdapterRefused

        try:
            return self._engine().load_adapter(str(path), name or Path(path).name)
        except AdapterRefused as error:
            raise ModelError(str(error)) from error

    def card(self) -> "ModelCard | None":
        """The model that is loaded, and the adapter."""
        return self._engine().card_now

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        """Reply to one conversation."""
        try:
            return self.chat_batch([messages], **kw)[0]
        except WorkerBatchError as error:
            raise error.errors[0] from error

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        """Reply to several in one continuous batch."""
        started_s = time.monotonic()
        results = self._engine().chat(message_batches, {**self._sampling, **kw})
        return self._responses(results, time.monotonic() - started_s)

    def complete_batch(self, prompts: Sequence[str], **kw: Any) -> list[LMResponse]:
        """Continue several texts in one continuous batch, with no chat template around them."""
        started_s = time.monotonic()
        results = self._engine().continue_texts(prompts, {**self._sampling, **kw})
        return self._responses(results, time.monotonic() - started_s)

    def _responses(self, results: Sequence[Any], elapsed_s: float) -> list[LMResponse]:
        from distill.protocol.worker_link import unpack_ids

        replies: list[LMResponse | None] = [None] * len(results)
        errors: dict[int, WorkerError] = {}
        for index, result in enumerate(results):
            if isinstance(result, Exception):
                errors[index] = WorkerError(str(result), kind=getattr(result, "kind", "engine"))
                continue
            replies[index] = LMResponse(
                result.text,
                Usage(result.prompt_tokens, result.completion_tokens, result.cached_tokens),
                self.model,
                elapsed_s,
                result.finish_reason,
                card=self._engine().card_of(result),
                prompt_token_ids=None
                if result.prompt_token_ids is None
                else unpack_ids(result.prompt_token_ids),
                token_ids=None if result.token_ids is None else unpack_ids(result.token_ids),
                logprobs=result.logprobs,
            )
        return all_or_error(replies, errors)

    def close(self) -> None:
        """End the engine and its processes."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def _check_sampling(sampling: Mapping[str, Any]) -> None:
    """Refuse a misspelt parameter before minutes go into starting an engine."""
    from distill.protocol.worker_link import Sampling

    known = (*Sampling.__struct_fields__, "logprobs")
    if unknown := sorted(set(sampling) - set(known)):
        raise InputError(
            f"unknown sampling parameter {', '.join(unknown)}; there are: {', '.join(known)} "
            "(an option of the engine begins with engine_)"
        )
