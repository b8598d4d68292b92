"""What many tasks would ask and cost: the estimates of their runs, added up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distill.budget import amount, counted
from distill.dry_run import Estimate


@dataclass(frozen=True, slots=True)
class TasksEstimate:
    """What ``attempts`` at ``tasks`` tasks would take that have no result yet.

    Tokens and ``worker_calls`` are sums, None where nobody can know one of them before;
    ``dollars`` is what all costs at most, ``supervisor_dollars`` of it the supervisor; None where a
    price or the worker calls are not known. ``dollars_limit`` holds for all together, if there is
    one. ``str`` of it is for people.
    """

    tasks: int
    attempts: int
    estimates: Sequence[tuple[int, Estimate]]
    """How often each is to be run, and what it takes once."""
    dollars_limit: float | None = None

    def _sum(self, name: str) -> float | None:
        """Over all attempts; None where one of them is not known."""
        total: float = 0
        for times, each in self.estimates:
            value: float | None = getattr(each, name)
            if value is None:
                return None
            total += times * value
        return total

    @property
    def dollars(self) -> float | None:
        """Of all attempts."""
        return self._sum("dollars")

    @property
    def supervisor_dollars(self) -> float | None:
        """Of all attempts, for their supervisors alone."""
        return self._sum("supervisor_dollars")

    @property
    def worker_calls(self) -> int | None:
        """Of all attempts."""
        calls = self._sum("worker_calls")
        return None if calls is None else int(calls)

    def __str__(self) -> str:
        lines = [
            "Dry run     nothing was sent, and no engine was started",
            f"Tasks       {self.tasks:,}, {counted(self.attempts, 'attempt')} without a result",
        ]
        if not self.estimates:
            return "\n".join([*lines, "Cost        none: there is nothing left to run"])
        _, first = self.estimates[0]
        turns = counted(int(self._sum("turns") or 0), "turn")
        read, written = self._sum("supervisor_input_tokens"), self._sum("supervisor_output_tokens")
        tokens = f"about {read:,} tokens in, {written:,} out"
        lines += [
            f"Supervisor  {first.supervisor}: up to {turns}, {tokens}",
            f"Workers     {first.worker}: {self._calls()}",
            f"Cost        {self._cost()}",
            f"Limits      {self._limits()}",
        ]
        notes = dict.fromkeys(note for _, each in self.estimates for note in each.notes)
        # What is measured of one task says nothing of the others.
        shared = [n for n in notes if all(n in each.notes for _, each in self.estimates)]
        lines += [f"{'Note' if n == 0 else '':<12}{note}" for n, note in enumerate(shared)]
        return "\n".join(lines)

    def _calls(self) -> str:
        if (calls := self.worker_calls) is None:
            return "as many calls as the supervisor's code makes, which nobody knows before"
        read, written = self._sum("worker_input_tokens"), self._sum("worker_output_tokens")
        return f"{counted(calls, 'call')}, about {read:,} tokens in, at most {written:,} out"

    def _cost(self) -> str:
        if (dollars := self.dollars) is not None:
            return f"about ${dollars:,.4f} in all"
        if (dollars := self.supervisor_dollars) is not None:
            return f"about ${dollars:,.4f} for the supervisor in all, and the worker calls"
        return "not known: a model has no price (--prices)"

    def _limits(self) -> str:
        """Of each run, and of all."""
        told = dict.fromkeys(_told(each) for _, each in self.estimates)
        each = next(iter(told)) if len(told) == 1 else "each its own"
        if self.dollars_limit is None:
            return f"of each run: {each}"
        return f"of each run: {each}; of all: {amount('dollars', self.dollars_limit)}"


def _told(estimate: Estimate) -> str:
    caps: Iterable[str] = (amount(kind, cap) for kind, cap in estimate.limits.items())  # type: ignore[arg-type]
    return ", ".join(caps) or "none"
