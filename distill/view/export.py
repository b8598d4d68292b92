"""Runs as one file that needs nothing else: the page, and all its data, packed."""

import base64
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from distill.errors import InputError
from distill.view.answers import Answers
from distill.view.page import DATA_MARK, GENERATOR, LATE_DATA_MARK, Page
from distill.view.shapes import as_json
from distill.view.texts import SLICE_CHARS

TEXT_LIMIT_CHARS = 64 << 20
"""A longer text stays out of the file: the calls have the passages that were read."""
LEVEL = 6
HEAD_BYTES = 4096
"""Of a page, where it says what wrote it."""


def check_target(target: Path) -> None:
    """Raise InputError where the page can't be written, or something else would be lost."""
    folder = target.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: --export can't write there")
    try:
        with target.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror or error}") from error
    if GENERATOR.encode() not in head:
        raise InputError(f"{target} is there and is no page of `distill view`: choose another file")


def export(answers: Answers, target: Path) -> int:
    """Write the file; how many bytes it has. Raises InputError."""
    while answers.look():
        pass
    if not answers.keys():
        raise InputError("there is no such run in the log")
    try:
        descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:  # mode 0600, as the logs
                _write(answers, file)
            Path(draft).replace(target)
        except BaseException:  # Ctrl-C, too: it has texts of the runs
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror or error}") from error
    return target.stat().st_size


def _write(answers: Answers, file: TextIO) -> None:
    before, late = Page.file().html.split(DATA_MARK)
    middle, after = late.split(LATE_DATA_MARK)
    file.write(before)
    # What the page shows at once stands before its script, the rest behind.
    file.writelines(
        _data(key, "application/json", _escaped(value)) for key, value in _first(answers)
    )
    file.write(middle)
    file.writelines(_data(key, "text/plain", _packed(value)) for key, value in _rest(answers))
    file.write('<script type="application/json" id="data/end">true</script>\n')
    file.write(after)


def _data(key: str, kind: str, text: str) -> str:
    """A block that no browser runs: its type is no script's."""
    return f'<script type="{kind}" id="data/{key}">{text}</script>\n'


def _first(answers: Answers) -> Iterator[tuple[str, Any]]:
    yield "state", answers.state()
    for key in answers.keys():  # noqa: SIM118  (it is no dict)
        run = answers.run(key)
        _, facts = answers.found(key)
        yield f"run/{key}", {**run, "blocks": facts.calls.blocks, "has_text": _has_text(run)}


def _rest(answers: Answers) -> Iterator[tuple[str, Any]]:
    for key in answers.keys():  # noqa: SIM118
        _, facts = answers.found(key)
        for page in range(facts.calls.pages):
            yield f"columns/{key}/{page}", answers.columns(key, page)
        yield f"matches/{key}", answers.matches(key)
        for turn in {0, *(each.turn for each in facts.told.turns)}:
            yield f"turn/{key}/{turn}", answers.turn(key, turn)
        for number, rows in enumerate(facts.calls.block_rows()):
            yield f"calls/{key}/{number}", answers.calls(key, rows)
        if _has_text(answers.run(key)):
            for part, (_, text) in enumerate(answers.texts(key).parts):
                for number in range(-(-len(text) // SLICE_CHARS)):
                    yield f"text/{key}/{part}/{number}", answers.texts(key).slice(part, number)


def _has_text(run: dict[str, Any]) -> bool:
    chars: int = sum(chars for _, chars in run["context"]["parts"])
    return chars <= TEXT_LIMIT_CHARS


def _escaped(value: Any) -> str:
    """JSON in which no markup can begin or end."""
    return as_json(value).decode().replace("<", "\\u003c").replace(">", "\\u003e")


def _packed(value: Any) -> str:
    """JSON, deflated (RFC 1950) and in base64."""
    return base64.b64encode(zlib.compress(as_json(value), LEVEL)).decode()
