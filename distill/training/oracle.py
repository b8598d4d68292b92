"""Rows that teach the labels of the tasks, in the place of what was logged.

What could be learnt if a generator of tasks were there to write the answers: a figure of its own,
beside those of the loop, whose rows are completions that workers have written.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from distill.errors import NoRowsError
from distill.exports import manifest
from distill.exports.writing import at_once, new_file, sha256
from distill.supervisor.ledger import content_hash
from distill.traces import records
from distill.traces.reading import calls_in, lines
from distill.training.data import DataSet

COMPLETION = "completion"


def relabelled(logged: Path, out: Path, labels: Mapping[str, Any]) -> None:
    """Write the data set ``logged`` again, each completion being its task's label.

    Only runs that asked one question have rows that the label is the answer of; the others are left
    out, and so are rows that are there already. Raises NoRowsError where none is left.
    """
    data = DataSet.read(logged)
    alone = _runs_of_one_question(data.logs)
    rows, seen = [], set()
    for row in data.rows():
        label = labels.get(row["task"])
        if row["run"] not in alone or label is None:
            continue
        taught = row | {COMPLETION: _as_completion(row[COMPLETION], _text(label))}
        texts = content_hash([taught["prompt"], taught[COMPLETION]])
        if texts not in seen:
            seen.add(texts)
            rows.append(taught)
    if not rows:
        raise NoRowsError(
            "--labels oracle: no run of these tasks asked its worker exactly one question, so no "
            "label is a worker's answer"
        )
    with at_once(out) as folder:
        name = f"{data.file.stem}.jsonl"
        with new_file(folder / name) as file:
            file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)
        told = _manifest(data, folder / name, len(rows))
        with new_file(folder / manifest.FILE) as file:
            file.write(manifest.as_json(told))


def _runs_of_one_question(folders: Iterable[Path]) -> set[str]:
    """By the logs: not every call has a row. The same asked again is no other question."""
    asked: defaultdict[str, set[str]] = defaultdict(set)
    parents: set[str] = set()
    for folder in folders:
        for call in map(records.whole, calls_in(folder, [])):
            if call.run is not None:
                what = call.prompt if call.messages is None else call.messages
                asked[call.run].add(content_hash(what))
        for _, record in lines(folder, records.SUPERVISOR_LOG):
            if isinstance(record, records.RunStart) and record.parent is not None:
                parents.add(record.parent.run)
    return {run for run, what in asked.items() if len(what) == 1 and run not in parents}


def _manifest(data: DataSet, file: Path, rows: int) -> dict[str, Any]:
    """The manifest of the logged rows, with what is different."""
    described = {
        "file": file.name,
        "split": file.stem,
        "rows": rows,
        "bytes": file.stat().st_size,
        "sha256": sha256(file),
    }
    return data.manifest | {
        "files": [described],
        "rows": data.manifest["rows"] | {"written": rows},
        "labels": {"completions": "labels of the tasks", "of": data.sha256},
    }


def _as_completion(logged: Any, text: str) -> Any:
    """In the form of the logged one: a text, or a message."""
    return text if isinstance(logged, str) else [{"role": "assistant", "content": text}]


def _text(label: Any) -> str:
    """What a worker would have said; of several accepted texts the first."""
    if isinstance(label, list) and label and all(isinstance(each, str) for each in label):
        label = label[0]
    return label if isinstance(label, str) else msgspec.json.encode(label).decode()
