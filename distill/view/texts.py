"""The text that a run asked about, by slices: what the page shows at a time."""

from typing import Any

from distill.errors import InputError
from distill.traces.contexts import texts_of
from distill.view.facts import RunFacts

SLICE_CHARS = 20_000


class ContextTexts:
    """The texts of a run's context, one after the other; ``missing`` says why there are none."""

    def __init__(self, run: RunFacts) -> None:
        self.missing: str | None = None
        self.context: Any = ""
        try:
            self.context = run.told.context()
        except (InputError, ValueError, RecursionError) as error:  # gone, changed or no JSON
            self.missing = str(error)
        self.parts = [("" if name is None else name, text) for name, text in texts_of(self.context)]

    @property
    def context_is_parts(self) -> bool:
        """Whether it is a list or dict, whose texts have names."""
        return not isinstance(self.context, str)

    def slice(self, part: int, number: int) -> str:
        """Characters ``number * SLICE_CHARS`` and on of a text. Raises IndexError."""
        text = self.parts[part][1]
        return text[number * SLICE_CHARS : (number + 1) * SLICE_CHARS]
