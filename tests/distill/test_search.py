"""``search``: what it finds and where, and what hostile arguments and patterns come to."""

import contextvars
import gc
import threading
import time
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from distill import search as module
from distill.caller import WAITER
from distill.primitives import terms_of
from distill.search import HITS_LIMIT, QUERY_LIMIT_CHARS, search_over
from tests.distill.conftest import Ask
from tests.distill.scripted import SMALL, Supervisor, cell

FILLER = "The rivers ran to the sea and the sea was not full. " * 200
TEXT = (
    FILLER
    + "\n\nAnd there went out a champion named Goliath, of Gath. Goliath was tall.\n\n"
    + FILLER
    + "\n\nDavid slew the giant Goliath with a stone of his sling.\n\n"
    + FILLER
)


def test_words_find_the_passages_that_share_the_rarest_ones() -> None:
    hits = search_over(TEXT)("Which giant did DAVID slay, with the sea?", k=3)
    assert "David slew the giant" in hits[0]["text"]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    for hit in hits:
        assert TEXT[hit["start"] : hit["end"]] == hit["text"]
        assert hit["part"] is None


def test_a_pattern_finds_the_passages_with_most_matches_first() -> None:
    first, second = search_over(TEXT)("Goli[a-z]+", "regex")
    assert (first["score"], second["score"]) == (2.0, 1.0)
    assert "champion" in first["text"]
    assert "slew" in second["text"]
    assert search_over(TEXT)("goliath", "regex") == []
    assert search_over(TEXT)("(?i)goliath", "regex", 1) == [first]


def test_words_that_are_written_without_spaces() -> None:
    texts = ["昨日は雨が降りました。", "ダビデは巨人ゴリアテを倒した。", "Ärzte und Übung"]
    assert [hit["part"] for hit in search_over(texts)("巨人を", k=1)] == [1]
    assert [hit["part"] for hit in search_over(texts)("ÜBUNG")] == [2]


CONTEXTS: dict[str, Any] = {
    "a list": ["nothing", "here is a needle, and", "a needle"],
    "a dict": {"a.txt": "nothing", "b.txt": "the needle"},
    "further in": {"a": ["x", {"b": "my needle"}]},
    "wide characters": "äöü €uro 😀\n" * 300 + "😀 needle 😀",
}


@pytest.mark.parametrize("kind", ["bm25", "regex"])
@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_where_a_hit_stands(context: Any, kind: Any) -> None:
    hits = search_over(context)("needle", kind)
    assert hits
    for hit in hits:
        text = context
        for key in [] if hit["part"] is None else str(hit["part"]).split("/"):
            text = text[int(key) if isinstance(text, list) else key]
        assert text[hit["start"] : hit["end"]] == hit["text"]
        assert "needle" in hit["text"]


def test_the_index_of_a_flat_list_is_a_number() -> None:
    assert [hit["part"] for hit in search_over(["a", "b needle"])("needle")] == [1]


@pytest.mark.parametrize("context", ["!!! ???", [], {}, ["", " "], {"a": 1}], ids=repr)
def test_texts_without_words(context: Any) -> None:
    assert search_over(context)("word") == []
    assert search_over(context)("word", "regex") == []


def test_matches_across_passages_windows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_BYTES", 64)
    monkeypatch.setattr(module, "MATCH_LIMIT_BYTES", 1 << 12)
    text = "é" * 5000 + "BEGIN" + "é" * 600 + "END" + "é" * 5000
    (hit,) = search_over(text)("BEGINé*END", "regex")
    assert hit["text"].endswith("BEGIN" + "é" * 600 + "END") or "END" in hit["text"]
    assert text[hit["start"] : hit["end"]] == hit["text"]
    counted = search_over("aé" * 2000)("é", "regex", 100)
    assert sum(hit["score"] for hit in counted) == 2000
    # RE2 can ask for single bytes; offsets stay those of characters.
    assert all(hit["text"] for hit in search_over("aé" * 2000)(r"\C", "regex"))
    assert search_over("one two")(r"\b", "regex") == []  # empty matches don't count
    assert search_over("x one")("^one", "regex") == []
    assert len(search_over("x" * 500 + "\none")("(?m)^one$", "regex")) == 1


HOSTILE: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "no text": ((5,), TypeError, "str"),
    "empty": ((" ",), TypeError, "empty"),
    "too long": (("x" * (QUERY_LIMIT_CHARS + 1),), ValueError, "2,001 characters"),
    "no word": (("?!",), ValueError, "no word"),
    "another kind": (("x", "vector"), ValueError, "'bm25' or 'regex'"),
    "a kind that can't be hashed": (("x", ["regex"]), ValueError, "'bm25' or 'regex'"),
    "too many": (("x", "bm25", HITS_LIMIT + 1), ValueError, "1 to 100"),
    "none": (("x", "bm25", 0), ValueError, "1 to 100"),
    "a truth": (("x", "bm25", True), ValueError, "1 to 100"),
    "look-ahead": (("(?=x)", "regex"), ValueError, "look-around"),
    "a back reference": ((r"(a)\1", "regex"), ValueError, "RE2"),
    "unclosed": (("(", "regex"), ValueError, "missing"),
    "huge": ((r"[\p{L}]{1000}", "regex"), ValueError, "too large"),
    "a lone surrogate": (("\udcff", "regex"), ValueError, "surrogate"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_arguments(kind: str) -> None:
    arguments, error, told = HOSTILE[kind]
    with pytest.raises(error, match=told):
        search_over(TEXT)(*arguments)


def test_a_pattern_that_ruins_others_takes_linear_time() -> None:
    """``(x+x+)+y`` takes Python's re longer than the age of the universe here."""
    assert search_over("x" * 1_000_000)("(x+x+)+y", "regex") == []


def test_a_pattern_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REGEX_LIMIT_S", 0.1)
    with pytest.raises(TimeoutError, match="without an end"):
        search_over("a" * 3_000_000)("a", "regex")


def test_nothing_is_searched_for_a_run_that_has_gone() -> None:
    gone: Future[None] = Future()
    gone.cancel()
    context = contextvars.copy_context()
    context.run(WAITER.set, gone)
    with pytest.raises(TimeoutError):
        context.run(search_over(TEXT), "Goliath", "regex")


def test_others_run_while_a_pattern_is_searched() -> None:
    """RE2 lets go of the GIL: a thread that counts gets on, however long a window takes."""
    counted, done = 0, threading.Event()

    def work() -> None:
        search_over("a" * 100_000)("(?s).{700}QQQ", "regex")
        done.set()

    threading.Thread(target=work, daemon=True).start()
    started_s = time.monotonic()
    while not done.is_set() and time.monotonic() - started_s < 30:
        counted += 1
        time.sleep(0.001)
    assert done.is_set()
    assert counted > 5


def test_a_text_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXT_LIMIT_CHARS", 100)
    with pytest.raises(ValueError, match="look with code"):
        search_over(TEXT)("giant")


def test_what_comes_back_is_bounded() -> None:
    hits = search_over("word " * 400_000)("(?s)word.*", "regex", HITS_LIMIT)
    assert len(hits) <= HITS_LIMIT
    assert max(len(hit["text"]) for hit in hits) <= 2000
    assert len(search_over("word " * 400_000)("word", k=HITS_LIMIT)) == HITS_LIMIT


def test_it_sends_nothing_out() -> None:
    assert terms_of(search_over("x")).egress is False


def test_runs_about_one_text_share_its_index(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a sub-run does, which begins when the index has been made."""
    made: list[Any] = []

    class Noted(module.Index):
        def __init__(self, context: Any) -> None:
            made.append(self)
            super().__init__(context)

    monkeypatch.setattr(module, "Index", Noted)
    code = cell("FINAL([len(search('Goliath')), *supervisor('again')])")
    boss = Supervisor(code, cell("FINAL([len(search('giant')), len(search('Gol', 'regex'))])"))
    result = ask(supervisor=boss, context=TEXT, primitives=["search", "supervisor"], limits=SMALL)
    assert result.answer == [2, 1, 2]
    assert len(made) == 1
    freed = weakref.ref(made.pop())
    gc.collect()
    assert freed() is None


def test_a_run_s_code_calls_it_and_the_model_is_told_how(ask: Ask, logged: Any) -> None:
    supervisor = Supervisor(
        cell("hits = search(query + ' giant David', k=1)\nprint(hits[0]['text'])"),
        cell("search('(', 'regex')"),
        cell("hit = search('David slew', 'regex')[0]\nFINAL(context[hit['start']:hit['end']])"),
    )
    result = ask(supervisor=supervisor, context=TEXT, primitives=["search"], limits=SMALL)
    assert "David slew the giant Goliath" in result.answer
    assert "David slew the giant Goliath" in supervisor.shown(2)
    assert "PrimitiveError: ValueError: RE2 can't take this pattern" in supervisor.shown(3)
    prompt = supervisor.seen[0][0]["content"]
    assert "- `search(query: str, kind: Literal['bm25', 'regex'] = 'bm25', k: int = 10)" in prompt
    assert "-> list[dict[str, Any]]`: The k best passages" in prompt
    assert "  look-around" not in prompt
    assert "context[part][start:end]" in prompt
    run = logged()
    assert [call.function for call in run.primitives] == ["search"] * 3
    assert run.start.options["ready_primitives"] == {"search": "search"}
    assert run.start.options["primitives"]["search"]["egress"] is False
