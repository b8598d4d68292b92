"""LoRA adapters as users name them: ``PATH``, or ``NAME=PATH``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.errors import InputError

CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """An adapter's folder, and the name that calls use for it."""

    name: str
    path: str


def is_path(word: str) -> bool:
    """Whether a word of the command line says where an adapter is, not which one is meant."""
    return "=" in word or "/" in word


def parse(word: str) -> NamedAdapter:
    """``NAME=PATH`` or ``PATH``, whose last part is then the name. Raises InputError."""
    name, equals, given = word.partition("=")
    if not equals:
        name, given = "", word
    path = Path(given).expanduser().resolve()
    name = name.strip() or path.name
    if not given or not name:
        raise InputError(f"--adapter {word}: give NAME=PATH, or the path of the adapter's folder")
    return NamedAdapter(name, str(path))


def needed_rank(adapters: Sequence[NamedAdapter]) -> int | None:
    """The highest rank among them, None where there are none. Raises InputError: not adapters."""
    return max((_rank(adapter) for adapter in adapters), default=None)


def _rank(adapter: NamedAdapter) -> int:
    path = Path(adapter.path, CONFIG)
    try:
        config = json.loads(path.read_bytes())
        return max(int(config["r"]), *map(int, config.get("rank_pattern", {}).values()), 1)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{adapter.path} is no LoRA adapter: its {CONFIG} can't be used "
            f"({type(error).__name__}: {error})"
        ) from error
