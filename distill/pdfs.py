r"""The text of PDFs, page by page. A PDF is a hostile file: it is read in a jail of its own.

Pages are parted by form feeds: page n is ``text.split("\f")[n - 1]``.
"""

import hashlib
import logging
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from distill.errors import InputError
from distill.primitives import primitive
from distill.protocol.jail_link import Limits
from distill.repl import REPL
from distill.supervisor.text import printable

LOG = logging.getLogger("distill")
MARK = b"%PDF"
EXTRA = "pip install 'distill[pdf]'"
PACKAGE = "pypdfium2"
LIMITS = Limits(cell_s=600.0)
"""Some 500 pages take a second."""
TEXT_CHARS = 500_000_000
DROPPED = dict.fromkeys((0x00, 0x02, 0xFFFE))
"""PDFium writes U+0002 for a hyphen and the line's end after it."""
PAGE_CHARS = 100
"""What a page counts beside its text: an empty one takes memory, too."""
KEPT_CHARS = 50_000_000
"""Of the last PDFs that were read: a text is looked at before an engine starts, and after."""

READ = """\
import pypdfium2

document = pypdfium2.PdfDocument(context.encode("latin-1"))
pages, size = [], 0
for page in document:
    text = page.get_textpage().get_text_bounded()
    pages.append(text)
    size += len(text)
    if size > 1_000_000:
        give(pages)
        pages, size = [], 0
give(pages)
"""


class NoTextError(InputError):
    """A file that has no text, however it is read."""


def is_pdf(data: bytes) -> bool:
    """Whether these bytes say that they are one."""
    return data.startswith(MARK)


def can_be_read() -> bool:
    """Whether the extra is installed."""
    return find_spec(PACKAGE) is not None


def text_of(data: bytes, name: str) -> str:
    """The pages' texts with a form feed between each two.

    Raises InputError for one that is encrypted or broken, NoTextError for one without text,
    SandboxError where no jail can be built.
    """
    if not can_be_read():
        raise InputError(
            f"{name} is a PDF, which the extra `pdf` reads: {EXTRA}. Or convert it first, for "
            "example with pdftotext"
        )
    try:
        pages = _KEPT.pages(data)
    except InputError as error:
        raise InputError(f"{name} {error}") from error
    empty = sum(not page.strip() for page in pages)
    if empty == len(pages):
        raise NoTextError(
            f"{name} has no text on its {_count(empty)}: scanned images? Recognise it first, for "
            "example with ocrmypdf"
        )
    if empty:
        LOG.warning("distill: %s: %s of %d without text", name, _count(empty), len(pages))
    return "\f".join(pages)


def _count(pages: int) -> str:
    return "1 page" if pages == 1 else f"{pages} pages"


class _Kept:
    """The pages of the last PDFs that were read, by a hash of the file."""

    def __init__(self) -> None:
        self._held: dict[bytes, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def pages(self, data: bytes) -> tuple[str, ...]:
        """Those of a file, read if they are not held. Raises InputError as ``_pages`` does."""
        key = hashlib.sha256(data).digest()
        with self._lock:
            pages = self._held.pop(key, None)
        if pages is None:
            pages = _pages(data)
        with self._lock:
            self._held[key] = pages  # the last one now
            while sum(map(_chars, self._held.values())) > KEPT_CHARS:
                del self._held[next(iter(self._held))]
        return pages


_KEPT = _Kept()


def _chars(pages: Sequence[str]) -> int:
    """What they count against a limit."""
    return sum(PAGE_CHARS + len(page) for page in pages)


def _pages(data: bytes) -> tuple[str, ...]:
    """Each page's text. Raises InputError that says what is wrong with the file."""
    pages: list[str] = []
    chars = 0

    @primitive(budget=100_000, egress=False)
    def give(texts: Any) -> None:
        nonlocal chars
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise TypeError("pages are texts")
        chars += _chars(texts)
        if chars > TEXT_CHARS:
            raise ValueError(f"more than {TEXT_CHARS:,} characters")
        pages.extend(map(_cleaned, texts))

    with REPL(data.decode("latin-1"), "", str, list, primitives={"give": give}) as repl:
        repl.limits, repl.packages = LIMITS, (PACKAGE,)
        result = repl.execute(READ)
    if result.lost is not None:
        raise InputError(f"can't be read as a PDF: {result.lost}")
    if result.error is not None:
        raise InputError(_wrong(result.error.message))
    if not pages:
        raise InputError("is a PDF without pages")
    return tuple(pages)


def _cleaned(page: str) -> str:
    """A page's text with plain line ends, without our mark; words that a line's end parts whole."""
    text = page.replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ")
    return printable(text.translate(DROPPED))


def _wrong(said: str) -> str:
    if "password" in said.lower():
        return "is encrypted: save a copy without its password, for example with qpdf --decrypt"
    return f"is a broken PDF, or none at all ({said[:300]})"
