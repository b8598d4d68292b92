"""A run and what is known of how good it was."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from distill.run_costs import cost_of
from distill.traces import Run, flow, records
from distill.traces.questions import question_hash
from distill.traces.words import words_of


@dataclass
class GradedRun:
    """A run with its scores, by scorer. ``score`` is that of the scorer that decides.

    ``above`` are the runs whose sub-run it is, that which asked for it first. ``root`` is the last
    of them (itself, if there is none): scores are that run's. ``task`` is the root's label.
    """

    run: Run
    above: "list[GradedRun]" = field(default_factory=list, repr=False)
    scores: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    label: Any = None
    """The expected answer, where a score or a results file says it."""
    is_task: bool = False
    """A results file of `--tasks` tells of it: its label is that of a task."""

    @property
    def root(self) -> "GradedRun":
        """The run at the top."""
        return self.above[-1] if self.above else self

    @property
    def start(self) -> records.RunStart:
        """Its first record: a run without one is not exported."""
        assert self.run.start is not None
        return self.run.start

    @property
    def task(self) -> str | None:
        """The root's label."""
        return self.root.start.label

    @property
    def document(self) -> str:
        """SHA-256 of the text that it asked about."""
        return self.start.context.sha256

    @property
    def is_replay(self) -> bool:
        """It does another run again: what the supervisor says in it is that run's."""
        return bool(self.start.options.get("replay_of"))

    @property
    def redacted(self) -> tuple[str, ...]:
        """The patterns that were redacted in it."""
        return self.start.redacted

    def has_in_answer(self, response: str | None) -> bool:
        """Whether what a worker answered is likely in the run's own final answer."""
        return response is not None and bool(self._final.places(words_of(response)))

    @cached_property
    def _final(self) -> flow.Final:
        return flow.Final(self.run.answer)

    @cached_property
    def group(self) -> str:
        """Equal for runs whose roots put the same question to the same text."""
        return question_hash(self.root.start)

    @property
    def tokens(self) -> int:
        """Of both models, in and out, sub-runs included; 0 of a run that was cut off."""
        if self.run.end is None:
            return 0
        used = cost_of(self.run.end)
        both = (used["supervisor_usage"], used["worker_usage"])
        return sum(each.input_tokens + each.output_tokens for each in both)

    @property
    def dollars(self) -> float | None:
        """What it cost, sub-runs included; None where that is not known."""
        return None if self.run.end is None else cost_of(self.run.end)["dollars"]
