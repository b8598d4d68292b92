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

_HOMES = {
    "ExecResult": "repl",
    "LMResponse": "models",
    "ModelHandler": "models",
    "OpenAIHandler": "models",
    "REPL": "repl",
    "RunResult": "orchestrator",
    "Usage": "models",
    "VLLMHandler": "models",
    "arun": "orchestrator",
    "build_system_prompt": "prompts",
    "run": "orchestrator",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604  (the values are strings)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'distill' has no attribute {name!r}")
    return getattr(import_module(f"distill.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
