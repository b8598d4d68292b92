"""Whether a worker call can be trained on token by token: as it was sampled, never retokenised."""

from distill.errors import InputError
from distill.exports.graded import GradedRun
from distill.traces import records

FAILED = "the call failed"
REDACTED = "redacted: the log has no token ids"
NOT_SAMPLED = "{source}: nothing was sampled, so there are no token ids"
NOT_RECORDED = "recorded without token ids (record=off)"
NO_IDS = "no token ids: its endpoint gives none"
NOTHING = "nothing was sampled"


def why_not(graded: GradedRun, call: records.Call) -> str | None:
    """Why the exact tokens of a call are not there; None: they are."""
    if call.response is None:
        return FAILED
    if graded.redacted:
        return REDACTED
    if call.source != "sampled":
        return NOT_SAMPLED.format(source=call.source)
    if call.prompt_token_ids is None or call.token_ids is None:
        return NOT_RECORDED if call.sampling.get("record") == "off" else NO_IDS
    return None if call.prompt_token_ids and call.token_ids else NOTHING


class OneTokenizer:
    """Sees to it that all rows of a data set mean the same by a token id."""

    def __init__(self) -> None:
        self._first: records.Model | None = None

    def check(self, model: records.Model) -> None:
        """Raises InputError where this model's tokenizer is not that of those before it."""
        first = self._first = self._first or model
        if _tokenizer(model) != _tokenizer(first):
            raise InputError(
                f"the calls are of two tokenizers, those of {first.model} and {model.model}: a "
                "token id of one means nothing to the other. Choose one model, as with "
                f"--where 'call.model == {first.model!r}'"
            )


def _tokenizer(model: records.Model) -> str:
    # A model that says no hash is its own tokenizer.
    return model.tokenizer_hash or f"of {model.model}"
