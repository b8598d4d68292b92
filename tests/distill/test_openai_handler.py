"""OpenAIHandler against a scripted endpoint: retries, keys, nonsense, and what is sent."""

import contextlib
import itertools
import threading
import time
from typing import Any

import pytest

from distill import OpenAIHandler, Usage
from distill.errors import InputError, ModelError, WorkerBatchError
from tests.distill.scripted import Reply, completion, endpoint, prompt_of, run_bounded

HELLO = [{"role": "user", "content": "hello"}]
RATE = {"error": {"message": "slow down", "type": "rate"}}


def test_a_reply_with_its_usage() -> None:
    usage = {
        "prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }  # fmt: skip
    with endpoint(lambda _: completion("hi", usage=usage)) as server:
        handler = OpenAIHandler("scripted", server.url, "sk-x", temperature=0.3)
        reply = handler.chat(HELLO, max_tokens=9)
        handler.close()
        handler.close()
    assert (reply.text, reply.model, reply.finish_reason) == ("hi", "scripted", "stop")
    assert reply.usage == Usage(11, 4, 8, 0, 2)
    assert reply.elapsed > 0
    assert server.keys == ["Bearer sk-x"]
    assert server.requests[0] == {
        "model": "scripted", "messages": HELLO, "temperature": 0.3, "max_tokens": 9,
    }  # fmt: skip


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_passing_trouble_is_tried_again(status: int) -> None:
    numbers = itertools.count()

    def answer(_: Any) -> Any:
        return "fine" if next(numbers) >= 2 else Reply(RATE, status, {"Retry-After": "0.05"})

    with endpoint(answer) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert run_bounded(lambda: handler.chat(HELLO)).text == "fine"
        handler.close()
    assert len(server.requests) == 3


def test_retry_after_is_obeyed() -> None:
    numbers = itertools.count()

    def answer(_: Any) -> Any:
        return "fine" if next(numbers) else Reply(RATE, 429, {"Retry-After": "2"})

    with endpoint(answer) as server:
        handler = OpenAIHandler("scripted", server.url)
        run_bounded(lambda: handler.chat(HELLO))
        handler.close()
    assert server.times[1] - server.times[0] >= 2


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply({"error": {"message": "bad key"}}, 401), "OPENAI_API_KEY"),
        (Reply({"error": {"message": "no model"}}, 404), "no such model"),
        (Reply({"error": {"message": "too long"}}, 400), "too long"),
        (Reply(RATE, 429, {"Retry-After": "0.01"}), "slow down"),
        (Reply(b"<html>oops</html>", 500, {"Retry-After": "0.01"}, "text/html"), "500"),
    ],
    ids=["401", "404", "400", "429", "500"],
)
def test_lasting_trouble_says_what_to_do(reply: Reply, said: str) -> None:
    with endpoint(lambda _: reply) as server:
        handler = OpenAIHandler("scripted", server.url)
        with pytest.raises(ModelError, match=said) as caught:
            run_bounded(lambda: handler.chat(HELLO))
        handler.close()
    assert server.url in str(caught.value)
    assert len(server.requests) == (5 if reply.status in (429, 500) else 1)


NONSENSE: dict[str, Any] = {
    "html": Reply(b"<html>hello</html>", 200, {}, "text/html"),
    "empty": Reply(b""),
    "no json": Reply(b"{nope"),
    "null": Reply(b"null"),
    "list": Reply([1, 2]),
    "text": Reply(b'"hello"'),
    "no choices": Reply({"id": "x"}),
    "empty choices": completion("x", choices=[]),
    "choices a map": completion("x", choices={"a": 1}),
    "choices of null": completion("x", choices=[None]),
    "choices of numbers": completion("x", choices=[5]),
    "no message": completion("x", choices=[{"index": 0}]),
    "message null": completion("x", choices=[{"message": None}]),
    "content a number": completion(5),
    "content a map": completion({"a": 1}),
    "usage a text": completion("x", usage="many"),
    "usage of texts": completion("x", usage={"prompt_tokens": "a", "completion_tokens": "b"}),
    "usage negative": completion("x", usage={"prompt_tokens": -5, "completion_tokens": -1}),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_a_typed_error_or_a_sane_reply(kind: str) -> None:
    with endpoint(lambda _: NONSENSE[kind]) as server:
        handler = OpenAIHandler("scripted", server.url, retries=0)
        with contextlib.suppress(ModelError):
            reply = run_bounded(lambda: handler.chat(HELLO))
            assert isinstance(reply.text, str)
            for count in (reply.usage.input_tokens, reply.usage.output_tokens):
                assert isinstance(count, int)
            assert kind in ("usage a text", "usage of texts", "usage negative")
        handler.close()


def test_no_text_is_an_empty_reply() -> None:
    """A model that only thought, or was cut off, sends null: the turn loop says so to it."""
    with endpoint(lambda _: completion(None)) as server:
        handler = OpenAIHandler("scripted", server.url)
        assert handler.chat(HELLO).text == ""
        handler.close()


def test_an_endpoint_that_hangs_up_or_refuses() -> None:
    handler = OpenAIHandler("scripted", "http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(ModelError, match="--base-url"):
        run_bounded(lambda: handler.chat(HELLO))
    handler.close()


@pytest.mark.slow
def test_an_endpoint_that_is_too_slow() -> None:
    def late(_: Any) -> str:
        time.sleep(1)
        return "late"

    with endpoint(late) as server:
        handler = OpenAIHandler("scripted", server.url, timeout_s=0.1)
        with pytest.raises(ModelError, match="in time"):
            run_bounded(lambda: handler.chat(HELLO))
        handler.close()


def test_no_key_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        OpenAIHandler("gpt-5")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    with endpoint(lambda _: "hi") as server:
        handler = OpenAIHandler("scripted", server.url)
        handler.chat(HELLO)
        handler.close()
    assert server.keys == ["Bearer sk-env"]


def test_a_batch_keeps_its_order_and_what_did_come() -> None:
    def answer(request: dict[str, Any]) -> Any:
        number = int(prompt_of(request))
        time.sleep(0.002 * (number % 5))
        return str(number) if number % 10 else Reply({"error": {"message": "no tens"}}, 400)

    batch = [[{"role": "user", "content": str(number)}] for number in range(1, 41)]
    with endpoint(answer) as server:
        handler = OpenAIHandler("scripted", server.url)
        good = [one for one in batch if int(one[0]["content"]) % 10]
        assert [r.text for r in handler.chat_batch(good)] == [m[0]["content"] for m in good]
        with pytest.raises(WorkerBatchError) as caught:
            handler.chat_batch(batch)
        handler.close()
    assert sorted(caught.value.errors) == [9, 19, 29, 39]
    assert caught.value.answers[9] is None
    assert caught.value.answers[8] == "9"
    assert caught.value.replies[8].text == "9"


def test_constrained_answers_are_asked_for() -> None:
    with endpoint(lambda _: "{}") as server:
        handler = OpenAIHandler("scripted", server.url)
        handler.chat(HELLO, schema={"type": "object"})
        handler.chat(HELLO, choices=("a", "b"), top_k=5, min_p=0.1)
        handler.chat(HELLO, regex="a+", stop=("x",), seed=None)
        handler.close()
    schema, choices, regex = server.requests
    assert schema["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert choices["structured_outputs"] == {"choice": ["a", "b"]}
    assert (choices["top_k"], choices["min_p"]) == (5, 0.1)
    assert regex["structured_outputs"] == {"regex": "a+"}
    assert regex["stop"] == ["x"]
    assert "seed" not in regex


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": 0}]}, (-0.5, 0.0)),
        ({"content": None}, None),
        ({"content": [{"token": "a"}]}, None),
        ({"content": [{"token": "a", "logprob": "much"}]}, None),
        ("nonsense", None),
    ],
)
def test_log_probabilities_are_passed_on(told: Any, wanted: Any) -> None:
    reply = completion("ab")
    reply.body["choices"][0]["logprobs"] = told
    with endpoint(lambda request: reply) as server:
        answer = OpenAIHandler("m", server.url).chat(HELLO, logprobs=True)
        assert server.requests[0]["logprobs"] is True
    assert (answer.text, answer.logprobs) == ("ab", wanted)


def test_many_threads_may_share_a_handler() -> None:
    with endpoint(prompt_of) as server:
        handler = OpenAIHandler("scripted", server.url)
        got: list[str] = []

        def ask(number: int) -> None:
            got.append(handler.chat([{"role": "user", "content": str(number)}]).text)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        handler.close()
    assert sorted(got, key=int) == [str(number) for number in range(12)]
