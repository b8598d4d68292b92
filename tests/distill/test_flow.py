"""Instructions and the flow of answers: of runs whose truth is known."""

import cProfile
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import RunResult
from distill.doctor_logs import check_logs
from distill.traces import flow, instructions, provenance, read, records
from distill.traces.flow import InAnswer
from distill.traces.instructions import PASSAGE
from distill.traces.reading import Run
from distill.traces.words import RUN_WORDS, Words, words_of
from tests.distill.scripted import Supervisor, Worker, cell

Ask = Callable[..., RunResult]
DRIVER = records.Producer("driver", "driver", 1)
USAGE = records.TokenUsage(1, 1)


def call(number: int, response: str | None, at: int = 1, **fields: Any) -> records.Call:
    told = {"prompt": "Read it.", "finish_reason": "stop", "sampling": {}, **fields}
    return records.Call(
        t=0.0, run="r", producer=DRIVER, id=f"r-{number}", turn=1, cell=at, call=number, item=0,
        function="worker", attempt=1, response=response, usage=USAGE, model=records.Model("m"),
        **told,
    )  # fmt: skip


def printed(number: int, stdout: str) -> records.Cell:
    return records.Cell(
        t=0.0, run="r", producer=DRIVER, turn=1, cell=number, code="", status="ok", stdout=stdout,
        stderr="", elapsed_s=0.0, cpu_s=0.0,
    )  # fmt: skip


def a_run(calls: list[records.Call], cells: list[records.Cell], answer: Any) -> Run:
    run = Run("r", Path("none"), calls=calls, cells=cells)
    run.final = records.Final(t=0.0, run="r", producer=DRIVER, cell=9, value=answer)
    run.batches = [
        records.Batch(
            t=0.0, run="r", producer=DRIVER, cell=each.cell, call=each.call, function="worker",
            items=1, failed=0, elapsed_s=0.0,
        )
        for each in calls
    ]  # fmt: skip
    return run


# -- words


@given(st.lists(st.text("ab 我!", max_size=40), max_size=4), st.text("ab 我!", max_size=30))
@settings(deadline=None)
def test_all_places_of_a_few_words_are_found(texts: list[str], wanted: str) -> None:
    words = words_of(wanted)[: RUN_WORDS - 1]
    found = list(Words(texts).places(words, 0, len(texts)))
    expected = [
        (number, at)
        for number, text in enumerate(texts)
        for at in range(len(words_of(text)))
        if words and words_of(text)[at : at + len(words)] == words
    ]
    assert len(found) == len(expected)
    for place, (number, at) in zip(found, expected, strict=True):
        assert place.text == number
        assert words_of(texts[number][place.start : place.end]) == words
        assert len(words_of(texts[number][: place.start])) == at
        assert place.is_all == (words_of(texts[number]) == words)


@given(st.text("abc ", min_size=60, max_size=200), st.data())
@settings(deadline=None)
def test_a_long_stretch_is_found_within_other_words(text: str, data: st.DataObject) -> None:
    words = words_of(text)
    start = data.draw(st.integers(0, len(words)))
    stretch = words[start : data.draw(st.integers(start, len(words)))]
    found = list(Words(["x", text]).places(["foreign", *stretch, "words"] + ["x"] * 8, 0, 2))
    if len(stretch) >= RUN_WORDS:
        assert sum(len(words_of(text[each.start : each.end])) for each in found) >= len(stretch)
    for each in found:
        assert len(words_of(text[each.start : each.end])) >= RUN_WORDS


# -- flow


LONG = "The champion of the Philistines was named Goliath and came out of the camp of Gath."


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("Goliath", "Goliath", [("", "Goliath")]),
        ("goliath.", "It was Goliath of Gath", [("", "Goliath")]),
        ("The giant was Goliath.", "Goliath", [("", "Goliath")]),
        ("David", "Goliath", []),
        ("Goliathan", "Goliath", []),
        (LONG, f"In short: {LONG[4:60]}…", [("", LONG[4:60].rpartition(" ")[0])]),
        (LONG.upper(), {"a": [None, LONG]}, [("/a/1", LONG[:-1])]),
        ("Gath", {"a/b": {"~": "Gath"}}, [("/a~1b/~0", "Gath")]),
        ("no", "There is no king", []),
        ("No.", "no", [("", "no")]),
        ("300", {"height": 300}, [("/height", "300")]),
        ("The height was 300", {"height": 300}, []),
        ("巨人的名字", "他说巨人的名字是歌利亚", [("", "巨人的名字")]),
        ("", "Goliath", []),
        ("!!", "!!", []),
        ("x", None, []),
    ],
)
def test_what_of_an_answer_is_in_the_final_one(
    response: str, answer: Any, expected: list[tuple[str, str]]
) -> None:
    (only,) = provenance.of(a_run([call(1, response)], [], answer)).flow
    found = []
    for place in only.in_answer:
        value = answer
        for step in filter(None, place.path.split("/")):
            key = step.replace("~1", "/").replace("~0", "~")
            value = value[int(key) if isinstance(value, list) else key]
        found.append((place.path, str(value)[place.start : place.end]))
    assert found == expected


def test_short_answers_cost_nothing_of_a_long_final_one() -> None:
    """It has each of them thousands of times, never as a text of its own."""
    calls = [call(at, word, at=at) for at in range(60) for word in ("a", "b", "no")]
    long = "a b no " * 7000
    run = a_run(calls, [], {"long": long, "own": "No."})
    profile = cProfile.Profile()
    found = profile.runcall(flow.of, run)
    assert {each.in_answer for each in found} == {(), (InAnswer("/own", 0, 2),)}
    assert sum(each.callcount for each in profile.getstats()) < 5 * len(long)


def test_what_was_printed_by_the_cell_that_asked_or_later() -> None:
    calls = [call(1, "yes", at=2), call(2, "Goliath\nof Gath", at=2), call(3, None, at=2)]
    cells = [
        printed(1, "yes: Goliath of Gath"),
        printed(2, "['yes', 'Goliath\\nof Gath']"),
        printed(3, "yes, it was GOLIATH of Gath"),
    ]
    run = a_run(calls, cells, None)
    run.batches[1:] = []
    short, long = provenance.of(run).flow
    shown = {each.cell: each.stdout for each in cells}
    assert [(p.cell, shown[p.cell][p.start : p.end]) for p in short.printed] == [(2, "yes")]
    assert [(p.cell, shown[p.cell][p.start : p.end]) for p in long.printed] == [
        (2, "Goliath\\nof Gath"),
        (3, "GOLIATH of Gath"),
    ]
    assert (short.returned, long.returned) == (True, False), "the second call has no batch record"


# -- instructions


def test_instructions_are_what_is_no_passage() -> None:
    head, passage, tail = "Read this: ", "p" * 50, "\nWho was it?"
    prompt = f"<|user|>{head}{passage}~{passage}{tail}<|end|>"
    start = len("<|user|>")
    first = start + len(head)
    spans = (
        records.Span(100, 150, first),
        records.Span(151, 201, first + 51),  # one character was rewritten between the two
    )
    inside = (records.MessageSpan("user", start, len(prompt) - len("<|end|>")),)
    told: dict[str, Any] = {"prompt": prompt, "spans": spans, "message_spans": inside}
    two = f"{passage}\n\n{passage}"
    apart = (records.Span(500, 550, 0), records.Span(10, 60, 52))
    calls = [
        call(1, "a", **told),
        call(2, "b", **told),
        call(3, None, **told),
        call(4, "c", prompt="Sum up: a, b"),
        call(5, "d", prompt=two, spans=apart),
        call(6, "e", prompt=prompt, message_spans=inside, spans=spans[1:]),
        call(7, "f", prompt=f"{two}\nBe brief.", spans=apart),
    ]
    found = instructions.of(calls)
    assert [(each.text, each.calls, each.first) for each in found] == [
        (f"Read this:{PASSAGE}Who was it?", 3, "r-1"),
        ("Sum up: a, b", 1, "r-4"),
        (PASSAGE, 1, "r-5"),
        (f"{PASSAGE}Be brief.", 1, "r-7"),
    ]


@given(
    st.text(max_size=60),
    st.lists(
        st.builds(records.Span, *[st.integers(-9, 90)] * 3, st.none() | st.just("a")), max_size=5
    ),
    st.none()
    | st.lists(
        st.builds(records.MessageSpan, st.just("user"), *[st.integers(-9, 90)] * 2), max_size=3
    ),
)
def test_no_log_can_break_it(
    prompt: str, spans: list[records.Span], inside: list[records.MessageSpan] | None
) -> None:
    places = None if inside is None else tuple(inside)
    instructions.of([call(1, "a", prompt=prompt, spans=tuple(spans), message_spans=places)])


# -- a real run


def test_of_a_real_run(ask: Ask, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = [f"Chapter {n}. " + f"Sentence {n} of the {n * 77}th king. " * 40 for n in range(5)]
    supervisor = Supervisor(
        cell("found = worker_batch([f'Passage: {c[:600]}\\nWho?' for c in context[1:4]])"),
        cell("print(found[0])\nsummed = worker('Sum up: ' + ', '.join(found))"),
        cell("FINAL({'kings': summed, 'why': 'It says “of the 77th king”, “of the 78th king”.'})"),
    )

    def answer(prompt: str) -> str:
        if prompt.startswith("Sum up"):
            return "All of them were kings"
        return f"Found in {prompt[len('Passage: ') :][:9]}"

    result = ask(supervisor=supervisor, worker=Worker(answer), context=context)
    (run,) = read(log).runs.values()
    found = provenance.of(run)
    read_in = {part.part: part.read for part in found.coverage.parts if part.read}
    assert read_in == {str(n): ((0, 600),) for n in (1, 2, 3)}
    assert found.coverage.read_chars == 1800
    assert run.start is not None
    assert run.end is not None
    assert run.end.read_chars == result.evidence.read_chars == 1800
    assert [(each.text, each.calls) for each in found.instructions] == [
        (f"Passage:{PASSAGE}Who?", 3),
        (f"Sum up: {', '.join(f'Found in Chapter {n}' for n in (1, 2, 3))}", 1),
    ]
    flows = found.flow
    assert [len(each.printed) for each in flows] == [1, 0, 0, 0]
    assert [each.in_answer for each in flows] == [(), (), (), (InAnswer("/kings", 0, 22),)]
    assert all(each.returned for each in flows)

    assert check_logs([log], as_json=False, provenance=True) == 0
    shown, chars = capsys.readouterr().out, sum(map(len, context))
    for said in (
        f"{100 * 1800 / chars:.1f} % of the text: 1,800 of {chars:,} characters, in 3 stretches",
        "longest matches of at least 40 characters",
        f"3 calls: Passage:{PASSAGE}Who?",
        "4 answers of workers: 4 returned to the code, 1 printed, 1 likely in the final answer",
        "“All of them were kings” → [/kings:0-22] of the answer",
        "a match, not a cause",
        "1 of 2 passages in quotation marks stand in the text",
        "not in the text: “of the 78th king”",
    ):
        assert said in shown
    assert check_logs([log], as_json=True, provenance=True) == 0
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    assert told["provenance"]["coverage"]["read_chars"] == 1800
    assert told["provenance"]["flow"]["answers"][3]["in_answer"] == [["/kings", 0, 22]]
    (log / run.start.context.file).unlink()
    assert check_logs([log], as_json=False, provenance=True) == 2
    assert "not known: the context of run" in capsys.readouterr().out
    log.rename(log.with_name("damaged"))  # on purpose: not to be held against the joins
