"""``--without-shots``: what a few-shot prompt was answered, as rows of the zero-shot prompt."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distill import export, run
from distill.cli import cli
from distill.errors import InputError
from distill.exports.asked import UNCUT, text_of
from distill.exports.formats import FORMATS
from distill.exports.row import Dropped
from distill.protocol import worker_link as wire
from distill.supervisor.call_lines import message_spans
from distill.traces import records
from tests.distill.scripted import SMALL, Supervisor, Worker, cell

Message = dict[str, str]
SHOT = [{"role": "user", "content": "A lamp?"}, {"role": "assistant", "content": "Lit."}]
ASKED = {"role": "user", "content": "A door, of oak?"}
RULE = {"role": "system", "content": "Be short."}
ABLE = {
    "worker-sft", "worker-sft-text", "openai-worker", "worker-preferences",
    "worker-preferences-text", "prompts", "prompts-text",
}  # fmt: skip


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with a zero-shot prompt, a few-shot one and a bare one."""
    folder = tmp_path_factory.mktemp("run")
    code = f"""\
asked = {SHOT * 3 + [ASKED]!r}
worker_batch([asked[-1:], asked], system={RULE["content"]!r})
FINAL(worker('bare', chat=False))"""
    worker = Worker(lambda prompt: f"It is shut: {prompt}")
    done = run("What?", "text", Supervisor(cell(code)), worker, log_dir=folder, limits=SMALL)
    assert done.status == "final"
    return folder


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["worker-sft", "prompts"])
def test_the_system_message_and_the_last_of_the_user_are_left(
    logs: Path, tmp_path: Path, kind: str
) -> None:
    export(logs, tmp_path / "all", format=kind)
    export(logs, tmp_path / "less", format=kind, without_shots=True)
    assert {len(row["prompt"]) for row in rows_in(tmp_path / "all")} == {2, 8}
    assert [row["prompt"] for row in rows_in(tmp_path / "less")] == (
        [[RULE, ASKED]] * (2 if kind == "worker-sft" else 1)  # of `prompts` each is there once
    )


def test_openai_reads_it_too(logs: Path, tmp_path: Path) -> None:
    export(logs, tmp_path / "out", format="openai-worker", without_shots=True)
    of_chats = [row["messages"] for row in rows_in(tmp_path / "out") if len(row["messages"]) > 2]
    assert [messages[:-1] for messages in of_chats] == [[RULE, ASKED]] * 2


def test_manifest_and_card_say_so(logs: Path, tmp_path: Path) -> None:
    for name, without in (("all", False), ("less", True)):
        export(logs, tmp_path / name, format="worker-sft", without_shots=without)
        told = json.loads((tmp_path / name / "manifest.json").read_text("utf-8"))
        assert told["options"]["without_shots"] is without
        card = (tmp_path / name / "README.md").read_text("utf-8")
        assert ("have lost the turns" in card) is without


def test_which_formats_take_it(logs: Path, tmp_path: Path) -> None:
    assert {name for name, each in FORMATS.items() if each.may_lose_shots} == ABLE
    for name in FORMATS.keys() - ABLE:
        with pytest.raises(InputError, match="--without-shots is for worker-sft, "):
            export(logs, tmp_path / "out", format=name, without_shots=True)
    assert not (tmp_path / "out").exists()


def test_the_flag(logs: Path, tmp_path: Path) -> None:
    words = ["export", str(logs), "-f", "worker-sft", "--without-shots", "-o", str(tmp_path / "o")]
    assert CliRunner().invoke(cli, words, standalone_mode=False).return_value == 0
    assert {len(row["prompt"]) for row in rows_in(tmp_path / "o")} == {2}


# -- the text that the model saw, by templates of three kinds


def chatml(messages: Sequence[Message]) -> str:
    """As SmolLM2's: it brings a system message of its own where there is none."""
    said = [*([] if messages[0]["role"] == "system" else [RULE]), *messages]
    turns = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in said)
    return f"{turns}<|im_start|>assistant\n"


def llama_2(messages: Sequence[Message]) -> str:
    """The system message stands in the first turn of the user."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = [each for each in messages if each["role"] != "system"]
    head = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    written = [
        f"<s>[INST] {head * (at == 0)}{each['content']} [/INST]"
        if each["role"] == "user"
        else f" {each['content']} </s>"
        for at, each in enumerate(turns)
    ]
    return "".join(written)


def mistral(messages: Sequence[Message]) -> str:
    """The system message stands in the last turn of the user."""
    system = "".join(each["content"] + "\n\n" for each in messages if each["role"] == "system")
    turns = [each for each in messages if each["role"] != "system"]
    written = [
        f"[INST] {system * (each is turns[-1])}{each['content']}[/INST]"
        if each["role"] == "user"
        else f" {each['content']}</s>"
        for each in turns
    ]
    return "".join(["<s>", *written])


def text_without_shots(prompt: str, messages: Sequence[Message]) -> str | Dropped:
    """Of a call of an engine that saw this prompt, logged as such a call is."""
    asked = tuple(wire.ChatMessage(each["role"], each["content"]) for each in messages)
    call = records.Call(
        t=0.0, producer=records.Producer("driver", "driver", 1), run="r", id="r-1", turn=1, cell=1,
        call=1, item=0, function="worker", attempt=1, prompt=prompt, response="Shut.",
        finish_reason="stop", usage=records.TokenUsage(9, 2), sampling={},
        model=records.Model("m", engine="vllm"), messages=tuple(messages),
        message_spans=message_spans(wire.Request("r", 1, wire.Sampling(), messages=asked), prompt),
    )  # fmt: skip
    return text_of(call, "worker-sft", shots=False)


TEMPLATES = [chatml, llama_2, mistral]


@pytest.mark.parametrize("system", [[], [RULE]], ids=["no system message", "a system message"])
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda each: str(each.__name__))
def test_the_text_is_what_the_template_makes_of_the_rest(
    template: Callable[[Sequence[Message]], str], system: list[Message]
) -> None:
    few, zero = [*system, *SHOT * 3, ASKED], [*system, ASKED]
    text = text_without_shots(template(few), few)
    if system and template is not chatml:  # the first turn is not like the last
        assert text == Dropped(UNCUT.format(name="worker-sft"))
    else:
        assert text == template(zero)
    assert text_without_shots(template(zero), zero) == template(zero)  # nothing to lose


def test_a_text_that_can_not_be_cut_is_dropped() -> None:
    few = [*SHOT, ASKED]
    stripped = chatml(few).replace("A lamp?", "A lamp")
    amid = [SHOT[0], SHOT[1], RULE, ASKED]
    for prompt, messages in ((stripped, few), (chatml(amid), amid)):
        assert text_without_shots(prompt, messages) == Dropped(UNCUT.format(name="worker-sft"))
