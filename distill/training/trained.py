"""What comes of a training, and how far it is."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fitted:
    """``first_loss`` and ``last_loss`` are means over the first and the last tenth of the steps, as
    the method defines its loss; ``seconds`` are those of all sessions whose steps count.
    """

    steps: int
    first_loss: float
    last_loss: float
    seconds: float
    tokens: int = 0
    """Prompt and completion tokens that were trained on, those of every epoch."""


@dataclass(frozen=True, slots=True)
class Trained:
    """``weights`` is the folder of the adapter, or of the whole model where all weights were
    trained. ``parity`` says what the weights were held against before, ``warnings`` are for whoever
    uses it. ``is_new`` is false where the same training had ended before, and nothing was done.
    """

    out: Path
    weights: Path
    is_adapter: bool
    fitted: Fitted
    rows: int
    parity: str
    warnings: list[str] = field(default_factory=list)
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """After a step: ``loss`` is that of the step, ``left_s`` an estimate (None: not known yet)."""

    step: int
    steps: int
    loss: float
    tokens_per_s: float
    elapsed_s: float
    left_s: float | None
