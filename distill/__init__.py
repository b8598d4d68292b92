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
    from distill.engine import Engine
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
    from distill.rollout import RunResult

__all__ = [
    "REPL",
    "Budget",
    "Engine",
    "ExecResult",
    "LMResponse",
    "Limits",
    "ModelHandler",
    "OpenAIHandler",
    "RunResult",
    "Usage",
    "VLLMHandler",
    "__version__",
    "arun",
    "build_system_prompt",
    "primitive",
    "replay",
    "resume",
    "run",
]

_HOMES = {
    "again": ("replay", "resume"),
    "budget": ("Budget",),
    "engine": ("Engine",),
    "limits": ("Limits",),
    "models": ("LMResponse", "ModelHandler", "OpenAIHandler", "Usage", "VLLMHandler"),
    "orchestrator": ("arun", "run"),
    "prompts": ("build_system_prompt",),
    "primitives": ("primitive",),
    "repl": ("REPL", "ExecResult"),
    "rollout": ("RunResult",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"distill.{module}"), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
