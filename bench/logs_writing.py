"""What logging an answer costs the driver: processor seconds of making its line, and of writing it.

``python logs_writing.py FOLDER ANSWERS IDS LINES``: the folder of the log, how many answers, with
token ids or not (1 or 0), and a file to leave the lines in for the anchors. Prints ``Wrote``.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from logs_runs import INSTRUCTION, MODEL, SERVERS, text_of

from distill.protocol import worker_link as wire
from distill.supervisor.answer_form import ONE_TEXT
from distill.supervisor.asked import Asked, logged_sampling
from distill.supervisor.call_lines import CallLines
from distill.supervisor.calls import NO_CALL
from distill.supervisor.journal import Journal
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.requests import Outcome
from distill.supervisor.run_log import RunLog
from distill.traces import records

AT_ONCE = 100
"""Answers in one write: 10,000 a second come a hundred at a time, every 10 ms."""
CALL_CHARS = 1000
"""Of prompt and answer together."""
PROMPT_IDS, ANSWER_IDS = 230, 12
CONTEXT_CHARS = 2_000_000


@dataclass
class Wrote:
    """Processor seconds for so many ``answers``, and the bytes of their lines.

    ``find_s`` of ``make_s`` is for the spans of the context.
    """

    answers: int
    find_s: float
    make_s: float
    write_s: float
    line_bytes: int


def outcome(number: int, passage: str, *, ids: bool) -> Outcome:
    """An answer of a worker server as it comes in."""
    messages = (wire.ChatMessage("user", passage + INSTRUCTION),)
    request = wire.Request(f"bench-1.{number}", 1, wire.Sampling(max_tokens=32), messages=messages)
    result = wire.Result(
        id=request.id,
        attempt=1,
        text=f" The lamp of place {number} was lit again.",
        finish_reason="stop",
        prompt_tokens=PROMPT_IDS,
        completion_tokens=ANSWER_IDS,
        before="<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n",
        prompt_token_ids=wire.pack_ids(range(number, number + PROMPT_IDS)) if ids else None,
        token_ids=wire.pack_ids(range(number, number + ANSWER_IDS)) if ids else None,
        queue_s=0.0123456,
        compute_s=0.2345678,
    )
    card = wire.ModelCard(
        **{name: getattr(MODEL, name) for name in wire.ModelCard.__struct_fields__}
    )
    return Outcome(request, result, None, card, SERVERS[0], 0.3456789, 0.004)


def main() -> None:
    """Make and write the lines of all answers, a hundred at a time."""
    folder, answers, ids = Path(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3]))
    text = text_of(CONTEXT_CHARS)
    chars = CALL_CHARS - len(INSTRUCTION) - 40
    starts = range(0, len(text) - chars, (len(text) - chars) // answers)
    outcomes = [
        outcome(number, text[start : start + chars], ids=ids)
        for number, start in zip(range(answers), starts, strict=False)
    ]
    record = "ids" if ids else "off"
    journal = Journal(folder)
    log = RunLog(journal, "20260101-000000-bench1")
    index = SpanIndex(text)
    begun_s = time.process_time()
    for each in outcomes:
        assert isinstance(each.result, wire.Result)
        index.spans(wire.seen_text(each.request, each.result))
    find_s = time.process_time() - begun_s
    made = CallLines(log, index, "9f" * 32, MODEL.model)
    asked = Asked(
        NO_CALL,
        "worker_batch",
        0,
        sampling=logged_sampling(wire.Sampling(max_tokens=32), record, None),
        model=None,
        form=ONE_TEXT,
        loop=asyncio.new_event_loop(),
    )
    make_s = write_s = 0.0
    for first in range(0, answers, AT_ONCE):
        begun_s = time.process_time()
        lines = [
            made.line(asked, item, each)
            for item, each in enumerate(outcomes[first : first + AT_ONCE])
        ]
        made_s = time.process_time()
        log.calls(lines)
        write_s += time.process_time() - made_s
        make_s += made_s - begun_s
    journal.close()
    path = folder / records.WORKER_LOG
    wrote = Wrote(answers, find_s, make_s, write_s, path.stat().st_size // answers)
    print(json.dumps(asdict(wrote)))
    shutil.copy(path, sys.argv[4])


if __name__ == "__main__":
    main()
