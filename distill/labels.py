"""Expected answers of recorded runs: from a file of the user's."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from distill.errors import InputError

LabelsSource = str | Path | Mapping[str, Any]
"""A JSONL file, or labels by the id of a task (the label of its runs) or of a run."""


class _Line(msgspec.Struct, frozen=True):
    """Of a line of labels, of a tasks file or of a results file; all else is passed over."""

    id: str | None = None
    task: str | None = None
    run: str | None = None
    run_id: str | None = None
    label: Any = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Labels:
    """Expected answers by the id of a run, which goes first, and by the id of a task.

    ``named`` has the run and the task of each line, None for what it does not name.
    """

    by_run: dict[str, Any] = field(default_factory=dict)
    by_task: dict[str, Any] = field(default_factory=dict)
    named: list[tuple[str | None, str | None]] = field(default_factory=list)

    def of(self, run: str, task: str | None) -> Any:
        """The expected answer; None where nobody knows it."""
        found = self.by_run.get(run)
        return self.by_task.get(task) if found is None and task is not None else found

    def naming_none(self, runs: Collection[str], tasks: Collection[str]) -> list[str]:
        """What those lines name that name none of these runs, and none of these tasks."""
        idle = [
            run if task is None else task
            for run, task in self.named
            if run not in runs and task not in tasks
        ]
        return [name for name in dict.fromkeys(idle) if name is not None]


def _as_json(name: str, label: Any) -> Any:
    """A label as a log has it, so that it is known there again. Raises InputError."""
    try:
        return msgspec.json.decode(msgspec.json.encode(label, order="deterministic"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the label of {name!r} is nothing that JSON has: {error}") from error


def read_labels(source: LabelsSource) -> Labels:
    """The labels of a file, each line with ``label`` and ``id`` (or ``task``) or ``run``.

    A tasks file and a results file are such files. Raises InputError that names the line of a bad
    one, or whose label is none.
    """
    if isinstance(source, Mapping):
        given = {name: _as_json(name, label) for name, label in source.items()}
        return Labels(given, given, [(name, name) for name in given])
    path = Path(source).expanduser()
    labels = Labels()
    places: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if line is None or line.label is msgspec.UNSET or line.label is None:
            continue
        run, task = line.run or line.run_id, line.id or line.task
        if run is None and task is None:
            raise InputError(f"{path}, line {number}: a label is of an id or of a run, and has one")
        labels.named.append((run, task))
        if run is not None:
            labels.by_run[run] = line.label
        if task is None:
            continue
        if line.run_id is None and task in labels.by_task and labels.by_task[task] != line.label:
            raise InputError(
                f"{path}, line {number}: {task!r} has another label in line {places[task]}"
            )
        labels.by_task[task], places[task] = line.label, number
    if not labels.by_run and not labels.by_task:
        raise InputError(f"{path} has no line with a label")
    return labels


def _lines(path: Path) -> list[_Line | None]:
    """Each line, None for an empty one."""
    decoder = msgspec.json.Decoder(_Line)
    try:
        texts = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise InputError(f"the labels {path} can't be read: {error.strerror or error}") from error
    lines: list[_Line | None] = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(decoder.decode(text) if text.strip() else None)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    return lines
