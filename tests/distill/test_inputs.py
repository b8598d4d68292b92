"""Reading texts: files, folders, encodings, and what is refused."""

import codecs
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import RunResult
from distill.errors import InputError
from distill.inputs import read_context
from tests.distill.scripted import cell


def test_one_file_is_a_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("Grüße\r\n".encode())
    assert read_context([str(file)]) == ("Grüße\r\n", [str(file)])


def test_several_and_folders_are_a_dict(tmp_path: Path) -> None:
    (tmp_path / "d" / "deep").mkdir(parents=True)
    for name in ("d/b.txt", "d/a.md", "d/deep/c", "d/.hidden", "one"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d" / ".git").mkdir()
    (tmp_path / "d" / ".git" / "config").write_text("no")
    (tmp_path / "d" / "pic.png").write_bytes(b"\x89PNG\0\0")
    texts, _ = read_context([str(tmp_path / "d")])
    assert texts == {"a.md": "d/a.md", "b.txt": "d/b.txt", "deep/c": "d/deep/c"}
    texts, sources = read_context([str(tmp_path / "one"), str(tmp_path / "d" / "b.txt")])
    assert list(texts) == sources == [str(tmp_path / "one"), str(tmp_path / "d" / "b.txt")]


def test_files_of_one_name_in_two_folders_do_not_replace_each_other(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text(folder)
    texts, _ = read_context([str(tmp_path / "x"), str(tmp_path / "y")])
    assert isinstance(texts, dict)
    assert sorted(texts.values()) == ["x", "y"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (codecs.BOM_UTF8 + "é".encode(), "é"),
        ("é".encode("utf-16"), "é"),
        (codecs.BOM_UTF16_BE + "é".encode("utf-16-be"), "é"),
        (codecs.BOM_UTF32_LE + "é".encode("utf-32-le"), "é"),
        (codecs.BOM_UTF32_BE + "é".encode("utf-32-be"), "é"),
    ],
    ids=["utf-8", "utf-16", "utf-16-be", "utf-32-le", "utf-32-be"],
)
def test_a_mark_tells_the_encoding(tmp_path: Path, data: bytes, text: str) -> None:
    file = tmp_path / "a"
    file.write_bytes(data)
    assert read_context([str(file)])[0] == text


def test_the_encoding_can_be_named(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes("é".encode("latin-1"))
    assert read_context([str(file)], "latin-1")[0] == "é"
    with pytest.raises(InputError, match=r"0xe9.*--encoding"):
        read_context([str(file)])


BINARY = b"GIF\x01\x02\xff\xfe" * 50


def test_a_binary_file_is_left_out_of_its_folder_and_refused_by_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.bin").write_bytes(BINARY)
    for _ in range(2):
        assert read_context([str(tmp_path)])[0] == {"a.txt": "text"}
    (told,) = caplog.messages
    assert f"1 file in {tmp_path} left out: {tmp_path / 'b.bin'} is a binary file" in told
    with pytest.raises(InputError, match="binary"):
        read_context([str(tmp_path / "b.bin")])
    (tmp_path / "c.txt").write_bytes("déjà vu\x1a".encode("latin-1"))
    with pytest.raises(InputError, match=r"c\.txt is not utf-8.*--encoding"):
        read_context([str(tmp_path)])


@pytest.mark.parametrize("encoding", ["klingon", "", "hex", "rot13", "base64", "\0"])
def test_an_encoding_that_is_none_is_refused(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a"
    file.write_text("text")
    with pytest.raises(InputError):
        read_context([str(file)], encoding)


@pytest.mark.parametrize("data", [b"", b" \n", b"\0", b"%PDF-1.7\n\0", codecs.BOM_UTF8])
def test_nothing_to_read_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a"
    file.write_bytes(data)
    with pytest.raises(InputError, match=str(file)):
        read_context([str(file)])


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    bad = ["loop", "gone", "nothing", "empty", "x" * 300, "a\0b"]
    for name in bad:
        with pytest.raises(InputError):
            read_context([str(tmp_path / name)])
    with pytest.raises(InputError):
        read_context([])


@given(st.binary(max_size=300).filter(lambda data: not data.startswith(b"%PDF")))
def test_any_bytes_are_a_text_or_an_input_error(data: bytes) -> None:
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(InputError):
            text, _ = read_context([file.name])
            assert isinstance(text, str)
            assert text.strip()


def test_odd_names_of_files_reach_the_code(tmp_path: Path, ask: Callable[..., RunResult]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    names = [
        b"with space",
        b"new\nline",
        b"quote'\"",
        "grüße".encode(),
        b"\xff\xfe",
        b"-c",
        b"%s{x}",
    ]
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(
            b"text of " + name.hex().encode()
        )
    texts, sources = read_context([str(folder)])
    assert isinstance(texts, dict)
    assert set(texts) == {name.decode("utf-8", "backslashreplace") for name in names}
    answer = ask(
        cell("FINAL({name: text for name, text in context.items()})"),
        context=texts,
        sources=sources,
    )
    assert answer.answer == texts
