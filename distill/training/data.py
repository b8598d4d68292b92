"""A data set as ``distill export`` wrote it: rows, and the manifest that vouches for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from distill.errors import InputError
from distill.exports import manifest
from distill.exports.columns import pyarrow
from distill.exports.writing import sha256

TRAIN = "train"
"""The split that is trained on; a data set without splits is all of it."""

TASKS = "train.jsonl"
"""Of a folder that `distill train tasks` has written, which has a manifest of its own."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """The rows of the split ``train``; ``sha256`` is that of the manifest."""

    folder: Path
    manifest: dict[str, Any]
    sha256: str

    @staticmethod
    def read(folder: Path) -> "DataSet":
        """Raises InputError where it is none, or its file is not what its manifest says."""
        path = folder / manifest.FILE
        try:
            told = msgspec.json.decode(path.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{folder} is no data set of `distill export`: {error}") from error
        if isinstance(told, dict) and "family" in told:
            raise InputError(f"{folder} has tasks, and no rows: --tasks {folder / TASKS}")
        if not isinstance(told, dict) or told.get("manifest_version") != manifest.MANIFEST_VERSION:
            raise InputError(f"{path} is no manifest that this version of distill knows")
        data = DataSet(folder, told, sha256(path))
        if sha256(data.file) != data._listed()["sha256"]:
            raise InputError(f"{data.file} is not what its manifest says: export it again")
        return data

    @property
    def format(self) -> str:
        """Its name."""
        return str(self.manifest["options"]["format"])

    @property
    def file(self) -> Path:
        """Of the rows."""
        return self.folder / str(self._listed()["file"])

    @property
    def logs(self) -> list[Path]:
        """The log folders that it was made from: where they were, or as near to it as then, where
        both were moved together.
        """
        made_from = [Path(each["folder"]) for each in self.manifest.get("inputs", ())]
        return [_where_it_is(folder, self.folder.absolute()) for folder in made_from]

    def _listed(self) -> dict[str, Any]:
        files: Sequence[dict[str, Any]] = self.manifest["files"]
        found = [each for each in files if each["split"] == TRAIN]
        if not found:
            names = ", ".join(each["split"] for each in files)
            raise InputError(f"{self.folder} has no split {TRAIN!r}, only {names}")
        return found[0]

    def rows(self, *columns: str) -> Iterator[dict[str, Any]]:
        """Each row, with these columns only, or all of them."""
        for row in self._rows():
            yield {name: row[name] for name in columns} if columns else row

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self.file.suffix == ".parquet":
            with pyarrow().parquet.ParquetFile(self.file) as file:
                for batch in file.iter_batches():
                    yield from batch.to_pylist()
            return
        with self.file.open("rb") as lines:
            for line in lines:
                yield msgspec.json.decode(line)


def is_data_set(path: Path) -> bool:
    """Whether `distill export` wrote a folder."""
    return (path / manifest.FILE).is_file()


def _where_it_is(folder: Path, data: Path) -> Path:
    """Of a loop's folder it is ``iteration-1/collect.logs``, of data in ``iteration-1/data``."""
    ends = [Path(*folder.parts[-count:]) for count in (1, 2)]
    moved = (above / end for above in data.parents for end in ends)
    return next((each for each in (folder, *moved) if each.is_dir()), folder)
