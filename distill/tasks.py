"""Many questions: the lines of a tasks file, or what a program gives in their place."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from distill.errors import InputError
from distill.supervisor.text import printable

ID_LIMIT_CHARS = 200
ATTEMPTS_LIMIT = 10_000


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One question about one text: inline (``context``), or in files or a folder (``path``).

    ``id`` is the label of its runs. ``label`` is the expected answer, None where nobody knows it;
    of a list of texts any is accepted. It is asked ``attempts`` times, each a run of its own.
    ``options`` are options of this task's runs, over those that hold for all.
    """

    id: str
    query: str
    context: str | list[Any] | dict[str, Any] | None = None
    path: str | tuple[str, ...] | None = None
    label: Any = None
    attempts: int = 1
    options: dict[str, Any] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """Where its text is; empty if it is inline."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()


Tasks = str | Path | Sequence[Task | Mapping[str, Any]]
"""A JSONL file, or the tasks themselves."""


def read_tasks(tasks: Tasks) -> list[Task]:
    """The tasks, each checked. Raises InputError that names the line (or place) of a bad one.

    Relative paths are looked for beside the file, else in the working folder.
    """
    found: dict[str, Task] = {}
    places: dict[str, str] = {}
    texts: dict[str, str] = {}
    for place, task, folder in _placed(tasks):
        _check(task, place)
        if task.id in found:
            raise InputError(f"{place}: the id {task.id!r} is that of {places[task.id]} already")
        places[task.id] = place
        paths = tuple(str((folder / Path(path).expanduser()).resolve()) for path in task.paths)
        context = task.context
        if isinstance(context, str):  # a text that many tasks ask about is held once
            context = texts.setdefault(context, context)
        found[task.id] = msgspec.structs.replace(task, path=paths or None, context=context)
    if not found:
        raise InputError(f"no task in {tasks if isinstance(tasks, str | Path) else 'the list'}")
    return list(found.values())


def _placed(tasks: Any) -> Iterator[tuple[str, Task, Path]]:
    """Each task with what to call its place, and the folder that its paths are relative to."""
    if isinstance(tasks, str | Path):
        yield from _lines(Path(tasks).expanduser())
        return
    if not isinstance(tasks, Sequence):
        raise InputError(f"tasks are a file or a list of tasks, not {type(tasks).__name__}")
    for number, given in enumerate(tasks, 1):
        place = f"task {number}"
        try:
            yield place, given if isinstance(given, Task) else msgspec.convert(given, Task), Path()
        except msgspec.ValidationError as error:
            raise InputError(f"{place}: {error}") from None


def _lines(file: Path) -> Iterator[tuple[str, Task, Path]]:
    decoder = msgspec.json.Decoder(Task)
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # noqa: PLW2901
                if not line.strip():
                    continue
                place = f"{file}, line {number}"
                try:
                    yield place, decoder.decode(line), file.parent
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    raise InputError(f"{place}: {error}") from None
    except OSError as error:
        raise InputError(f"the tasks {file} can't be read: {error.strerror or error}") from error


def _check(task: Task, place: str) -> None:
    if not task.id.strip() or len(task.id) > ID_LIMIT_CHARS or not task.id.isprintable():
        raise InputError(f"{place}: an id is a line of 1 to {ID_LIMIT_CHARS} characters")
    if not task.query.strip():
        raise InputError(f"{place}: the query is empty")
    if printable(task.query) != task.query:
        raise InputError(f"{place}: the query has a lone surrogate")
    if (task.context is None) == (not task.paths):
        raise InputError(f"{place}: give either a context or a path")
    if not 1 <= task.attempts <= ATTEMPTS_LIMIT:
        raise InputError(f"{place}: attempts is 1 to {ATTEMPTS_LIMIT:,}, not {task.attempts}")


def fingerprints(tasks: Sequence[Task]) -> dict[str, str]:
    """What each task asks, by its id: another question under the same id has another one."""
    digests: dict[int, str] = {}

    def digest(context: Any) -> str:
        if id(context) not in digests:
            digests[id(context)] = hashlib.sha256(msgspec.json.encode(context)).hexdigest()
        return digests[id(context)]

    def asked(task: Task) -> bytes:
        return msgspec.json.encode((task.query, digest(task.context), task.paths, task.options))

    return {task.id: hashlib.sha256(asked(task)).hexdigest()[:16] for task in tasks}
