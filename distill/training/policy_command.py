"""``distill train rl`` and ``opd``, once their arguments are read."""

from pathlib import Path
from typing import Any

from distill.training.command import run
from distill.training.loss import Clipping
from distill.training.opd import Opd
from distill.training.opd import train as distil
from distill.training.rl import Rl
from distill.training.rl import train as reinforce


def rl(
    runs: tuple[str, ...],
    *,
    clip: float,
    clip_high: float | None,
    kl: float,
    staleness: int,
    **options: Any,
) -> int:
    """Reinforce what earned more than its group; the exit code."""
    method = Rl(Clipping(clip, clip if clip_high is None else clip_high), kl, staleness)
    return run(runs, method.formats, lambda *given: reinforce(*given, method=method), options)


def opd(
    runs: tuple[str, ...],
    *,
    teacher: str | None,
    teacher_adapter: Path | None,
    staleness: int,
    **options: Any,
) -> int:
    """Learn from a teacher; the exit code."""
    method = Opd(teacher, teacher_adapter, staleness)
    return run(runs, method.formats, lambda *given: distil(*given, method=method), options)
