"""The spans of runs, as a collector gets them; and that none can harm a run."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill import OpenAIHandler, RunResult, resume, run
from distill.errors import InputError, ModelError
from distill.otlp import QUEUE_SPANS, Sender, collector
from distill.run_attributes import CONTENT_CHARS
from distill.run_spans import (
    CALLS_A_BATCH,
    CALLS_A_CELL,
    OTHERS_A_CELL,
    following,
    span_id_of,
    trace_id_of,
)
from distill.spans import Span, SpanIds
from distill.supervisor.journal import Journal
from distill.supervisor.run_log import RunLog
from distill.traces import Run, read, records
from tests.distill.collectors import Received, collecting
from tests.distill.commands import QUESTION, TEXT, command
from tests.distill.scripted import Supervisor, Worker, cell, endpoint

Ask = Callable[..., RunResult]
ROOT, REPL = "invoke_agent distill", "execute_tool repl"


def named(spans: list[Received], name: str) -> list[Received]:
    return sorted((span for span in spans if span.name == name), key=lambda span: span.start_s)


def answer(prompt: str) -> str:
    if "bad" in prompt:
        raise ModelError(f"no answer to {prompt}")
    return f"<{prompt}>"


def test_a_run_is_one_trace(ask: Ask, logged: Callable[[], Run]) -> None:
    replies = (
        cell("print(look('key'))\nx = worker_batch([f'p{i}' for i in range(3)])"),
        cell("y = worker('bad')"),
        cell("FINAL(x)"),
    )
    with collecting() as collected:
        ask(*replies, worker=Worker(answer), primitives={"look": str.upper}, otlp=collected.url,
            label="my label")  # fmt: skip
        spans = collected.until(ROOT)
    told = logged()
    assert {span.trace for span in spans} == {f"{trace_id_of(told.id):032x}"}
    assert collected.paths[0] == "/v1/traces"
    (root,) = named(spans, ROOT)
    assert (root.parent, root.is_error) == ("", False)
    assert root.resource["service.name"] == "distill"
    turns = [named(spans, f"turn {number}")[0] for number in (1, 2, 3)]
    assert {turn.parent for turn in turns} == {root.id}
    chats, cells = named(spans, "chat boss"), named(spans, REPL)
    for turn, chat, block in zip(turns, chats, cells, strict=True):
        assert chat.parent == block.parent == turn.id
        assert turn.start_s <= chat.start_s <= chat.end_s <= block.end_s <= turn.end_s
    (batch,), (one,) = named(spans, "worker_batch"), named(spans, "worker")
    (look,) = named(spans, "execute_tool look")
    assert (batch.parent, look.parent, one.parent) == (cells[0].id, cells[0].id, cells[1].id)
    calls = named(spans, "chat Worker")
    assert Counter(call.parent for call in calls) == {batch.id: 3, one.id: 1}
    assert [span.is_error for span in (*cells, batch, one)] == [False, True, False, False, True]
    assert sum(call.is_error for call in calls) == 1
    assert {span.kind for span in (*chats, *calls)} == {3}  # client
    assert {span.kind for span in (root, *turns, *cells, batch, one)} == {1}  # internal


def test_attributes_are_those_of_the_conventions(ask: Ask, logged: Callable[[], Run]) -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

    with (
        collecting() as collected,
        endpoint(lambda _: cell("FINAL(worker('p', max_tokens=7, temperature=0.5))")) as boss,
    ):
        supervisor = OpenAIHandler("gpt", boss.url, "none")
        ask(supervisor=supervisor, otlp=collected.url)
        spans = collected.until(ROOT)
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI")}
    for span in spans:
        names = {name for name in span.attributes if name.startswith("gen_ai.")}
        assert names <= known, names - known
    (root,), (chat,) = named(spans, ROOT), named(spans, "chat scripted")
    (block,), (call,) = named(spans, REPL), named(spans, "chat Worker")
    host, port = boss.url.removeprefix("http://").removesuffix("/v1").split(":")
    expected: list[tuple[Received, dict[str, Any]]] = [
        (root, {
            "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "distill",
            "gen_ai.conversation.id": logged().id, "gen_ai.request.model": "gpt",
            "gen_ai.usage.input_tokens": 11, "distill.run.status": "final",
            "distill.worker.calls": 1, "distill.worker.input_tokens": 7,
        }),
        (chat, {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt", "gen_ai.response.model": "scripted",
            "gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 4,
            "gen_ai.response.finish_reasons": ["stop"],
            "server.address": host, "server.port": int(port),
        }),
        (block, {
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "repl",
            "gen_ai.tool.call.id": "1", "distill.cell.status": "final",
        }),
        (call, {
            "gen_ai.operation.name": "chat", "gen_ai.request.model": "Worker",
            "gen_ai.request.max_tokens": 7, "gen_ai.request.temperature": 0.5,
            "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3,
        }),
    ]  # fmt: skip
    for span, attributes in expected:
        assert attributes.items() <= span.attributes.items()


SECRET = "the text is a secret"
WORDY = (
    cell(f"print(worker('{SECRET} prompt'))\nlook('{SECRET} argument')"),
    cell(f"class secret_class(Exception): pass\nraise secret_class('{SECRET} error')"),
    cell(f"secret_function = 1\nworker('bad {SECRET}')"),
    cell(f"FINAL('{SECRET} answer')"),
)


@pytest.mark.parametrize("content", [False, True])
def test_texts_are_sent_only_if_asked_for(content: bool, ask: Ask) -> None:
    def look(what: str) -> str:
        raise ValueError(what) if "error" in what else KeyError(what)

    with collecting() as collected:
        ask(*WORDY, worker=Worker(answer), context=SECRET, primitives={"look": look},
            label=SECRET, otlp=collected.url, otlp_content=content)  # fmt: skip
        spans = collected.until(ROOT)
    sent = b"".join(collected.bodies)
    assert (b"secret" in sent) is content
    if content:
        (root,) = named(spans, ROOT)
        told = json.loads(root.attributes["gen_ai.output.messages"])
        assert told[0]["parts"] == [{"type": "text", "content": f"{SECRET} answer"}]
        first = named(spans, "chat boss")[0]
        asked = json.loads(first.attributes["gen_ai.input.messages"])
        assert [each["role"] for each in asked] == ["system", "user"]
        assert named(spans, REPL)[1].why == f"{SECRET} error"


def test_texts_are_bounded_and_redacted(ask: Ask) -> None:
    long = "x" * 50_000
    code = f"print('{long}', 'jane@example.org')\nFINAL('jane@example.org')"
    with collecting() as collected:
        ask(cell(code), otlp=collected.url, otlp_content=True, redact=["email"])
        spans = collected.until(ROOT)
    assert b"jane@" not in b"".join(collected.bodies)
    (block,) = named(spans, REPL)
    assert len(block.attributes["gen_ai.tool.call.result"]) < CONTENT_CHARS + 100
    assert (
        "█"
        in json.loads(named(spans, ROOT)[0].attributes["gen_ai.output.messages"])[0]["parts"][0][
            "content"
        ]
    )


def test_what_is_no_text_is_sent_as_one(ask: Ask, logged: Callable[[], Run]) -> None:
    """Protobuf has no lone surrogates: a span that can't be encoded loses its whole batch."""
    bad = "'\\ud800' * 9"
    codes = (
        f"print({bad})\nlook({bad})",
        f"raise ValueError({bad})",
        f"class Odd(Exception): pass\nOdd.__name__ = {bad}\nraise Odd({bad})",
        f"FINAL([worker({bad}), {bad}])",
    )
    with collecting() as collected:
        ask(*map(cell, codes), worker=Worker(lambda _: "\ud800"), primitives={"look": len},
            otlp=collected.url, otlp_content=True)  # fmt: skip
        spans = collected.until(ROOT)
    assert len(named(spans, REPL)) == len(logged().cells) >= 4


def test_many_calls_are_sums_and_a_few_spans(ask: Ask) -> None:
    code = """
a = worker_batch([f'p{i}' for i in range(1000)])
b = [worker(f'q{i}') for i in range(150)]
FINAL(len(a) + len(b))
"""
    with collecting() as collected:
        assert ask(cell(code), otlp=collected.url).answer == 1150
        spans = collected.until(ROOT)
    (batch,), (block,) = named(spans, "worker_batch"), named(spans, REPL)
    assert batch.attributes["distill.worker.calls"] == 1000
    assert batch.attributes["distill.worker.input_tokens"] == 7000
    assert block.attributes["distill.worker.calls"] == 1150
    calls = named(spans, "chat Worker")
    assert sum(call.parent == batch.id for call in calls) == CALLS_A_BATCH
    assert len(calls) == CALLS_A_CELL
    assert len(named(spans, "worker")) == OTHERS_A_CELL - 1
    left_out = 1150 - CALLS_A_CELL + 151 - OTHERS_A_CELL
    assert block.attributes["distill.cell.spans_left_out"] == left_out


def test_a_sub_run_is_a_trace_of_its_own(ask: Ask, log: Path) -> None:
    boss = Supervisor(cell("FINAL(supervisor('who?', 'a text'))"), cell("FINAL('me')"))
    with collecting() as collected:
        ask(supervisor=boss, primitives=["supervisor"], otlp=collected.url)
        spans = collected.until(ROOT, 2)
    parent, child = read(log).runs.values()
    by_run = {span.attributes["gen_ai.conversation.id"]: span for span in named(spans, ROOT)}
    assert by_run[child.id].links == [
        (f"{trace_id_of(parent.id):032x}", f"{span_id_of(parent.id, 'cell', 1):016x}")
    ]
    assert by_run[child.id].attributes["distill.run.parent"] == parent.id
    assert by_run[parent.id].links == []
    assert {span.trace for span in spans} == {root.trace for root in by_run.values()}
    assert any(span.id == by_run[child.id].links[0][1] for span in named(spans, REPL))


def test_a_run_that_fails_and_goes_on_is_one_trace(ask: Ask, log: Path) -> None:
    with collecting() as collected:
        with pytest.raises(ModelError):
            ask(cell("x = worker('one')"), ModelError("down"), otlp=collected.url)
        collected.until(ROOT)
        boss = Supervisor(cell("FINAL(x)"))
        assert resume(log, boss, Worker(), otlp=collected.url).answer == "<one>"
        spans = collected.until(ROOT, 2)
    first, second = named(spans, ROOT)
    assert (first.trace, first.id, first.is_error) == (second.trace, second.id, True)
    assert first.attributes["error.type"] == "failed"
    assert not second.is_error
    assert len(named(spans, REPL)) == 2


def test_sub_runs_of_a_run_that_goes_on_are_heard(tmp_path: Path) -> None:
    """They do not begin again: the log says whose they are."""
    before = Run("top", tmp_path, sub_runs=[Run("sub", tmp_path)])
    journal = Journal(tmp_path)
    with collecting() as collected:
        with following(journal, "top", collector(collected.url), before):
            for run in ("top", "sub", "another"):
                RunLog(journal, run).write(
                    records.Cell, turn=1, cell=1, code="", status="ok", stdout="", stderr="",
                    elapsed_s=1.0, cpu_s=0.5,
                )  # fmt: skip
        spans = collected.until(REPL, 2)
    journal.close()
    assert {span.trace for span in spans} == {f"{trace_id_of(run):032x}" for run in ("top", "sub")}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"otlp": "localhost:4318"}, "--otlp localhost:4318 is no URL"),
        ({"otlp": "http://"}, "is no URL"),
        ({"otlp_content": True}, "--otlp-content needs --otlp URL"),
    ],
)
def test_a_bad_address_is_refused_first(options: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        run("What?", "text", Supervisor(), Worker(), log_dir=tmp_path / "log", **options)
    assert not (tmp_path / "log").exists()


def test_where_spans_go() -> None:
    for given in ("http://h:1", "http://h:1/", "http://h:1/v1/traces"):
        assert collector(given).url == "http://h:1/v1/traces"  # type: ignore[union-attr]
    told = collector("https://u:pass@h/base")
    assert told is not None
    assert (told.url, told.shown) == ("https://u:pass@h/base/v1/traces", "https://h/base")


WITHOUT_THE_SDK = """
import sys
sys.modules["opentelemetry"] = None
from distill.otlp import collector
from distill.errors import InputError
assert collector(None) is None
try:
    collector("http://h:1")
except InputError as error:
    assert "distill[otlp]" in str(error), error
else:
    raise SystemExit("it is there")
"""


@pytest.mark.slow  # a program
def test_without_the_extra() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_SDK], timeout=60, check=False)
    assert done.returncode == 0


def test_a_run_without_it_does_not_import_the_sdk() -> None:
    code = (
        "import sys, distill.orchestrator, distill.run_spans, distill.otlp\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def closed_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def notices(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "spans" in each.getMessage()]


def wait_for_notice(caplog: pytest.LogCaptureFixture) -> list[str]:
    due_s = time.monotonic() + 20
    while not notices(caplog):
        assert time.monotonic() < due_s
        time.sleep(0.02)
    return notices(caplog)


@pytest.mark.parametrize(
    "trouble",
    [
        "nobody",
        pytest.param("refuses", marks=pytest.mark.slow),
        pytest.param("breaks", marks=pytest.mark.slow),
    ],
)
def test_a_collector_that_takes_nothing_is_one_notice(
    trouble: str, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    codes = [cell(f"x = worker('{number}')") for number in range(4)]
    with collecting(lambda _: 403 if trouble == "refuses" else 503) as collected:
        url = closed_port() if trouble == "nobody" else collected.url
        address = url.replace("http://", "http://me:p4ssword@")
        assert ask(*codes, cell("FINAL(x)"), otlp=address).answer == "<3>"
        (said,) = wait_for_notice(caplog)
        assert ask(*codes, cell("FINAL(x)"), otlp=address).answer == "<3>"
    assert notices(caplog) == [said]
    assert url.removeprefix("http://") in said
    assert len(said) < 200
    assert "p4ssword" not in caplog.text
    assert all(each.name.startswith("distill") for each in caplog.records)
    if trouble == "refuses":
        assert collected.keys[0].startswith("Basic ")


def test_a_collector_that_hangs_does_not_hold_a_run_up(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    def hang(_number: int) -> int:
        released.wait(30)
        return 200

    with collecting(hang) as collected:
        codes = [cell(f"x = worker('{number}')") for number in range(5)]
        assert ask(*codes, cell("FINAL(x)"), otlp=collected.url).answer == "<4>"
        assert collected.spans() == []
        released.set()
        collected.until(ROOT)
    assert notices(caplog) == []


@pytest.mark.slow  # thousands of spans
def test_a_queue_that_is_full_drops_the_oldest(caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()

    def hang(_number: int) -> int:
        released.wait(30)
        return 200

    with collecting(hang) as collected:
        sender = Sender(f"{collected.url}/v1/traces", collected.url)
        count = QUEUE_SPANS * 2
        for number in range(1, count + 1):
            sender.send([Span(f"span {number}", SpanIds(7, number), 1.0, 2.0)])
        (said,) = notices(caplog)
        assert "too slow" in said
        released.set()
        names = {span.name for span in collected.until(f"span {count}")}
        sender.close()
    assert len(names) < count
    assert len(notices(caplog)) == 1


PROGRAM = """
import sys, time
from distill import run
from tests.distill.scripted import Supervisor, Worker, cell
result = run("What?", "text", Supervisor(cell("FINAL(worker('p'))")), Worker(),
             log_dir=sys.argv[1], otlp=sys.argv[2])
print(result.answer, flush=True)
"""


@pytest.mark.slow  # programs
@pytest.mark.parametrize("answers", [True, False])
def test_a_program_that_ends_sends_its_last_spans(answers: bool, tmp_path: Path) -> None:
    """One that nobody takes spans from ends as well."""
    with collecting() as collected:
        url = collected.url if answers else closed_port()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), url],
            timeout=60, check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout == "<p>\n"
        assert "Traceback" not in done.stderr
        names = [span.name for span in collected.spans()]
        assert names.count(ROOT) == (1 if answers else 0)


def test_a_listener_that_fails_is_told_once(
    ask: Ask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any) -> None:
        raise RuntimeError("the SDK is broken")

    monkeypatch.setattr(Sender, "send", broken)
    caplog.set_level(logging.ERROR)
    with collecting() as collected:
        replies = (cell("x = worker('p')"), cell("FINAL(x)"))
        assert ask(*replies, otlp=collected.url).answer == "<p>"
    assert len(notices(caplog)) == 1


@pytest.mark.slow  # three commands
def test_on_the_command_line(tmp_path: Path) -> None:
    """By a settings file and by flags, to a worker behind an endpoint."""
    (tmp_path / "text").write_text(TEXT + " Write to jane@example.org about it.")
    with collecting() as collected, endpoint(lambda _: "jane@example.org") as hand:
        (tmp_path / "mine.toml").write_text(
            f'redact = ["email", "re:Goli\\\\w+"]\notlp = "{collected.url}"\n'
        )
        words = ["-c", str(tmp_path / "text"), "-q", QUESTION, "--log-dir", str(tmp_path / "log")]
        words += ["--worker-url", hand.url, "--worker", "scripted", "--otlp-content"]
        done = command(tmp_path, "up", "--config", str(tmp_path / "mine.toml"), *words)
        assert done.code == 0, done.err
        collected.until(ROOT)
    assert "jane@example.org" in done.out
    assert "Goliath" in str(hand.requests)
    logged = [path.read_bytes() for path in (tmp_path / "log").rglob("*.*")]
    for data in (*logged, *collected.bodies):
        assert b"jane@" not in data
        assert b"Goliath" not in data
    again = command(tmp_path, "up", "--resume", str(tmp_path / "log"), *words[6:10])
    assert (again.code, "was redacted (email, re:1)" in again.err) == (2, True)
    for more in ([], ["--dry-run"], ["--check-only"]):
        bad = command(tmp_path, "up", *words[:6], *more, "--redact", "emial")
        assert (bad.code, "no pattern 'emial'" in bad.err) == (2, True)
        cache = ["--redact", "email", "--answer-cache", "shared"]
        kept = command(tmp_path, "up", *words[:6], *more, *cache)
        assert (kept.code, "keeps prompts and answers as they are" in kept.err) == (2, True)
