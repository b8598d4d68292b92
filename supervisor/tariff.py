"""What the calls of one model use of a budget."""

from dataclasses import dataclass, field

from distill.budget import Use
from distill.models import Usage
from distill.prices import FREE, Price, PriceTable


@dataclass(frozen=True, slots=True)
class Tariff:
    """``price`` is of the model's tokens, None where nobody knows it: then dollars are 0 here.

    ``devices`` has the price of a worker server's time. ``counts``: it reads and writes tokens,
    which a recipe or a recorded run does not.
    """

    price: Price | None = FREE
    devices: PriceTable = field(default_factory=PriceTable)
    counts: bool = True

    def reply_bound(self, tokens: int) -> int:
        """So many tokens of a reply, or as many as the model writes at most."""
        most = self.price.max_output_tokens if self.price is not None else None
        return tokens if most is None else min(tokens, most)

    def used(self, usage: Usage, gpu_s: float = 0.0, device: str = "", calls: int = 0) -> Use:
        """What a call or a turn has used; tries that were lost are apart."""
        dollars = self.price.of_call(usage) if self.price is not None else 0.0
        return Use(
            worker_calls=calls,
            tokens=usage.input_tokens + usage.output_tokens,
            dollars=dollars + (self.devices.device_dollars(device, gpu_s) if gpu_s else 0.0),
            gpu_s=gpu_s,
        )

    def most(self, prompt_tokens: int, completion_tokens: int) -> Use:
        """What a call may use."""
        if not self.counts:
            return Use()
        dollars = self.price.most(prompt_tokens, completion_tokens) if self.price else 0.0
        return Use(tokens=prompt_tokens + completion_tokens, dollars=dollars)
