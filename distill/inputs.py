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
PDF = b"%PDF"
BOMS = (  # UTF-32's begins as UTF-16's does, so it comes first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
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
    _check_encoding(encoding)
    if not paths:
        raise InputError("no text given: name a file, a folder, or - for standard input")
    if len(paths) == 1 and paths[0] == STDIN:
        return _not_empty(_decode(sys.stdin.buffer.read(), "standard input", encoding)), [STDIN]
    if len(paths) == 1 and not _is_folder(paths[0]):
        return _not_empty(_read(Path(paths[0]), encoding), paths[0]), [paths[0]]
    texts: dict[str, str] = {}
    for path in paths:
        if not _is_folder(path):
            texts[path] = _read(Path(path), encoding)
            continue
        # One folder's files by their path in it; of several, by their path as given.
        prefix = "" if len(paths) == 1 else f"{path.rstrip('/')}/"
        inner = _folder(Path(path), encoding)
        texts.update({f"{prefix}{name}": text for name, text in inner.items()})
    if not any(text.strip() for text in texts.values()):
        raise InputError(f"there is no text in {', '.join(paths)}")
    return texts, list(paths)


def _check_encoding(encoding: str) -> None:
    try:
        b"a".decode(encoding, "replace")  # no bytes at all would need no codec
    except (LookupError, ValueError):
        raise InputError(f"there is no encoding {encoding!r}; try utf-8 or latin-1") from None


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError) as error:
        raise InputError(f"{path[:200]!r} can't be read: {error}") from error


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
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)[:200]!r} can't be read: {error}") from error


def _is_binary(data: bytes) -> bool:
    if data.startswith(tuple(bom for bom, _ in BOMS)):
        return False
    return data.startswith(PDF) or b"\0" in data[:SAMPLE_BYTES]


def _decode(data: bytes, name: str, encoding: str) -> str:
    if _is_binary(data):
        is_pdf = data.startswith(PDF)
        kind = " (a PDF: convert it first, for example with pdftotext)" if is_pdf else ""
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
