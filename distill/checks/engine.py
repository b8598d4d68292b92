"""An engine that is up: whether it answers, and how each of its workers does."""

import time
from collections.abc import Iterator

from distill.checks import Check
from distill.engine import Engine, find_endpoint
from distill.errors import DistillError
from distill.protocol.client_link import EngineStatus, WorkerStatus
from distill.version import __version__
from distill.worker_lines import lines

START_AGAIN = "end it, and start it again: bin/distill-up"
REMEDIES = {
    "frozen": "its process or its device hangs: the engine kills it after some seconds and starts "
    "it again; if it comes back, look at the device (nvidia-smi) and at {log}",
    "restarting": "wait some seconds; if it comes back, look at {log}",
    "failed": "correct what it says; then start the engine again, or add a worker: "
    "bin/distill-worker",
}


def look(endpoint: str | None, width_columns: int) -> tuple[list[Check], EngineStatus | None]:
    """Look at the engine there (this user's newest if None); what it said, if it did."""
    try:
        endpoint = endpoint or find_endpoint()
    except DistillError:
        return [Check("engine", None, "none is up", "bin/distill-up starts one that stays")], None
    started_s = time.monotonic()
    try:
        with Engine(endpoint) as engine:
            status = engine.status()
    except DistillError as error:
        return [Check("engine", False, f"{error}", START_AGAIN)], None
    answered_s = time.monotonic() - started_s
    return list(_checks(status, endpoint, answered_s, width_columns)), status


def _checks(
    status: EngineStatus, endpoint: str, answered_s: float, width_columns: int
) -> Iterator[Check]:
    seen = (
        f"{endpoint} answers in {answered_s:.2f} s\n"
        f"distill {status.version}, pid {status.pid}, up {status.up_s:,.0f} s; {status.runs} of "
        f"{status.runs_total} runs under way, {status.waiting} requests waiting"
    )
    if status.version == __version__:
        yield Check("engine", True, seen)
    else:
        yield Check("engine", None, f"{seen}\nthis is distill {__version__}", START_AGAIN)
    if not status.workers:
        yield Check("workers", True, f"none here: {status.model or 'a model'} behind --worker-url")
        return
    table = "\n".join(text for text, _ in lines(status, width_columns))
    yield Check("workers", _serves(status, "worker"), table, "no worker is ready: wait, or see why")
    for worker in status.workers:
        if worker.state in REMEDIES or worker.restarts:
            yield _trouble(worker, status, endpoint)


def _serves(status: EngineStatus, role: str) -> bool:
    """Whether a request would be answered; no worker may be needed, where an endpoint answers."""
    asked = [worker for worker in status.workers if worker.role == role]
    return not asked or any(worker.state in ("ready", "draining") for worker in asked)


def _trouble(worker: WorkerStatus, status: EngineStatus, endpoint: str) -> Check:
    """One that died, hangs, or is not there: red unless others do its work meanwhile."""
    log = f"{endpoint.removeprefix('ipc://').rpartition('/')[0]}/{worker.worker}.log"
    others = any(
        (each.role, each.model, each.state) == (worker.role, worker.model, "ready")
        for each in status.workers
    )
    times = "once" if worker.restarts == 1 else f"{worker.restarts} times"
    times = f", started again {times}" if worker.restarts else ""
    seen = f"{worker.worker}: {worker.state}{times}{f': {worker.fault}' if worker.fault else ''}"
    remedy = REMEDIES.get(worker.state, "if that goes on, look at {log}").format(log=log)
    is_bad = worker.state in ("frozen", "failed") or (worker.state in REMEDIES and not others)
    return Check("worker", False if is_bad else None, seen, remedy)
