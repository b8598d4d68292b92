"""What comes of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.models import Usage
from distill.replaying import Replayed
from distill.supervisor.evidence import Evidence, Quotation
from distill.supervisor.turns import Status


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run's outcome. ``answer`` is None if there was none; ``status`` tells the two apart.

    What it used is the sum over the run and its ``sub_runs``; ``iterations`` are its own turns.
    ``worker_calls`` were asked of a worker, ``worker_cached`` the answer cache knew. ``elapsed`` is
    in seconds. The trace is in ``log_dir`` under ``run_id``. Of ``worker_calls``,
    ``worker_calls_before`` were in the log when the run was resumed; None: it was not. ``replay``
    tells of the recorded run that was done again, if one was.

    ``answer_problem`` says what is wrong with an answer that the checks refused and that nothing
    better came after. ``quotations`` are the answer's that stand in the context, with
    ``quote_check``.

    ``ended_by`` is the budget that ended it, a field of ``Budget``, or None. ``dollars`` are those
    of the whole run, None where nobody knows a price; ``gpu_s`` seconds of worker servers' devices
    (an endpoint's are not known, and 0); ``dollars_limit`` is what it might have cost.
    """

    answer: Any
    iterations: int
    supervisor_usage: Usage
    worker_usage: Usage
    elapsed: float
    status: Status
    run_id: str
    log_dir: Path
    worker_calls: int
    worker_failures: int
    evidence: Evidence
    worker_calls_before: int | None = None
    worker_cached: int = 0
    answer_problem: str | None = None
    quotations: tuple[Quotation, ...] = ()
    sub_runs: int = 0
    replay: Replayed | None = None
    ended_by: str | None = None
    dollars: float | None = None
    dollars_limit: float | None = None
    gpu_s: float = 0.0
