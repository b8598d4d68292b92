"""Whether a tokenizer reads and writes as the one that a call was logged with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distill.supervisor.text import printable
from distill.traces import records
from distill.worker_server.detokenise import detokeniser_of

SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Misspelt:
    """What a call and the tokenizer do not agree about, and which part of it is to blame."""

    cause: Literal["tokenizer", "template"]
    evidence: str


def misspelt(call: records.Call, tokenizer: Any, *, with_template: bool = True) -> Misspelt | None:
    """The first thing that a call with ids was spelt otherwise; None: all agrees.

    The ids are in the vocabulary, those of the completion mean its text, and the prompt is written
    with those that were logged; ``with_template`` also the messages, as the chat template has them.
    """
    assert call.prompt_token_ids is not None
    assert call.token_ids is not None
    known = range(len(tokenizer))
    if strange := [i for i in (*call.prompt_token_ids, *call.token_ids) if i not in known]:
        return Misspelt(
            "tokenizer",
            f"token {strange[0]} of call {call.id} is none of the {len(known):,} that it knows",
        )
    if call.response is None:  # its texts are not known
        return None
    return (
        _of_completion(call, tokenizer)
        or _of_prompt(call, tokenizer)
        or (_of_messages(call, tokenizer) if with_template else None)
    )


def has_untold_template(tokenizer: Any) -> bool:
    """Whether what it writes hangs on more than the messages: the day."""
    return "strftime_now" in str(getattr(tokenizer, "chat_template", None) or "")


def is_as_seen(call: records.Call) -> bool:
    """Whether ``prompt`` is what the model read; a handler logs only what the messages say."""
    said = "\n".join(each["content"] for each in call.messages or ())
    return call.messages is None or call.prompt != said


def rendered(call: records.Call, tokenizer: Any) -> str | None:
    """The messages through the loaded template; None where it can't."""
    messages = [dict(each) for each in call.messages or ()]
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    except Exception:  # noqa: BLE001  (a template raises what it likes)
        return None


def _of_completion(call: records.Call, tokenizer: Any) -> Misspelt | None:
    """The text was cut where a stop string began, and the token that ends an answer is no text."""
    prompt, ids = call.prompt_token_ids or (), call.token_ids or ()
    texts = [_text(tokenizer, prompt, each) for each in (ids, ids[:-1])]
    said = call.response or ""
    is_cut = bool(call.sampling.get("stop"))
    if said in texts or (is_cut and any(text.startswith(said) for text in texts)):
        return None
    return Misspelt(
        "tokenizer",
        f"the {len(ids)} tokens of the answer of call {call.id} are {_shown(texts[-1])} to it, and "
        f"{_shown(said)} in the log",
    )


def _of_prompt(call: records.Call, tokenizer: Any) -> Misspelt | None:
    if not is_as_seen(call):
        return None
    # As the worker server does: a template has written the special tokens already.
    special = call.messages is None
    ids = tokenizer(call.prompt, add_special_tokens=special, verbose=False)["input_ids"]
    differing = _differing(call, ids, tokenizer)
    return None if differing is None else Misspelt("tokenizer", differing)


def _of_messages(call: records.Call, tokenizer: Any) -> Misspelt | None:
    if call.messages is None or has_untold_template(tokenizer):
        return None
    text = rendered(call, tokenizer)
    if text is None:
        return Misspelt("template", f"it can't write the messages of call {call.id}")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    differing = _differing(call, ids, tokenizer)
    if differing is None:
        return None
    # It knows what the ids mean, so it is what stands around the messages that differs.
    read = printable(tokenizer.decode(list(call.prompt_token_ids or ())))
    is_read = is_as_seen(call) or all(_said(each["content"], read) for each in call.messages)
    return Misspelt("template" if is_read else "tokenizer", differing)


def _said(content: str, text: str) -> bool:
    """A template may strip a message."""
    return content.strip() in text


def _differing(call: records.Call, ids: Sequence[int], tokenizer: Any) -> str | None:
    """Where the prompt's logged ids and these part; None: nowhere."""
    logged = list(call.prompt_token_ids or ())
    if logged == list(ids):
        return None
    shorter = min(len(logged), len(ids))
    place = next((at for at in range(shorter) if logged[at] != ids[at]), shorter)
    both = (_token(tokenizer, each, place) for each in (logged, ids))
    return "the prompt of call {}, token {}: {} was logged, it writes {}".format(
        call.id, place + 1, *both
    )


def _token(tokenizer: Any, ids: Sequence[int], place: int) -> str:
    if place == len(ids):
        return "the end"
    return f"{ids[place]} ({_shown(tokenizer.decode([ids[place]]))})"


def _text(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """As the worker server spells it."""
    detokeniser = detokeniser_of(tokenizer)
    if detokeniser is None:
        return printable(tokenizer.decode(list(ids), skip_special_tokens=True))
    return printable(detokeniser.text(prompt, ids))


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…")
