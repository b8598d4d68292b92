"""Damaged logs: whole lines are read, all others named, and what no longer joins is told."""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import InputError
from distill.traces import Logs, read, records, validate

WHOLE = Path(__file__).parent / "version_1_log"
LOGS = tuple(records.LOG_RECORDS)
Line = dict[str, Any]


ONE = {log: (WHOLE / log).read_bytes() for log in LOGS}
RUN = b"20261123-052006-8bc5c2"
OTHER = {log: data.replace(RUN, b"20261123-000000-aaaaaa") for log, data in ONE.items()}
"""Another run that did the same."""


@contextmanager
def folder_of(contents: dict[str, bytes]) -> Iterator[Path]:
    with TemporaryDirectory() as made:
        folder = Path(made)
        (folder / records.CONTEXT_FOLDER).symlink_to(WHOLE / records.CONTEXT_FOLDER)
        for log, data in contents.items():
            (folder / log).write_bytes(data)
        yield folder


def found_in(folder: Path) -> tuple[list[records.AnyRecord], list[tuple[str, int]]]:
    """Records that belong to a run or to none, in no order, and the lines that were skipped."""
    trace = read(folder)
    found: list[records.AnyRecord] = [*trace.events]
    for run in trace.runs.values():
        found += [each for each in (run.start, run.end, run.final) if each is not None]
        found += [*run.processes, *run.events, *run.messages, *run.turns, *run.cells]
        found += [*run.batches, *run.primitives, *run.calls]
    return found, [(each.file, each.line) for each in trace.skipped]


def records_of(log: str, lines: list[bytes]) -> list[records.AnyRecord]:
    decoded = [msgspec.json.decode(line, type=records.LOG_RECORDS[log]) for line in lines]
    return [records.whole(each) if isinstance(each, records.Call) else each for each in decoded]


def sorted_repr(found: list[records.AnyRecord]) -> list[str]:
    return sorted(map(repr, found))


def is_record(log: str, line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=records.LOG_RECORDS[log])
    except ValueError:
        return False
    return True


def is_whole(log: str, line: bytes, whole: dict[str, set[bytes]]) -> bool:
    """One half of a line may meet the same line's other half of another writer: a record, too."""
    return line in whole[log] or is_record(log, line)


def check(contents: dict[str, bytes], whole: dict[str, set[bytes]]) -> None:
    """All ``whole`` lines are read, and each one that is no record is named."""
    expected: list[records.AnyRecord] = []
    torn: list[tuple[str, int]] = []
    for log in LOGS:
        lines = list(enumerate(contents[log].split(b"\n"), 1))
        expected += records_of(log, [line for _, line in lines if is_whole(log, line, whole)])
        torn += [(log, n) for n, line in lines if line and not is_whole(log, line, whole)]
    with folder_of(contents) as folder:
        found, skipped = found_in(folder)
        assert skipped == torn
        assert sorted_repr(found) == sorted_repr(expected)
        logs = Logs(folder)
        calls = [call.record for call in logs.calls()]
        assert set(map(repr, calls)) <= set(map(repr, expected))
        assert [(each.file, each.line) for each in logs.skipped] == torn
        _, problems = validate(folder)
        assert [p.where for p in problems if ".jsonl" in p.where] == [f"{f}:{n}" for f, n in torn]


def lines_of(*contents: dict[str, bytes]) -> dict[str, set[bytes]]:
    return {log: {line for each in contents for line in each[log].splitlines()} for log in LOGS}


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_log_that_was_cut_off_anywhere(data: st.DataObject) -> None:
    cut = {log: ONE[log][: data.draw(st.integers(0, len(ONE[log])))] for log in LOGS}
    check(cut, lines_of(ONE))


CUTS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=6)
"""Where a writer was interrupted, as a share of its log, and whether that was between two lines."""


def pieces(log: bytes, cuts: list[tuple[float, bool]]) -> list[bytes]:
    places = []
    for share, is_whole in cuts:
        place = round(share * len(log))
        places.append(log.rfind(b"\n", 0, place) + 1 if is_whole else place)
    return [log[a:b] for a, b in itertools.pairwise([0, *sorted(places), len(log)])]


def interleaved(one: list[bytes], other: list[bytes]) -> bytes:
    """What two writers leave, each piece of theirs one write, in turn."""
    return b"".join(a + b for a, b in itertools.zip_longest(one, other, fillvalue=b""))


@given(st.fixed_dictionaries({log: st.tuples(CUTS, CUTS) for log in LOGS}))
@settings(deadline=None, max_examples=40)
def test_logs_into_which_two_have_written_at_once(cuts: dict[str, Any]) -> None:
    mixed = {
        log: interleaved(pieces(ONE[log], one), pieces(OTHER[log], other))
        for log, (one, other) in cuts.items()
    }
    check(mixed, lines_of(ONE, OTHER))


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_bytes_that_were_changed_cost_only_their_lines(data: st.DataObject) -> None:
    log = data.draw(st.sampled_from(LOGS))
    damaged = bytearray(ONE[log])
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=40))
        damaged[place : place + len(piece)] = piece
    untouched = lines_of(ONE)[log] & set(bytes(damaged).split(b"\n")) - {b""}
    with folder_of({**ONE, log: bytes(damaged)}) as folder:
        found, skipped = found_in(folder)
        assert set(sorted_repr(records_of(log, list(untouched)))) <= set(sorted_repr(found))
        assert all(line <= bytes(damaged).count(b"\n") + 1 for _, line in skipped)
        validate(folder)  # raises nothing, whatever the records say now
        list(Logs(folder).calls())


def test_only_an_event_is_of_no_run() -> None:
    """Two writers' lines can meet in the middle and still be JSON."""
    lines = ONE[records.SUPERVISOR_LOG].splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if b'"type":"turn"' in line)
    lines[place] = re.sub(rb'"run":"[^"]*"', b'"run":null', lines[place])
    with folder_of({**ONE, records.SUPERVISOR_LOG: b"".join(lines)}) as folder:
        assert found_in(folder)[1] == [(records.SUPERVISOR_LOG, place + 1)]


# -- what no longer joins


def edited(log: str, edit: Callable[[list[Line]], list[Line]]) -> dict[str, bytes]:
    lines = edit([json.loads(line) for line in ONE[log].splitlines()])
    return {**ONE, log: b"".join(json.dumps(line).encode() + b"\n" for line in lines)}


def problems_of(contents: dict[str, bytes]) -> str:
    with folder_of(contents) as folder:
        return "\n".join(f"{p.where}: {p.what}" for p in validate(folder)[1])


def test_the_whole_log_has_no_problem() -> None:
    assert problems_of(ONE) == ""


JOINED = {"run_start", "run_end", "message", "turn", "cell", "batch", "final", "call"}


@pytest.mark.parametrize("kind", sorted(JOINED))
def test_any_line_that_is_gone_is_missed(kind: str) -> None:
    log = records.WORKER_LOG if kind == "call" else records.SUPERVISOR_LOG
    lines = [json.loads(line) for line in ONE[log].splitlines()]
    places = [number for number, line in enumerate(lines) if line["type"] == kind]
    assert places
    for place in places:

        def without(lines: list[Line], place: int = place) -> list[Line]:
            return lines[:place] + lines[place + 1 :]

        assert f"run {lines[place]['run']}: " in problems_of(edited(log, without)), lines[place]


CALL_EDITS: dict[str, tuple[Callable[[Line], Any], str]] = {
    "a span a character off": (
        lambda call: call["spans"][0].update(start=41, end=201), "does not stand in the text",
    ),
    "a span beyond the text": (
        lambda call: call["spans"][0].update(end=10**9), "does not stand in the text",
    ),
    "a span of nothing": (
        lambda call: call["spans"][0].update(start=-5, end=-5), "does not stand in the text",
    ),
    "a span beyond the prompt": (
        lambda call: call["spans"][0].update(prompt_start=10**9), "does not stand in the text",
    ),
    "a span of another part": (
        lambda call: call["spans"][0].update(part="9"), "does not stand in the text",
    ),
    "another text": (
        lambda call: call.update(context_sha256="0" * 64), "does not stand in the text",
    ),
    "another cell": (lambda call: call.update(cell=77), "have no cell"),
    "another turn": (lambda call: call.update(turn=77), "have no turn"),
    "another call": (lambda call: call.update(call=77), "have no batch"),
    "another run": (lambda call: call.update(run="nobody"), "run nobody"),
    "the name of another": (lambda call: call.update(id=call["id"][:-1] + "1"), "logged twice"),
    "no response": (lambda call: call.update(response=None), "neither a response nor an error"),
    "too few log-probabilities": (
        lambda call: call.update(token_ids=[1, 2], logprobs=[-0.5]), "log-probability a token",
    ),
}  # fmt: skip


@pytest.mark.parametrize("edit", CALL_EDITS)
def test_a_call_that_says_what_is_not_so_is_named(edit: str) -> None:
    change, said = CALL_EDITS[edit]

    def changed(lines: list[Line]) -> list[Line]:
        change(next(line for line in lines if line["type"] == "call"))
        return lines

    assert said in problems_of(edited(records.WORKER_LOG, changed))


def start_with(**fields: Any) -> dict[str, bytes]:
    def changed(lines: list[Line]) -> list[Line]:
        start = next(line for line in lines if line["type"] == "run_start")
        start.update({**fields, "context": {**start["context"], **fields.get("context", {})}})
        return lines

    return edited(records.SUPERVISOR_LOG, changed)


@pytest.mark.parametrize("file", ["/etc/passwd", "contexts/../supervisor.jsonl", "contexts/..", ""])
def test_a_log_can_not_name_files_elsewhere(file: str) -> None:
    contents = start_with(context={"file": file})
    assert "nothing is read there" in problems_of(contents)
    with folder_of(contents) as folder:
        (run,) = Logs(folder).runs()
        with pytest.raises(InputError, match="nothing is read there"):
            run.context()


def test_a_text_that_was_changed_or_is_none_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    shutil.copytree(WHOLE, folder)
    (text,) = (folder / records.CONTEXT_FOLDER).iterdir()
    text.chmod(0o600)
    text.write_text("another")
    assert ["was changed" in problem.what for problem in validate(folder)[1]] == [True]
    text.unlink()
    assert ["can't be read" in problem.what for problem in validate(folder)[1]] == [True]


def test_a_redacted_run_has_no_ids() -> None:
    def with_ids(lines: list[Line]) -> list[Line]:
        next(line for line in lines if line["type"] == "call")["token_ids"] = [1]
        return lines

    ids = edited(records.WORKER_LOG, with_ids)
    redacted = start_with(redacted=["email"])
    both = {**ids, records.SUPERVISOR_LOG: redacted[records.SUPERVISOR_LOG]}
    assert problems_of(redacted) == problems_of(ids) == ""
    assert "though the run was redacted" in problems_of(both)


def test_what_a_damaged_log_lacks_is_said_where_it_is_asked_for() -> None:
    def without_messages(lines: list[Line]) -> list[Line]:
        for line in lines:
            if line["type"] == "turn":
                line.update(compactions=3)
        return lines

    with folder_of(edited(records.SUPERVISOR_LOG, without_messages)) as folder:
        (run,) = Logs(folder).runs()
        with pytest.raises(InputError, match="no turn 9"):
            run.conversation(9)
        with pytest.raises(InputError, match="lacks how"):
            run.conversation(1)


def test_sub_runs_that_name_each_other_make_no_circle() -> None:
    def circle(log: dict[str, bytes], above: str) -> bytes:
        lines = [json.loads(line) for line in log[records.SUPERVISOR_LOG].splitlines()]
        parent = {"run": above, "cell": 1, "call": 1, "item": 0, "key": ""}
        for line in lines:
            if line["type"] == "run_start":
                line["parent"] = parent
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    one, other = RUN.decode(), "20261123-000000-aaaaaa"
    with folder_of({records.SUPERVISOR_LOG: circle(ONE, other) + circle(OTHER, one)}) as folder:
        first, second = read(folder).runs.values()
        assert [each.id for each in first.sub_runs] == [second.id]
        assert second.sub_runs == []
