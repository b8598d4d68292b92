"""Answers that must pass: a schema, quotations, a check of the caller's; what if they don't."""

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest

from distill import RunResult, replay, resume
from distill.answers import rules_from, schema_of
from distill.errors import InputError
from distill.supervisor.quotations import WINDOW_CHARS, locate, quoted_in
from distill.traces import Run, read
from tests.distill.scripted import Supervisor, Worker, cell

Ask = Callable[..., RunResult]
Logged = Callable[[], Run]

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TEXT = "In the beginning was the Word.\nHe said, \u2018I am\n   that I am\u2019, and  left.\n"


# -- schemas


class Person(pydantic.BaseModel):
    name: str
    age: int


@dataclasses.dataclass
class Place:
    name: str
    height_m: float | None = None


@pytest.mark.parametrize(
    ("given", "good", "bad"),
    [
        (PERSON, {"name": "a", "age": 1}, {"name": "a", "age": -1}),
        (Person, {"name": "a", "age": 1}, {"name": "a", "age": "1"}),
        (Place, {"name": "a", "height_m": None}, {"height_m": 2.0}),
        (list[int], [1, 2], [1, "2"]),
    ],
    ids=["dict", "pydantic", "dataclass", "type"],
)
def test_a_schema_is_a_dict_or_a_class(given: Any, good: Any, bad: Any) -> None:
    rules = rules_from(given, False, None)
    assert rules.problem(good, "") is None
    assert "does not fit the schema" in str(rules.problem(bad, ""))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "nothing"}, "no JSON schema"),
        ({"pattern": "("}, "no JSON schema"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "disabled"),
        ({"$ref": "file:///etc/hostname"}, "disabled"),
        ({"$ref": "#/$defs/gone"}, "gone"),
        ({"const": {1, 2}}, "JSON schema"),
        ({"enum": ["x" * 200_000]}, "longer than"),
        ("schema.json", "a dict"),
        (7, "a dict"),
    ],
    ids=str,
)
def test_a_schema_that_is_none_is_refused_before_anything(schema: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        schema_of(schema)


def test_a_pattern_can_not_take_for_ever() -> None:
    rules = rules_from({"pattern": "^((a+)+)\\2$"}, False, None)
    started_s = time.monotonic()
    assert rules.problem("a" * 100_000 + "!", "") is not None
    assert time.monotonic() - started_s < 20


def test_a_schema_s_problem_is_one_short_message() -> None:
    problem = rules_from({"items": {"type": "integer"}}, False, None).problem(
        ["x" * 10**6] * 50, ""
    )
    assert problem is not None
    assert len(problem) < 2000
    assert "/0" in problem
    assert "and more" in problem


# -- quotations


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("He said “the Word”.", ["the Word"]),
        ('It is "In the beginning".', ["In the beginning"]),
        ("It is “beginning was the Word,” he said.", ["beginning was the Word"]),
        ("“… was the Word …”", ["was the Word"]),
        ("“said, 'I am that I am', and left.”", [TEXT[34:-1]]),
        ({"a": ["“Word”", {"b": 'x "said"'}], "c": 5}, ["Word", "said"]),
        ("a 5\" pipe and a 6\" one, “” and “…”", []),
        ("no quotation", []),
    ],
    ids=str,
)  # fmt: skip
def test_quotations_are_found_where_they_stand(answer: Any, found: list[str]) -> None:
    rules = rules_from(None, True, None)
    assert rules.problem(answer, TEXT) is None
    quotations = rules.quotations(answer, TEXT, ("kjv.txt",))
    assert [each.text for each in quotations] == found
    for each in quotations:
        assert TEXT[each.start : each.end] == each.text
        assert (each.part, each.file) == (None, "kjv.txt")


@pytest.mark.parametrize(
    "quotation", ["the word", "beginning the Word", "was … Word", "Word. He", "x"], ids=str
)
def test_what_does_not_stand_in_the_text_is_refused(quotation: str) -> None:
    problem = rules_from(None, True, None).problem(f"He says “{quotation}”.", TEXT)
    assert problem is None if quotation == "Word. He" else quotation in str(problem)


def test_a_quotation_has_its_part_and_its_file() -> None:
    rules = rules_from(None, True, None)
    context = {"a.txt": "nothing here", "deep/b.txt": "one two\tthree"}
    (inner,) = rules.quotations("“two three”", context, ("books",))
    assert (inner.part, inner.start, inner.end) == ("deep/b.txt", 4, 13)
    assert inner.file == "books/deep/b.txt"
    (named,) = rules.quotations("“nothing”", context, ("a.txt", "deep/b.txt"))
    assert (named.part, named.file) == ("a.txt", "a.txt")
    (of_list,) = rules.quotations("“two”", ["one", "two"], ())
    assert (of_list.part, of_list.file) == ("1", None)


@pytest.mark.parametrize("at", [0, WINDOW_CHARS - 7, WINDOW_CHARS, 3 * WINDOW_CHARS + 5])
def test_a_quotation_is_found_anywhere_in_a_long_text(at: int) -> None:
    needle = "the  needle\nin the \xa0 hay"
    text = ("hay " * WINDOW_CHARS)[:at] + needle + " hay" * WINDOW_CHARS
    found = locate(["the needle in the hay", "no such thing"], text)
    assert list(found) == ["the needle in the hay"]
    assert text[found["the needle in the hay"].start :].startswith(needle)


def test_fields_that_the_schema_names_are_quotations() -> None:
    schema = {
        "type": "object",
        "properties": {
            "claim": {"type": "string"},
            "proof": {"type": "array", "items": {"type": "string", "format": "quotation"}},
        },
    }
    rules = rules_from(schema, True, None)
    assert any("quotation" in line for line in rules.told())
    good = {"claim": "free words", "proof": ["was the Word", "I am that"]}
    assert rules.problem(good, TEXT) is None
    assert [each.text for each in rules.quotations(good, TEXT, ())] == [
        "was the Word",
        "I am\n   that",
    ]
    assert "free words" in str(rules.problem({"proof": ["free words"]}, TEXT))
    assert rules_from(schema, False, None).problem({"proof": ["free words"]}, TEXT) is None


def test_more_quotations_than_can_be_checked() -> None:
    answer = " ".join(f"“{number}”" for number in range(2000))
    assert len(quoted_in(answer)) == 2000
    assert "2,000 quotations" in str(rules_from(None, True, None).problem(answer, TEXT))


def test_quotations_are_not_looked_for_for_ever(
    ask: Ask, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.answers.LOCATE_S", 0.0)
    supervisor = Supervisor(cell("FINAL('“the Word”')"), cell("1"), "“the Word”")
    result = ask(supervisor=supervisor, context=TEXT, quote_check=True, max_iterations=2)
    assert "could not be looked for" in supervisor.shown(2)
    assert (result.answer, result.status, result.quotations) == ("“the Word”", "forced", ())
    assert "could not be looked for" in str(result.answer_problem)
    assert logged().end is not None


# -- the caller's check


def plain(answer: Any) -> str | None:
    return None if answer == 1 else "it must be 1"


def raising(answer: Any) -> None:
    if answer != 1:
        raise ValueError("it must be 1")


def asserting(answer: Any, context: Any) -> None:
    assert answer == 1, f"it must be 1, says {context}"


def with_default(answer: Any, wanted: int = 1) -> bool:
    return bool(answer == wanted)


@pytest.mark.parametrize("check", [plain, raising, asserting, with_default, {1: None}.__getitem__])
def test_a_check_refuses_by_text_by_false_or_by_raising(check: Any) -> None:
    rules = rules_from(None, False, check)
    assert rules.problem(1, "the context") is None
    problem = rules.problem(2, "the context")
    assert problem
    assert ("the context" in problem) == (check is asserting)


def test_a_model_s_own_validation_can_be_the_check() -> None:
    rules = rules_from(Person, False, Person.model_validate)
    assert rules.problem({"name": "a", "age": 1}, "") is None


def test_a_check_can_not_change_the_answer(ask: Ask) -> None:
    result = ask(cell("FINAL([1])"), answer_check=lambda answer: answer.append(2))
    assert result.answer == [1]


async def waits(answer: Any) -> None:
    """A check as it can't be."""


@pytest.mark.parametrize(
    "options",
    [{"answer_check": 5}, {"answer_check": waits}, {"answer_check": lambda: None},
     {"answer_check": lambda a, b, c: None}, {"quote_check": "yes"}, {"answer_schema": 5}],
)  # fmt: skip
def test_rules_that_are_none_are_refused_before_the_run(
    ask: Ask, log: Path, options: dict[str, Any]
) -> None:
    supervisor = Supervisor()
    with pytest.raises(InputError):
        ask(supervisor=supervisor, **options)
    assert supervisor.seen == []
    assert not log.exists()


# -- in a run


def test_a_refused_answer_is_an_error_of_the_cell_and_the_run_goes_on(
    ask: Ask, logged: Logged
) -> None:
    code = (
        "try:\n    FINAL({'name': 'Goliath'})\nexcept FinalError as error:\n    told = str(error)\n"
        "print('went on:', told)"
    )
    supervisor = Supervisor(
        cell(code), cell("FINAL({'name': 5, 'age': -1})"), cell("FINAL({'name': told, 'age': 6})")
    )
    result = ask(supervisor=supervisor, answer_schema=PERSON)
    assert '"age" is a required property' in result.answer["name"]
    assert (result.status, result.iterations, result.answer_problem) == ("final", 3, None)
    assert '"additionalProperties": false' in supervisor.seen[0][0]["content"]
    assert "went on: the answer was refused: it does not fit" in supervisor.shown(2)
    assert "FinalError: the answer was refused" in supervisor.shown(3)
    assert "/age: -1 is less than the minimum of 0" in supervisor.shown(3)
    told = logged()
    assert [(each.function, each.args) for each in told.primitives] == [
        ("FINAL", [{"name": "Goliath"}]), ("FINAL", [{"name": 5, "age": -1}]),
    ]  # fmt: skip
    assert told.start is not None
    assert told.start.options["answer_schema"] == PERSON


def test_the_first_that_passes_stands(ask: Ask) -> None:
    code = "for i in range(5):\n    try:\n        FINAL(i)\n    except FinalError:\n        pass\n"
    code += "    except BaseException:\n        pass\n"
    assert ask(cell(code), answer_check=lambda answer: answer >= 2).answer == 2


def test_finals_of_several_threads_are_checked_in_turn(ask: Ask) -> None:
    under_way = 0
    most = 0

    def check(answer: Any) -> str | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.02)
        under_way -= 1
        return "no" if answer < 3 else None

    code = (
        "import threading\n"
        "ts = [threading.Thread(target=lambda i=i: __import__('contextlib').suppress(BaseException)"
        ".__enter__() or FINAL(i), daemon=True) for i in range(6)]\n"
        "threading.excepthook = lambda *_: None\n"
        "[t.start() for t in ts]\n[t.join() for t in ts]"
    )
    result = ask(cell(code), answer_check=check)
    assert result.answer >= 3
    assert most == 1


def test_a_jail_that_dies_while_its_answer_is_checked_has_given_it(ask: Ask) -> None:
    entered = threading.Event()

    def check(answer: Any) -> None:
        entered.set()
        time.sleep(0.5)

    code = (
        "import os, threading, time\n"
        "threading.Thread(target=FINAL, args=('x',), daemon=True).start()\n"
        "time.sleep(0.3)\nos._exit(3)"
    )
    result = ask(cell(code), answer_check=check)
    assert entered.is_set()
    assert (result.answer, result.status) == ("x", "final")


def test_a_cell_that_guesses_is_stopped(ask: Ask) -> None:
    seen: list[Any] = []

    def check(answer: Any) -> bool:
        seen.append(answer)
        return bool(answer == 150)

    code = (
        "for i in range(200):\n    try:\n        FINAL(i)\n    except FinalError as error:\n"
        "        last = str(error)\nprint(last)"
    )
    supervisor = Supervisor(cell(code), cell("FINAL(150)"))
    result = ask(supervisor=supervisor, answer_check=check)
    assert (result.answer, result.iterations) == (150, 2)
    assert len(seen) == 21
    assert "no more of it are looked at" in supervisor.shown(2)


def test_a_check_that_hangs_refuses(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.supervisor.finals.CHECK_S", 0.3)
    release = threading.Event()

    def check(answer: Any) -> None:
        if answer == "slow":
            release.wait(20)

    supervisor = Supervisor(cell("FINAL('slow')"), cell("FINAL('quick')"))
    try:
        assert ask(supervisor=supervisor, answer_check=check).answer == "quick"
        assert "longer than" in supervisor.shown(2)
    finally:
        release.set()


@pytest.mark.parametrize(
    "value", [SystemExit(3), KeyboardInterrupt(), RuntimeError("\ud800")], ids=repr
)
def test_a_check_that_raises_anything_refuses(ask: Ask, value: BaseException) -> None:
    def check(answer: Any) -> None:
        if answer == 1:
            raise value

    supervisor = Supervisor(cell("FINAL(1)"), cell("FINAL(2)"))
    assert ask(supervisor=supervisor, answer_check=check).answer == 2
    assert "FinalError" in supervisor.shown(2)


def test_a_forced_answer_is_parsed_and_checked(ask: Ask, logged: Logged) -> None:
    last = 'Here it is:\n```json\n{"name": "Goliath", "age": 40}\n```'
    result = ask(cell("1"), last, max_iterations=1, answer_schema=PERSON)
    assert (result.answer, result.status) == ({"name": "Goliath", "age": 40}, "forced")
    assert result.answer_problem is None
    told = logged()
    assert told.end is not None
    assert told.end.answer == result.answer


@pytest.mark.parametrize("last", ["It is Goliath.", '{"name": "Goliath"}', '{"age": NaN}'])
def test_a_forced_answer_that_does_not_pass_is_kept_and_said(
    ask: Ask, logged: Logged, last: str
) -> None:
    result = ask(cell("1"), last, max_iterations=1, answer_schema=PERSON)
    assert (result.answer, result.status) == (last, "forced")
    assert "does not fit the schema" in str(result.answer_problem)
    told = logged()
    assert told.end is not None
    assert told.end.answer_problem == result.answer_problem


@pytest.mark.parametrize(
    "last",
    ["[" * 300 + "]" * 300, '{"a":' * 240 + "1" + "}" * 240, '{"a": 1e400}'],
    ids=["deep list", "deep object", "infinite"],
)
def test_a_forced_answer_that_final_would_refuse_is_a_text(ask: Ask, last: str) -> None:
    result = ask(cell("1"), last, max_iterations=1, answer_schema={"type": ["object", "array"]})
    assert (result.answer, result.status) == (last, "forced")
    assert "does not fit the schema" in str(result.answer_problem)


def test_a_forced_answer_is_one_that_a_file_can_hold(ask: Ask, logged: Logged) -> None:
    result = ask(cell("1"), r'{"a": "\ud800"}', max_iterations=1, answer_schema={"type": "object"})
    assert result.answer == {"a": "?"}
    told = logged()
    assert told.end is not None
    assert told.end.answer == result.answer


def test_a_check_that_can_not_be_made_does_not_lose_the_last_answer(ask: Ask) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyError("no words")

    def check(answer: Any) -> None:
        raise Mute

    result = ask(cell("1"), "It is 5.", max_iterations=1, answer_check=check)
    assert (result.answer, result.status) == ("It is 5.", "forced")
    assert "can't be checked: KeyError" in str(result.answer_problem)


def test_the_last_refused_answer_is_better_than_none(ask: Ask) -> None:
    result = ask(
        cell("FINAL({'name': 'Saul'})"), cell("FINAL({'name': 'Goliath'})"), cell("1"),
        max_iterations=2, answer_schema=PERSON,
    )  # fmt: skip
    assert (result.answer, result.status) == ({"name": "Goliath"}, "forced")
    assert "required" in str(result.answer_problem)


def test_the_result_has_the_quotations(ask: Ask) -> None:
    supervisor = Supervisor(cell("FINAL('“was no Word”')"), cell("FINAL('“was the  Word”, yes')"))
    result = ask(supervisor=supervisor, context=TEXT, quote_check=True)
    assert "“was no Word”" in supervisor.shown(2)
    (quotation,) = result.quotations
    assert TEXT[quotation.start : quotation.end] == "was the Word"


# -- again


def test_a_refusal_is_the_same_when_its_cell_is_run_again(ask: Ask) -> None:
    """The jail dies; the cell before it runs again and is refused without another check."""
    seen: list[Any] = []

    def check(answer: Any) -> str | None:
        seen.append(answer)
        return f"refusal {len(seen)}" if answer != "good" else None

    first = "try:\n    FINAL('bad')\nexcept FinalError as error:\n    told = str(error)"
    result = ask(
        cell(first), cell("import os; os._exit(3)"), cell("print(told)\nFINAL('good')"),
        answer_check=check,
    )  # fmt: skip
    assert result.answer == "good"
    assert seen == ["bad", "good"]


def test_a_run_that_goes_on_keeps_its_rules_and_its_refusals(ask: Ask, log: Path) -> None:
    first = "try:\n    FINAL({'name': 'x'})\nexcept FinalError as error:\n    told = str(error)"
    broken = Supervisor(cell(first), RuntimeError("the connection is gone"))
    with pytest.raises(Exception, match="connection"):
        ask(supervisor=broken, answer_schema=PERSON, context=TEXT)
    supervisor = Supervisor(cell("FINAL([told])"), cell("FINAL({'name': told, 'age': 1})"))
    result = resume(log, supervisor, Worker())
    assert "required property" in result.answer["name"]
    assert "is not of type" in supervisor.shown(2)
    (told,) = read(log).runs.values()
    assert len(told.primitives) == 2


def test_a_run_with_a_check_goes_on_only_with_one(ask: Ask, log: Path) -> None:
    with pytest.raises(Exception, match="gone"):
        ask(supervisor=Supervisor(cell("x = 1"), RuntimeError("gone")), answer_check=plain)
    with pytest.raises(InputError, match=r"plain.*answer_check="):
        resume(log, Supervisor(cell("FINAL(1)")), Worker())
    result = resume(
        log, Supervisor(cell("FINAL(2)"), cell("FINAL(x)")), Worker(), answer_check=plain
    )
    assert (result.answer, result.iterations) == (1, 3)


def test_a_run_that_is_done_again_has_the_same_refusals(
    ask: Ask, log: Path, tmp_path: Path
) -> None:
    code = "try:\n    FINAL('bad')\nexcept FinalError as error:\n    told = str(error)\nprint(told)"
    calls: list[Any] = []

    def check(answer: Any) -> Any:
        calls.append(answer)
        return "not that one" if answer == "bad" else None

    first = ask(cell(code), cell("FINAL([told])"), answer_check=check)
    again = replay(log, log_dir=tmp_path / "again", answer_check=check)
    assert again.answer == first.answer == ["the answer was refused: not that one"]
    (once,) = read(log).runs.values()
    (twice,) = read(tmp_path / "again").runs.values()
    assert [each.error for each in twice.primitives] == [each.error for each in once.primitives]
    assert [each.stdout for each in twice.cells] == [each.stdout for each in once.cells]
    assert calls == ["bad", first.answer], "the recorded verdicts count, not new ones"
