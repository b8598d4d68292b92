"""The context's memory file, and what a jail makes of it: a str that nobody can write.

What the str is worth as a str: ``test_mapped_text.py``.
"""

import fcntl
import json
import mmap
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from distill.errors import InputError
from distill.protocol.jail_link import Limits
from distill.protocol.sandbox_link import JailPlan, JailReady
from distill.sandbox import passed, plan, probe, stage
from distill.sandbox.jail import context as inside
from distill.supervisor.context import CHUNK, ContextFile
from tests.sandbox.conftest import MIB, SMALL
from tests.sandbox.harness import Host
from tests.sandbox.test_mapped_text import WIDTHS, mapped

# -- the file


@pytest.mark.parametrize(("kind", "text"), WIDTHS.items())
def test_text_is_written_at_its_own_width(kind: str, text: str) -> None:
    width, codec, _ = inside.TEXT_KINDS[kind]
    with ContextFile(text) as file:
        assert file.kind == kind
        assert file.size_bytes == (len(text) + 1) * width
        data = os.pread(file.fileno(), file.size_bytes + 1, 0)
    assert data == text.encode(codec) + bytes(width)


@pytest.mark.parametrize("last", ["\x7f", "\x80", "\xff", "\u0100", "\uffff", "\U00010000"])
def test_a_wide_character_at_the_end_of_a_long_text(last: str) -> None:
    text = "x" * (CHUNK + 3) + last
    made = mapped(text)
    assert made == text
    assert sys.getsizeof(made) == sys.getsizeof(text)


def test_json_is_written_as_it_is() -> None:
    with ContextFile({"a": ["é", 1, None]}) as file:
        assert file.kind == "json"
        assert json.loads(os.pread(file.fileno(), 99, 0)) == {"a": ["é", 1, None]}


@pytest.mark.parametrize("text", ["\ud800", "é\udfff", "\U00010000" + "x" * CHUNK + "\ud800"])
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"surrogate at character {len(text) - 1}"):
        ContextFile(text)


def test_what_is_no_context_is_refused() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(InputError):
        ContextFile(7)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_file_can_not_be_changed() -> None:
    """Not through its descriptor, and not, as root, through one that is opened anew."""
    file = ContextFile("sealed")
    again = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR)
    attempts: list[Callable[[], Any]] = [
        lambda: os.write(file.fileno(), b"x"),
        lambda: os.pwrite(again, b"x", 0),
        lambda: os.ftruncate(again, 100),
        lambda: os.ftruncate(again, 1),
        lambda: os.posix_fallocate(again, 0, 4096),
        lambda: mmap.mmap(again, 7),
        lambda: fcntl.fcntl(again, 1033, 0),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match=r"Operation not permitted|Bad file descriptor"):
            attempt()
    assert os.pread(again, 99, 0) == b"sealed\0"
    os.close(again)
    file.close()
    file.close()


# -- in real jails


def plain(text: str) -> str:
    """An expression that makes the text inside, from nothing but numbers."""
    return f"''.join(map(chr, {[ord(character) for character in text]}))"


INSIDE = """
import copy, gc, json, pickle, re, sys, threading
plain = PLAIN
def same(a, b):
    assert a == b, (a, b)
assert type(context) is str
same(context, plain); same(len(context), len(plain)); same(hash(context), hash(plain))
same(context[1:], plain[1:]); same(context.split(), plain.split())
same(context.upper(), plain.upper())
same(re.findall(r"\\w+|\\s", context), re.findall(r"\\w+|\\s", plain))
same(json.loads(json.dumps(context)), plain); same(pickle.loads(pickle.dumps(context)), plain)
same(copy.deepcopy([context]), [plain]); same({context: 1}, {plain: 1})
same("".join([context, "x"]), plain + "x"); same(f"{context}!", plain + "!")
longer = context
longer += "x"
same(longer, plain + "x"); same(context, plain)
same(context.encode(), plain.encode())
thread = threading.Thread(target=lambda: same(context.title(), plain.title()))
thread.start(); thread.join()
kept = sys.intern(context)
del context, kept, longer
gc.collect()
print("alike")
"""


@pytest.mark.parametrize("text", ["", *WIDTHS.values()], ids=["empty", *WIDTHS])
@pytest.mark.parametrize(("word", "form"), [("map", "mapped"), ("copy", "copied")])
def test_a_text_inside(host: Host, text: str, word: str, form: str) -> None:
    made = host.plan
    host.plan = msgspec.structs.replace(made, argv=(*made.argv[:-1], word))
    try:
        ready = host.open(SMALL, context=text)
    finally:
        host.plan = made
    assert isinstance(ready, JailReady)
    assert ready.context == form
    assert host.printed(INSIDE.replace("PLAIN", plain(text))) == "alike\n"
    assert host.printed("print('context' in globals())") == "False\n"


def test_no_context_and_json_are_told(host: Host) -> None:
    for context, form in ((None, "none"), ([1], "json"), ({}, "json")):
        ready = host.open(SMALL, context=context)
        assert isinstance(ready, JailReady)
        assert ready.context == form
        assert host.printed("globals().get('context')") == (
            "" if context is None else f"{context}\n"
        )


def interpreter(host: Host) -> psutil.Process:
    children = psutil.Process(host.launcher.pid).children(recursive=True)
    return next(
        p
        for p in children
        if any(w.endswith("/interpreter.py") for w in p.cmdline()) and p.name() != "bwrap"
    )


def test_a_large_text_takes_no_memory_of_its_own(host: Host) -> None:
    """Five times the jail's memory limit: neither copied nor counted, and usable at once."""
    with ContextFile("0123456789abcde\n" * (16 * MIB)) as file:
        ready = host.open(Limits(memory_bytes=48 * MIB), context=file)
    assert isinstance(ready, JailReady)
    assert ready.context_s < 1.0
    assert host.printed("print(len(context), context.count('e\\n'), context[-3:-1])", 60.0) == (
        f"{256 * MIB} {16 * MIB} de\n"
    )
    usage = Path(f"/proc/{interpreter(host).pid}/status").read_text()
    anonymous = re.search(r"RssAnon:\s+(\d+) kB", usage)
    assert anonymous is not None
    assert int(anonymous[1]) < 32 << 10


TEXT = "the same for all ☃" * 4096
TOOLS = """
import ctypes, errno, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
start = id(context) // PAGE * PAGE + PAGE
def refused(call, *arguments):
    result = getattr(libc, call)(*map(ctypes.c_long, arguments))
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result
readable, writable = os.pipe()
os.write(writable, b"x")
"""
REFUSED = {
    "made writable": ("'mprotect', start, PAGE, 3", "EACCES"),
    "a hole punched": ("'madvise', start, PAGE, 9", "EPERM"),
    "written by the kernel": ("'read', readable, start, 1", "EFAULT"),
    "populated for writing": ("'madvise', start, PAGE, 23", "EPERM"),
    "its descriptor mapped anew": ("'mmap', 0, PAGE, 3, 1, FD, 0", "EPERM"),
    "its descriptor read again": ("'read', FD, start, 1", "EBADF"),
    "its socket asked again": ("'recvmsg', FD, 0, 0", "EPERM"),
}


def is_whole(file: ContextFile) -> bool:
    data = os.pread(file.fileno(), file.size_bytes, 0)
    return data.decode("utf-16-le") == TEXT + "\0"


@pytest.mark.parametrize("attack", REFUSED)
def test_the_mapping_can_not_be_written(host: Host, attack: str) -> None:
    """Refused with the named error; the file, and another jail of it, are as before."""
    arguments, expected = REFUSED[attack]
    arguments = arguments.replace("FD", str(host.plan.context_fd))
    with ContextFile(TEXT) as file:
        host.open(SMALL, context=file)
        assert host.printed(f"{TOOLS}\nprint(refused({arguments}))") == f"{expected}\n"
        assert host.printed("print(context[:18])") == "the same for all ☃\n"
        assert is_whole(file)
        host.open(SMALL, context=file)
        assert host.printed("print(context[:18])") == "the same for all ☃\n"


DEADLY = {
    "a write into the characters": "ctypes.memset(start, 120, 1)",
    "a longer text than there is": (
        "ctypes.c_ssize_t.from_address(id(context) + 16).value = 1 << 40; context.count('x')"
    ),
    "freed though it never was allocated": (
        "ctypes.c_ssize_t.from_address(id(context)).value = 1; del context"
    ),
    "no memory under it": (
        "libc.munmap(ctypes.c_long(start), ctypes.c_long(PAGE)); context.lower()"
    ),
}


@pytest.mark.parametrize("attack", DEADLY)
def test_tampering_harms_the_own_jail_only(host: Host, attack: str) -> None:
    with ContextFile(TEXT) as file:
        host.open(SMALL, context=file)
        lost = host.lost(f"{TOOLS}\n{DEADLY[attack]}")
        assert lost.cause == "signal"
        assert is_whole(file)
        assert isinstance(host.open(SMALL, context=file), JailReady)
        assert host.printed("print(context[:18], len(context))") == (
            f"the same for all ☃ {len(TEXT)}\n"
        )


def test_its_address_space_is_no_memory_to_be_had(host: Host) -> None:
    """Unmapping the context frees address space, but the limit is on private memory."""
    size = 256 * MIB
    with ContextFile("x" * size) as file:
        host.open(msgspec.structs.replace(SMALL, memory_bytes=128 * MIB), context=file)
    code = f"libc.munmap(ctypes.c_long(start), ctypes.c_long({size})); del context\nb'x' * {size}"
    done = host.done(f"{TOOLS}\n{code}")
    assert done.error is not None
    assert done.error.name == "MemoryError"


# -- the probe


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No jail has passed its probe yet."""
    tmp_path.chmod(0o755)
    stamps = tmp_path / "stamps"
    stamps.mkdir()
    monkeypatch.setattr(passed, "_path", lambda made: stamps / f"{made.tier}-{made.argv[-1]}")


def spoiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str) -> None:
    """Stage the jail's modules with a Python in which ``context.py`` does not work."""
    assert inside.__file__ is not None
    source = Path(inside.__file__).read_text()
    assert old in source
    variant = tmp_path / "context.py"
    variant.write_text(source.replace(old, new))
    given = stage._module_sources

    def sources() -> list[tuple[Path, str]]:
        return [(variant if p.endswith("jail/context.py") else f, p) for f, p in given()]

    monkeypatch.setattr(stage, "_module_sources", sources)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # As if the layout were another: the process dies of it, sooner or later.
        (
            "words[0] = REFERENCES",
            "words[1] = 1",
            "the jail ended|ConnectionReset|ended with status",
        ),
        ("words[2] = length", "words[2] = size_bytes", "not like others"),
        # Which only 3.11 has: a pointer to the wide form.
        *[("moved.get(word, word)", "word", "not like others")][: sys.version_info < (3, 12)],
        ("made == plain", "made == made + plain", "not like others"),
    ],
)
def test_where_no_string_can_be_mapped_it_is_copied(
    old: str,
    new: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh_cache: None,
) -> None:
    spoiled(monkeypatch, tmp_path, old, new)
    made = plan.make()
    assert isinstance(made, JailPlan), made
    assert made.argv[-1] == "copy"
    assert re.search(f"the context is copied: .*({said})", made.notes[-1])
    # Known from now on, without a probe.
    monkeypatch.setattr(probe, "run", None)
    again = plan.make()
    assert isinstance(again, JailPlan), again
    assert (again.argv, again.notes) == (made.argv, made.notes)


def test_where_it_can_it_is_mapped(fresh_cache: None) -> None:
    made = plan.make()
    assert isinstance(made, JailPlan), made
    assert made.argv[-1] == "map"
    assert made.notes[-1] == "the context is mapped"
