"""What a way of training is: the contract between ``course`` and ``sft``, ``opd``, ``rl``.

::

    class Sft(Method):
        name = "sft"                        # of `distill train NAME`
        formats = ("worker-sft", …)         # of `distill export`, what it can be fed

        def trainer(self, weights, data, settings): ...

``trainer`` gives a ``transformers.Trainer`` (or one of its subclasses), made with
``fitting.arguments``; ``course`` does the rest: parity, checkpoints, progress, what is saved.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from distill.training.data import DataSet
    from distill.training.settings import TrainSettings
    from distill.training.weights import Weights

OnPhase = Callable[[str], object]
"""Hears what is being done, in a few words for people."""


@dataclass(frozen=True, slots=True)
class Made:
    """A trainer, the number of rows that it learns from, and what is to be known of it."""

    trainer: Any
    rows: int
    warnings: list[str] = field(default_factory=list)
    at_first: str = "the first step"
    """What is done before a step is told, for people."""


class Method(ABC):
    """One way to train."""

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    on_policy: ClassVar[bool] = False
    """It holds for what the weights in training have sampled, and for nothing else."""

    def options(self) -> dict[str, Any]:
        """Settings of its own, for ``training.json``: JSON values."""
        return {}

    def check_options(self) -> None:  # noqa: B027  (optional)
        """Raise InputError for settings of its own that can't be, before anything is read."""

    def check(self, data: "DataSet", settings: "TrainSettings") -> None:  # noqa: B027  (optional)
        """Raise InputError for rows that it can't learn from, before weights are loaded."""

    @abstractmethod
    def trainer(self, weights: "Weights", data: "DataSet", settings: "TrainSettings") -> Made:
        """The trainer, on rows that are tokens. Raises NoRowsError where no row is left."""
