"""PDFs as contexts: their pages, what is wrong with a file, and what a hostile one can do."""

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from distill import RunResult, pdfs
from distill.errors import InputError
from distill.inputs import read_context
from distill.prompts import describe_context
from distill.protocol.jail_link import Limits
from tests.distill.pdf_files import encrypted, pdf
from tests.distill.scripted import cell

PAGES = ["In the beginning\nwas (the) Word.", "", "The third page"]


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], str]:
    def put(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    return put


Put = Callable[[str, bytes], str]


def test_pages_are_parted_by_form_feeds(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    path = put("a.pdf", pdf(PAGES))
    text, sources = read_context([path])
    assert isinstance(text, str)
    assert text.split("\f") == PAGES
    assert sources == [path]
    assert "1 page of 3 without text" in caplog.text
    assert "on 3 pages" in describe_context(text)


def test_a_folder_has_its_pdfs_beside_its_texts(
    put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put("in/a.txt", b"plain")
    put("in/b.pdf", pdf(["one", "two"]))
    put("in/deep/c", pdf(["no ending"]))
    put("in/d.png", b"\x89PNG\0\0")
    scanned = put("in/e.pdf", pdf(["", ""]))
    texts, _ = read_context([str(tmp_path / "in")])
    assert f"left out: {scanned} has no text on its 2 pages" in caplog.text
    assert texts == {"a.txt": "plain", "b.pdf": "one\ftwo", "deep/c": "no ending"}
    assert list(texts) == ["a.txt", "b.pdf", "deep/c"]
    assert "form feeds" in describe_context(texts)


def test_who_only_looks_reads_none(put: Put, tmp_path: Path) -> None:
    put("in/a.pdf", b"%PDF-1.7 broken")
    texts, _ = read_context([str(tmp_path / "in")], looks_only=True)
    assert list(texts) == ["a.pdf"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encrypted(), r"is encrypted.*password"),
        (pdf(["", ""]), r"no text on its 2 pages.*ocrmypdf"),
        (pdf(PAGES)[:300], "broken"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 20, "broken"),
        (b"%PDF", "broken"),
        (pdf([]), "PDF"),
    ],
    ids=["encrypted", "scanned", "cut off", "noise", "no more than its mark", "no pages"],
)
def test_what_is_wrong_with_a_file_is_said(put: Put, data: bytes, message: str) -> None:
    path = put("a.pdf", data)
    with pytest.raises(InputError, match=message) as caught:
        read_context([path])
    assert path in str(caught.value)


@pytest.mark.parametrize("shape", [pytest.param("bomb", marks=pytest.mark.slow), "loop"])
def test_a_hostile_file_has_limits(put: Put, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    limits = Limits(memory_bytes=200 << 20, cell_s=5.0, grace_s=1.0)
    monkeypatch.setattr(pdfs, "LIMITS", limits)
    data = pdf(["x"])
    if shape == "loop":  # a tree of pages that holds itself
        data = data.replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]")
    else:
        packer = zlib.compressobj(9)
        body = b"".join(packer.compress(b"BT (x) Tj ET " * 100_000) for _ in range(300))
        body += packer.flush()
        start = data.index(b"<< /Length", data.index(b"5 0 obj"))
        end = data.index(b"endobj", start)
        bomb = b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(body)
        data = data[:start] + bomb + body + b"\nendstream\n" + data[end:]
    path = put("a.pdf", data)
    with pytest.raises(InputError, match=path):
        read_context([path])


def test_without_the_extra_it_is_named(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pdfs, "PACKAGE", "no_such_package")
    path = put("in/a.pdf", pdf(["one"]))
    with pytest.raises(InputError, match=r"distill\[pdf\]"):
        read_context([path])
    with pytest.raises(InputError, match=r"distill\[pdf\]"):
        read_context([str(tmp_path / "in")])
    put("in/b.txt", b"text")
    assert read_context([str(tmp_path / "in")])[0] == {"b.txt": "text"}
    assert "1 PDF in" in caplog.text


def test_empty_pages_have_limits(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdfs, "READ", 'for _ in range(20):\n    give([""] * 1000)')
    monkeypatch.setattr(pdfs, "TEXT_CHARS", 10_000)
    with pytest.raises(InputError, match="more than 10,000 characters"):
        read_context([put("a.pdf", pdf(["x"]))])


def test_a_text_that_was_read_once_is_not_read_again(
    put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    pages = pdfs._pages

    def noted(data: bytes) -> tuple[str, ...]:
        read.append(len(data))
        return pages(data)

    monkeypatch.setattr(pdfs, "_pages", noted)
    monkeypatch.setattr(pdfs, "KEPT_CHARS", 2 * (pdfs.PAGE_CHARS + 20))
    paths = [put(f"{number}.pdf", pdf([f"only once {number}"])) for number in range(3)]
    first = read_context([paths[0]])
    assert read_context([paths[0]]) == first
    assert len(read) == 1
    for path in paths:  # two of them may be held
        read_context([path])
    assert len(read) == 3
    assert read_context([paths[0]]) == first
    assert len(read) == 4


def test_a_question_about_a_pdf_goes_all_the_way(put: Put, ask: Callable[..., RunResult]) -> None:
    context, sources = read_context([put("book.pdf", pdf(PAGES))])
    result = ask(
        cell("FINAL(f'“{context.split(chr(12))[2]}” is on page 3')"),
        context=context, sources=sources, quote_check=True,
    )  # fmt: skip
    assert result.answer == "“The third page” is on page 3"
    (quotation,) = result.quotations
    assert isinstance(context, str)
    assert quotation.file == sources[0]
    assert context[quotation.start : quotation.end] == "The third page"
