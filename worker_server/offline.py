"""An engine inside the user's own, synchronous program: what ``VLLMHandler`` wraps."""

import asyncio
import atexit
import itertools
import threading
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from distill.protocol.message import Record
from distill.protocol.worker_link import ChatMessage, Failure, ModelCard, Request, Result, Sampling
from distill.user_folders import cache_folder
from distill.worker_server import device, model
from distill.worker_server.engine import Engine
from distill.worker_server.errors import EngineDied, RequestRefused

T = TypeVar("T")
OWN_OPTIONS = ("gpu", "cores", "window_tokens", "max_lora_rank", "chat_template")


class OfflineEngine:
    """A loaded model with an event loop of its own in a background thread.

    ``source`` is a folder, a Hugging Face id, or "default". Of ``options``, ``gpu``, ``cores``,
    ``window_tokens``, ``max_lora_rank`` and ``chat_template`` (a file) are as on the worker
    server's command line, the rest are vLLM's engine arguments. Blocks until the engine has
    generated a token; raises a WorkerError (see ``errors``) where it can't.

    ``close`` also runs at the interpreter's exit; if this process is killed instead, the
    engine's process notices and ends by itself (see ``inside``).
    """

    def __init__(self, source: str | None = None, **options: Any) -> None:
        own = {name: options.pop(name, None) for name in OWN_OPTIONS}
        cache = cache_folder()
        chosen = device.choose(own["gpu"], own["cores"])
        template = own["chat_template"]
        template = None if template is None else model.read_template(str(template))
        folder = model.resolve(source, cache)
        model.check_fits(folder, chosen)
        self._engine = Engine(
            folder,
            chosen,
            window_tokens=own["window_tokens"],
            max_lora_rank=own["max_lora_rank"],
            chat_template=template,
            arguments=options,
            cache=cache,
            log_level="ERROR",
        )
        self._numbers = itertools.count(1)
        self._versions: Counter[str] = Counter()
        self._adapter: tuple[str | None, int] = (None, 0)
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self.card: ModelCard = self._engine.start()
        self._cards: dict[tuple[str | None, int], ModelCard] = {(None, 0): self.card}
        self._thread.start()
        atexit.register(self.close)
        try:
            self._call(self._engine.probe())
        except BaseException:
            self.close()
            raise

    @property
    def window_tokens(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.card.window_tokens

    def chat(
        self, batches: Sequence[Sequence[Mapping[str, str]]], sampling: Mapping[str, Any]
    ) -> list[Result | Exception]:
        """Reply to several conversations in one continuous batch, in their order.

        ``sampling`` may have ``logprobs``: True. An item that can't be served is a RequestRefused
        in its place. Raises ValueError for
        unknown sampling parameters, EngineDied when the engine is gone.
        """
        conversations = [
            tuple(ChatMessage(m["role"], m["content"]) for m in messages) for messages in batches
        ]
        return self._answer(sampling, [{"messages": one} for one in conversations])

    def continue_texts(
        self, prompts: Sequence[str], sampling: Mapping[str, Any]
    ) -> list[Result | Exception]:
        """Continue several texts as they stand, without the chat template; else as ``chat``."""
        return self._answer(sampling, [{"prompt": prompt} for prompt in prompts])

    def load_adapter(self, path: str, name: str) -> int:
        """Load a LoRA adapter; what is asked from here on is answered with it. Its version.

        A name that was loaded before gets the next one. Raises AdapterRefused.
        """
        return self._call(self._load_adapter(path, name))

    async def _load_adapter(self, path: str, name: str) -> int:
        self._versions[name] += 1
        version = self._versions[name]
        files_hash = await self._engine.load_adapter(name, version, path)
        self._cards[name, version] = msgspec.structs.replace(
            self.card, adapter=name, weights_version=version, adapter_hash=files_hash
        )
        (before, before_version), self._adapter = self._adapter, (name, version)
        if before is not None:
            # A task of its own begins after the requests that have been named the one before.
            await asyncio.create_task(self._engine.drop_adapter(before, before_version))
        return version

    @property
    def card_now(self) -> ModelCard:
        """What answers from here on."""
        return self._cards[self._adapter]

    def card_of(self, result: Result) -> ModelCard:
        """What exactly has answered: the model, or a version of an adapter."""
        return self._cards[result.adapter, result.weights_version]

    def _answer(
        self, sampling: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]
    ) -> list[Result | Exception]:
        given = dict(sampling)
        record: Record = "ids+logprobs" if given.pop("logprobs", False) else "ids"
        parameters = as_sampling(given)
        requests = [
            Request(str(next(self._numbers)), 1, parameters, record=record, **each)
            for each in inputs
        ]
        return [_outcome(result) for result in self._call(self._complete(requests))]

    async def _complete(self, requests: Sequence[Request]) -> list[Result | Failure]:
        """Answer requests, batched together, in their order, with what answers now."""
        adapter, version = self._adapter
        named = [
            msgspec.structs.replace(request, adapter=adapter, weights_version=version)
            for request in requests
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._engine.generate(request)) for request in named]
        return [task.result() for task in tasks]

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            work.close()
            raise EngineDied("the engine was closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        except BaseException:  # KeyboardInterrupt while waiting: the work must stop, too
            future.cancel()
            raise

    def close(self) -> None:
        """End the engine and its processes; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    async def _end(self) -> None:
        self._engine.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def as_sampling(parameters: Mapping[str, Any]) -> Sampling:
    """Sampling of the wire from a user's keywords. Raises ValueError, which names the bad one."""
    given = dict(parameters)
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    unknown = sorted(set(given) - set(Sampling.__struct_fields__))
    if unknown:
        raise ValueError(
            f"unknown sampling parameter {', '.join(unknown)}; there are: "
            + ", ".join(Sampling.__struct_fields__)
        )
    try:
        return msgspec.convert(
            {name: value for name, value in given.items() if value is not None}, Sampling
        )
    except msgspec.ValidationError as error:
        raise ValueError(f"sampling parameters: {error}") from error


def _outcome(result: Result | Failure) -> Result | Exception:
    return RequestRefused(result) if isinstance(result, Failure) else result
