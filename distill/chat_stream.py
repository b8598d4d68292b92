"""A reply that comes in pieces: its events, put together into the completion they are of.

::

    bytes ──► lines ──► events ──► the body that the endpoint would have sent at once
                           └─────► the hearer: each piece of text, as it comes
"""

import json
from typing import Any

from distill.caller import Hearer
from distill.completion import BadReply, content_of, error_in, reasoning_of

WHOLE_EVENTS = ("model", "usage")
"""Fields of an event that are the whole body's; the last that is there counts."""


class ReplyStream:
    """Server-sent events of one chat completion. ``feed`` never raises; ``body`` does."""

    def __init__(self, hear: Hearer | None = None) -> None:
        self.begun = False
        self._hear = hear
        self._rest = bytearray()
        self._is_done = False
        self._fault: BadReply | None = None
        self._body: dict[str, Any] = {}
        self._choice: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {"content": [], "reasoning": [], "refusal": []}
        self._logprobs: list[Any] = []
        self._calls: dict[Any, dict[str, list[str]]] = {}

    def feed(self, data: bytes) -> bool:
        """More bytes of the reply; whether that is all of it."""
        self.begun = True
        seen = len(self._rest)
        self._rest += data
        end = self._rest.rfind(b"\n", seen)
        if end < 0 or self._fault is not None:
            return self._is_done
        lines = bytes(self._rest[:end]).split(b"\n")
        del self._rest[: end + 1]
        try:
            for line in lines:
                self._on_line(line.strip())
        except BadReply as fault:
            self._fault = fault
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            self._fault = BadReply(f"an event can't be read, {type(error).__name__}: {error}")
        return self._is_done

    def body(self) -> dict[str, Any]:
        """The whole completion. Raises BadReply: it broke off, or an event is none."""
        self.feed(b"\n")
        if self._fault is not None:
            raise self._fault
        if "error" in self._body:
            return self._body
        if not self._is_done and self._choice.get("finish_reason") is None:
            raise BadReply("its stream broke off in the middle of the reply")
        message: dict[str, Any] = {name: "".join(parts) for name, parts in self._texts.items()}
        message["tool_calls"] = [
            {"function": {name: "".join(parts) for name, parts in call.items()}}
            for call in self._calls.values()
        ]
        choice = {**self._choice, "message": message, "logprobs": {"content": self._logprobs}}
        if not self._logprobs:
            del choice["logprobs"]
        return {**self._body, "choices": [choice] if self._choice else []}

    def _on_line(self, line: bytes) -> None:
        """One line: ``data: {…}``, ``data: [DONE]``, or one that says nothing of the reply."""
        kind, _, data = line.partition(b":")
        if kind != b"data" or self._is_done:
            return
        if data.strip() == b"[DONE]":
            self._is_done = True
            return
        event = json.loads(data)
        if not isinstance(event, dict):
            raise BadReply(f"an event of its stream is a {type(event).__name__}")
        if (error := error_in(event)) is not None:
            self._body["error"] = error
        self._body |= {name: event[name] for name in WHOLE_EVENTS if event.get(name) is not None}
        for choice in event.get("choices") or ():
            if choice.get("index", 0) == 0:
                self._on_choice(choice)

    def _on_choice(self, choice: dict[str, Any]) -> None:
        self._choice.setdefault("index", 0)
        for name in ("finish_reason", "error"):
            if choice.get(name) is not None:
                self._choice[name] = choice[name]
        self._logprobs += (choice.get("logprobs") or {}).get("content") or ()
        delta = choice.get("delta") or {}
        text, thought = content_of(delta.get("content"))
        self._on_text("reasoning", reasoning_of(delta) or thought)
        self._on_text("content", text)
        self._on_text("refusal", delta.get("refusal") or "")
        for call in delta.get("tool_calls") or ():
            self._on_call(call.get("index", len(self._calls)), call.get("function") or {})
        if delta.get("function_call"):
            self._on_call("function_call", delta["function_call"])

    def _on_text(self, kind: str, piece: str) -> None:
        if not piece:
            return
        self._texts[kind].append(piece)
        if self._hear is not None:
            self._hear(piece, kind == "reasoning")

    def _on_call(self, index: Any, function: dict[str, Any]) -> None:
        parts = self._calls.setdefault(index, {"name": [], "arguments": []})
        if not parts["name"] and function.get("name"):  # some say it again with each piece
            parts["name"].append(str(function["name"]))
        if piece := function.get("arguments"):
            parts["arguments"].append(piece if isinstance(piece, str) else json.dumps(piece))
            if self._hear is not None:
                self._hear(parts["arguments"][-1], False)
