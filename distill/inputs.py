"""Reading what is asked about: a file, several, a folder, or standard input."""

import codecs
import functools
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distill import pdfs
from distill.errors import InputError
from distill.pdfs import NoTextError

LOG = logging.getLogger("distill")
STDIN = "-"
SAMPLE_BYTES = 8192
PDFS_AT_ONCE = 4
"""Each has a jail, and waits for its start."""
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f\x7f]")
"""Bytes that are no text's in any encoding: ISO 2022 has ESC, and DOS ends a file with 0x1a."""
BOMS = (  # UTF-32's begins as UTF-16's does, so it comes first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_context(
    paths: Sequence[str], encoding: str = "utf-8", *, looks_only: bool = False
) -> tuple[str | dict[str, str], list[str]]:
    """The context and the names of its sources.

    One file, or ``-`` for standard input, is a str; several, or a folder, are a dict of
    texts by name. Hidden files of a folder, and those without text, are left out. The text of a
    PDF has a form feed between each two pages; with ``looks_only`` PDFs are not read, and their
    texts their names. Raises InputError.
    """
    _check_encoding(encoding)
    reader = _Reader(encoding, looks_only=looks_only)
    if not paths:
        raise InputError("no text given: name a file, a folder, or - for standard input")
    if len(paths) == 1 and paths[0] == STDIN:
        text = reader.named(sys.stdin.buffer.read(), "standard input")
        return _not_empty(text), [STDIN]
    if len(paths) == 1 and not _is_folder(paths[0]):
        return _not_empty(reader.file(Path(paths[0])), paths[0]), [paths[0]]
    texts: dict[str, str] = {}
    for path in paths:
        if not _is_folder(path):
            texts[path] = reader.file(Path(path))
            continue
        # One folder's files by their path in it; of several, by their path as given.
        prefix = "" if len(paths) == 1 else f"{path.rstrip('/')}/"
        inner = reader.folder(Path(path))
        texts.update({f"{prefix}{name}": text for name, text in inner.items()})
    if not any(text.strip() for text in texts.values()):
        raise InputError(f"there is no text in {', '.join(paths)}")
    return texts, list(paths)


def read_json(path: str) -> Any:
    """A context that a client of this machine wrote as JSON. Raises InputError."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}") from error


@functools.cache
def _tell_once(text: str) -> None:
    """A text is looked at before an engine starts, and read after."""
    LOG.warning("distill: %s", text)


class _Reader:
    """How files become texts. All raises InputError."""

    def __init__(self, encoding: str, *, looks_only: bool) -> None:
        self._encoding = encoding
        self._looks_only = looks_only

    def file(self, path: Path) -> str:
        return self.named(_bytes(path), str(path))

    def named(self, data: bytes, name: str) -> str:
        """Of what the user has named itself."""
        try:
            return self._decode(data, name)
        except NoTextError as error:
            raise InputError(str(error)) from error

    def folder(self, folder: Path) -> dict[str, str]:
        """The texts of the files below a folder by their path in it, in order."""
        names: list[Path] = []
        pdf_names: list[Path] = []
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if any(part.startswith(".") for part in inner.parts) or not path.is_file():
                continue
            head = _bytes(path, SAMPLE_BYTES)
            if pdfs.is_pdf(head):
                pdf_names.append(inner)
            elif not _is_binary(head):
                names.append(inner)
        names = sorted([*names, *self._readable(pdf_names, folder)])
        if not names:
            raise InputError(_nothing_in(folder, pdf_names))
        with ThreadPoolExecutor(PDFS_AT_ONCE) as pool:
            try:
                texts = list(pool.map(lambda name: self._of_folder(folder / name), names))
            finally:
                pool.shutdown(cancel_futures=True)
        found = dict(zip(map(_key, names), texts, strict=True))
        kept = {name: text for name, text in found.items() if isinstance(text, str)}
        self._tell_left_out(folder, [each for each in texts if not isinstance(each, str)])
        if not kept:
            raise InputError(_nothing_in(folder, []))
        return kept

    def _of_folder(self, path: Path) -> str | InputError:
        """A file's text, or why it has none: that is no reason to refuse the rest."""
        try:
            return self._decode(_bytes(path), str(path))
        except NoTextError as error:
            return error

    @staticmethod
    def _tell_left_out(folder: Path, why: Sequence[InputError]) -> None:
        if why:
            files = "1 file" if len(why) == 1 else f"{len(why)} files"
            _tell_once(f"{files} in {folder} left out: {why[0]}")

    def _readable(self, names: list[Path], folder: Path) -> list[Path]:
        """The PDFs, unless none can be read here: the rest of the folder can."""
        if not names or self._looks_only or pdfs.can_be_read():
            return names
        _tell_once(_left_out(folder, names))
        return []

    def _decode(self, data: bytes, name: str) -> str:
        if pdfs.is_pdf(data):
            return name if self._looks_only else pdfs.text_of(data, name)
        if _is_binary(data):
            raise NoTextError(f"{name} is a binary file, not text")
        encoding = next((known for bom, known in BOMS if data.startswith(bom)), self._encoding)
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            if CONTROLS.search(data):
                raise NoTextError(f"{name} is a binary file, not text") from None
            raise InputError(
                f"{name} is not {encoding}: byte {error.start} is 0x{data[error.start]:02x}. "
                "Name its encoding, for example --encoding latin-1"
            ) from None


def _key(name: Path) -> str:
    """A file's name as the code sees it: bytes that are no UTF-8 are spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _left_out(folder: Path, names: Sequence[Path]) -> str:
    named = "1 PDF" if len(names) == 1 else f"{len(names)} PDFs"
    return (
        f"{named} in {folder} left out ({_key(names[0])}): the extra `pdf` reads them: {pdfs.EXTRA}"
    )


def _nothing_in(folder: Path, pdf_names: Sequence[Path]) -> str:
    return _left_out(folder, pdf_names) if pdf_names else f"there is no text file in {folder}"


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


def _bytes(path: Path, most: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)[:200]!r} can't be read: {error}") from error


def _is_binary(data: bytes) -> bool:
    if data.startswith(tuple(bom for bom, _ in BOMS)):
        return False
    return b"\0" in data[:SAMPLE_BYTES]


def _not_empty(text: str, name: str = "standard input") -> str:
    if not text.strip():
        raise InputError(f"{name} is empty: there is nothing to ask about")
    return text
