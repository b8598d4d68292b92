"""The parts of the server that need neither vLLM nor a process."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.protocol.errors import LocalProtocolError
from distill.protocol.worker_link import (
    ChatMessage,
    Failure,
    Request,
    Result,
    Results,
    Sampling,
)
from distill.worker_server import inside, process, translate
from distill.worker_server.__main__ import parse
from distill.worker_server.errors import EngineDied
from distill.worker_server.offline import as_sampling
from distill.worker_server.outbox import Outbox
from distill.worker_server.steps import StepClock
from distill.worker_server.tokenise import Tokeniser
from distill.worker_server.work import Work


def request(name: str = "r", **fields: Any) -> Request:
    own = {"prompt": "p"} if not fields.keys() & {"messages", "prompt_token_ids"} else {}
    return Request(id=name, attempt=1, **({"sampling": Sampling()} | own | fields))


def result(name: str, text: str = "") -> Result:
    return Result(name, 1, text, "stop", prompt="", prompt_tokens=1, completion_tokens=1)


# --- the outbox


def test_results_of_one_moment_share_a_frame() -> None:
    async def scenario() -> list[Results]:
        sent: list[Results] = []
        outbox = Outbox(sent.append)
        for i in range(100):
            outbox.add(result(str(i)))
        await asyncio.sleep(0.05)
        return sent

    assert [len(frame.results) for frame in asyncio.run(scenario())] == [64, 36]


def test_large_results_do_not_share_a_frame() -> None:
    async def scenario() -> list[Results]:
        sent: list[Results] = []
        outbox = Outbox(sent.append)
        for i in range(3):
            outbox.add(result(str(i), "x" * (1 << 20)))
        return sent

    assert [len(frame.results) for frame in asyncio.run(scenario())] == [1, 1, 1]


def test_an_answer_that_can_not_be_sent_takes_no_other_along() -> None:
    sent: list[Result | Failure] = []

    def send(frame: Results) -> None:
        if any(isinstance(r, Result) and r.text == "bad" for r in frame.results):
            raise LocalProtocolError("too large")
        sent.extend(frame.results)

    async def scenario() -> None:
        outbox = Outbox(send)
        for name, text in (("a", ""), ("b", "bad"), ("c", "")):
            outbox.add(result(name, text))
        outbox.flush()

    asyncio.run(scenario())
    assert [(r.id, type(r).__name__) for r in sent] == [
        ("a", "Result"),
        ("b", "Failure"),
        ("c", "Result"),
    ]


# --- requests in flight


class FakeEngine:
    async def generate(self, asked: Request) -> Result:
        match asked.prompt:
            case "die":
                raise EngineDied("gone")
            case "bug":
                raise RuntimeError("oops")
            case "wait":
                await asyncio.sleep(60)
        return result(asked.id)


def outcomes(*asked: Request, cancel: tuple[str, ...] = ()) -> tuple[list[Any], int]:
    async def scenario() -> tuple[list[Any], int]:
        done: list[Any] = []
        deaths: list[str] = []
        work = Work(done.append, deaths.append, lambda: None)
        work.engine = FakeEngine()  # type: ignore[assignment]
        work.begin(asked)
        work.cancel(cancel)
        await asyncio.sleep(0.05)
        assert work.in_flight == 0
        return done, len(deaths)

    return asyncio.run(scenario())


def test_a_cancelled_request_is_answered_even_before_it_began() -> None:
    done, _ = outcomes(request("w", prompt="wait"), cancel=("w", "unknown"))
    assert [(f.id, f.kind) for f in done] == [("w", "cancelled")]


def test_a_bug_costs_one_answer_and_a_death_none() -> None:
    done, deaths = outcomes(request("b", prompt="bug"), request("d", prompt="die"), request("g"))
    assert {d.id: getattr(d, "kind", "ok") for d in done} == {"b": "engine", "g": "ok"}
    assert deaths == 1


# --- the words of the wire and of vLLM


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": None},
        {"prompt": "p", "messages": (ChatMessage("user", "m"),)},
        {"messages": ()},
        {"sampling": Sampling(regex="a", choices=("a",))},
    ],
)
def test_contradictions_are_named(fields: dict[str, Any]) -> None:
    assert translate.malformed(Request(id="r", attempt=1, **({"sampling": Sampling()} | fields)))
    assert translate.malformed(request()) is None


def test_the_window_is_for_prompt_and_answer() -> None:
    def failed(prompt_tokens: int, max_tokens: int | None) -> Failure | None:
        asked = request(sampling=Sampling(max_tokens=max_tokens))
        return translate.too_long(asked, prompt_tokens, 100)

    assert failed(99, None) is None
    assert failed(90, 10) is None
    assert failed(100, None) is not None
    both = failed(90, 11)
    assert both is not None
    assert "to 89 tokens" in both.detail
    assert "at most 10 (max_tokens)" in both.detail


def test_an_engine_error_is_the_constraints_fault_where_there_is_one() -> None:
    output = SimpleNamespace(outputs=[SimpleNamespace(finish_reason="error")])
    plain = translate.answer(request(), "p", output)
    constrained = translate.answer(request(sampling=Sampling(regex="a")), "p", output)
    assert isinstance(plain, Failure)
    assert isinstance(constrained, Failure)
    assert (plain.kind, constrained.kind) == ("engine", "bad_request")


def test_a_users_sampling_keywords_are_checked() -> None:
    assert as_sampling({"stop": "x", "max_tokens": None}) == Sampling(stop=("x",))
    with pytest.raises(ValueError, match="temprature"):
        as_sampling({"temprature": 1})
    with pytest.raises(ValueError, match="top_p"):
        as_sampling({"top_p": 7})


# --- tokens


class FakeTokenizer:
    chat_template = None
    calls = 0

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        self.calls += 1
        time.sleep(0.02)
        return {"input_ids": [[len(text)] for text in texts]}

    def __len__(self) -> int:
        return 10

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def test_prompts_that_arrive_together_are_encoded_together() -> None:
    tokenizer = FakeTokenizer()

    async def scenario() -> list[Any]:
        tokeniser = Tokeniser(tokenizer)
        asked = [request(str(i), prompt="x" * i) for i in range(50)]
        try:
            return await asyncio.gather(*map(tokeniser.encode, asked))
        finally:
            tokeniser.close()

    assert [ids for ids, _ in asyncio.run(scenario())] == [[i] for i in range(50)]
    assert tokenizer.calls <= 2


def test_one_bad_prompt_of_a_batch_fails_alone() -> None:
    async def scenario() -> list[Any]:
        tokeniser = Tokeniser(FakeTokenizer())
        asked = (
            request(messages=(ChatMessage("user", "x"),)),
            request(prompt="four"),
            request(prompt_token_ids=(1, 99)),
            request(prompt_token_ids=(1, 2)),
        )
        work = [tokeniser.encode(r) for r in asked]
        return await asyncio.gather(*work, return_exceptions=True)

    no_template, text, unknown, ids = asyncio.run(scenario())
    assert "chat template" in str(no_template)
    assert text == ([4], "four")
    assert "99" in str(unknown)
    assert ids == ([1, 2], "1 2")


SAID = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.mark.parametrize(("own", "seen"), [(None, "plain: x"), (f"own: {SAID}", "own: x")])
def test_a_model_with_several_templates_is_asked_with_its_default(
    tmp_path: Path, own: str | None, seen: str
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra for local workers")
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"x": 0, "<unk>": 1}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    named = [
        {"name": "default", "template": f"plain: {SAID}"},
        {"name": "tool_use", "template": f"tools: {SAID}"},
    ]
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": named}))
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)

    async def scenario() -> tuple[list[int], str]:
        tokeniser = Tokeniser(tokenizer, own)
        try:
            return await tokeniser.encode(request(messages=(ChatMessage("user", "x"),)))
        finally:
            tokeniser.close()

    assert asyncio.run(scenario())[1] == seen


# --- the process


def test_an_idle_engine_has_no_slow_step() -> None:
    clock = StepClock()
    time.sleep(0.02)
    assert clock.age_s() == 0
    with clock.in_flight():
        assert clock.age_s() < 0.02
        clock.step(3, 1)
    assert (clock.prompt_tokens, clock.completion_tokens) == (3, 1)


def test_the_environment_comes_back() -> None:
    before = dict(os.environ)
    with process.temporary_environment({"PATH": "x", "DISTILL_NEW": "1"}):
        os.environ["ADDED_INSIDE"] = "1"
    assert dict(os.environ) == before


def test_scratch_paths_are_short(tmp_path: Any) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    scratch = process.make_scratch(deep)
    assert len(scratch) <= process.SCRATCH_LIMIT_CHARS
    os.rmdir(scratch)  # noqa: PTH106


def test_a_process_ends_with_its_owner() -> None:
    """As in vLLM's EngineCore, whose owner may be killed with SIGKILL."""
    with subprocess.Popen(["sleep", "60"]) as owner:
        watcher = subprocess.Popen(
            [sys.executable, "-c", f"import {inside.__name__}, time; print(1); time.sleep(60)"],
            env=os.environ | {inside.OWNER_VARIABLE: str(owner.pid)},
            stdout=subprocess.PIPE,
        )
        with watcher:
            assert watcher.stdout is not None
            watcher.stdout.readline()
            owner.kill()
            owner.wait()
            assert watcher.wait(timeout=5) == -9


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--connect", "ipc://x"],
        ["--connect", "ipc://x", "--worker", "w", "--gpu", "0", "--cores", "1"],
        ["--connect", "ipc://x", "--worker", "w", "--slots", "0"],
        ["--connect", "ipc://x", "--worker", "w", "--engine", "[1]"],
    ],
)
def test_bad_arguments_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2


def test_arguments() -> None:
    parsed = parse(["--connect", "ipc://x", "--worker", "w", "--cores", "0-2,5"])
    assert parsed.cores == (0, 1, 2, 5)


def test_nothing_heavy_is_imported_before_the_driver_is_greeted() -> None:
    code = "import sys, distill.worker_server.server as s; print([m for m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert not [name for name in ("torch", "vllm", "transformers") if f"'{name}'" in printed]
