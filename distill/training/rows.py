"""Which runs of an iteration become rows, and of which format."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.exports import Export
from distill.exports.choice import Choice
from distill.training.data import is_data_set
from distill.training.gathering import FOLDER, gather
from distill.training.plan import Plan


@dataclass(frozen=True, slots=True)
class Asked:
    """Of ``formats`` the one that has most rows; ``choice`` are options of ``distill.export``."""

    formats: tuple[str, ...]
    choice: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise InputError for a choice that rows of these formats can't have."""
        for name in self.formats:
            Choice(format=name, **self.choice).check()


_SFT = {"select": "correct", "dedup": True, "without_shots": True}
BY_METHOD = {
    # What a prompt with demonstrations was answered is taught to the prompt without them.
    "sft": Asked(("worker-sft", "worker-sft-text"), _SFT),
    # Token ids are what was read: the prompt stays as it was.
    "sft --exact": Asked(("token-sft",), {"select": "correct"}),
    # Right answers alone have nothing to be better than.
    "rl": Asked(("episodes",), {"select": "all"}),
    "opd": Asked(("token-sft",), {"select": "all"}),
}


def of(plan: Plan) -> Asked:
    """The rows that a method learns from; the selection of the plan goes before its own."""
    exact = " --exact" if plan.training.get("--exact") else ""
    asked = BY_METHOD[plan.method + exact]
    return Asked(asked.formats, asked.choice | plan.selection | {"scorer": plan.scorer})


def exported(logs: Path, folder: Path, asked: Asked) -> tuple[Path, Export | None]:
    """The data set of these logs in ``folder``; None in place of counts where it is there already.

    Raises NoRowsError where no row is left.
    """
    if is_data_set(folder / FOLDER):
        return folder / FOLDER, None
    try:
        return gather([str(logs)], asked.formats, asked.choice, folder)
    except InputError as error:
        raise type(error)(f"there is nothing to train on in {logs}: {error}") from error
