"""distill: a strong model answers questions about texts of any length through cheap workers.

The public names are loaded when first used: this file runs in every process of distill,
the sandbox's included, and most of them need none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.models import (
        LMResponse,
        ModelHandler,
        OpenAIHandler,
        Usage,
        VLLMHandler,
    )
    from distill.orchestrator import RunResult, arun, run
    from distill.prompts import build_system_prompt
    from distill.repl import REPL, ExecResult

__version__ = "0.1.0"

__all__ = [
    "REPL",
    "ExecResult",
    "LMResponse",
    "ModelHandler",
    "OpenAIHandler",
    "RunResult",
    "Usage",
    "VLLMHandler",
    "__version__",
    "arun",
    "build_system_prompt",
    "run",
]

_HOMES = {
    "models": ("LMResponse", "ModelHandler", "OpenAIHandler", "Usage", "VLLMHandler"),
    "orchestrator": ("RunResult", "arun", "run"),
    "prompts": ("build_system_prompt",),
    "repl": ("REPL", "ExecResult"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"distill.{module}"), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
