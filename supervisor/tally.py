"""How many worker calls a run has made, and what they took."""

from dataclasses import dataclass

from distill.models import Usage
from distill.traces import records


@dataclass(slots=True)
class Tally:
    """Worker calls of a run so far."""

    asked: int = 0
    done: int = 0
    failed: int = 0
    reused: int = 0
    cached: int = 0
    replayed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """Tokens of the workers."""
        return Usage(self.input_tokens, self.output_tokens, self.cached_input_tokens)

    @property
    def sent(self) -> int:
        """Calls that a worker was asked: not those that got an answer from before."""
        return self.done - self.reused - self.cached - self.replayed

    def add(self, call: records.Call) -> None:
        """A call has ended; of one that got a spare answer nothing was used."""
        self.done += 1
        self.reused += call.source == "reused"
        self.cached += call.source == "cached"
        self.replayed += call.source == "replayed"
        if call.source == "reused":
            return
        if call.response is None:
            self.failed += 1
            return
        self.input_tokens += call.usage.input_tokens
        self.output_tokens += call.usage.output_tokens
        self.cached_input_tokens += call.usage.cached_input_tokens
