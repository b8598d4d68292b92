"""Several flags as one decorator."""

from collections.abc import Callable
from typing import Any

Flag = Callable[[Any], Any]
"""What gives a command a flag, or several."""


def together(*flags: Flag) -> Flag:
    """All of them, in this order."""

    def apply(command: Any) -> Any:
        for flag in reversed(flags):
            command = flag(command)
        return command

    return apply
