"""The one place where every training is held against its logs: between its rows and its steps."""

from typing import TYPE_CHECKING

from distill.training.logged import chosen
from distill.training.parity import Need, Parity, check

if TYPE_CHECKING:
    from distill.training.data import DataSet
    from distill.training.method import Method, OnPhase
    from distill.training.settings import TrainSettings
    from distill.training.weights import Weights

OF_IDS = "token-sft"


def gate(
    method: "Method",
    data: "DataSet",
    weights: "Weights",
    settings: "TrainSettings",
    on_phase: "OnPhase" = lambda _: None,
) -> Parity:
    """Replay some calls of the rows. Raises ParityError, and InputError where there are no logs."""
    if not settings.parity_rows:
        return Parity(0, "nothing was compared (--no-parity)")
    calls = chosen(data, weights.card, settings.parity_rows, settings.seed)
    if not calls:
        return Parity(0, "nothing is compared: the rows are texts, and no calls of a worker")
    on_phase(f"replaying {len(calls):,} logged {'call' if len(calls) == 1 else 'calls'}")
    return check(weights, calls, _need(method, data))


def _need(method: "Method", data: "DataSet") -> Need:
    if method.on_policy:
        return "weights"
    return "ids" if data.format == OF_IDS else "text"
