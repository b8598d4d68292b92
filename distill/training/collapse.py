"""What a collapse is: the model in training no longer answers, or nothing that earns anything."""

from dataclasses import dataclass

from distill.errors import ModelError

MORE = 0.3
"""Of all answers: so many more that are empty, or cut, are a collapse. Of 32 answers a share has a
standard error of at most 0.09."""
LESS = 0.5
"""Of what was earned at first: less is a collapse, where the difference is no noise either."""
NOISE = 0.15
SHORTER = 0.25
"""Of the mean length at first: less is a collapse, unless as much is earned (within a tenth)."""


class CollapseError(ModelError):
    """The model in training no longer answers, or its loss is no number; its last good checkpoint
    is there.
    """


@dataclass(frozen=True, slots=True)
class Sample:
    """Answers of the model after a step: how many, their mean tokens, the shares of empty ones and
    of those that came to no end, and what they earn on average, as far as the log knows.
    """

    step: int
    answers: int
    tokens: float
    empty: float
    cut: float
    earned: float
    examples: list[str]


def collapse(before: Sample, now: Sample) -> str | None:
    """What has collapsed since the training began; None: nothing."""
    if now.empty >= before.empty + MORE:
        return f"{now.empty:.0%} of its answers are empty ({before.empty:.0%} at first)"
    if now.cut >= before.cut + MORE:
        return f"{now.cut:.0%} of its answers come to no end ({before.cut:.0%} at first)"
    if now.earned < before.earned * LESS and now.earned < before.earned - NOISE:
        return f"its answers earn {now.earned:.2f} ({before.earned:.2f} at first)"
    if now.tokens < before.tokens * SHORTER and now.earned <= before.earned * 0.9:
        return (
            f"its answers have {now.tokens:.1f} tokens ({before.tokens:.1f} at first), and earn no "
            f"more for it: {now.earned:.2f} ({before.earned:.2f} at first)"
        )
    return None
