"""Which recorded runs can be gone on with, and what must be given again for it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.opening import Opening
from distill.ready_primitives import ready_of
from distill.repl import REPL
from distill.run_repl import SEED_NAMES
from distill.supervisors import check_whole, recorded_run
from distill.traces import Run


def check_resumable(
    log_dir: str | Path,
    run_id: str | None = None,
    primitives: Mapping[str, Any] | None = None,
    repl_class: type[REPL] = REPL,
    answer_check: Callable[..., Any] | None = None,
    messages: Opening | None = None,
) -> Run:
    """The run that ``resume`` would go on with. Raises InputError if there is none that can."""
    recorded = recorded_run(log_dir, run_id)
    check_whole(recorded)
    assert recorded.start is not None
    if recorded.end is not None and recorded.end.status in ("final", "forced", "unanswered"):
        raise InputError(
            f"run {recorded.id} has ended ({recorded.end.status}): ask the question anew"
        )
    if (above := recorded.start.parent) is not None:
        raise InputError(
            f"run {recorded.id} is a sub-run of {above.run}: it goes on with that, not alone"
        )
    replay_of = recorded.start.options.get("replay_of")
    if replay_of is not None and replay_of["answers"] == "log":
        raise InputError(f"run {recorded.id} is a replay, which costs nothing: begin it anew")
    if not recorded.messages:
        raise InputError(f"run {recorded.id} had not begun its conversation: ask the question anew")
    used = set(recorded.start.options.get("primitives", ()))
    missing = used - set(primitives or ()) - set(SEED_NAMES)
    missing -= set(ready_of(recorded.start.options))
    if missing and repl_class is REPL:  # a class of the caller's may have them
        raise InputError(
            f"run {recorded.id} used functions of its caller: {sorted(missing)}; give "
            "them again with primitives= (distill.resume)"
        )
    if recorded.start.options.get("answer_check") and answer_check is None:
        raise InputError(
            f"run {recorded.id} had its answer checked by {recorded.start.options['answer_check']} "
            "of its caller; give it again with answer_check= (distill.resume)"
        )
    if messages is None and _builds_messages(recorded.start.options):
        raise InputError(
            f"the messages of run {recorded.id} were made by a function of its caller, and those "
            "of its sub-runs are; give it again with messages= (distill.resume)"
        )
    return recorded


def _builds_messages(told: Mapping[str, Any]) -> bool:
    """Whether sub-runs may be asked for that begin as a function of the caller's says."""
    may_ask = told.get("max_depth", 1) > 0 and "supervisor" in ready_of(told).values()
    return may_ask and told.get("prompt") == "function"
