"""What a run writes grows with what was said in it, and holds each text once."""

import json
import random
from pathlib import Path
from typing import Any

from distill import run
from distill.protocol import worker_link as wire
from distill.supervisor.call_lines import message_spans
from distill.traces import read, records
from tests.distill.scripted import Supervisor, Worker, cell

CONTEXT_BYTES = 10_000_000
CALL_CHARS = 4000
CODE = """\
start = {turn} * 1_000_000
passages = [context[start + i * 40_000:][:{chars}] for i in range(20)]
answers = worker_batch([f'{{p}}\\n\\nWhat does this passage say of light?' for p in passages])
print(answers[0], len(context))"""


def long_text(bytes_wanted: int) -> str:
    """A text that does not repeat itself, in lines of prose's length."""
    words = "in the year of lamp was lit again and they read by its light until dawn came".split()
    drawn = random.Random(7).choices(words, k=bytes_wanted // 4)
    lines = (" ".join(drawn[place : place + 15]) for place in range(0, len(drawn), 15))
    return "\n".join(lines)[:bytes_wanted]


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes of supervisor.jsonl and the contexts, and of worker.jsonl."""
    contexts = sum(path.stat().st_size for path in (folder / records.CONTEXT_FOLDER).iterdir())
    supervisor = (folder / records.SUPERVISOR_LOG).stat().st_size
    return supervisor + contexts, (folder / records.WORKER_LOG).stat().st_size


def test_ten_turns_over_ten_megabytes(tmp_path: Path) -> None:
    codes = [CODE.format(turn=turn, chars=CALL_CHARS) for turn in range(9)]
    codes.append(f"{CODE.format(turn=9, chars=CALL_CHARS)}\nFINAL(len(answers))")
    boss = Supervisor(*map(cell, codes))
    worker = Worker(lambda prompt: f"It says that the lamp was lit in year {prompt[7:13]}.")
    result = run("What of light?", long_text(CONTEXT_BYTES), boss, worker, log_dir=tmp_path)
    assert (result.answer, result.iterations, result.worker_calls) == (20, 10, 200)
    whole, calls = sizes(tmp_path)
    assert whole > CONTEXT_BYTES
    assert whole <= 12_000_000
    (told,) = read(tmp_path).runs.values()
    said = sum(len(c.prompt.encode()) + len((c.response or "").encode()) for c in told.calls)
    assert said > 200 * CALL_CHARS
    assert calls <= 1.2 * said
    print(f"{whole:,} bytes beside {CONTEXT_BYTES:,}; {calls / said:.3f} of {said:,}")  # noqa: T201
    # Nothing is lost by it: what was asked is read back as it was.
    assert [c.messages for c in told.calls] == [
        ({"role": "user", "content": c.prompt},) for c in told.calls
    ]
    assert [c.prompt for c in told.calls] == worker.prompts


def test_the_supervisors_log_has_each_message_once(tmp_path: Path) -> None:
    """supervisor_distillation: messages were logged again in full at every step."""
    marks = [f"turn-{turn}-says-this" for turn in range(12)]
    codes = [f"print({mark!r} * 40)" for mark in marks] + ["FINAL(1)"]
    run("What?", "a text", Supervisor(*map(cell, codes)), Worker(), log_dir=tmp_path)
    lines = (tmp_path / records.SUPERVISOR_LOG).read_text().splitlines()
    for mark in marks:
        found = [json.loads(line)["type"] for line in lines if mark in line]
        assert sorted(found) == ["cell", "message", "message"]  # the reply, and what came of it


def request(*contents: str) -> wire.Request:
    messages = tuple(wire.ChatMessage("user", content) for content in contents)
    return wire.Request("r", 1, wire.Sampling(), messages=messages)


def test_messages_are_places_in_the_prompt_or_told_in_full() -> None:
    def read_back(contents: tuple[str, ...], prompt: str) -> list[str] | None:
        spans = message_spans(request(*contents), prompt)
        return None if spans is None else [prompt[span.start : span.end] for span in spans]

    for contents in (("hé", "", "you"), ("a", "a", "aa"), ("x" * 50, "x")):
        template = "".join(f"<user>{content}<end>" for content in contents)
        assert read_back(contents, template) == list(contents)
        assert read_back(contents, "\n".join(contents)) == list(contents)
    assert read_back((" padded ",), "<user>padded<end>") is None  # a template that strips
    assert read_back(("a", "b"), "b a") is None
    assert message_spans(wire.Request("r", 1, wire.Sampling(), prompt="bare"), "bare") is None


def test_lines_of_before_are_read_as_they_are(tmp_path: Path) -> None:
    run("What?", "a text", Supervisor(cell("FINAL(worker('hi'))")), Worker(), log_dir=tmp_path)
    log = tmp_path / records.WORKER_LOG
    lines: list[Any] = [json.loads(line) for line in log.read_text().splitlines()]
    assert "messages" not in lines[-1]
    assert lines[-1]["v"] == records.SCHEMA_VERSION
    del lines[-1]["message_spans"]
    lines[-1]["messages"] = [{"role": "user", "content": "hi"}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (told,) = read(tmp_path).runs.values()
    assert told.calls[0].messages == ({"role": "user", "content": "hi"},)
