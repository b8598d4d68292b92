"""The real worker server and the real engine, over the real wire; one start for all of it.

The last test takes the server down, in order: keep it last.
"""

import json
import math
import time
from itertools import pairwise
from typing import Any

import pytest

from distill.protocol.worker_link import (
    Cancel,
    ChatMessage,
    Drain,
    Failure,
    Request,
    Requests,
    Result,
    Sampling,
    WorkerGoodbye,
    unpack_ids,
)

pytestmark = pytest.mark.vllm

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def request(name: str, prompt: str | None = None, **fields: Any) -> Request:
    """A request; keywords that Request does not know are sampling."""
    own = {k: fields.pop(k) for k in list(fields) if k in Request.__struct_fields__}
    sampling = Sampling(**({"max_tokens": 16} | fields))
    return Request(id=name, attempt=1, sampling=sampling, prompt=prompt, **own)


def ask_one(worker: Any, asked: Request) -> Result:
    (answer,) = worker.driver.ask(asked)
    assert isinstance(answer, Result), answer
    return answer


def refused(worker: Any, asked: Request) -> Failure:
    (answer,) = worker.driver.ask(asked)
    assert isinstance(answer, Failure), answer
    return answer


def test_ready_says_which_model_and_how_much(served: Any) -> None:
    ready = served.driver.ready
    card = ready.card
    assert card.engine == "vllm"
    assert card.window_tokens == 2048
    assert card.logprobs_mode == "raw_logprobs"
    assert all(len(h) == 64 for h in (card.weights_hash, card.tokenizer_hash, card.template_hash))
    assert ready.slots >= 1
    assert ready.token_budget >= card.window_tokens
    events = [event["event"] for event in served.driver.events]
    assert events[:4] == ["model_resolved", "engine_loading", "engine_started", "engine_ready"]


def test_heartbeats_go_on_while_it_loads(served: Any) -> None:
    """Importing torch holds the GIL for a while; the driver takes 6 s of silence for a death."""
    beats = [when for when, _ in served.driver.heartbeats]
    assert served.driver.heartbeats[0][1].state == "loading"
    assert max(after - before for before, after in pairwise(beats)) < 5.0


def test_answers_a_conversation(served: Any) -> None:
    question = ChatMessage("user", "What is the capital of France?")
    answer = ask_one(served, request("chat", messages=(question,)))
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert answer.prompt is None  # what was sent is not sent back
    assert answer.before
    assert answer.after  # the template is around it
    assert answer.prompt_tokens == len(unpack_ids(answer.prompt_token_ids or b""))
    assert answer.compute_s > 0


def test_serves_200_within_its_credit_and_in_batches(served: Any) -> None:
    frames = served.driver.frames
    asked = [request(f"many-{i}", f"Count on: {i}, {i + 1},", max_tokens=8) for i in range(200)]
    answers = served.driver.ask(*asked)
    assert all(isinstance(answer, Result) for answer in answers)
    assert [answer.id for answer in answers] == [r.id for r in asked]
    assert served.driver.frames - frames < 100


def test_takes_token_ids_and_says_the_text(served: Any) -> None:
    first = ask_one(served, request("text", "The sky is"))
    ids = unpack_ids(first.prompt_token_ids or b"")
    again = ask_one(served, request("ids", prompt_token_ids=ids))
    assert again.token_ids == first.token_ids
    assert again.prompt == "The sky is"


def test_too_long_says_both_numbers_and_what_to_do(served: Any) -> None:
    answer = refused(served, request("long", "word " * 3000))
    assert answer.kind == "too_long"
    assert answer.prompt_tokens is not None
    assert answer.prompt_tokens >= 3000
    assert answer.window_tokens == 2048
    assert str(answer.prompt_tokens) in answer.detail
    assert "2048" in answer.detail
    assert "shorten" in answer.detail


def test_no_max_tokens_means_what_the_window_leaves(served: Any) -> None:
    full = "word " * 2040
    tokens = refused(served, request("full", full, max_tokens=100)).prompt_tokens
    assert tokens is not None
    answer = ask_one(served, request("rest", full, max_tokens=None, temperature=1.5, seed=1))
    assert answer.completion_tokens <= 2048 - tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": {"type": "nonsense"}},
        {"regex": "("},
        {"schema": SCHEMA, "choices": ("a",)},
        {"prompt_token_ids": (1, 2)},
        {"messages": (ChatMessage("user", "a prompt as well"),)},
    ],
)
def test_a_bad_request_harms_only_itself(served: Any, fields: dict[str, Any]) -> None:
    bad, good = request("bad", "Say", **fields), request("good", "Say")
    answers = served.driver.ask(bad, good)
    assert isinstance(answers[0], Failure)
    assert answers[0].kind == "bad_request"
    assert answers[0].detail
    assert isinstance(answers[1], Result)


def test_unknown_token_ids_and_empty_prompts_are_refused(served: Any) -> None:
    assert refused(served, request("id", prompt_token_ids=(10**7,))).kind == "bad_request"
    assert refused(served, request("none", prompt_token_ids=())).kind == "bad_request"
    assert refused(served, request("empty", "")).kind == "bad_request"


def test_a_schema_is_obeyed(served: Any) -> None:
    asked = request("schema", "A person as JSON:", schema=SCHEMA, max_tokens=80)
    person = json.loads(ask_one(served, asked).text)
    assert isinstance(person["name"], str)
    assert isinstance(person["age"], int)


def test_choices_and_regex_are_obeyed(served: Any) -> None:
    choice = ask_one(served, request("choice", "Is water wet?", choices=("yes", "no")))
    assert choice.text in ("yes", "no")
    digits = ask_one(served, request("regex", "A year:", regex="[0-9]{4}"))
    assert len(digits.text) == 4
    assert digits.text.isdigit()


def test_stops_before_a_stop_string(served: Any) -> None:
    free = ask_one(served, request("free", "1, 2, 3,", max_tokens=24)).text
    assert ", 6" in free
    stopped = ask_one(served, request("stop", "1, 2, 3,", max_tokens=24, stop=(", 6",)))
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.split(", 6")[0]


def test_a_seed_repeats_a_sample(served: Any) -> None:
    def sample(name: str, seed: int) -> str:
        return ask_one(served, request(name, "Once upon a time", temperature=1.2, seed=seed)).text

    assert sample("a", 7) == sample("b", 7)
    assert len({sample(f"s{seed}", seed) for seed in range(4)}) > 1


def test_a_seed_holds_when_the_prompt_is_computed_in_parts(served: Any) -> None:
    """vLLM 0.32 on CPU ends the whole engine here, were it not for inside.py."""
    filler = "The sea was calm that day. " * 250  # more than one step's 1,024 tokens

    def sample(name: str, before: str) -> str:
        text = f"{before} {filler} Then"
        return ask_one(served, request(name, text, temperature=1.2, seed=5)).text

    alone = sample("parts-alone", "Alone.")
    others = [request(f"parts-{i}", f"{i} {filler}", temperature=1.0, seed=i) for i in range(4)]
    again = request("parts-again", f"Alone. {filler} Then", temperature=1.2, seed=5)
    answers = served.driver.ask(*others, again)
    assert all(isinstance(answer, Result) for answer in answers)
    assert answers[-1].token_ids is not None
    assert alone
    # Batched otherwise, the sums differ in the last bit, and a drawn token may, too; the first
    # token does not, unless the seed was spent on the parts of the prompt.
    assert answers[-1].text.split()[:1] == alone.split()[:1]


def test_what_is_recorded_does_not_change_what_is_sampled(served: Any) -> None:
    off, ids, both = (
        ask_one(served, request(name, "The river runs", record=name))
        for name in ("off", "ids", "ids+logprobs")
    )
    assert off.text == ids.text == both.text
    assert off.token_ids is None
    assert off.prompt_token_ids is None
    assert ids.token_ids == both.token_ids
    assert ids.logprobs is None
    assert both.logprobs is not None
    assert len(both.logprobs) == len(unpack_ids(both.token_ids or b"")) == both.completion_tokens
    assert all(math.isfinite(value) and value <= 0 for value in both.logprobs)


def test_logprobs_are_raw(served: Any) -> None:
    """A temperature changes what is drawn, not the value of the same token."""
    greedy = ask_one(served, request("cold", "Two and two is", record="ids+logprobs"))
    drawn = ask_one(
        served,
        request("hot", "Two and two is", record="ids+logprobs", temperature=0.01, seed=1),
    )
    assert drawn.token_ids == greedy.token_ids
    assert drawn.logprobs == pytest.approx(greedy.logprobs, abs=0.05)


def test_a_shared_prefix_is_counted(served: Any) -> None:
    chunk = "It was the best of times, it was the worst of times. " * 30
    cold = ask_one(served, request("cold-prefix", chunk + "First?"))
    warm = ask_one(served, request("warm-prefix", chunk + "Second?"))
    assert cold.cached_tokens == 0
    assert 128 <= warm.cached_tokens < warm.prompt_tokens
    # The heartbeats count the same, and all else that the driver shows of a worker.
    deadline = time.monotonic() + 10
    while (beat := served.driver.heartbeats[-1][1]).cached_tokens < warm.cached_tokens:
        assert time.monotonic() < deadline, beat
        time.sleep(0.1)
    assert beat.cached_tokens < beat.prompt_tokens
    assert (beat.waiting, beat.failures > 0) == (0, True)  # the refusals above


def test_a_cancelled_request_ends_soon_and_says_so(served: Any) -> None:
    driver = served.driver
    long = request("endless", "Story:", max_tokens=1800, temperature=1.5, seed=3, stop=("\x00",))
    driver.send(Requests(requests=(long,)))
    time.sleep(0.5)
    started = time.monotonic()
    driver.send(Cancel(ids=("endless", "never-heard-of")))
    (answer,) = driver.results()
    assert time.monotonic() - started < 2
    assert isinstance(answer, Failure)
    assert answer.kind == "cancelled"
    time.sleep(1.0)
    assert driver.heartbeats[-1][1].in_flight == 0
    assert ask_one(served, request("after", "Still there?")).completion_tokens > 0


def test_the_engine_stays_in_the_workers_process_group(served: Any) -> None:
    names = [" ".join(process.cmdline()) for process in served.group]
    assert any("distill.worker_server" in name for name in names)
    assert any("EngineCore" in name for name in names)
    assert served.engine_core.pid in [process.pid for process in served.group]


def test_drains_what_is_in_flight_and_goes(served: Any) -> None:
    driver = served.driver
    asked = [request(f"last-{i}", f"{i} and", max_tokens=64) for i in range(8)]
    driver.send(Requests(requests=tuple(asked)))
    driver.send(Drain())
    answers: list[Any] = []
    while len(answers) < len(asked):
        answers.extend(driver.results())
    assert all(isinstance(answer, Result) for answer in answers)
    driver.receive(WorkerGoodbye)
    assert served.process.wait(timeout=10) == 0
    served.await_empty_group()
    assert not list(served.log.parent.glob("engine-*"))  # the engine's scratch is gone
