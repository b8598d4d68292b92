"""What is finished: a JSON file a step, there whole or not at all."""

import os
import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from distill.errors import InputError
from distill.supervisor.text import printable_json
from distill.user_folders import make_private, write_private

T = TypeVar("T")
DELETE = "delete it, and its step is done again"


def written(path: Path, value: Any) -> None:
    """Write ``value`` as JSON: who is killed meanwhile leaves what was there. Raises OSError."""
    plain = printable_json(msgspec.to_builtins(value))
    write_whole(path, msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file at once, for its owner alone. Raises OSError."""
    make_private(path.parent)
    draft = path.with_name(f".{path.name}.draft")
    write_private(draft, data)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.rename(path)


def found(path: Path, kind: type[T], remedy: str = DELETE) -> T | None:
    """What a finished step has written; None where it is not finished.

    Raises InputError, with this remedy, where nobody can read it.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} can't be read ({error}): {remedy}") from error


def last_written_s(out: Path, pattern: str) -> float:
    """When the newest of these files was written, in seconds since 1970; now if there is none."""
    return max((each.stat().st_mtime for each in out.glob(pattern)), default=time.time())
