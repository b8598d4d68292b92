"""distill: a strong model answers questions about texts of any length through cheap workers.

The public names are loaded when first used: this file runs in every process of distill,
the sandbox's included, and most of them need none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distill.version import __version__

if TYPE_CHECKING:
    from distill.again import replay, resume
    from distill.budget import Budget
    from distill.dry_run import Estimate, estimate
    from distill.engine import Engine
    from distill.evaluation import Evaluation, aevaluate, evaluate
    from distill.exports import Export, export
    from distill.limits import Limits
    from distill.models import (
        LMResponse,
        ModelHandler,
        OpenAIHandler,
        Usage,
        VLLMHandler,
    )
    from distill.orchestrator import arun, run
    from distill.primitives import primitive
    from distill.prompts import build_system_prompt
    from distill.repl import REPL, ExecResult
    from distill.run_result import RunResult
    from distill.scoring import ascore, score
    from distill.scoring_lanes import Scores
    from distill.tasks import Task
    from distill.training.comparison import Compared, acompare, compare

__all__ = [
    "REPL",
    "Budget",
    "Compared",
    "Engine",
    "Estimate",
    "Evaluation",
    "ExecResult",
    "Export",
    "LMResponse",
    "Limits",
    "ModelHandler",
    "OpenAIHandler",
    "RunResult",
    "Scores",
    "Task",
    "Usage",
    "VLLMHandler",
    "__version__",
    "acompare",
    "aevaluate",
    "arun",
    "ascore",
    "build_system_prompt",
    "compare",
    "estimate",
    "evaluate",
    "export",
    "primitive",
    "replay",
    "resume",
    "run",
    "score",
]

_HOMES = {
    "again": ("replay", "resume"),
    "budget": ("Budget",),
    "dry_run": ("Estimate", "estimate"),
    "engine": ("Engine",),
    "evaluation": ("Evaluation", "aevaluate", "evaluate"),
    "exports": ("Export", "export"),
    "limits": ("Limits",),
    "models": ("LMResponse", "ModelHandler", "OpenAIHandler", "Usage", "VLLMHandler"),
    "orchestrator": ("arun", "run"),
    "prompts": ("build_system_prompt",),
    "primitives": ("primitive",),
    "repl": ("REPL", "ExecResult"),
    "run_result": ("RunResult",),
    "scoring": ("ascore", "score"),
    "scoring_lanes": ("Scores",),
    "tasks": ("Task",),
    "training.comparison": ("Compared", "acompare", "compare"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"distill.{module}"), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
