"""Turns against a scripted endpoint over HTTP: what is sent, what is heard, what is told back."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill import LMResponse, OpenAIHandler, RunResult, Usage, replay, resume
from distill.errors import InputError, ModelError
from distill.models import ToolCall
from distill.progress import Progress
from distill.traces import Run, read, validate
from tests.distill.scripted import (
    Reply,
    Supervisor,
    Worker,
    cell,
    completion,
    endpoint,
    events_of,
    run_bounded,
    sse,
)

Ask = Callable[..., RunResult]
Logged = Callable[[], Run]


def script(*replies: Any) -> Callable[[dict[str, Any]], Any]:
    """Replies in order; after the last one, FINAL."""
    left = list(replies)
    return lambda _: left.pop(0) if left else cell("FINAL('out of replies')")


def message(finish: str = "stop", **fields: Any) -> Reply:
    """A completion with this message and finish reason."""
    choice = {"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": finish}
    return completion("", choices=[choice])


def sent_messages(body: bytes) -> str:
    """The messages of a request as they were on the wire, without what closes their list."""
    text = body.decode()
    start = text.index('"messages":[') + len('"messages":')
    _, end = json.JSONDecoder().raw_decode(text, start)
    return text[start : end - 1]


# ---- the prefix, and what is heard -------------------------------------------------------------


def test_each_request_begins_with_the_bytes_of_the_one_before(ask: Ask, logged: Logged) -> None:
    replies = ["no code é", cell("print('x' * 5000)\n1/0"), cell("worker('one')"), "```sh\nls\n```"]
    with endpoint(script(*replies)) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert ask(supervisor=handler, max_iterations=6).answer == "out of replies"
        handler.close()
    sent = [sent_messages(body) for body in server.bodies]
    assert len(sent) == 5
    for before, after in itertools.pairwise(sent):
        assert after.startswith(before + ",")
    told = logged()
    for turn, request in enumerate(server.requests, 1):
        assert told.conversation(turn) == request["messages"]


def test_the_supervisor_is_heard_while_it_writes(ask: Ask, logged: Logged) -> None:
    pieces: list[str] = []
    notes: list[str] = []
    code = cell("x = 1\nprint('a long line of code')")

    def note(progress: Progress) -> None:
        notes.append(progress.note)

    def slowly() -> Iterator[bytes]:
        """For longer than it takes until somebody looks."""
        for each in events_of(code, 1):
            yield sse(each, done=False)
            time.sleep(0.02)

    with endpoint(script(Reply(slowly(), content_type="text/event-stream"))) as server:
        handler = OpenAIHandler("scripted", server.url)
        ask(supervisor=handler, on_text=pieces.append, on_progress=note)
        handler.close()
    begins = [at for at, piece in enumerate(pieces) if not piece]
    assert begins[0] == 0
    assert len(begins) == 2
    assert "".join(pieces[: begins[1]]) == code == logged().messages[2].content
    assert any(each.startswith("writing, ") for each in notes)
    assert notes[-1] == ""


# ---- replies that are odd ----------------------------------------------------------------------


def test_code_in_a_tool_call_of_the_endpoint_runs(ask: Ask, logged: Logged) -> None:
    arguments = '{"code": "x = 6 * 7\\nprint(x)"}'
    call = {"id": "c", "type": "function", "function": {"name": "python", "arguments": arguments}}
    with endpoint(script(message("tool_calls", content=None, tool_calls=[call]))) as server:
        handler = OpenAIHandler("scripted", server.url)
        ask(supervisor=handler)
        handler.close()
    told = logged()
    assert told.cells[0].code == "x = 6 * 7\nprint(x)"
    assert told.cells[0].stdout == "42\n"
    assert arguments in told.messages[2].content
    assert (told.turns[0].tool_calls, told.turns[0].finish_reason) == (1, "tool_calls")
    assert server.requests[1]["messages"][2]["content"] == told.messages[2].content


def test_a_call_of_final_is_final(ask: Ask) -> None:
    call = {"function": {"name": "FINAL", "arguments": '{"answer": [1, null]}'}}
    with endpoint(script(message("tool_calls", tool_calls=[call]))) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert ask(supervisor=handler).answer == [1, None]
        handler.close()


ODD: dict[str, tuple[Reply, str]] = {
    "refusal": (message(content=None, refusal="I must not."), "You declined: 'I must not.'"),
    "filter": (message("content_filter", content="Let me"), "content filter stopped your reply"),
    "cut off": (message("length", content="Let me think about"), "cut off at its length limit"),
    "cut off in code": (message("length", content="```repl\nx = 'ab"), "was not complete"),
    "tool call of nothing": (
        message(tool_calls=[{"function": {"name": "python", "arguments": "{}"}}]),
        "Your tool call has no code",
    ),
    "empty": (message(content=""), "Your reply was empty"),
    "null": (message(content=None), "Your reply was empty"),
    "only thought": (message(content="<think>hm"), "reasoning only"),
}


def test_what_was_wrong_is_told_in_particular(ask: Ask, logged: Logged) -> None:
    replies = [reply for reply, _ in ODD.values()]
    with endpoint(script(*replies)) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert ask(supervisor=handler).answer == "out of replies"
        handler.close()
    told = [request["messages"][-1]["content"] for request in server.requests[1:]]
    for (kind, (_, said)), shown in zip(ODD.items(), told, strict=True):
        assert said in shown, kind
        assert "Nothing was run." in shown
    turns = logged().turns
    assert [turn.refused for turn in turns[:2]] == [True, False]
    assert turns[1].finish_reason == "content_filter"
    assert len(logged().cells) == 1


def test_odd_replies_are_read_alike_when_the_run_is_done_again(
    ask: Ask, log: Path, logged: Logged, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    call = {"function": {"name": "python", "arguments": '{"code": "y = 2"}'}}
    odd = [*(reply for reply, _ in ODD.values()), message("tool_calls", tool_calls=[call])]
    with endpoint(script(*odd)) as server:
        handler = OpenAIHandler("scripted", server.url)
        ask(supervisor=handler)
        handler.close()
    run_bounded(lambda: replay(log, log_dir=again))
    (two,) = read(again).runs.values()
    one = logged()
    assert [each.code for each in two.cells] == [each.code for each in one.cells]
    assert [each.content for each in two.messages] == [each.content for each in one.messages]
    assert [each.refused for each in two.turns] == [each.refused for each in one.turns]


def test_of_a_reply_that_was_cut_off_the_whole_blocks_run(ask: Ask, logged: Logged) -> None:
    text = f"{cell('x = 1')}\nand\n```repl\nx = 2\nprint(x"
    with endpoint(script(message("length", content=text))) as server:
        handler = OpenAIHandler("scripted", server.url)
        ask(supervisor=handler)
        handler.close()
    assert [each.code for each in logged().cells][:1] == ["x = 1"]
    assert "the last block was not complete" in server.requests[1]["messages"][-1]["content"]


def test_a_model_that_goes_on_refusing_fails_the_run_which_another_goes_on_with(
    ask: Ask, log: Path
) -> None:
    refusal = message(content=None, refusal="No.")
    with endpoint(lambda _: refusal) as server:
        handler = OpenAIHandler("scripted", server.url)
        with pytest.raises(ModelError, match=r"refused 3 times in a row .*No\..*--resume"):
            ask(supervisor=handler)
        handler.close()
    assert len(server.requests) == 3
    boss = Supervisor(cell("FINAL('yes')"))
    result = run_bounded(lambda: resume(log, boss, Worker()))
    assert (result.answer, result.iterations) == ("yes", 4)


def test_a_refusal_is_no_last_answer(ask: Ask) -> None:
    replies = [cell("x = 1"), LMResponse("", Usage(1, 1), "boss", 0.0, refusal="I can't.")]
    assert ask(*replies, max_iterations=1).status == "unanswered"


def test_what_a_handler_says_beside_the_text_is_checked(ask: Ask) -> None:
    for odd in ({"tool_calls": (5,)}, {"refusal": None}, {"reasoning": 3}):
        with pytest.raises(ModelError, match="Supervisor returned"):
            ask(LMResponse("x", Usage(), "boss", 0.0, **odd))
    calls = (ToolCall("repl", "FINAL(1)"),)
    assert ask(LMResponse("", Usage(), "boss", 0.0, tool_calls=calls)).answer == 1


# ---- trouble -----------------------------------------------------------------------------------

QUICK = ("401", "html")
LASTING: dict[str, Any] = {
    "500": Reply({"error": {"message": "sorry"}}, 500, {"Retry-After": "0.01"}),
    "429 without a time": Reply({"error": {"message": "slow down"}}, 429),
    "html": Reply(b"<html>hello</html>", 200, {}, "text/html"),
    "no choices": completion("x", choices=[]),
    "an error with status 200": Reply({"error": {"message": "overloaded", "code": 529}}),
    "401": Reply({"error": {"message": "bad key"}}, 401),
    "cut off": Reply(b'{"choices": [', 200, {"Content-Length": "99"}),
}


def slow_unless(kind: str, quick: Sequence[str]) -> Any:
    return kind if kind in quick else pytest.param(kind, marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", [slow_unless(kind, QUICK) for kind in LASTING])
def test_a_run_that_its_endpoint_fails_is_whole_and_goes_on(ask: Ask, log: Path, kind: str) -> None:
    good = iter([cell("x = worker('one')")])
    with endpoint(lambda _: next(good, LASTING[kind])) as server:
        handler = OpenAIHandler("scripted", server.url, retries=1)
        with pytest.raises(ModelError, match="scripted at http"):
            ask(supervisor=handler)
        handler.close()
    trace, problems = validate(log)
    assert problems == []
    (cut,) = trace.runs.values()
    assert cut.end is not None
    assert cut.end.status == "failed"
    worker = Worker()
    result = run_bounded(lambda: resume(log, Supervisor(cell("FINAL(x)")), worker))
    assert result.answer == "<one>"
    assert worker.prompts == []


def test_the_tries_are_in_the_turn(ask: Ask, logged: Logged) -> None:
    trouble = [Reply(b"{nope"), Reply({"error": {"message": "x"}}, 503)]
    with endpoint(script(*trouble)) as server:
        handler = OpenAIHandler("scripted", server.url)
        ask(supervisor=handler)
        handler.close()
    (turn,) = logged().turns
    assert turn.attempt == 3
    assert turn.queue_s > 0.5


# ---- a short text ------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["A short {text}.", {"a.txt": "A short {text}."}])
def test_a_short_text_may_be_shown(ask: Ask, context: Any) -> None:
    supervisor = Supervisor(cell("FINAL('short')"))
    ask(supervisor=supervisor, context=context, show_context_chars=40)
    assert "A short {text}." in supervisor.shown(1)
    hidden = Supervisor()
    ask(supervisor=hidden, context=context)
    assert not any("A short" in each["content"] for each in hidden.seen[0])


def test_a_longer_text_is_not_shown(ask: Ask) -> None:
    supervisor = Supervisor()
    ask(supervisor=supervisor, context="secret " * 10, show_context_chars=60)
    assert not any("secret" in each["content"] for each in supervisor.seen[0])


def test_texts_are_shown_in_the_built_prompt_only(ask: Ask) -> None:
    given = [{"role": "user", "content": "Go."}]
    for options in ({"show_context_chars": -1}, {"show_context_chars": 5, "messages": given}):
        with pytest.raises(InputError, match="show_context_chars"):
            ask(**options)
