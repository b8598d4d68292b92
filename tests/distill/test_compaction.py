"""A conversation that outgrows its window: what is left out, what stays, and what the log says."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill import OpenAIHandler, RunResult, replay, resume
from distill.errors import ModelError, WindowError, WorkerError
from distill.supervisor.window import FULL
from distill.traces import Run, read, validate
from distill.window_errors import says_too_long
from tests.distill.scripted import (
    Endpoint,
    Reply,
    Supervisor,
    Worker,
    cell,
    endpoint,
    run_bounded,
    stream,
)
from tests.distill.test_turns import sent_messages

Ask = Callable[..., RunResult]
Logged = Callable[[], Run]
WINDOW_TOKENS = 6_000
CHARS_PER_TOKEN = 4
TURNS = 18
TOO_LONG = "This model's maximum context length is 6000 tokens. However, your messages have more."


def tokens_of(request: dict[str, Any]) -> int:
    return sum(len(each["content"]) for each in request["messages"]) // CHARS_PER_TOKEN


class Boss:
    """Prints much in each of TURNS turns, then says what it still has. Its window is enforced."""

    def __init__(self, turns: int = TURNS) -> None:
        self.turns = turns
        self.said = 0
        self.refused = 0
        self.answered: list[dict[str, Any]] = []

    def __call__(self, request: dict[str, Any]) -> Any:
        if tokens_of(request) > WINDOW_TOKENS:
            self.refused += 1
            body = {"error": {"message": TOO_LONG, "code": "context_length_exceeded"}}
            return Reply(body, 400)
        self.answered.append(request)
        self.said += 1
        if self.said > self.turns:
            return cell("FINAL([v1, len(worker_seen), total])")
        number = self.said
        more = "worker_seen = []\ntotal = 0" if number == 1 else "total += 1"
        code = f"v{number} = {number}\n{more}\nworker_seen.append(worker('w{number}'))"
        reply = cell(f"{code}\nprint('out {number} ' * 300)")
        chunk = {"role": "assistant", "content": reply}
        usage = {"prompt_tokens": tokens_of(request), "completion_tokens": len(reply) // 4}
        end = {"choices": [], "usage": usage, "model": "scripted"}
        choice = {"index": 0, "delta": chunk, "finish_reason": "stop"}
        return stream({"choices": [choice]}, end)


def check_requests(told: Run, boss: Boss, server: Endpoint) -> None:
    """The log says what was sent, and the task's bytes never change."""
    assert len(boss.answered) == len(told.turns)
    for turn, request in zip(told.turns, boss.answered, strict=True):
        assert told.conversation(turn.turn) == request["messages"]
        roles = [each["role"] for each in request["messages"]]
        assert roles == ["system", *(["user", "assistant"] * len(roles))[: len(roles) - 1]]
    opening = sent_messages(server.bodies[0])
    assert all(sent_messages(body).startswith(opening) for body in server.bodies)
    shortened = {each.turn for each in told.compactions}
    sent = [json.dumps(each["messages"])[:-1] for each in boss.answered]
    for number, (before, after) in enumerate(itertools.pairwise(sent), 2):
        assert after.startswith(before) != (number in shortened)


@pytest.mark.parametrize("window_tokens", [None, WINDOW_TOKENS])
def test_a_long_conversation_goes_on(ask: Ask, logged: Logged, window_tokens: int | None) -> None:
    boss = Boss()
    with endpoint(boss) as server:
        handler = OpenAIHandler("scripted", server.url, window_tokens=window_tokens)
        result = ask(supervisor=handler, max_iterations=TURNS + 1, timeout_s=60)
        handler.close()
        assert result.answer == [1, TURNS, TURNS - 1]
        told = logged()
        check_requests(told, boss, server)
    assert len(told.compactions) >= 2
    assert {each.reason for each in told.compactions} == {"window" if window_tokens else "endpoint"}
    assert (boss.refused == 0) == (window_tokens is not None)
    last = told.compactions[-1]
    state = last.added[1]["content"]
    for part in ("v1: int", "worker_seen: list[", "turn 1: v1 = 1", "out 1 out 1", "left out"):
        assert part in state
    assert last.tokens < last.tokens_before
    assert "out 1 " * 50 not in state


def test_it_goes_on_after_a_cut(ask: Ask, log: Path, logged: Logged) -> None:
    boss = Boss()
    down = Reply({"error": {"message": "bad key"}}, 401)
    with endpoint(lambda request: boss(request) if boss.said < 12 else down) as server:
        handler = OpenAIHandler("scripted", server.url)
        with pytest.raises(ModelError, match="the key was refused"):
            ask(supervisor=handler, max_iterations=TURNS + 1, timeout_s=60)
        cut = logged()
        assert cut.compactions
        del server.bodies[-1]
        server.answer = boss
        worker = Worker()
        result = run_bounded(lambda: resume(log, handler, worker), 60)
        handler.close()
        assert result.answer == [1, TURNS, TURNS - 1]
        assert worker.prompts == [f"w{number}" for number in range(13, TURNS + 1)]
        check_requests(logged(), boss, server)


def test_who_goes_on_counts_as_the_endpoint_did(ask: Ask, log: Path) -> None:
    """By our own guess the conversation is too long already; by the last count it is not."""
    boss, down = Boss(), Reply({"error": {"message": "bad key"}}, 401)

    def answer(request: dict[str, Any]) -> Any:
        return down if 3_600 < tokens_of(request) <= FULL * WINDOW_TOKENS else boss(request)

    with endpoint(answer) as server:
        handler = OpenAIHandler("scripted", server.url, window_tokens=WINDOW_TOKENS)
        with pytest.raises(ModelError, match="the key was refused"):
            ask(supervisor=handler, max_iterations=TURNS + 1, timeout_s=60)
        refused = server.bodies[-1]
        server.answer, before = boss, len(server.bodies)
        run_bounded(lambda: resume(log, handler, Worker()), 60)
        handler.close()
    assert sent_messages(server.bodies[before]) == sent_messages(refused)


def test_a_shortened_run_is_done_again(ask: Ask, log: Path, tmp_path: Path) -> None:
    with endpoint(Boss()) as server:
        handler = OpenAIHandler("scripted", server.url)
        first = ask(supervisor=handler, max_iterations=TURNS + 1, timeout_s=60)
        handler.close()
    folder = tmp_path / "again"
    again = run_bounded(lambda: replay(log, log_dir=folder), 60)
    assert again.answer == first.answer
    (one,), (two,) = (read(each).runs.values() for each in (log, folder))
    assert [each.code for each in two.cells] == [each.code for each in one.cells]
    assert [each.stdout for each in two.cells] == [each.stdout for each in one.cells]
    assert {each.source for each in two.calls} == {"replayed"}


def test_one_message_that_is_too_long_is_told_in_short(ask: Ask, logged: Logged) -> None:
    """Twenty outputs in one message: each is bounded, together they are more than the window."""
    many = "\n".join(cell(f"n{number} = 1\nprint('z{number} ' * 400)") for number in range(20))
    replies = iter([many])

    def answer(request: dict[str, Any]) -> Any:
        if tokens_of(request) > WINDOW_TOKENS:
            return Reply({"error": {"message": TOO_LONG}}, 400)
        return next(replies, cell("FINAL(n19)"))

    with endpoint(answer) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert ask(supervisor=handler, max_iterations=3).answer == 1
        handler.close()
    shown = server.requests[-1]["messages"][-1]["content"]
    assert "z0 z0" in shown
    assert "2 turns left" in shown  # the end of what was left out
    assert "n19: int" in shown
    assert len(logged().compactions) == 1


def test_what_does_not_fit_at_all_is_an_error_that_says_so(ask: Ask, log: Path) -> None:
    refusal = Reply({"error": {"message": TOO_LONG}}, 400)
    replies = iter([cell("x = 1"), cell("x = 2")])
    with endpoint(lambda _: next(replies, refusal)) as server:
        handler = OpenAIHandler("scripted", server.url)
        with pytest.raises(WindowError, match=r"maximum context .* Nothing more can be left out"):
            ask(supervisor=handler)
        handler.close()
    assert len(server.requests) <= 8
    trace, problems = validate(log)
    assert problems == []
    (cut,) = trace.runs.values()
    assert cut.end is not None
    assert cut.end.status == "failed"
    result = run_bounded(lambda: resume(log, Supervisor(cell("FINAL(x)")), Worker()))
    assert result.answer == 2


@pytest.mark.parametrize("error", [WindowError("full"), WorkerError("full", kind="too_long")])
def test_any_handler_may_say_that_it_is_full(ask: Ask, logged: Logged, error: ModelError) -> None:
    boss = Supervisor(cell("x = 1"), cell("y = 2"), error, error, cell("FINAL(x + y)"))
    assert ask(supervisor=boss).answer == 3
    assert [each.reason for each in logged().compactions] == ["endpoint", "endpoint"]


SPELLINGS = {
    "openai": (400, ("This model's maximum context length is 8192 tokens. However, your messages "
               "resulted in 10000 tokens. Please reduce the length of the messages.")),
    "openai, code": (400, "Error code: 400 - {'error': {'code': 'context_length_exceeded'}}"),
    "openai, input": (400, "Input tokens exceed the configured limit of 272000 tokens."),
    "vllm": (400, ("The decoder prompt (length 9000) is longer than the maximum model length of "
             "4096. Make sure that `max_model_len` is no smaller than the number of text tokens.")),
    "sglang": (400, "The input (10000 tokens) is longer than the model's context length (8192)."),
    "llama.cpp": (400, "the request exceeds the available context size, try increasing it"),
    "llama.cpp, old": (500, "context size exceeded"),
    "anthropic": (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    "anthropic, both": (400, "input length and `max_tokens` exceed context limit: 1 + 2 > 3"),
    "gemini": (400, "The input token count (1200000) exceeds the maximum number of tokens allowed"),
    "mistral": (400, ("Prompt contains 40000 tokens and 0 draft tokens, too large for model with "
                "32768 maximum context length")),
    "groq": (413, "Request too large for model `x`, please reduce your message size and try again"),
    "together": (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097"),
    "xai": (400, "This model's maximum prompt length is 131072 but the request contains 537812."),
    "lm studio": (400, ("Trying to keep the first 9000 tokens when context the overflows. However, "
                  "the model is loaded with context length of only 4096 tokens, which is not "
                  "enough: provide a shorter input, as this exceeds the context length")),
    "cohere": (400, "too many tokens: total number of tokens in the prompt cannot exceed 4081"),
    "bedrock": (400, "Input is too long for requested model."),
    "in a reply": (None, "maximum context length is 4096 tokens"),
}  # fmt: skip
OTHERS = {
    "rate": (429, "Rate limit reached for tokens per min: Limit 30000, Requested 40000"),
    "reply": (400, ("max_tokens is too large: 100000. This model supports at most 16384 completion "
              "tokens, whereas you provided 100000.")),
    "key": (401, "Incorrect API key provided"),
    "schema": (400, "Invalid schema for response_format: maximum nesting exceeded"),
    "quota": (403, "You exceeded your current quota, please check your plan"),
    "down": (500, "The server had an error while processing your request"),
    "busy": (503, "The model is overloaded: too many requests"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_too_long_is_known_however_it_is_said(name: str) -> None:
    assert says_too_long(*SPELLINGS[name])


@pytest.mark.parametrize("name", OTHERS)
def test_other_errors_are_not_taken_for_it(name: str) -> None:
    assert not says_too_long(*OTHERS[name])


@pytest.mark.parametrize("name", ["openai", "llama.cpp, old", "groq", "together", "in a reply"])
def test_an_endpoints_word_for_it_is_a_window_error(name: str) -> None:
    status, said = SPELLINGS[name]
    reply = Reply({"error": {"message": said}}, status or 200)
    with endpoint(lambda _: reply) as server:
        handler = OpenAIHandler("scripted", server.url)
        with pytest.raises(WindowError):
            run_bounded(lambda: handler.chat([{"role": "user", "content": "x"}]))
        handler.close()
    assert len(server.requests) == 1
