"""What is blotted out is in no file of a run, and what is left is true."""

import contextlib
import dataclasses
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import RunResult, evaluate, replay, resume, run, score
from distill.errors import InputError, ModelError
from distill.ready_patterns import READY
from distill.redaction import MASK, MATCHES_LIMIT, Redaction
from distill.supervisor import driver
from distill.supervisor.journal import Journal
from distill.supervisor.redacted import RunRedactor
from distill.supervisor.text import clip
from distill.traces import Run, read, records
from tests.distill.scripted import SMALL, Supervisor, Worker, cell, endpoint

Ask = Callable[..., RunResult]
ALL = tuple(READY)
EMAIL, CARD, KEY = "jane.roe@example.org", "4111 1111 1111 1111", "sk-live0123456789abcdefXYZ"
PHONE, OWN, IBAN = "+49 30 1234-5678", "ACME-77-ALPHA", "GB82WEST12345698765432"
SECRETS = (EMAIL, CARD, KEY, PHONE, OWN, IBAN, "10.20.30.40", "hunter2hunter2")
WANTED = [*ALL, r"re:ACME-\d+-\w+"]


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("email", f"to {EMAIL}, or jörg@müller.de.", "to #, or #."),
        ("phone", f"call {PHONE} or (555) 123-4567", "call # or #"),
        ("phone", "in 2024, 12,345 of 100-200", "in 2024, 12,345 of 100-200"),
        ("card", f"paid by {CARD}", "paid by #"),
        ("card", "5500-0000-0000-0004 17", "# 17"),
        ("card", "4111 1111 1111 1112, 0000 0000 0000 0000", "4111 1111 1111 1112, "),
        ("iban", f"{IBAN}; DE89 3704 0044 0532 0130 00 and", "#; # and"),
        ("iban", "GB82WEST12345698765431", "GB82WEST12345698765431"),
        ("ip", "10.20.30.40:80, fe80::1ff:fe23:4567:890a", "#:80, #"),
        ("ip", "1.2.3, 12:30:45, std::vector, 1:1 In", "1.2.3, 12:30:45, std::vector, 1:1 In"),
        ("secret", f"{KEY} is it", "# is it"),
        ("secret", 'password = "hunter2hunter2"', 'password = "#"'),
        ("secret", "see the secret garden: roses", "see the secret garden: roses"),
        ("secret", "https://me:p4ss@host/db", "https://me:#@host/db"),
        (r"re:(?i)acme", "Acme acme ACM", "# # ACM"),
        (r"re:\C", "ü", "#"),
    ],
)
def test_a_pattern_and_what_it_leaves(name: str, text: str, left: str) -> None:
    redacted = Redaction((name,)).text(text)
    assert len(redacted) == len(text)
    shortened = redacted
    while MASK * 2 in shortened:
        shortened = shortened.replace(MASK * 2, MASK)
    assert shortened.replace(MASK, "#").startswith(left)


@given(
    st.lists(st.sampled_from([*SECRETS, "é", "\ud800", "█", " ", "4", "@", ".", "x: "]) | st.text())
)
def test_what_is_left_stands_where_it_stood(pieces: list[str]) -> None:
    text = "".join(pieces)
    redacted = Redaction.of(WANTED).text(text)
    assert len(redacted) == len(text)
    assert all(new in (old, MASK) for old, new in zip(text, redacted, strict=True))
    assert not any(secret in redacted for secret in SECRETS[:1])


def test_no_text_takes_long_where_others_wait() -> None:
    redaction = Redaction(ALL)
    few = f"{EMAIL} " * MATCHES_LIMIT
    assert redaction.text(few) == f"{MASK * len(EMAIL)} " * MATCHES_LIMIT
    for many in (few + EMAIL, "123 " * 300_000):
        assert redaction.text(many) == MASK * len(many)
    assert redaction.text("123 " * 300_000, most=None) == "123 " * 300_000


def test_what_stands_beside_a_cut_is_blotted_out() -> None:
    """A pattern finds no half of a match; the mark of the cut, and what is far from it, stay."""
    text = "far away from it " + "x " * 60 + f"pays with {CARD[:17]}"
    for cut in (
        clip(text + "." * 600 + text[::-1], 2 * len(text)),
        f"{text}\n… 7 characters left out …\n{text[::-1]}",
        f"{text}200 bytes were not kept (limit: output_bytes = 64 KiB)\nNames: x",
    ):
        redacted = Redaction(("card",)).text(cut)
        assert len(redacted) == len(cut)
        assert redacted.startswith("far away from it x x")
        assert CARD[:9] not in redacted
        assert CARD[:9][::-1] not in redacted
        assert redacted.endswith((" yawa raf", "(limit: output_bytes = 64 KiB)\nNames: x"))
    assert Redaction(("card",)).text(f"x\n… [7 characters cut] …\n{'y' * 9000} z").endswith("y z")
    many = clip("." * 200, 100) * (MATCHES_LIMIT + 1)
    assert Redaction(("card",)).text(many) == MASK * len(many)


def test_values_keep_their_form() -> None:
    value = {"a@b.de": [4111111111111111, 1.5, True, None], "c@d.de": ("x", {"k": "1.2.3.4"})}
    redacted = Redaction(ALL).value(value)
    assert list(redacted) == [MASK * 6, f"{MASK * 6}#2"]
    assert redacted[MASK * 6] == [MASK * 16, 1.5, True, None]
    plain = {"k": ["nothing", 12345678, 1e300]}
    assert Redaction(ALL).value(plain) is plain


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (["emial"], "no pattern 'emial'"),
        (["re:("], "RE2 can't take"),
        (["re:(?=x)"], "RE2 can't take"),
        (["re:x*"], "matches an empty text"),
        (["re:(((x{100}){100}){100})"], "RE2 can't take"),
        ("email", "a list of patterns"),
        ([7], "a list of patterns"),
    ],
)
def test_a_bad_pattern_is_refused_before_anything_starts(
    wanted: Any, why: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=why):
        run("What?", "text", Supervisor(), Worker(), log_dir=tmp_path / "log", redact=wanted)
    assert not (tmp_path / "log").exists()


CONTEXT = f"Jane Roe, {EMAIL}, pays with {CARD} from {IBAN}. " + "All else is harmless. " * 20
CELLS = (
    f"print(context[:60], {OWN!r})\nprint(worker(context[:400] + ' Who?'))",
    f"answers = worker_batch([context[14:300], 'call {PHONE}', 'harmless'])\nworker('fail {KEY}')",
    f"look('{EMAIL}', 4111111111111111, key={{'{PHONE}': '10.20.30.40'}})",
    f"FINAL(9)\nraise ValueError('{OWN}')",
    f"x = '{KEY}'\nraise ValueError('password: hunter2hunter2 ' + x)",
    f"FINAL({{'{EMAIL}': ['{CARD}', 4111111111111111, 42]}})",
)


def answer(prompt: str) -> Any:
    if "fail" in prompt:
        raise ModelError(f"refused: {prompt}")
    return f"<{prompt[:60]} {EMAIL}>" if prompt != "harmless" else "<fine>"


def look(what: str, number: int, key: dict[str, str]) -> dict[str, Any]:
    return {"found": what, "number": number, **key}


def planted(ask: Ask, context: Any = CONTEXT, **options: Any) -> RunResult:
    """A run with secrets in its text, question, answers, output, errors and answer."""
    replies = [cell(code) for code in (*CELLS[:3], *CELLS[4:])]
    return ask(
        *replies[:1], f"I think of {KEY}\n{replies[1]}", *replies[2:], context=context,
        worker=Worker(answer), primitives={"look": look}, label=f"for {EMAIL}",
        sources=(f"/home/{EMAIL}/text",), redact=WANTED,
        worker_options={"stop": [OWN]}, **options,
    )  # fmt: skip


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text("utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_clean(folder: Path) -> None:
    """No file says a secret: neither as it is, nor as JSON writes it, nor in its name."""
    for name, text in files_of(folder).items():
        for secret in (*SECRETS, "4111111111111111"):
            assert secret not in text, (name, text[max(0, text.find(secret) - 200) :][:300])
            assert secret not in name


def test_no_file_of_the_log_holds_a_secret(ask: Ask, log: Path, logged: Callable[[], Run]) -> None:
    result = planted(ask)
    assert result.answer == {EMAIL: [CARD, 4111111111111111, 42]}
    assert_clean(log)
    told = logged()
    assert told.start is not None
    assert told.start.redacted == (*ALL, "re:1")
    assert told.context().startswith(f"Jane Roe, {MASK * len(EMAIL)}, pays")
    assert len(told.context()) == len(CONTEXT) == told.start.context.chars
    assert told.answer == {MASK * len(EMAIL): [MASK * 19, MASK * 16, 42]}
    assert "harmless" in told.calls[0].prompt
    assert {each.key for each in told.batches} == {each.key for each in told.primitives} == {""}


def test_no_cut_of_ours_leaves_half_a_secret(ask: Ask, logged: Callable[[], Run]) -> None:
    """Reprs of variables, output that is shown in part, output over the jail's limit, errors."""
    text = f"{EMAIL} pays with {CARD}; " * 3000  # of 52 characters each
    codes = [
        *(f"part = context[7:5000]\nprint('y' * {k} + context[:31_200])" for k in (0, 9, 20)),
        *(f"print('y' * {k} + context)\nprint('.', file=sys.stderr)" for k in (0, 9, 20)),
        *(f"raise ValueError('y' * {k} + context[:72_800])" for k in (0, 9)),
    ]
    ask(
        "```repl\nimport sys\n```", *map(cell, codes), cell("FINAL(1)"),
        context=text, redact=["card", "email"], max_iterations=12,
    )  # fmt: skip
    told = logged()
    assert sum(each.dropped_bytes > 0 for each in told.cells) == 3
    half = re.compile(r"4111 1|1 1111|jane\.|example|e\.org")
    for each in told.cells:
        for shown in (each.stdout, each.stderr, *(variable.repr for variable in each.variables)):
            assert half.search(shown) is None
        if each.error is not None:
            assert half.search(each.error.message + each.error.traceback) is None
    for message in told.messages:
        assert half.search(message.content) is None
    assert any("pays with" in message.content for message in told.messages)


def test_spans_are_true_or_gone(ask: Ask, logged: Callable[[], Run]) -> None:
    planted(ask)
    told = logged()
    text = told.context()
    spans = [(call, span) for call in told.calls for span in call.spans]
    assert spans
    for call, span in spans:
        end = span.prompt_start + span.end - span.start
        assert call.prompt[span.prompt_start : end] == text[span.start : span.end]
    # A passage that begins within an address: only the whole text shows that it is one.
    cut = next(call for call in told.calls if call.prompt.startswith(MASK * 16))
    assert cut.spans[0].start == 14


def test_a_match_over_the_edge_of_a_passage_drops_its_span(
    ask: Ask, logged: Callable[[], Run]
) -> None:
    text = "example.org is a name that is used in many texts about the network. " * 9
    ask(cell("worker('jane@' + context[:200])\nFINAL(1)"), context=text, redact=["email"])
    (call,) = logged().calls
    assert call.prompt.startswith(MASK * 16)
    assert call.spans == ()
    assert call.context_sha256 == ""


@pytest.mark.parametrize("wanted", [(), ("email",)])
def test_no_ids_are_left(wanted: tuple[str, ...], ask: Ask, logged: Callable[[], Run]) -> None:
    """They tell all of a text; the endpoint of this test gives some for every reply."""
    told_ids: dict[str, Any] = {
        "prompt_token_ids": [1, 2], "token_ids": [3], "logprobs": [-0.5]
    }  # fmt: skip

    class Exact(Worker):
        def chat(self, messages: Any, **kw: Any) -> Any:
            return dataclasses.replace(super().chat(messages, **kw), **told_ids)

    class Boss(Supervisor):
        def chat(self, messages: Any, **kw: Any) -> Any:
            return dataclasses.replace(super().chat(messages, **kw), **told_ids)

    boss = Boss(cell("print(worker('plain'))\nFINAL(1)"))
    ask(supervisor=boss, worker=Exact(), redact=wanted)
    told = logged()
    (turn,), (call,) = told.turns, told.calls
    assert (turn.token_ids, turn.prompt_token_ids) == ((None, None) if wanted else ((3,), (1, 2)))
    assert (turn.logprobs, call.logprobs) == ((None, None) if wanted else ((-0.5,), (-0.5,)))
    assert (call.token_ids is None) == bool(wanted)
    assert call.prompt == "plain"


@pytest.mark.parametrize("kind", [list, dict])
def test_parts_of_a_context_are_redacted_with_their_names(
    kind: type, ask: Ask, log: Path, logged: Callable[[], Run]
) -> None:
    texts: Any = {EMAIL: {"a": CONTEXT, "n": 4111111111111111}, "john@roe.org": [CONTEXT[::-1]]}
    context = texts if kind is dict else [CONTEXT, 4111111111111111, [CONTEXT + PHONE]]
    first = f"context[{EMAIL!r}]['a']" if kind is dict else "context[0]"
    code = f"text = {first}\nprint(worker(text[5:300]))\nFINAL(len(text))"
    assert ask(cell(code), context=context, redact=WANTED).answer == len(CONTEXT)
    assert_clean(log)
    told = logged()
    (span,) = told.calls[0].spans
    assert span.part == (f"{MASK * len(EMAIL)}/a" if kind is dict else "0")


def test_texts_that_differ_in_what_is_blotted_out_are_two(ask: Ask, log: Path) -> None:
    """Both are one file in the log, and each run has its own."""
    texts = [f"The address is {name}@example.org, and no other." for name in ("jane", "john")]
    code = cell("FINAL(context[15:19] + worker('x'))")
    boss = Supervisor(code, code)

    def below(prompt: str) -> str:
        return "" if prompt == "x" else prompt

    answers = [
        ask(context=text, supervisor=boss, worker=Worker(below), redact=["email"]).answer
        for text in texts
    ]
    assert answers == ["jane", "john"]
    assert len(list((log / "contexts").iterdir())) == 1


def test_sub_runs_are_redacted(ask: Ask, log: Path) -> None:
    boss = Supervisor(
        cell(f"FINAL(supervisor('who is {EMAIL}?', 'text of {CARD}'))"), cell(f"FINAL('{PHONE}')")
    )
    result = ask(supervisor=boss, primitives=["supervisor"], redact=WANTED)
    assert result.answer == PHONE
    assert_clean(log)
    assert len(read(log).runs) == 2


def test_a_cell_that_failed_asks_again_and_gets_what_it_asked_for(ask: Ask) -> None:
    """What the log has is not what its calls had got."""
    worker = Worker(lambda prompt: f"{EMAIL} {len(worker.prompts)}")
    replies = (cell("a = worker('who?', temperature=0)\n1/0"), cell("FINAL(worker('who?'))"))
    assert ask(*replies, worker=worker, redact=["email"]).answer == f"{EMAIL} 2"


def test_a_session_that_is_restored_has_what_it_had(ask: Ask) -> None:
    """What its cells had got is given again, and not what the log says of it."""
    codes = ("a = [worker('who?'), look('x')]", "import os\nos._exit(7)", "FINAL(a)")
    result = ask(
        *map(cell, codes), worker=Worker(lambda _: EMAIL), primitives={"look": lambda _: CARD},
        redact=WANTED,
    )  # fmt: skip
    assert result.answer == [EMAIL, CARD]


def test_resume_and_replay_refuse(ask: Ask, log: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        ask(cell("x = worker('one')"), ModelError("down"), redact=["email"])
    refused = pytest.raises(InputError, match=r"was redacted \(email\)")
    with refused:
        resume(log, Supervisor(), Worker())
    for worker in (None, Worker()):
        with refused:
            replay(log, worker, log_dir=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_events_of_the_engine_are_redacted(ask: Ask, log: Path) -> None:
    """Those from before the run began as well: what a process says may quote anything."""
    host = driver.shared()

    def happen(name: str) -> None:
        worker = records.Producer("worker_server", "worker-0", 1)
        for producer in (host.producer, worker):
            host.event(name, producer, why=f"can't read {EMAIL}", codes={CARD: [KEY]})

    def during() -> None:
        done = threading.Event()
        host.loop.call_soon_threadsafe(happen, "happened_during")
        host.loop.call_soon_threadsafe(done.set)
        assert done.wait(10)

    host.loop.call_soon_threadsafe(happen, "happened_before")
    ask(cell("during()\nFINAL(1)"), primitives={"during": during}, redact=WANTED)
    host._history.clear()  # other tests' logs are not redacted
    assert_clean(log)
    told = [event.event for event in read(log).events]
    assert told.count("happened_before") == told.count("happened_during") == 2


def test_the_shared_answer_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keeps prompts and answers as they are"):
        run("What?", "text", Supervisor(), Worker(), log_dir=tmp_path / "log",
            redact=["email"], answer_cache="shared")  # fmt: skip


def test_a_run_beside_is_not_redacted(ask: Ask, log: Path) -> None:
    """Two runs share a folder; each is written as it was asked for."""
    code = cell(f"FINAL('{EMAIL}')")

    def reply(_messages: Any) -> str:
        ask(code, redact=["email"])
        return code

    ask(reply)
    first, second = read(log).runs.values()
    assert sorted((first.answer, second.answer)) == [EMAIL, MASK * len(EMAIL)]


def test_a_journal_knows_only_runs_that_last(ask: Ask, log: Path) -> None:
    """An engine may hold a folder for months, and be asked millions of questions."""
    known: list[str] = []

    def reply(_messages: Any) -> str:
        ask(cell("FINAL(1)"))
        boss = Supervisor(cell("FINAL(supervisor('and below?'))"), cell("FINAL(2)"))
        ask(supervisor=boss, primitives=["supervisor"], redact=WANTED)
        with pytest.raises(ModelError):
            ask(ModelError("down"), redact=["email"])
        known.extend(driver.shared()._journals[log.resolve()]._redactors)
        return cell("FINAL(3)")

    outer = ask(reply)
    assert known == [outer.run_id]


def test_what_is_said_of_a_run_that_has_ended_is_redacted(tmp_path: Path) -> None:
    redactor = RunRedactor(Redaction(("email",)))
    call = records.Call(
        t=0.0, run="r1", producer=records.Producer("driver", "driver", 1), id="r1.1.0", turn=1,
        cell=1, call=1, item=0, function="worker", attempt=1, prompt=f"who is {EMAIL}?",
        response="?", finish_reason="stop", usage=records.TokenUsage(1, 1), sampling={},
        model=records.Model("tiny"), token_ids=(1, 2), context_sha256="0",
    )  # fmt: skip
    with contextlib.closing(Journal(tmp_path)) as journal:
        journal.enter("r1", redactor)
        journal.worker([call])
        journal.leave("r1")
        journal.worker([call])
    before, after = (tmp_path / "worker.jsonl").read_text("utf-8").splitlines()
    assert before == after
    assert EMAIL not in after
    assert "token_ids" not in after or json.loads(after)["token_ids"] is None


def test_results_of_tasks_are_redacted(tmp_path: Path) -> None:
    tasks = [
        {"id": "t1", "query": f"who has {EMAIL}?", "context": CONTEXT, "label": EMAIL},
        {"id": "t2", "query": "fails", "context": f"{CARD} text"},
    ]

    def reply(messages: Any) -> str:
        if any("fails" in message["content"] for message in messages):
            raise ModelError(f"no model has {CARD}")
        return cell(f"FINAL('{EMAIL}')")

    class Boss(Supervisor):
        def chat(self, messages: Any, **kw: Any) -> Any:
            self.replies = [reply(messages)]
            return super().chat(messages, **kw)

    done = evaluate(
        tasks, Boss(), Worker(), results=tmp_path / "out" / "r.jsonl", redact=WANTED, limits=SMALL
    )
    assert [result.score if result.label else None for result in done.results] == [1.0, None]
    assert done.results[0].answer == EMAIL
    assert_clean(tmp_path)
    lines = (tmp_path / "out" / "r.jsonl").read_text().splitlines()
    assert {json.loads(line)["task"] for line in lines} == {"t1", "t2"}


def test_a_task_whose_id_would_be_redacted_is_refused(tmp_path: Path) -> None:
    task = {"id": f"about {EMAIL}", "query": "What?", "context": "text"}
    with pytest.raises(InputError, match=f"about {MASK}+' has what redact"):
        evaluate([task], Supervisor(), Worker(), results=tmp_path / "r.jsonl", redact=["email"])
    assert not (tmp_path / "r.jsonl").exists()


def test_a_task_that_was_cut_off_is_asked_anew(tmp_path: Path) -> None:
    """Its run can't be gone on with."""
    (tmp_path / "text").write_text("harmless")
    task = {"id": "t", "query": "What?", "path": str(tmp_path / "text")}
    results: dict[str, Any] = {"results": tmp_path / "r.jsonl", "limits": SMALL}
    failing = Supervisor(cell("x = 1"), ModelError("down"))
    evaluate([task], failing, Worker(), redact=["email"], **results)
    boss = Supervisor(cell("FINAL('x' in dir())"))
    again = evaluate([task], boss, Worker(), redact=["email"], retry_errors=True, **results)
    assert [result.answer for result in again.results] == [False]
    assert len(read(again.log_dir).runs) == 2


def test_scores_of_a_redacted_run_are_redacted(ask: Ask, log: Path) -> None:
    """A label may be what was blotted out; of an expression of one's own only the run knew it."""
    for wanted in (["email"], ["email", "re:ACME"]):
        ask(cell("FINAL('it is ACME')"), label="t", redact=wanted)
    score(log, "exact", labels={"t": f"{EMAIL} of ACME"})
    first, second = (run.scores[-1] for run in read(log).runs.values())
    assert (first.value, first.label) == (0.0, f"{MASK * len(EMAIL)} of ACME")
    assert (second.value, second.label) == (0.0, MASK * len(f"{EMAIL} of ACME"))
    again = score(log, "exact", labels={"t": f"{EMAIL} of ACME"})
    assert again.scored == 0


def test_labels_that_json_writes_otherwise_are_known_again(ask: Ask, log: Path) -> None:
    ask(cell("FINAL('yes')"), label="t")
    assert score(log, "exact", labels={"t": ("yes", "ja")}).scored == 1
    assert score(log, "exact", labels={"t": ("yes", "ja")}).scored == 0
    with pytest.raises(InputError, match="the label of 't' is nothing that JSON has"):
        score(log, "exact", labels={"t": object()})


def test_an_endpoint_is_sent_all_of_it(ask: Ask, log: Path) -> None:
    """What is sent is not changed."""
    from distill import OpenAIHandler

    with endpoint(lambda request: f"it is {EMAIL}") as hand:
        worker = OpenAIHandler("scripted", hand.url, "none")
        result = ask(cell(f"FINAL(worker('who is {EMAIL}?'))"), worker=worker, redact=["email"])
    assert result.answer == f"it is {EMAIL}"
    assert hand.requests[0]["messages"][-1]["content"] == f"who is {EMAIL}?"
    assert_clean(log)
