"""How long a reply may be is what its endpoint takes, not the end of a run."""

from collections.abc import Callable
from typing import Any

import pytest

from distill import Budget, OpenAIHandler, RunResult
from distill.errors import ModelError, WindowError
from distill.traces import Run
from tests.distill.scripted import Endpoint, Reply, cell, endpoint, run_bounded

Ask = Callable[..., RunResult]
WINDOW_TOKENS = 8192
PROMPT_TOKENS = 600
HELLO = [{"role": "user", "content": "hello " * 1000}]
IN_WINDOW = {
    "vllm": "'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum "
    "context length is 8192 tokens and your request has {prompt} input tokens ({asked} > 8192).",
    "vllm, counted in part": "This model's maximum context length is 8192 tokens. However, you "
    "requested {asked} output tokens and your prompt contains at least 1 input tokens, for a total "
    "of at least 16385 tokens. Please reduce the length of the input prompt or the output.",
    "openai, old": "This model's maximum context length is 8,192 tokens. However, you requested "
    "18384 tokens ({prompt} in the messages, {asked} in the completion). Please reduce the length.",
    "anthropic": "input length and `max_tokens` exceed context limit: {prompt} + {asked} > 8192",
    "tgi": "`inputs` tokens + `max_new_tokens` must be <= 8192. Given: {prompt} `inputs` tokens "
    "and {asked} `max_new_tokens`",
}
OF_THE_MODEL = {
    "openai": "max_tokens is too large: {asked}. This model supports at most 4096 completion "
    "tokens, whereas you provided {asked}.",
    "anthropic": "max_tokens: {asked} > 4096, which is the maximum allowed number of output tokens "
    "for claude-3-5-sonnet-20240620",
    "deepseek": "Invalid max_tokens value, the valid range of max_tokens is [1, 4096]",
    "groq": "`max_tokens` must be less than or equal to `4096`",
}


class Strict:
    """An endpoint that refuses replies of more than ``most`` tokens, in these words."""

    def __init__(self, said: str, most: int, name: str = "max_tokens") -> None:
        self.said, self.most, self.name = said, most, name

    def __call__(self, request: dict[str, Any]) -> Any:
        asked = request.get(self.name) or 0
        other = {"max_tokens", "max_completion_tokens"} - {self.name}
        if asked <= self.most and not other & set(request):
            return cell("FINAL(1)")
        said = self.said.format(asked=asked, prompt=PROMPT_TOKENS)
        return Reply({"error": {"message": said, "code": 400}, "object": "error"}, status=400)


def bounds(server: Endpoint) -> list[Any]:
    return [r.get("max_tokens", r.get("max_completion_tokens")) for r in server.requests]


@pytest.mark.parametrize("name", IN_WINDOW)
def test_a_run_with_a_budget_goes_on_in_a_window_that_nobody_knew(ask: Ask, name: str) -> None:
    with endpoint(Strict(IN_WINDOW[name], WINDOW_TOKENS - PROMPT_TOKENS)) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert ask(supervisor=handler, budget=Budget(tokens=1_000_000)).answer == 1
        handler.close()
        assert len(server.requests) == 2
        assert bounds(server)[0] > WINDOW_TOKENS > bounds(server)[1] > WINDOW_TOKENS / 2


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_a_model_that_writes_less_is_asked_for_less_from_then_on(name: str) -> None:
    with endpoint(Strict(OF_THE_MODEL[name], 4096)) as server:
        handler = OpenAIHandler("scripted", server.url)
        for _ in range(2):
            run_bounded(lambda: handler.chat(HELLO, max_tokens=16_384))
        handler.close()
        assert bounds(server) == [16_384, 4096, 4096]


@pytest.mark.parametrize("takes", ["max_tokens", "max_completion_tokens"])
def test_an_endpoint_that_knows_the_other_name_only_is_asked_by_it(takes: str) -> None:
    (refused,) = {"max_tokens", "max_completion_tokens"} - {takes}
    said = f"Unsupported parameter: '{refused}' is not supported with this model."
    with endpoint(Strict(said, 100_000, takes)) as server:
        handler = OpenAIHandler("scripted", server.url)
        for _ in range(2):
            run_bounded(lambda: handler.chat(HELLO, **{refused: 50}))
        handler.close()
        assert [refused in request for request in server.requests] == [True, False, False]
        assert bounds(server) == [50, 50, 50]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("max_tokens is too large", ModelError),
        ("max_tokens is too large: {asked}; 300 are not, nor 200", ModelError),
        ("maximum context length is 8192 tokens, not 8190 input tokens + max_tokens", WindowError),
    ],
)
def test_it_is_not_asked_for_ever(said: str, error: type[ModelError]) -> None:
    with endpoint(Strict(said, 1)) as server:
        handler = OpenAIHandler("scripted", server.url)
        with pytest.raises(error):
            run_bounded(lambda: handler.chat(HELLO, max_tokens=16_384))
        handler.close()
        assert len(server.requests) <= 4


def test_a_known_window_bounds_replies_and_ends_no_run(ask: Ask, logged: Callable[[], Run]) -> None:
    """Of a prompt that fits, however long; the endpoint counts four characters a token."""

    def answer(request: dict[str, Any]) -> Any:
        prompt = sum(len(message["content"]) for message in request["messages"]) // 4
        if prompt + request["max_tokens"] > 16_000:
            return Reply({"error": {"message": "it does not fit"}}, 400)
        return replies.pop(0)

    replies = [cell("print('word ' * 4000)"), cell("print('word ' * 4000)"), cell("FINAL(1)")]
    with endpoint(answer) as server:
        handler = OpenAIHandler("scripted", server.url, window_tokens=16_000)
        budget = Budget(tokens=1_000_000)
        assert ask(supervisor=handler, budget=budget, output_limit=20_000).answer == 1
        handler.close()
        assert all(tokens >= 4_000 for tokens in bounds(server))
    assert logged().end is not None
    assert logged().compactions == []


def test_a_small_window_ends_no_budget(ask: Ask) -> None:
    with endpoint(lambda _: cell("FINAL(1)")) as server:
        handler = OpenAIHandler("scripted", server.url, window_tokens=1_000)
        result = ask(supervisor=handler, budget=Budget(tokens=1_000_000))
        handler.close()
        assert (result.answer, result.ended_by) == (1, None)
        assert bounds(server) == [250]
