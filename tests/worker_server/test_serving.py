"""The real worker server and the real engine, over the real wire; one start for all of it.

The last test takes the server down, in order: keep it last.
"""

import json
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from distill.protocol.worker_link import (
    AdapterLoaded,
    Cancel,
    ChatMessage,
    Drain,
    DropAdapter,
    Failure,
    LoadAdapter,
    Request,
    Requests,
    Result,
    Sampling,
    WorkerGoodbye,
    unpack_ids,
)
from tests.adapter_folder import write_adapter

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
    refused(served, request("no-room", chunk * 40))
    deadline = time.monotonic() + 10
    while not (beat := served.driver.heartbeats[-1][1]).failures:
        assert time.monotonic() < deadline, beat
        time.sleep(0.1)
    assert warm.cached_tokens <= beat.cached_tokens < beat.prompt_tokens
    assert beat.waiting == 0


def test_a_prompt_is_read_once_for_all_answers_to_it(served: Any) -> None:
    """What n answers are made of: requests with one prompt, sent together."""
    prompt = "It was the age of wisdom, it was the age of foolishness. " * 30
    fields = {"temperature": 1.2, "record": "ids+logprobs"}
    asked = [request(f"n-{n}", prompt, seed=n, **fields) for n in range(4)]
    answers = [answer for answer in served.driver.ask(*asked) if isinstance(answer, Result)]
    assert len({answer.token_ids for answer in answers}) > 1
    assert sorted(answer.cached_tokens > 128 for answer in answers) == [False, True, True, True]


def load(worker: Any, version: int, path: Path) -> AdapterLoaded:
    worker.driver.send(LoadAdapter("tuned", version, str(path)))
    loaded = worker.driver.receive(AdapterLoaded)
    assert isinstance(loaded, AdapterLoaded)
    assert (loaded.adapter, loaded.version) == ("tuned", version)
    return loaded


def test_adapters_are_switched_while_it_runs(served: Any, tmp_path: Path) -> None:
    layers = {f"model.layers.{n}.self_attn.o_proj": (576, 576) for n in range(8)}
    folder = tmp_path / "adapter"
    prompt = "The capital of France is the city of"

    def ask(name: str, version: int) -> Result:
        adapter = "tuned" if version else None
        answer = ask_one(served, request(name, prompt, adapter=adapter, weights_version=version))
        assert (answer.adapter, answer.weights_version) == (adapter, version)
        return answer

    bare = ask("bare", 0)
    first = load(served, 1, write_adapter(folder, 0.5, layers=layers))
    assert (len(first.files_hash), first.refused) == (64, None)
    one = ask("one", 1)
    assert one.token_ids != bare.token_ids
    assert one.cached_tokens == 0, "another adapter's prefix is another prefix"
    many = [
        request(f"old-{n}", f"{n}: {prompt}", max_tokens=48, adapter="tuned", weights_version=1)
        for n in range(8)
    ]
    served.driver.send(Requests(requests=tuple(many)))
    # The same folder, another adapter; what is in flight ends on what it began with.
    second_hash = _load_beside(served, 2, write_adapter(folder, 1.0, layers=layers, rank=2), many)
    assert second_hash not in ("", first.files_hash)
    two = ask("two", 2)
    assert two.token_ids not in (one.token_ids, bare.token_ids)
    assert ask("bare again", 0).token_ids == bare.token_ids
    gone = request("gone", prompt, adapter="tuned", weights_version=1)
    assert "version 1" in refused(served, gone).detail


def test_the_bare_model_answers_beside_adapters_as_without_them(
    served: Any, tmp_path: Path
) -> None:
    """In one step with them: vLLM's operators for CPU gave it the adapter that was loaded last."""
    layers = {f"model.layers.{n}.self_attn.o_proj": (576, 576) for n in range(8)}
    prompt = "The capital of France is the city of"
    names = ("one", "other")

    def asked(name: str, adapter: str | None) -> Request:
        version = 1 if adapter else 0
        return request(name, prompt, max_tokens=4, adapter=adapter, weights_version=version)

    bare = ask_one(served, asked("alone", None))
    for value, name in enumerate(names, 1):
        folder = write_adapter(tmp_path / name, float(value), layers=layers)
        served.driver.send(LoadAdapter(name, 1, str(folder)))
        assert served.driver.receive(AdapterLoaded).refused is None
        assert ask_one(served, asked(name, name)).token_ids != bare.token_ids
    who = (None, *names, None)
    beside = [asked(f"beside-{number}", name) for number, name in enumerate(who)]
    answers = served.driver.ask(*beside)
    assert [answer.token_ids == bare.token_ids for answer in answers] == [True, False, False, True]
    for name in names:
        served.driver.send(DropAdapter(name, 1))


def _load_beside(worker: Any, version: int, path: Path, open_: list[Request]) -> str:
    """Load a version and drop the one before while these are open; the hash of its files."""
    worker.driver.send(LoadAdapter("tuned", version, str(path)))
    files_hash, answers = "", 0
    while not files_hash or answers < len(open_):
        message = worker.driver.inbox.get(timeout=60)
        if isinstance(message, AdapterLoaded):
            assert message.refused is None
            files_hash = message.files_hash
            worker.driver.send(DropAdapter("tuned", version - 1))
            continue
        for answer in message.results:
            assert isinstance(answer, Result), answer
            assert answer.weights_version == version - 1
            answers += 1
    return files_hash


def test_an_adapter_that_can_not_be_served_says_why(served: Any, tmp_path: Path) -> None:
    layer = "model.layers.0.self_attn.o_proj"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"layers": {layer: (2048, 2048)}}, "576 × 576, not 2048 × 2048"),
        ({"layers": {layer: (576, 576)}, "rank": 16}, "higher --max-lora-rank"),
        ({"layers": {"model.norm": (576, 576)}}, "model.norm"),
    ]
    for version, (fields, why) in enumerate(cases, start=10):
        loaded = load(served, version, write_adapter(tmp_path / str(version), 0.1, **fields))
        assert loaded.refused is not None
        assert why in loaded.refused
        assert loaded.files_hash == ""
    assert ask_one(served, request("alive", "Still there?")).completion_tokens > 0


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
