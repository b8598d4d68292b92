"""Quotations and votes: every one must be verifiable in the context."""

from hypothesis import given
from hypothesis import strategies as st

from distill.supervisor.evidence import QUOTATION_CHARS, gather, normalise
from distill.supervisor.readings import Reading
from distill.traces.records import Span

TEXT = (
    "In the beginning there was a king. And there went out a champion, named Goliath, of Gath, "
    "whose height was six cubits and a span.\nDavid slew Goliath with a sling! Then they fled."
)


def reading(response: str, start: int, end: int, part: str | None = None) -> Reading:
    return Reading(response, Span(start, end, 0, part))


def test_quotations_stand_where_they_say_and_hold_the_answer() -> None:
    readings = [reading("Goliath", 0, 133), reading("the goliath.", 134, len(TEXT))]
    evidence = gather("Goliath", TEXT, readings, [each.span for each in readings])
    assert len(evidence.quotations) == 2
    for quotation in evidence.quotations:
        assert TEXT[quotation.start : quotation.end] == quotation.text
        assert "Goliath" in quotation.text
    assert (evidence.answers, evidence.agreeing, evidence.others) == (2, 2, ())
    assert evidence.passages == 2
    assert (evidence.read_chars, evidence.total_chars) == (len(TEXT) - 1, len(TEXT))


def test_a_worker_that_said_otherwise_is_no_evidence() -> None:
    readings = [reading("David", 0, len(TEXT)), reading("Goliathan", 0, len(TEXT))]
    evidence = gather("Goliath", TEXT, readings, [])
    assert evidence.quotations == ()
    assert (evidence.answers, evidence.agreeing) == (2, 0)
    assert dict(evidence.others) == {"david": 1, "goliathan": 1}


def test_in_a_dict_the_part_is_named() -> None:
    context = {"a.txt": "nothing here", "b.txt": TEXT}
    evidence = gather("Goliath", context, [reading("Goliath", 0, len(TEXT), "b.txt")], [])
    assert evidence.quotations[0].part == "b.txt"


@given(
    answer=st.none() | st.text(max_size=20) | st.integers() | st.lists(st.text(max_size=3)),
    context=st.text(max_size=400),
    responses=st.lists(st.text(max_size=20), max_size=6),
    data=st.data(),
)
def test_whatever_was_said_a_quotation_can_be_checked(
    answer: object, context: str, responses: list[str], data: st.DataObject
) -> None:
    readings = []
    for response in responses:
        start = data.draw(st.integers(0, len(context)))
        end = data.draw(st.integers(start, len(context)))
        readings.append(reading(response, start, end))
    evidence = gather(answer, context, readings, [each.span for each in readings])
    for quotation in evidence.quotations:
        assert context[quotation.start : quotation.end] == quotation.text
        assert len(quotation.text) <= QUOTATION_CHARS + len(str(answer)) * 4
    assert evidence.read_chars <= evidence.total_chars
    assert evidence.agreeing <= evidence.answers
    assert evidence.agreeing + sum(count for _, count in evidence.others) <= evidence.answers


def test_votes_are_counted_without_case_article_and_marks() -> None:
    assert normalise(' The "Six Cubits." ') == "six cubits"
    assert normalise("...") == ""


def test_a_quotation_begins_and_ends_at_a_word() -> None:
    text = "In the beginning God called the light Day and the darkness he called Night at once"
    begin, end = text.index("nning"), text.index("ness")
    evidence = gather("Day", text, [reading("Day", begin, end)], [])
    (quotation,) = evidence.quotations
    assert quotation.text == "God called the light Day and the"
    assert text[quotation.start : quotation.end] == quotation.text
