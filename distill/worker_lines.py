"""An engine's workers as lines of text, for the live display and for ``distill doctor``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from distill.protocol.client_link import EngineStatus, WorkerStatus
from distill.supervisor.text import visible

FOLD_AT = 8
"""So many workers of one model are shown as one line, and those of them that need a look."""
ODD_SHOWN = 4
GAP = "  "
STYLES = {
    "starting": "yellow",
    "loading": "yellow",
    "draining": "yellow",
    "restarting": "yellow",
    "frozen": "red",
    "failed": "red",
    "left": "dim",
}


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of one line; ``style`` is rich's."""

    worker: str
    state: str
    in_flight: str
    tokens_per_s: str
    cached: str
    failed: str
    restarts: str
    step: str
    model: str
    device: str
    style: str = ""


HEAD = Row(
    "worker",
    "state",
    "in flight",
    "tokens/s in+out",
    "cached",
    "failed",
    "restarts",
    "last step",
    "model",
    "device",
    "dim",
)
COLUMNS = tuple(field.name for field in fields(Row) if field.name != "style")
TO_THE_RIGHT = frozenset(("in_flight", "tokens_per_s", "cached", "failed", "restarts", "step"))
DROPPED_FIRST = ("device", "restarts", "failed", "model", "cached")
"""Where a terminal is narrow; failures and restarts only while there are none."""
MODEL_LEAST_COLUMNS = 12
"""A model's name is cut off down to this."""


def lines(status: EngineStatus, width_columns: int) -> list[tuple[str, str]]:
    """Each line with its style, a heading first; none if there are no workers."""
    rows = [row for group in _groups(status.workers) for row in _rows(group)]
    if not rows:
        return []
    widths = _fitted([HEAD, *rows], width_columns)
    return [(_line(row, widths)[:width_columns].rstrip(), row.style) for row in (HEAD, *rows)]


def in_words(workers: Sequence[WorkerStatus]) -> str:
    """All of them in one plain line."""
    name = workers[0].worker if len(workers) == 1 else f"{len(workers)} workers"
    row = _row(name, workers)
    return (
        f"{row.worker}: {row.state}, {row.in_flight} in flight, {row.tokens_per_s} tokens/s, "
        f"{row.cached} cached, {row.failed} failed, {row.restarts} restarts"
    )


def _groups(workers: Sequence[WorkerStatus]) -> list[list[WorkerStatus]]:
    """Those of one model, and for one purpose, together."""
    groups: dict[tuple[str, str], list[WorkerStatus]] = {}
    for worker in workers:
        groups.setdefault((worker.role, worker.model), []).append(worker)
    return list(groups.values())


def _rows(group: Sequence[WorkerStatus]) -> list[Row]:
    if len(group) < FOLD_AT:
        return [_row(worker.worker, [worker]) for worker in group]
    odd = [worker for worker in group if worker.state != "ready"]
    shown = [_row(worker.worker, [worker]) for worker in odd[:ODD_SHOWN]]
    if len(odd) == len(group) and len({worker.state for worker in odd}) == 1:
        shown = []  # the line of all says it
    return [_row(f"{len(group)} workers", group), *shown]


def _row(name: str, workers: Sequence[WorkerStatus]) -> Row:
    states = Counter(worker.state for worker in workers)
    odd = [state for state in states if state != "ready"]
    devices = Counter(worker.device for worker in workers)
    return Row(
        visible(name),
        workers[0].state if len(states) == 1 else f"{states['ready']}/{len(workers)} ready",
        f"{sum(w.in_flight for w in workers)}/{sum(w.slots for w in workers)}",
        f"{sum(w.prompt_tokens_per_s for w in workers):,.0f}+"
        f"{sum(w.completion_tokens_per_s for w in workers):,.0f}",
        f"{100 * _cached_share(workers):.0f} %",
        f"{sum(w.failures for w in workers)}",
        f"{sum(w.restarts for w in workers)}",
        _step(workers),
        visible(workers[0].model.rpartition("/")[2]) or "?",
        visible(devices.most_common(1)[0][0]) if len(devices) == 1 else f"{len(devices)} kinds",
        STYLES[odd[0]] if odd else "",
    )


def _cached_share(workers: Sequence[WorkerStatus]) -> float:
    weights = [worker.prompt_tokens_per_s for worker in workers]
    if not any(weights):
        weights = [worker.prompt_tokens for worker in workers]
    total = sum(weights)
    shares = (worker.cached_share * each for worker, each in zip(workers, weights, strict=True))
    return sum(shares) / total if total else 0.0


def _step(workers: Sequence[WorkerStatus]) -> str:
    """How long ago the slowest of them finished a step."""
    busy = [worker.last_step_age_s for worker in workers if worker.in_flight]
    return f"{max(busy):.1f} s" if busy else "idle"


def _fitted(rows: Sequence[Row], width_columns: int) -> dict[str, int]:
    """The columns that a line has room for, with their widths; the model may be cut off."""
    widths = {name: max(len(getattr(row, name)) for row in rows) for name in COLUMNS}
    whole = widths["model"]
    widths["model"] = min(whole, MODEL_LEAST_COLUMNS)
    for name in DROPPED_FIRST:
        if _total(widths) <= width_columns:
            break
        if name not in ("failed", "restarts") or all(getattr(row, name) == "0" for row in rows[1:]):
            del widths[name]
    if "model" in widths:
        widths["model"] = min(whole, widths["model"] + max(0, width_columns - _total(widths)))
    return widths


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _line(row: Row, widths: dict[str, int]) -> str:
    cells = []
    for name, width in widths.items():
        text = getattr(row, name)
        text = text if len(text) <= width else f"{text[: width - 1]}…"
        cells.append(text.rjust(width) if name in TO_THE_RIGHT else text.ljust(width))
    return GAP.join(cells)
