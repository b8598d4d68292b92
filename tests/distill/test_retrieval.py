"""``retrieve``: the model's figures, what is found, how long it may take, what is kept."""

import contextvars
import gc
import logging
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from distill import retrieval as module
from distill.caller import WAITER
from distill.minilm import SIZE, TOKENS_LIMIT, MiniLM, loaded, one_thread_a_product
from distill.passages import PASSAGE_CHARS
from distill.primitives import terms_of
from distill.retrieval import retrieve_over
from tests.distill.conftest import Ask
from tests.distill.scripted import Supervisor, cell

TOPICS = {
    "weather": "Heavy rain fell for days, and the storm tore the roofs off the houses.",
    "money": "The company's revenue grew by nine percent, and its shareholders were paid more.",
    "food": "She baked bread with rye flour and served it warm with butter and salt.",
    "music": "The violinist tuned her instrument and the orchestra began the second movement.",
}
TEXTS = ["How many people live in Berlin?", "Berlin has 3.5 million inhabitants.", "x"]
FIRST_NUMBERS = [
    [0.1167, -0.0137, -0.0104, 0.0590],
    [0.1428, -0.0370, -0.0118, 0.0434],
    [-0.0979, -0.0640, -0.0232, -0.0462],
]
COSINES = [[1.0, 0.8567, 0.0881], [0.8567, 1.0, 0.0294], [0.0881, 0.0294, 1.0]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distill" / "embeddings"


@pytest.fixture(scope="module")
def model() -> Iterator[MiniLM]:
    with one_thread_a_product():
        yield MiniLM()


def test_the_vectors_are_those_of_the_model(model: MiniLM) -> None:
    """Held against what ``transformers`` makes of the same weights (float32, mean, normalised)."""
    vectors = model.vectors(TEXTS)
    assert vectors.shape == (len(TEXTS), SIZE)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[:, :4], FIRST_NUMBERS, atol=2e-3)
    assert np.allclose(vectors @ vectors.T, COSINES, atol=2e-3)


def test_a_text_is_the_same_alone_and_among_longer_ones(model: MiniLM) -> None:
    (alone,) = model.vectors(["short"])
    among = model.vectors(["a much longer text " * 30, "short", ""])
    assert np.allclose(alone, among[1], atol=1e-4)
    cut = model.vectors(["word " * (TOKENS_LIMIT - 2), "word " * 5000])
    assert np.allclose(cut[0], cut[1], atol=1e-4)


@pytest.mark.parametrize(
    ("query", "topic"),
    [
        ("a tempest damaged buildings", "weather"),
        ("how did the business do financially?", "money"),
        ("something freshly made in an oven", "food"),
        ("a concert", "music"),
    ],
)
def test_what_is_meant_is_found_without_a_word_in_common(query: str, topic: str) -> None:
    best, *others = retrieve_over(TOPICS)(query)
    assert best["part"] == topic
    assert TOPICS[topic][best["start"] : best["end"]] == best["text"]
    assert [hit["score"] for hit in others] == sorted((h["score"] for h in others), reverse=True)


@pytest.mark.parametrize("context", [[], {"a": " "}, "\n\n"], ids=repr)
def test_texts_without_a_passage(context: Any) -> None:
    assert retrieve_over(context)("anything") == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((5,), TypeError), ((" ",), TypeError), (("x" * 2001,), ValueError), (("x", 0), ValueError),
     (("x", 101), ValueError), (("x", "3"), ValueError), (("\udcff",), ValueError)],
    ids=["number", "empty", "long", "none", "many", "str", "surrogate"],
)  # fmt: skip
def test_hostile_arguments(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        retrieve_over(TOPICS)(*arguments)


def test_a_reading_is_kept_for_the_next_run(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_FROM", 2)
    monkeypatch.setattr(module, "KEPT_FILES", 2)
    first = retrieve_over(TOPICS)("a concert")
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    np.save(kept, np.load(kept)[::-1])  # who reads it now gets others' vectors
    assert retrieve_over(TOPICS)("a concert")[0]["part"] != first[0]["part"]
    for broken in (b"", b"nonsense", kept.read_bytes()[:-5]):
        kept.write_bytes(broken)
        assert retrieve_over(TOPICS)("a concert") == first
    for other in ("one", "two", "three"):
        retrieve_over({**TOPICS, "other": other})("a concert")
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_can_not_be_written_costs_nothing_else(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_FROM", 2)
    cache.parent.mkdir(parents=True)
    cache.touch()
    assert retrieve_over(TOPICS)("a concert")[0]["part"] == "music"


def test_what_would_take_too_long_is_refused_and_goes_on_when_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PACE_S", 0.0)
    monkeypatch.setattr(module, "READING_LIMIT_S", 0.0)
    texts = [f"{text} {number}" for number in range(20) for text in TOPICS.values()]
    retrieve = retrieve_over(texts)
    with pytest.raises(TimeoutError, match="80 passages would take"):
        retrieve("a concert")
    monkeypatch.setattr(module, "READING_LIMIT_S", 1e6)
    monkeypatch.setattr(module, "TOLD_FROM_S", 0.0)
    with caplog.at_level(logging.WARNING, "distill"):
        assert "violinist" in retrieve("a concert")[0]["text"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert "passages first" in told
    assert "80 passages" not in told, "what was read counts"


def test_what_numpy_does_elsewhere_is_as_it_was() -> None:
    def threads() -> list[int]:
        pools = threadpoolctl.threadpool_info()  # torch may be in this process, and has its own
        return [each["num_threads"] for each in pools if each["user_api"] == "blas"]

    before = threads()
    with one_thread_a_product():
        with one_thread_a_product():
            assert set(threads()) <= {1}
        assert set(threads()) <= {1}
    assert threads() == before


def test_nothing_is_read_for_a_run_that_has_gone() -> None:
    gone: Future[None] = Future()
    gone.cancel()
    retrieve = retrieve_over(TOPICS)
    context = contextvars.copy_context()
    context.run(WAITER.set, gone)
    with pytest.raises(TimeoutError, match="nobody waits"):
        context.run(retrieve, "a concert")
    assert retrieve("a concert")[0]["part"] == "music"


def test_runs_about_one_text_share_its_reading(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Noted(module.Reading):
        def __init__(self, context: Any) -> None:
            made.append(context)
            super().__init__(context)

    monkeypatch.setattr(module, "Reading", Noted)
    code = cell("FINAL([retrieve('a concert')[0]['part'], supervisor('again')])")
    boss = Supervisor(code, cell("FINAL(retrieve('bread and butter')[0]['part'])"))
    result = ask(supervisor=boss, context=TOPICS, primitives=["retrieve", "supervisor"])
    assert result.answer == ["music", "food"]
    assert len(made) == 1


def test_a_process_has_one_model() -> None:
    first = loaded()
    assert loaded() is first
    freed = weakref.ref(first)
    del first
    gc.collect()
    assert freed() is None


def test_who_waits_for_another_s_reading_goes_when_nobody_waits_for_him() -> None:
    reading = module.Reading(TOPICS)
    gone: Future[None] = Future()
    gone.cancel()
    context = contextvars.copy_context()
    context.run(WAITER.set, gone)
    with reading._lock, pytest.raises(TimeoutError, match="nobody waits"):
        context.run(reading.nearest, "a concert", 1)


def test_it_sends_nothing_out() -> None:
    assert terms_of(retrieve_over("x")).egress is False
    assert PASSAGE_CHARS <= TOKENS_LIMIT * 4  # a passage is read whole, in most languages


def test_a_run_s_code_calls_it(ask: Ask, logged: Any) -> None:
    supervisor = Supervisor(cell("FINAL(retrieve('a concert', k=2)[0]['part'])"))
    assert ask(supervisor=supervisor, context=TOPICS, primitives=["retrieve"]).answer == "music"
    assert "- `retrieve(query: str, k: int = 10)" in supervisor.seen[0][0]["content"]
    assert logged().primitives[0].value[0]["part"] == "music"
