"""A str over a mapping is like any other str: tried as the jail makes it, in this process."""

import ast
import codecs
import collections
import copy
import ctypes
import encodings.aliases
import gc
import io
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distill.sandbox.jail import context as inside
from distill.supervisor.context import ContextFile

BORDERS = "\0\x7f\x80\xff\u0100\ud7ff\ue000\uffff\U00010000\U0010ffff"
"""Where one width ends and the next begins, and around the surrogates."""
COMMON = "ab AZ09\n\t.,%{}\\ßéÅİıΣς☃\u0301\u2028\uff11½😀"
WIDTHS = {
    "ascii": "plain {0} text\n\x7f",
    "latin-1": "caf\xe9 \x80\xff",
    "ucs2": "snow \u2603 \u0100\uffff",
    "ucs4": "smile \U0001f600 \U00010000\U0010ffff",
}
texts = st.text(st.sampled_from(BORDERS + COMMON), max_size=40)
"""Small enough to try much; one character decides on the width of the whole."""


def mapped(text: str) -> str:
    """``text`` as a jail holds it. Like there, it is never freed."""
    with ContextFile(text) as file:
        made, form = inside.load(os.dup(file.fileno()), file.kind, mapped=True)
    assert form == "mapped"
    assert type(made) is str
    return made


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What comes of it, an exception included, in a form that can be compared."""
    try:
        value = function(*arguments)
        if isinstance(value, Iterator):
            value = list(value)
    except Exception as error:  # noqa: BLE001  (the same one must come of both)
        return type(error), re.sub(r" at 0x[0-9a-f]+", "", str(error))
    return type(value), value


def alphabet(text: str) -> list[str]:
    """Arguments that say something about this text."""
    return ["", text, text[:1], text[-1:], text[1:3], "a", "\x7f", "\xff", "\uffff", "\U0010ffff"]


METHODS: dict[str, Callable[[str], list[tuple[Any, ...]]]] = {
    **dict.fromkeys(
        """capitalize casefold isalnum isalpha isascii isdecimal isdigit isidentifier islower
        isnumeric isprintable isspace istitle isupper lower swapcase title upper""".split(),
        lambda _: [()],
    ),
    **dict.fromkeys(
        "count endswith find index removeprefix removesuffix rfind rindex startswith".split(),
        lambda text: [(part,) for part in alphabet(text)],
    ),
    **dict.fromkeys(
        "partition rpartition strip lstrip rstrip".split(),
        lambda text: [(part,) for part in alphabet(text)],
    ),
    **dict.fromkeys(
        "split rsplit".split(),
        lambda text: [(), (None, 1), *((part, 2) for part in alphabet(text))],
    ),
    **dict.fromkeys(
        "center ljust rjust".split(), lambda _: [(60,), (60, "\x7f"), (60, "☃"), (60, "\U0010ffff")]
    ),
    "encode": lambda _: [(codec,) for codec in ("utf-8", "utf-16", "utf-32", "ascii", "latin-1")],
    "expandtabs": lambda _: [(), (3,)],
    "format": lambda _: [(), (1, 2)],
    "format_map": lambda _: [({},)],
    "join": lambda text: [(["a", text, "☃"],), ([],), (text,)],
    "maketrans": lambda text: [(text, text[::-1])],
    "replace": lambda text: [(part, "☃") for part in alphabet(text)] + [("a", text, 1)],
    "splitlines": lambda _: [(), (True,)],
    "translate": lambda _: [({ord("a"): "☃", 0xFF: None},)],
    "zfill": lambda _: [(60,)],
    "__add__": lambda text: [(part,) for part in alphabet(text)],
    **dict.fromkeys(
        "__contains__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__".split(),
        lambda text: [(part,) for part in alphabet(text)],
    ),
    "__format__": lambda _: [("",), (">60",), ("☃^60.3",)],
    "__getitem__": lambda text: [(0,), (-1,), (len(text),), (slice(1, None, 2),), (slice(None),)],
    **dict.fromkeys(
        "__hash__ __iter__ __len__ __repr__ __str__ __getnewargs__".split(), lambda _: [()]
    ),
    "__mod__": lambda _: [(1,), ((),)],
    "__rmod__": lambda _: [("%s",)],
    **dict.fromkeys("__mul__ __rmul__".split(), lambda _: [(0,), (1,), (3,)]),
}
NOT_THE_TEXTS = {name for name in dir(object) if name not in METHODS} | {"__sizeof__"}


def test_no_method_of_str_is_left_out() -> None:
    assert {name for name in dir(str) if name not in NOT_THE_TEXTS} == set(METHODS)


@settings(max_examples=60, deadline=None)
@given(texts)
@example("")
@example(BORDERS)
def test_every_method(text: str) -> None:
    made = mapped(text)
    for name, arguments in METHODS.items():
        for given_ in arguments(text):
            expected = outcome(getattr(text, name), *given_)
            assert outcome(getattr(made, name), *given_) == expected, (name, given_)
            # And as an argument of another's.
            swapped = [made if argument is text else argument for argument in given_]
            assert outcome(getattr(text, name), *swapped) == expected, (name, given_)


@settings(max_examples=60, deadline=None)
@given(texts, texts)
@example("", "")
@example("\x7f", "\x80")
@example("\xff", "\u0100")
@example("\uffff", "\U00010000")
def test_two_texts(one: str, other: str) -> None:
    a, b = mapped(one), mapped(other)
    assert (a < b, a == b, a > b) == (one < other, one == other, one > other)
    assert (a in b, b in a, a.find(b)) == (one in other, other in one, one.find(other))
    assert (a + b, f"{a}|{b:>9}", "%s%s" % (a, b)) == (  # noqa: UP031
        one + other,
        f"{one}|{other:>9}",
        "%s%s" % (one, other),  # noqa: UP031
    )
    assert {a: 1, b: 2} == {one: 1, other: 2}
    assert {a, b} == {one, other}
    assert sorted([a, b]) == sorted([one, other])
    added = a
    added += b
    added += "x"
    assert (added, a, b) == (one + other + "x", one, other)


CONSUMERS: dict[str, Callable[[str], Any]] = {
    "re": lambda text: re.findall(r"(?i)\w+|[^a]", text),
    "re sub": lambda text: re.sub(r"[\x80-\uffff]", lambda match: match[0] * 2, text),
    "re split": lambda text: re.split(r"\s", text),
    "re search": lambda text: str(re.search(r"\W$", text)),
    "re pattern": lambda text: re.compile(re.escape(text)).findall(text * 2),
    "json": lambda text: (json.dumps(text), json.dumps({text: [text]}, ensure_ascii=False)),
    "json read": json.loads,
    "json back": lambda text: json.loads(json.dumps(text)) == text,
    "pickle": lambda text: [pickle.loads(pickle.dumps(text, n)) for n in range(6)],
    "pickled bytes": pickle.dumps,
    "copy": lambda text: (copy.copy(text), copy.deepcopy([text, text])),
    "same": lambda text: len(text) < 2 or (text[:] is text and str(text) is text),
    "hash": lambda text: (hash(text), hash((text, 1))),
    "dict": lambda text: {text: 1}["".join(list(text))],
    "intern": sys.intern,
    "attribute": lambda text: vars(type("Named", (), {text: 1}))[text],
    "class name": lambda text: type(text, (), {}).__name__,
    "keyword": lambda text: dict(**{text: 1}),
    "counter": collections.Counter,
    "list": list,
    "reversed": lambda text: "".join(reversed(text)),
    "enumerate": enumerate,
    "max": max,
    "numbers": lambda text: [outcome(kind, text) for kind in (int, float, complex)],
    "literal": ast.literal_eval,
    "compile": lambda text: compile(text, text.replace("\0", ""), "exec"),
    "unicode forms": lambda text: [
        unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")
    ],
    "wrap": lambda text: textwrap.wrap(text, 5),
    "stream": lambda text: list(io.StringIO(text)),
    "text stream": lambda text: io.TextIOWrapper(io.BytesIO(), "utf-8").write(text),
    "wchar": lambda text: ctypes.create_unicode_buffer(text)[:],
    "wide pointer": lambda text: ctypes.c_wchar_p(text).value,
    "file name": os.fsencode,
    "path": lambda text: str(Path(text)),
    "stat": os.path.exists,
    "ord": lambda text: [ord(character) for character in text],
    "repr": lambda text: (repr(text), ascii(text), repr([text])),
}


@settings(max_examples=40, deadline=None)
@given(texts)
@example("")
@example("[1, 2]")
@example("12")
@example("\uff11½")
@example(BORDERS)
@example("%s" * 9)
def test_whatever_takes_text(text: str) -> None:
    made = mapped(text)
    for name, consume in CONSUMERS.items():
        expected = outcome(consume, text)
        got = outcome(consume, made)
        if name == "compile":
            expected, got = expected[0], got[0]
        assert got == expected, name
    assert made == text


CODECS = sorted(set(encodings.aliases.aliases.values()))


@pytest.mark.parametrize("errors", ["strict", "replace", "backslashreplace", "surrogatepass"])
@pytest.mark.parametrize("text", ["", *WIDTHS.values(), BORDERS], ids=["empty", *WIDTHS, "borders"])
def test_every_codec(text: str, errors: str) -> None:
    made = mapped(text)
    assert len(CODECS) > 90
    for codec in CODECS:
        expected = outcome(codecs.encode, text, codec, errors)
        assert outcome(codecs.encode, made, codec, errors) == expected, codec


def test_a_str_that_is_never_freed() -> None:
    """Whatever is dropped, and as often, it stays; nothing is counted on its being collected."""
    for text in ("", *WIDTHS.values()):
        made = mapped(text)
        kept = id(made)
        before = sys.getrefcount(made)
        for _ in range(10_000):
            held = [made, {made: made}, (made,)]
            del held
        del made
        gc.collect()
        again = ctypes.cast(kept, ctypes.py_object).value
        assert again == text
        assert abs(sys.getrefcount(again) - before) < 5


@pytest.mark.parametrize("broken", ["length", "content", "another type"])
def test_a_string_that_differs_is_found_out(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-check: any difference means that this Python's strings can't be made so."""
    make = inside._string_at
    spoil: dict[str, Callable[[str], Any]] = {
        "length": lambda text: text[:-1],
        "content": lambda text: "b" + text[1:],
        "another type": type("Text", (str,), {}),
    }
    assert inside.strings_can_be_made()
    monkeypatch.setattr(inside, "_string_at", lambda *given_: spoil[broken](make(*given_)))
    assert not inside.strings_can_be_made()


def test_other_object_headers_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "WORD_BYTES", 16)  # as if objects were larger here
    monkeypatch.setattr(inside, "_string_at", None)
    assert not inside.strings_can_be_made()


EXIT = """
import atexit, gc, os, sys, threading
from distill.sandbox.jail import context
from distill.supervisor.context import ContextFile
from tests.sandbox.test_mapped_text import mapped
assert context.strings_can_be_made()
class Holder: pass
TEXTS = [mapped(text) for text in ("", "a", "\\xe9", "text", "caf\\xe9", "\\u2603", "\\U0001f600x")]
for number, text in enumerate(TEXTS):
    globals()["name%d" % number] = text
    setattr(Holder, text, sys.intern(text))
    atexit.register(print, repr(text))
    sys.modules["odd" + text] = Holder
    text.encode(), hash(text), {text: text}
cycle = [TEXTS]; cycle.append(cycle)
thread = threading.Thread(target=lambda: [text.upper() for text in TEXTS]); thread.start()
del cycle; gc.collect()
print("end")
"""


@pytest.mark.parametrize("flags", [[], ["-X", "dev"], ["-X", "importtime"]])
def test_the_interpreter_ends_well(flags: list[str]) -> None:
    # The child imports this module by its name.
    path = os.pathsep.join((str(Path(__file__).parents[2]), *sys.path))
    ended = subprocess.run(
        [sys.executable, *flags, "-W", "ignore", "-X", "faulthandler", "-c", EXIT],
        env={**os.environ, "PYTHONPATH": path, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (0, "end"), ended.stderr
    assert len(ended.stdout.splitlines()) == 8
