"""What a worker was asked: as messages, and as the text that it saw.

A few-shot prompt shows its demonstrations as earlier turns: messages of the user, each with an
answer of the assistant. Without them the system messages and the last message of the user are
left: a zero-shot prompt, to which the answer of the few-shot one can be taught.
"""

from collections.abc import Sequence

from distill.exports.row import ChatMessage, Dropped
from distill.traces import records

Messages = Sequence[dict[str, str]]

NO_TEMPLATE = "an endpoint's template is not known ({name} takes it)"
BARE = "a bare prompt has no messages ({name}-text takes it)"
UNCUT = "its template does not show where the earlier turns stand ({name} takes it)"
HEAD_CHARS = 4
"""Of what a template writes before a message; its end, as `user` and a line break, tells a turn."""


def messages_of(call: records.Call, name: str, *, shots: bool) -> list[ChatMessage] | Dropped:
    """The messages of a call, for the format of this name; with its earlier turns or without."""
    if call.messages is None:
        return Dropped(BARE.format(name=name))
    return [
        ChatMessage(each["role"], each["content"])
        for each in (call.messages if shots else without_shots(call.messages))
    ]


def text_of(call: records.Call, name: str, *, shots: bool) -> str | Dropped:
    """The text as the model saw it, for the format whose name is this and `-text`.

    Without its earlier turns: as the model would have seen it.
    """
    if call.messages is None:
        return call.prompt
    # What went through an endpoint, or a handler, stands in the log as it was before the template.
    said = "\n".join(each["content"] for each in call.messages)
    if not call.model.engine or call.prompt == said:
        return Dropped(NO_TEMPLATE.format(name=name))
    return call.prompt if shots else _text_without_shots(call, call.messages, name)


def without_shots(messages: Messages) -> list[dict[str, str]]:
    """The system messages, the last message of the user, and what was put behind it."""
    begin, end = _earlier(messages)
    return [
        each
        for at, each in enumerate(messages)
        if each["role"] == "system" or not begin <= at < end
    ]


def _earlier(messages: Messages) -> tuple[int, int]:
    """Where the earlier turns begin, and where they end: with the last message of the user."""
    said = [at for at, each in enumerate(messages) if each["role"] != "system"]
    asked = [at for at in said if messages[at]["role"] == "user"]
    return (said[0], asked[-1]) if asked else (0, 0)


def _text_without_shots(call: records.Call, messages: Messages, name: str) -> str | Dropped:
    """The prompt from its beginning to the first turn, and from the last message of the user on.

    A template writes the same before the first message of the user, whatever follows, and the
    same behind the last one, whatever came before.
    """
    begin, end = _earlier(messages)
    if begin == end:
        return call.prompt
    places = call.message_spans
    if places is None or any(each["role"] == "system" for each in messages[begin:end]):
        return Dropped(UNCUT.format(name=name))
    head, rest = call.prompt[: places[begin].start], call.prompt[places[end].start :]
    before_last = call.prompt[: places[end].start]
    is_like = messages[begin]["role"] == "user" and before_last.endswith(head[-HEAD_CHARS:])
    return head + rest if is_like else Dropped(UNCUT.format(name=name))
