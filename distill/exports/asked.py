"""What a worker was asked: as messages, and as the text that it saw."""

from distill.exports.row import ChatMessage, Dropped
from distill.traces import records

NO_TEMPLATE = "an endpoint's template is not known ({name} takes it)"
BARE = "a bare prompt has no messages ({name}-text takes it)"


def messages_of(call: records.Call, name: str) -> list[ChatMessage] | Dropped:
    """The messages of a call, for the format of this name."""
    if call.messages is None:
        return Dropped(BARE.format(name=name))
    return [ChatMessage(each["role"], each["content"]) for each in call.messages]


def text_of(call: records.Call, name: str) -> str | Dropped:
    """The text as the model saw it, for the format whose name is this and `-text`."""
    if call.messages is None:
        return call.prompt
    # What went through an endpoint, or a handler, stands in the log as it was before the template.
    said = "\n".join(each["content"] for each in call.messages)
    if not call.model.engine or call.prompt == said:
        return Dropped(NO_TEMPLATE.format(name=name))
    return call.prompt
