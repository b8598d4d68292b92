"""Reading what is asked about: a file, several, a folder, or standard input."""

import codecs
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.errors import InputError

STDIN = "-"
SAMPLE_BYTES = 8192
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_context(
    paths: Sequence[str], encoding: str = "utf-8"
) -> tuple[str | dict[str, str], list[str]]:
    """The context and the names of its sources.

    One file, or ``-`` for standard input, is a str; several, or a folder, are a dict of
    texts by name. Hidden and binary files of a folder are left out. Raises InputError.
    """
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise InputError(f"there is no encoding {encoding!r}; try utf-8 or latin-1") from None
    if not paths:
        raise InputError("no text given: name a file, a folder, or - for standard input")
    if len(paths) == 1 and paths[0] == STDIN:
        return _not_empty(_decode(sys.stdin.buffer.read(), "standard input", encoding)), [STDIN]
    if len(paths) == 1 and not Path(paths[0]).is_dir():
        return _not_empty(_read(Path(paths[0]), encoding), paths[0]), [paths[0]]
    texts: dict[str, str] = {}
    for path in map(Path, paths):
        texts.update(
            _folder(path, encoding) if path.is_dir() else {str(path): _read(path, encoding)}
        )
    if not any(text.strip() for text in texts.values()):
        raise InputError(f"there is no text in {', '.join(paths)}")
    return texts, list(paths)


def read_json(path: str) -> Any:
    """A context that a client of this machine wrote as JSON. Raises InputError."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}") from error


def _folder(folder: Path, encoding: str) -> dict[str, str]:
    """The text files below a folder by their path in it, in order."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts) or not path.is_file():
            continue
        data = _bytes(path)
        if not _is_binary(data):
            found[str(inner)] = _decode(data, str(path), encoding)
    if not found:
        raise InputError(f"there is no text file in the folder {folder}")
    return found


def _read(path: Path, encoding: str) -> str:
    return _decode(_bytes(path), str(path), encoding)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error


def _is_binary(data: bytes) -> bool:
    return b"\0" in data[:SAMPLE_BYTES] and not data.startswith(tuple(bom for bom, _ in BOMS))


def _decode(data: bytes, name: str, encoding: str) -> str:
    if _is_binary(data):
        kind = (
            " (a PDF: convert it first, for example with pdftotext)" if data[:4] == b"%PDF" else ""
        )
        raise InputError(f"{name} is a binary file, not text{kind}")
    encoding = next((known for bom, known in BOMS if data.startswith(bom)), encoding)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not {encoding}: byte {error.start} is 0x{data[error.start]:02x}. "
            "Name its encoding, for example --encoding latin-1"
        ) from None


def _not_empty(text: str, name: str = "standard input") -> str:
    if not text.strip():
        raise InputError(f"{name} is empty: there is nothing to ask about")
    return text
