"""The texts that runs were asked about, as they are stored beside the logs."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from distill.errors import InputError
from distill.traces.records import CONTEXT_FOLDER, ContextRef


def context_path(folder: Path, ref: ContextRef) -> Path:
    """Where the text is. Raises InputError for a reference that leads out of the folder."""
    path = PurePosixPath(ref.file)
    if path.parts != (CONTEXT_FOLDER, path.name) or path.name == "..":
        raise InputError(f"{ref.file} is not in {CONTEXT_FOLDER}/: nothing is read there")
    return folder / path


def read_context(folder: Path, ref: ContextRef) -> Any:
    """The text (str, list or dict). Raises InputError if it is not there, or was changed."""
    path = context_path(folder, ref)
    if path.exists() and not path.is_file():  # a pipe has no end
        raise InputError(f"{ref.file} can't be read: it is no file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{ref.file} can't be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise InputError(f"{ref.file} was changed: its hash is another")
    try:
        return data.decode() if ref.kind == "text" else json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{ref.file} is no {ref.kind}: {error}") from error


def texts_of(context: Any) -> Iterable[tuple[str | None, str]]:
    """The texts of a context with their index or key; a plain text has None."""
    if isinstance(context, str):
        yield None, context
        return
    items = context.items() if isinstance(context, dict) else enumerate(context)
    for key, value in items:
        if isinstance(value, str):
            yield str(key), value
        elif isinstance(value, list | dict):
            for inner, text in texts_of(value):
                yield f"{key}/{inner}", text
