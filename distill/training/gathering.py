"""What to train on: logs are exported, and an export is taken as it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.exports import Export, export
from distill.exports.reading import sources
from distill.training.data import DataSet, is_data_set
from distill.training.plan import refuse_loops

UNASKED = {
    "where": (),
    "select": "all",
    "scorer": None,
    "correct_from": 1.0,
    "dedup": False,
    "results": (),
    "without_shots": False,
    "length_weight": None,
}
"""What the options have that choose rows where nobody asked for anything."""
FOLDER = "data"
"""Of the data set that is made of logs, in the folder of the training."""


def gather(
    runs: Sequence[str], formats: Sequence[str], choice: Mapping[str, Any], out: Path
) -> tuple[Path, Export | None]:
    """The folder of the data set, and what came of an export, where there was one.

    ``choice`` are options of ``distill.export``. Of ``formats`` that one is taken which has the
    most rows, the first of equals. A data set that is there already is that of the same command,
    before it was stopped. Raises InputError.
    """
    if not runs:
        raise InputError(
            "nothing to train on: name a log folder, FOLDER#ID, or an export, or --tasks FILE"
        )
    refuse_loops(out)
    exports = [each for each in runs if is_data_set(Path(each).expanduser())]
    if exports:
        return _taken(runs, choice), None
    folder = out / FOLDER
    if is_data_set(folder):
        _check_same(DataSet.read(folder), runs, choice)
        return folder, None
    name = formats[0] if len(formats) == 1 else _fullest(runs, formats, choice)
    return folder, export(runs, folder, format=name, **choice)


def _taken(runs: Sequence[str], choice: Mapping[str, Any]) -> Path:
    if len(runs) > 1:
        raise InputError("one export is trained on at a time, and no logs beside it")
    given = [name for name, value in choice.items() if value != UNASKED[name]]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise InputError(f"{runs[0]} is an export, its rows are chosen already: leave out {names}")
    return Path(runs[0]).expanduser()


def _fullest(runs: Sequence[str], formats: Sequence[str], choice: Mapping[str, Any]) -> str:
    counts, refused = {}, []
    for name in formats:
        try:
            made = export(runs, format=name, dry_run=True, **choice)
            counts[name] = sum(made.rows.values())
        except InputError as error:
            refused.append(error)
    if not counts:
        raise refused[0]
    return max(counts, key=lambda name: counts[name])


def _check_same(data: DataSet, runs: Sequence[str], choice: Mapping[str, Any]) -> None:
    """Raise InputError where a data set was made by another command."""
    asked = data.manifest["options"]
    for name, value in choice.items():
        before = asked.get(name)
        now = [str(each) for each in value] if isinstance(value, tuple) else value
        if name in asked and before != now:
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{data.folder} was exported with {flag} {before}, not {now}: choose another --out"
            )
    inputs = [(each["folder"], each["runs"]) for each in data.manifest["inputs"]]
    named = [
        (str(each.folder), "all" if each.only is None else sorted(each.only))
        for each in sources(runs)
    ]
    if inputs != named:
        folders = ", ".join(folder for folder, _ in inputs)
        raise InputError(f"{data.folder} was exported from {folders}: choose another --out")
