"""Trajectories: as the specification of ATIF says, and held against the log they come from."""

import json
from pathlib import Path
from typing import Any

import atif
import jsonschema
import pytest

from distill import export, run
from distill.errors import WindowError
from distill.traces import Run, read
from tests.distill.scripted import SMALL, Supervisor, Worker, cell, run_bounded

ABOVE = (
    "Let me look.\n" + cell("print('<|im_end|>')\n1 / 0") + "\n" + cell("never = 1"),
    "No code here.",
    cell("a = worker_batch(['x', 'y'])")
    + "\n"
    + cell("b = supervisor('And below?', 'a part')\nprint(b)"),
    cell("FINAL({'a': a, 'b': b})"),
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a failed cell, a reply without code, a sub-run; one forced; one shortened."""
    folder = tmp_path_factory.mktemp("atif") / "log"

    def reply(messages: Any) -> str:
        if "And below?" in messages[1]["content"]:
            return cell("FINAL('below')")
        return ABOVE[sum(message["role"] == "assistant" for message in messages)]

    options: dict[str, Any] = {"log_dir": folder, "limits": SMALL}
    above = Supervisor(*[reply] * 9)
    with_sub_run = {"primitives": {"supervisor": "supervisor"}, "label": "deep", **options}
    run_bounded(lambda: run("What?", "the text", above, Worker(), **with_sub_run), 60)
    wordy = Supervisor("Nothing.", "It is seven.")
    run_bounded(lambda: run("How?", "the text", wordy, Worker(), max_iterations=1, **options), 60)
    prints = [cell(f"print('{number} ' * 500)") for number in range(5)]
    long = Supervisor(*prints, WindowError("it does not fit"), cell("FINAL(5)"))
    run_bounded(lambda: run("How long?", "the text", long, Worker(), **options), 60)
    return folder


@pytest.fixture(scope="module")
def documents(log: Path) -> list[dict[str, Any]]:
    export(log, log.parent / "out", format="atif")
    lines = (log.parent / "out" / "train.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


TEXT = {"type": ["string", "null"]}
ANY = {"type": ["object", "null"]}
COUNT = {"type": ["integer", "null"], "minimum": 0}
IDS = {"type": ["array", "null"], "items": {"type": "integer"}}
NUMBER = {"type": ["number", "null"]}


def an_object(required: str, optional: dict[str, Any], **known: Any) -> dict[str, Any]:
    """A JSON object with these fields and no others; those of ``required`` are texts or known."""
    own = {name: known.get(name, {"type": "string"}) for name in required.split()}
    return {
        "type": "object",
        "properties": {**own, **optional},
        "required": list(own),
        "additionalProperties": False,
    }


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def a_list(schema: dict[str, Any], **rules: Any) -> dict[str, Any]:
    return {"type": "array", "items": schema, **rules}


METRICS = an_object("", {
    "prompt_tokens": COUNT, "completion_tokens": COUNT, "cached_tokens": COUNT, "cost_usd": NUMBER,
    "prompt_token_ids": IDS, "completion_token_ids": IDS, "extra": ANY,
    "logprobs": {"type": ["array", "null"], "items": {"type": "number"}},
})  # fmt: skip
TOOL_CALL = an_object(
    "tool_call_id function_name arguments", {"extra": ANY}, arguments={"type": "object"}
)
REFERENCE = an_object(
    "", {"trajectory_id": TEXT, "session_id": TEXT, "trajectory_path": TEXT, "extra": ANY}
)
RESULT = an_object("", {
    "source_call_id": TEXT, "content": TEXT, "extra": ANY,
    "subagent_trajectory_ref": or_null(a_list(REFERENCE)),
})  # fmt: skip
STEP = an_object(
    "step_id source message",
    {
        "timestamp": TEXT, "model_name": TEXT, "reasoning_effort": {}, "reasoning_content": TEXT,
        "tool_calls": or_null(a_list(TOOL_CALL)), "metrics": or_null(METRICS), "extra": ANY,
        "observation": or_null(an_object("results", {}, results=a_list(RESULT))),
        "is_copied_context": {"type": ["boolean", "null"]}, "llm_call_count": COUNT,
    },
    step_id={"type": "integer", "minimum": 1},
    source={"enum": ["system", "user", "agent"]},
)  # fmt: skip
DOCUMENT = an_object(
    "schema_version agent steps",
    {
        "session_id": TEXT, "trajectory_id": TEXT, "notes": TEXT, "extra": ANY,
        "continued_trajectory_ref": TEXT, "subagent_trajectories": {},
        "final_metrics": or_null(an_object("", {
            "total_prompt_tokens": COUNT, "total_completion_tokens": COUNT, "extra": ANY,
            "total_cached_tokens": COUNT, "total_cost_usd": NUMBER, "total_steps": COUNT,
        })),
    },
    schema_version={"const": "ATIF-v1.7"},
    agent=an_object("name version", {
        "model_name": TEXT, "extra": ANY,
        "tool_definitions": {"type": ["array", "null"], "items": {"type": "object"}},
    }),
    steps=a_list(STEP, minItems=1),
)  # fmt: skip
"""What Harbor's RFC 0001 says of version 1.7, as JSON Schema: its tables of fields."""
OF_AGENTS = ("model_name", "reasoning_content", "tool_calls", "metrics")


def test_documents_are_as_the_specification_says(documents: list[dict[str, Any]]) -> None:
    check = jsonschema.Draft202012Validator(DOCUMENT)
    for document in documents:
        assert [error.message for error in check.iter_errors(document)] == []
        assert [step["step_id"] for step in document["steps"]] == list(
            range(1, len(document["steps"]) + 1)
        )
        for step in document["steps"]:
            assert step["source"] == "agent" or not any(step[name] for name in OF_AGENTS)
            called = {call["tool_call_id"] for call in step["tool_calls"] or ()}
            for result in (step["observation"] or {"results": []})["results"]:
                assert result["source_call_id"] in called


def test_the_models_that_others_made_of_it_take_every_document(
    documents: list[dict[str, Any]],
) -> None:
    for document in documents:
        assert len(atif.Trajectory.model_validate(document).steps) == len(document["steps"])


def told(log: Path, document: dict[str, Any]) -> Run:
    return read(log).runs[document["trajectory_id"]]


def test_every_message_is_in_one_step(log: Path, documents: list[dict[str, Any]]) -> None:
    assert len(documents) == 4
    for document in documents:
        said = []
        for step in document["steps"]:
            if step["extra"]["context_management"] is not None:
                continue
            said.append(step["message"])
            for result in (step["observation"] or {"results": []})["results"]:
                said += [result["content"]] * (result["content"] is not None)
        assert said == [message.content for message in told(log, document).messages]


def test_a_reply_is_a_step_with_its_code_and_what_came_of_it(
    documents: list[dict[str, Any]],
) -> None:
    (above,) = (each for each in documents if each["extra"]["query"] == "What?")
    failed, wordless, asked, final = (s for s in above["steps"] if s["source"] == "agent")
    (call,) = failed["tool_calls"]
    assert call["arguments"] == {"cells": ["print('<|im_end|>')\n1 / 0"]}
    assert [each["status"] for each in call["extra"]["cells"]] == ["error"]
    (result,) = failed["observation"]["results"]
    assert result["source_call_id"] == call["tool_call_id"]
    assert "ZeroDivisionError" in result["content"]
    assert wordless["tool_calls"] is None
    assert above["steps"][wordless["step_id"]]["source"] == "user"
    assert len(asked["tool_calls"][0]["arguments"]["cells"]) == 2
    assert asked["tool_calls"][0]["extra"]["cells"][0]["worker_calls"] == 2
    (below,) = asked["observation"]["results"][0]["subagent_trajectory_ref"]
    assert below["trajectory_id"] in {each["trajectory_id"] for each in documents}
    assert final["observation"] is None
    assert json.loads(above["extra"]["answer"]) == {"a": ["<x>", "<y>"], "b": "below"}
    assert above["extra"]["status"] == "final"


def test_where_a_conversation_was_shortened_is_a_step(
    log: Path, documents: list[dict[str, Any]]
) -> None:
    (long,) = (each for each in documents if each["extra"]["query"] == "How long?")
    (cut,) = (step for step in long["steps"] if step["extra"]["context_management"] is not None)
    assert cut["source"] == "system"
    assert cut["extra"]["turn"] == 6
    assert long["steps"][cut["step_id"]]["extra"]["turn"] == 6
    (made,) = told(log, long).compactions
    assert cut["message"] == "\n\n".join(each["content"] for each in made.added)
    assert long["notes"].startswith("The conversation was shortened 1 time")


def test_sums_are_those_of_the_steps(log: Path, documents: list[dict[str, Any]]) -> None:
    for document in documents:
        end = told(log, document).end
        assert end is not None
        metrics = document["final_metrics"]
        assert metrics["total_prompt_tokens"] == end.supervisor_usage.input_tokens
        assert metrics["total_completion_tokens"] == end.supervisor_usage.output_tokens
        assert metrics["total_steps"] == len(document["steps"])
        assert metrics["extra"]["worker_calls"] == end.worker_calls
        assert document["steps"][-1]["extra"]["forced"] == (end.status == "forced")
