"""A run that does everything, over HTTP: to be done again, cut off, and held against its log."""

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from distill import OpenAIHandler, RunResult, run
from distill.supervisor.recording import ADDRESS
from distill.traces import Run, read
from tests.distill.scripted import Endpoint, Reply, cell, endpoint, prompt_of

CONTEXT = "The quick brown fox jumps over the lazy dog, again and again and again. " * 50
QUESTION = "What did they say?"
CELLS = [
    "import random\nfrom concurrent.futures import ThreadPoolExecutor\ntotal, notes = [], {}",
    "total += worker_batch([f'a{i} ' + context[i * 9:i * 9 + 80] for i in range(80)])",
    "with ThreadPoolExecutor(4) as pool: total += pool.map(worker, [f'b{i}' for i in range(24)])",
    "draws = [worker('same', temperature=1.0) for _ in range(5)]\nprint(draws)",
    "notes['k'] = look('k', n=2)\ntry: fail('me')\nexcept PrimitiveError as e: notes['e'] = str(e)",
    "n = 1\nopen('/tmp/notes', 'w').write('one')\n1 / 0",
    "lost = worker_batch([f'c{i}' for i in range(10)])\nimport os\nos._exit(7)",
    "lost = worker_batch([f'c{i}' for i in range(10)])\nkill_the_jail()",
    "total += worker_batch([f'c{i}' for i in range(10)])\nlucky = random.random()",
    """\
try: total += worker_batch([*(f'd{i}' for i in range(90)), 'bad'])
except WorkerBatchError as error: total += [a for a in error.answers if a]; told = str(error)""",
    "import threading, time\nleft = 1\nthreading.Thread(target=time.sleep, args=(1,)).start()",
    "import os\nos._exit(7)",
    "class Point: pass\ndef double(x): return 2 * x\np, kept = Point(), 'left' in globals()\np",
    "FINAL([total, sorted(draws), notes, n, open('/tmp/notes').read(), lucky, told, kept])",
]
CALLS = 80 + 24 + 5 + 10 + 90 + 1
"""That were paid for: cells 8 and 9 got what cell 7 had got, before it was killed."""


class Two:
    """Both models behind HTTP: what each was asked is in its endpoint's ``requests``."""

    def __init__(self, boss: Endpoint, hand: Endpoint) -> None:
        self.boss, self.hand = boss, hand

    def prompts(self) -> Counter[str]:
        """How often the worker was asked each prompt."""
        return Counter(map(prompt_of, self.hand.requests))


def scripted_reply(cells: list[str]) -> Callable[[Mapping[str, Any]], str]:
    """The next cell of those not yet written, by the conversation."""

    def reply(request: Mapping[str, Any]) -> str:
        said = sum(message["role"] == "assistant" for message in request["messages"])
        return cell(cells[min(said, len(cells) - 1)])

    return reply


def echoed(request: Mapping[str, Any]) -> Any:
    """A worker that answers equal prompts alike, and refuses one."""
    if prompt_of(request) == "bad":
        return Reply({"error": {"message": "this prompt is bad"}}, status=400)
    return f"<{prompt_of(request)[:9]}>"


def spoken(prefix: str = "") -> Callable[[Mapping[str, Any]], Any]:
    """One that answers equal prompts with different words."""
    numbers, lock = itertools.count(1), threading.Lock()

    def answer(request: Mapping[str, Any]) -> Any:
        said = echoed(request)
        with lock:
            return said if isinstance(said, Reply) else f"{prefix}{next(numbers)} {said}"

    return answer


@contextlib.contextmanager
def two(cells: list[str] = CELLS, prefix: str = "") -> Iterator[Two]:
    with endpoint(scripted_reply(cells)) as boss, endpoint(spoken(prefix)) as hand:
        yield Two(boss, hand)


class Functions:
    """Primitives of the run; ``called`` counts what they did."""

    def __init__(self) -> None:
        self.called: Counter[str] = Counter()

    def given(self) -> dict[str, Callable[..., Any]]:
        return {"look": self.look, "fail": self.fail, "kill_the_jail": self.kill_the_jail}

    def look(self, key: str, n: int = 1) -> dict[str, list[str]]:
        self.called["look"] += 1
        return {"key": [key] * n}

    def fail(self, what: str) -> None:
        self.called["fail"] += 1
        raise ValueError(f"no {what}")

    def kill_the_jail(self) -> str:
        """As another process would: from outside, in the middle of a cell."""
        self.called["kill_the_jail"] += 1
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.name() == "python3":
                    child.kill()
        return "killed"


def asked_of(url: str) -> OpenAIHandler:
    """The model of this endpoint."""
    return OpenAIHandler("scripted", url, "none")


def record(boss: str, hand: str, folder: Path, functions: Functions) -> RunResult:
    """The whole run, with the models at these addresses."""
    return run(
        QUESTION, CONTEXT, asked_of(boss), asked_of(hand), log_dir=folder, max_iterations=20,
        primitives=functions.given(), worker_options={"max_tokens": 50},
    )  # fmt: skip


def the_run(folder: Path) -> Run:
    (only,) = read(folder).runs.values()
    return only


def cells_of(told: Run) -> list[tuple[Any, ...]]:
    """What came of each cell, the times left out."""
    return [
        (c.turn, c.cell, c.code, c.status, ADDRESS.sub("", c.stdout), c.stderr, c.lost, c.variables,
         c.error and (c.error.name, c.error.message, c.error.traceback, c.error.line),
         c.blocked, c.restored and (c.restored.upto, c.restored.why, c.restored.lost_names))
        for c in told.cells
    ]  # fmt: skip


def calls_of(told: Run) -> Counter[Any]:
    """Every host call, with what it got; in threads their order is nobody's."""
    batches = {(b.cell, b.call): b.key for b in told.batches}
    found: Counter[Any] = Counter()
    for b in told.batches:
        found[b.cell, b.function, b.key, b.items, b.failed, b.error] += 1
    for c in told.calls:
        asked = tuple(m["content"] for m in c.messages or ())
        where = (c.cell, batches.get((c.cell, c.call)), c.item)
        found[(*where, c.prompt, asked, c.response, c.error and c.error.kind, c.spans)] += 1
    for p in told.primitives:
        found[p.cell, p.function, str(p.args), str(p.kwargs), str(p.value), p.error, p.key] += 1
    return found
