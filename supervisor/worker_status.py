"""A worker as people and Prometheus are shown it, from what the driver knows of it."""

from distill.protocol.client_link import WorkerState, WorkerStatus
from distill.supervisor.text import clip
from distill.supervisor.workers import TOLD_TO_LEAVE, Worker

FROZEN_AFTER_S = 3.0
"""Three heartbeats missed: shown as frozen before the fleet gives it up (SILENCE_LIMIT_S)."""

WORDS_LIMIT_CHARS = 500
"""Of what a worker says of itself: it goes to everybody who looks, every second."""


def status_of(worker: Worker, now_s: float) -> WorkerStatus:
    """How a worker is at ``now_s`` of the monotonic clock."""
    state = _state(worker, now_s)
    fault = worker.failure.detail if worker.failure is not None else worker.meter.last_fault
    total = worker.meter.total
    recent, seconds = worker.meter.recent if state in ("ready", "draining") else (None, 0.0)
    per_s = 1 / seconds if seconds else 0.0
    seen = recent if recent is not None and recent.prompt_tokens else total
    return WorkerStatus(
        worker=worker.name,
        role=worker.role,
        model=clip(worker.card.model, WORDS_LIMIT_CHARS) if worker.card is not None else "",
        device=clip(worker.card.device, WORDS_LIMIT_CHARS) if worker.card is not None else "",
        state=state,
        in_flight=len(worker.in_flight),
        slots=worker.slots,
        waiting=worker.meter.waiting,
        prompt_tokens=total.prompt_tokens,
        cached_tokens=total.cached_tokens,
        completion_tokens=total.completion_tokens,
        prompt_tokens_per_s=recent.prompt_tokens * per_s if recent else 0.0,
        completion_tokens_per_s=recent.completion_tokens * per_s if recent else 0.0,
        cached_share=min(1.0, seen.cached_tokens / seen.prompt_tokens)
        if seen.prompt_tokens
        else 0.0,
        cache_usage=worker.meter.cache_usage,
        failures=total.failures,
        restarts=worker.meter.restarts,
        last_step_age_s=worker.step_age_s,
        silent_s=max(0.0, now_s - worker.heard_s),
        fault=clip(fault, WORDS_LIMIT_CHARS),
    )


def _state(worker: Worker, now_s: float) -> WorkerState:
    match worker.conversation.state:
        case state if worker.has_exited and state != "ended":  # the launcher will say so, too
            return "restarting" if worker.spec is not None else "left"
        case "new":
            return "starting"
        case "greeted" | "loading":
            return "loading"
        case "ready" if not worker.is_leaving:
            return "frozen" if now_s - worker.heard_s > FROZEN_AFTER_S else "ready"
        case "ready" | "draining":
            return "draining"
        case "gone":  # it has said its last word, or is being killed
            return "draining" if worker.is_leaving else "restarting" if worker.card else "failed"
        case _ if worker.failure is None:
            return "restarting"
        case _:
            return "left" if worker.failure.detail == TOLD_TO_LEAVE else "failed"
