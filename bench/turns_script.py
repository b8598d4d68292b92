"""What all contestants of bench/turns do: small cells, each with two worker calls.

The model is an endpoint in a process of its own (``python turns_script.py LATENCY_S``, which says
its port): the supervisor replies after LATENCY_S with the next cell, the worker at once.
"""

from __future__ import annotations

import re
import sys
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from model_endpoint import handler_of

TEXT = Path(__file__).parent.parent / "examples" / "kjv.txt"
TEXT_CHARS = 100_000
QUESTION = "What is each passage about? Take {turns} turns."
TURNS = re.compile(r"Take (\d+) turns")
WORKER_CALLS = 2
"""Of each cell, in one batch."""
WORKER = "worker"
DIALECTS = {
    "distill": ("worker_batch", "FINAL({value})"),
    "rlms": ("llm_query_batched", 'answer["content"] = {value}\nanswer["ready"] = True'),
}
"""By the supervisor's model name: what asks the workers, and how the answer is given."""
FIRST = "import time\nbegan_s = time.process_time()\n"
CELL = """\
start = {turn} * 1000
prompts = [context[start + 400 * n : start + 400 * n + 400] for n in range({calls})]
answers = {batch}([f"{{prompt}}\\nName one word of it." for prompt in prompts])
print({turn}, sum(len(each) for each in prompts), answers)
"""
LAST = "time.process_time() - began_s"
"""The answer: what the cells between the first and the last have cost, in processor seconds."""


def text() -> str:
    """What is asked about."""
    return TEXT.read_text("utf-8")[:TEXT_CHARS]


def cell(dialect: str, turn: int, turns: int) -> str:
    """The code of a turn, of ``turns``; the last one gives the answer."""
    batch, final = DIALECTS[dialect]
    if turn == turns - 1:
        return final.format(value=LAST)
    code = CELL.format(turn=turn, calls=WORKER_CALLS, batch=batch)
    return FIRST + code if turn == 0 else code


def prompts(source: str, turn: int) -> list[str]:
    """What the cell of a turn asks the worker."""
    starts = [1000 * turn + 400 * n for n in range(WORKER_CALLS)]
    return [f"{source[start : start + 400]}\nName one word of it." for start in starts]


def reply(request: dict[str, Any], latency_s: float) -> str:
    """The next cell of a conversation in the dialect of its model's name."""
    if request["model"] == WORKER:
        return "heaven"
    said = [each["content"] for each in request["messages"] if each["role"] == "assistant"]
    asked = [each["content"] for each in request["messages"] if each["role"] == "user"]
    turns = next(found for found in map(TURNS.search, asked) if found)
    turn = sum("```repl" in each for each in said)
    time.sleep(latency_s)
    return f"Next.\n\n```repl\n{cell(request['model'], turn, int(turns[1]))}\n```"


class Server(ThreadingHTTPServer):
    """A thread a connection."""

    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients go when they have what they asked for."""


def serve(latency_s: float) -> None:
    """Answer until killed."""
    server = Server(("127.0.0.1", 0), handler_of(lambda request: reply(request, latency_s)))
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(float(sys.argv[1]))
