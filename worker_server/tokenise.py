"""Prompts to token ids, once, in batches, off the event loop.

While one batch is being encoded (in Rust, without the GIL) the next gathers by itself: the
busier the server, the larger the batches, and no timer delays a lone request.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distill.protocol.worker_link import ChatMessage, Request

BATCH_PROMPTS = 256
PROBE = "Is anybody there?"


class NoChatTemplate(ValueError):
    """The model has no chat template, so messages can't be rendered."""


class Tokeniser:
    """A fast Hugging Face tokenizer behind a queue; used by one event loop.

    ``template``, if given, takes the place of the tokenizer's own. Raises ValueError where it can't
    render a conversation.
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._has_template = bool(template or getattr(tokenizer, "chat_template", None))
        if template is not None:
            self._try(template)
        self._waiting: list[tuple[Request, asyncio.Future[tuple[list[int], str]]]] = []
        self._encoding: asyncio.Task[None] | None = None
        # One thread: a Rust tokenizer must not be reconfigured while another thread uses it.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenise")

    async def encode(self, request: Request) -> tuple[list[int], str]:
        """Token ids, and the text as the model sees it.

        Raises ValueError, with the reason, for what the template or the tokenizer refuses.
        """
        result: asyncio.Future[tuple[list[int], str]] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, result))
        if self._encoding is None or self._encoding.done():
            self._encoding = asyncio.create_task(self._encode_all())
        return await result

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _encode_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._waiting[:BATCH_PROMPTS]
            del self._waiting[:BATCH_PROMPTS]
            requests = [request for request, _ in batch]
            outcomes = await loop.run_in_executor(self._thread, self._encode_batch, requests)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():  # cancelled meanwhile
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _encode_batch(self, requests: list[Request]) -> list[tuple[list[int], str] | Exception]:
        """In the thread; one outcome per request, whatever happens."""
        outcomes: list[tuple[list[int], str] | Exception] = []
        texts: dict[bool, list[tuple[int, str]]] = {True: [], False: []}
        for position, request in enumerate(requests):
            outcomes.append(ValueError("not encoded"))
            try:
                if request.prompt_token_ids is not None:
                    ids = list(request.prompt_token_ids)
                    outcomes[position] = (ids, self._decoded(ids))
                elif request.messages is not None:
                    texts[False].append((position, self._rendered(request.messages)))
                else:
                    texts[True].append((position, request.prompt or ""))
            except Exception as error:  # noqa: BLE001  (templates raise what they like)
                outcomes[position] = _as_value_error(error)
        for special, group in texts.items():
            self._encode_group(group, special, outcomes)
        return outcomes

    def _encode_group(
        self,
        group: list[tuple[int, str]],
        special: bool,
        outcomes: list[tuple[list[int], str] | Exception],
    ) -> None:
        if not group:
            return
        try:
            texts = [text for _, text in group]
            encoded = self._tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
        except Exception as error:  # noqa: BLE001  (the Rust side raises bare Exception)
            for position, _ in group:
                outcomes[position] = _as_value_error(error)
            return
        for (position, text), ids in zip(group, encoded, strict=True):
            outcomes[position] = (ids, text)

    def _try(self, template: str) -> None:
        try:
            told = self._rendered((ChatMessage("user", PROBE),))
        except Exception as error:
            raise ValueError(f"the chat template does not work: {error}") from error
        if PROBE not in told:
            raise ValueError(f"the chat template leaves out what the user says: {template[:200]!r}")

    def _rendered(self, messages: tuple[ChatMessage, ...]) -> str:
        if not self._has_template:
            raise NoChatTemplate(
                "this model has no chat template (a base model?): ask with worker(prompt, "
                "chat=False), which sends the text as it stands, or start its worker with "
                "--chat-template FILE"
            )
        # Without one of the user's own it is the tokenizer that knows: it may have several by name.
        plain = [{"role": m.role, "content": m.content} for m in messages]
        return str(
            self._tokenizer.apply_chat_template(
                plain,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
        )

    def _decoded(self, ids: list[int]) -> str:
        size = len(self._tokenizer)
        if unknown := [i for i in ids if i >= size]:
            raise ValueError(f"token id {unknown[0]} is outside the vocabulary of {size}")
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


def _as_value_error(error: Exception) -> ValueError:
    if isinstance(error, ValueError):
        return error
    return ValueError(f"{type(error).__name__}: {error}")
