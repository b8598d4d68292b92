"""Synthetic runs: log folders as a driver writes them, of any number of calls.

    PYTHONPATH=. .venv/bin/python bench/logs_runs.py FOLDER CALLS

A line of worker.jsonl has some 2 kB: a prompt with a passage of the text, the token ids of prompt
and answer. Every line is valid, every join holds, and every chunk stands in the text where its line
says (``distill doctor FOLDER``).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.supervisor.journal import Journal
from distill.traces import records

RUN = "20260101-000000-bench1"
BEGAN_T = 1_767_225_600.0
QUESTION = "What is told of the lamp?"
INSTRUCTION = "\n\nWhat does this passage say of the lamp? Answer in one sentence."
WORDS = "in the year of lamp was lit again and they read by its light until dawn came".split()
DRIVER = records.Producer("driver", "driver", 4242)
SERVERS = tuple(records.Producer("worker_server", f"worker-{n}", 4250 + n) for n in range(4))
MODEL = records.Model(
    "smollm2-135m-instruct",
    *("5f" * 32, "a1" * 32, "c7" * 32),
    dtype="bfloat16",
    device="cpu",
    engine="vllm",
    engine_version="0.11.0",
    window_tokens=8192,
    logprobs_mode="raw_logprobs",
)
WRITE_CALLS = 500
"""Lines in one write: what a driver may receive at once."""
TOKEN_CHARS = 4.3
ID_LIMIT = 49_152
ANSWER_TOKENS = 12


def text_of(chars: int, seed: int = 7) -> str:
    """A text whose lines all differ, of prose's length."""
    drawn = random.Random(seed).choices(WORDS, k=chars // 3)
    lines = (f"{at} {' '.join(drawn[at : at + 15])}" for at in range(0, len(drawn), 15))
    return "\n".join(lines)[:chars]


def write_run(
    folder: Path,
    calls: int,
    *,
    run: str = RUN,
    label: str | None = None,
    context_chars: int = 2_000_000,
    prompt_chars: int = 320,
    batch_calls: int = 1000,
    turn_calls: int = 5000,
    ids: bool = True,
    logprobs: bool = False,
) -> None:
    """Append a finished run of ``calls`` worker calls to a log folder, which it makes if need be.

    Each turn has one cell, of at most ``turn_calls`` in batches of ``batch_calls``; the last calls
    FINAL. Raises InputError where another process writes to the folder.
    """
    text = text_of(context_chars)
    journal = Journal(folder)
    try:
        context, _ = journal.store_context(text)
        writer = _Writer(journal, run, text, context)
        writer.begin(label)
        turns = max(1, -(-calls // turn_calls))
        for turn in range(1, turns + 1):
            asked = min(turn_calls, calls - (turn - 1) * turn_calls)
            batches = [min(batch_calls, asked - at) for at in range(0, asked, batch_calls)]
            writer.reply(turn, len(batches))
            for call, items in enumerate(batches, 1):
                writer.batch(turn, call, items, prompt_chars, ids=ids, logprobs=logprobs)
            writer.cell(turn, is_last=turn == turns)
        writer.end(turns, calls)
    finally:
        journal.close()


class _Writer:
    """The records of one run; its clock goes on by a millisecond a record."""

    def __init__(self, journal: Journal, run: str, text: str, context: records.ContextRef) -> None:
        self._journal, self._run = journal, run
        self._text, self._context = text, context
        self._chance = random.Random(run)
        self._records = self._messages = 0

    def _stamp(self, producer: records.Producer = DRIVER) -> dict[str, Any]:
        self._records += 1
        return {"t": BEGAN_T + self._records / 1e3, "run": self._run, "producer": producer}

    def begin(self, label: str | None) -> None:
        """The run, its processes, and what its supervisor was told."""
        start = records.RunStart(
            **self._stamp(),
            query=QUESTION,
            context=self._context,
            supervisor="scripted",
            worker=MODEL.model,
            options={"max_iterations": 100, "record": "ids"},
            versions={"schema": str(records.SCHEMA_VERSION)},
            label=label,
        )
        named = [records.Process(**self._stamp(each)) for each in (DRIVER, *SERVERS)]
        opening = [self._message(0, "system", "Write Python."), self._message(0, "user", QUESTION)]
        self._journal.supervisor(start, *named, *opening)
        self._journal.worker(named)

    def _message(self, turn: int, role: Any, content: str) -> records.Message:
        self._messages += 1
        return records.Message(
            **self._stamp(), index=self._messages - 1, turn=turn, role=role, content=content
        )

    def reply(self, turn: int, batches: int) -> None:
        """What the supervisor wrote in this turn."""
        code = "\n".join(f"print(worker_batch(passages({n})))" for n in range(batches))
        request = self._messages
        reply = self._message(turn, "assistant", f"```repl\n{code}\n```")
        told = records.Turn(
            **self._stamp(),
            turn=turn,
            request_messages=request,
            reply_index=reply.index,
            model="scripted",
            usage=records.TokenUsage(900 * turn, 60),
            elapsed_s=1.5,
            cells=1,
        )
        self._journal.supervisor(reply, told)

    def batch(
        self, turn: int, call: int, items: int, prompt_chars: int, *, ids: bool, logprobs: bool
    ) -> None:
        """The calls of one batch, as they come back, and its end."""
        lines = self._calls(turn, call, items, prompt_chars, ids=ids, logprobs=logprobs)
        for at in range(0, items, WRITE_CALLS):
            self._journal.worker([next(lines) for _ in range(min(WRITE_CALLS, items - at))])
        ended = records.Batch(
            **self._stamp(),
            cell=turn,
            call=call,
            function="worker_batch",
            items=items,
            failed=0,
            elapsed_s=items / 1e3,
            key=f"{turn:032x}{call:032x}",
        )
        self._journal.supervisor(ended)

    def _calls(
        self, turn: int, call: int, items: int, prompt_chars: int, *, ids: bool, logprobs: bool
    ) -> Iterator[records.Call]:
        chance, text = self._chance, self._text
        for item in range(items):
            start = chance.randrange(max(1, len(text) - prompt_chars))
            passage = text[start : start + prompt_chars]
            prompt = passage + INSTRUCTION
            seen = self._ids(round(len(prompt) / TOKEN_CHARS))
            drawn = self._ids(ANSWER_TOKENS)
            chances = tuple(round(-chance.expovariate(2), 6) for _ in drawn)
            yield records.Call(
                **self._stamp(SERVERS[item % len(SERVERS)]),
                id=f"{self._run}-{turn}.{call}.{item}",
                turn=turn,
                cell=turn,
                call=call,
                item=item,
                function="worker_batch",
                attempt=1,
                prompt=prompt,
                response=f" The lamp of place {start} was lit again.",
                finish_reason="stop",
                usage=records.TokenUsage(len(seen), len(drawn), len(seen) // 16 * 16),
                sampling={"max_tokens": 32, "record": "ids"},
                model=MODEL,
                message_spans=(records.MessageSpan("user", 0, len(prompt)),),
                prompt_token_ids=seen if ids else None,
                token_ids=drawn if ids else None,
                logprobs=chances if ids and logprobs else None,
                spans=(records.Span(start, start + len(passage), 0),),
                context_sha256=self._context.sha256,
                queue_s=round(chance.random() / 10, 6),
                compute_s=round(chance.random() / 5, 6),
                total_s=round(0.3 + chance.random() / 5, 6),
                gpu_s=0.004,
            )

    def _ids(self, count: int) -> tuple[int, ...]:
        return tuple(self._chance.choices(range(ID_LIMIT), k=count))

    def cell(self, turn: int, *, is_last: bool) -> None:
        """The cell of this turn has ended, and the model was told what it printed."""
        code = "print(worker_batch(passages()))" + ("\nFINAL('It was lit.')" if is_last else "")
        ended = records.Cell(
            **self._stamp(),
            turn=turn,
            cell=turn,
            code=code,
            status="final" if is_last else "ok",
            stdout="[' The lamp was lit again.', …]\n",
            stderr="",
            elapsed_s=5.0,
            cpu_s=0.1,
        )
        self._journal.supervisor(ended)
        if is_last:
            self._journal.supervisor(records.Final(**self._stamp(), cell=turn, value="It was lit."))
        else:
            self._journal.supervisor(self._message(turn, "user", "It printed: …"))

    def end(self, turns: int, calls: int) -> None:
        """The run has ended."""
        self._journal.supervisor(
            records.RunEnd(
                **self._stamp(),
                status="final",
                answer="It was lit.",
                iterations=turns,
                supervisor_usage=records.TokenUsage(450 * turns * (turns + 1), 60 * turns),
                worker_usage=records.TokenUsage(170 * calls, ANSWER_TOKENS * calls),
                worker_calls=calls,
                elapsed_s=calls / 1e3,
            )
        )


if __name__ == "__main__":
    write_run(Path(sys.argv[1]), int(sys.argv[2]))
