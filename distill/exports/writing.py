"""Rows into files: JSON lines or Parquet, a file a split, all of them at once or none."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import msgspec

from distill.errors import InputError
from distill.exports.columns import arrow_schema, pyarrow
from distill.exports.row import Row
from distill.user_folders import make_private

FileType = Literal["jsonl", "parquet"]
FILE_TYPES: tuple[FileType, ...] = get_args(FileType)
ROW_GROUP_BYTES = 16 << 20
"""Of rows, as JSON, that are held for a row group of Parquet."""
BUFFER_BYTES = 1 << 20


class RowsFile(Protocol):
    """A file of rows while it is written."""

    def write(self, row: Row) -> None:
        """Add a row."""

    def close(self) -> None:
        """Write what is left."""


class JsonLines:
    """One JSON object a line."""

    def __init__(self, path: Path, _row: type[Row]) -> None:
        self._file = new_file(path)
        self._encoder = msgspec.json.Encoder()

    def write(self, row: Row) -> None:
        self._file.write(self._encoder.encode(row) + b"\n")

    def close(self) -> None:
        self._file.close()


class Parquet:
    """Row groups of some 16 MB, compressed with zstd."""

    def __init__(self, path: Path, row: type[Row]) -> None:
        self._arrow, self._schema = pyarrow(), arrow_schema(row)
        self._file = new_file(path)
        self._writer = self._arrow.parquet.ParquetWriter(
            self._file, self._schema, compression="zstd"
        )
        self._encoder = msgspec.json.Encoder()
        self._rows: list[Any] = []
        self._held_bytes = 0

    def write(self, row: Row) -> None:
        self._held_bytes += len(self._encoder.encode(row))
        self._rows.append(msgspec.to_builtins(row))
        if self._held_bytes > ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows, self._held_bytes = self._rows, [], 0
        if rows:
            self._writer.write_table(self._table(rows))

    def _table(self, rows: list[dict[str, Any]]) -> Any:
        columns = []
        for field in self._schema:
            values = [row[field.name] for row in rows]
            try:
                columns.append(self._arrow.array(values, field.type))
            except (OverflowError, ValueError) as error:  # ArrowInvalid is a ValueError
                raise InputError(
                    f"Parquet can't hold the {field.name} of a row: {error}; leave out --as parquet"
                ) from error
        return self._arrow.Table.from_arrays(columns, schema=self._schema)

    def close(self) -> None:
        with self._file, self._writer:  # closed, whatever is said of the last rows
            self._flush()


KINDS: dict[FileType, type[JsonLines] | type[Parquet]] = {"jsonl": JsonLines, "parquet": Parquet}


def new_file(path: Path) -> Any:
    """A new file for this user alone, open to be written: data sets hold the texts."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb", BUFFER_BYTES)


class DataFiles:
    """The files of a data set: one a split, made when its first row comes."""

    def __init__(self, folder: Path, kind: FileType, row: type[Row]) -> None:
        self._folder, self._kind, self._row = folder, kind, row
        self._open: dict[str, RowsFile] = {}

    def write(self, split: str, row: Row) -> None:
        """Add a row to a split."""
        if (file := self._open.get(split)) is None:
            path = self._folder / file_name(split, self._kind)
            file = self._open[split] = KINDS[self._kind](path, self._row)
        file.write(row)

    def close(self) -> None:
        """Close all of them, also where one raises."""
        with ExitStack() as closing:
            for file in self._open.values():
                closing.callback(file.close)


def file_name(split: str, kind: FileType) -> str:
    """What the file of a split is called."""
    return f"{split}.{kind}"


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_free(out: Path) -> None:
    """Raise InputError where something is that must not be overwritten, or nothing can be made."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} is there and is no folder: choose another --out")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: choose another --out, or empty it")
    place = next(each for each in out.absolute().parents if each.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{out} can't be made: {place} can't be written to")


@contextmanager
def at_once(out: Path) -> Iterator[Path]:
    """A folder that becomes ``out`` when all went well, and is gone if not.

    Raises InputError where ``out`` has meanwhile got something in it, or the disk refuses.
    """
    try:
        make_private(out.parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out} can't be made: {error.strerror or error}") from error
    try:
        yield folder
        folder.rename(out)  # over an empty folder too, and over no other
    except OSError as error:
        raise InputError(f"{out} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
