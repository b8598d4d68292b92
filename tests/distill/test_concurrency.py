"""Runs side by side: threads, loops, notebooks; cancelled ones; and whose usage is whose."""

import asyncio
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill import OpenAIHandler, RunResult, Usage, arun, run
from distill.errors import InputError
from distill.supervisor import background
from distill.traces import read, validate
from tests.distill.scripted import Endpoint, cell, completion, endpoint

ITEMS = 3


class Books:
    """What an endpoint charged to each run, which its texts name as RUN-…; each reply is unique."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._charged: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        self._replies = 0
        self.held = threading.Event()
        """Set: a worker that is asked to wait has been asked."""
        self.release = threading.Event()

    def answer(self, request: Mapping[str, Any]) -> Any:
        texts = " ".join(str(message["content"]) for message in request["messages"])
        (name,) = set(re.findall(r"RUN-\w+", texts)) or {"none"}
        role = str(request["model"])
        with self._lock:
            self._replies += 1
            used = 1000 + self._replies, 10 + self._replies
            self._charged[name, role].append(used)
        if role == "hand":
            if "WAIT" in texts:
                self.held.set()
                self.release.wait(20)
            text = f"seen {name}"
        elif len(request["messages"]) <= 2:
            text = cell(f"a = worker_batch([f'{{query}} {{i}}' for i in range({ITEMS})])\nprint(a)")
        else:
            text = cell("FINAL(a)")
        usage = {"prompt_tokens": used[0], "completion_tokens": used[1]}
        return completion(text, usage={**usage, "total_tokens": sum(used)})

    def charged(self, name: str, role: str) -> Usage:
        """All that one run was charged for one of its models."""
        used = self._charged[name, role]
        return Usage(sum(each[0] for each in used), sum(each[1] for each in used))


@contextmanager
def shared() -> Iterator[tuple[Books, Endpoint, OpenAIHandler, OpenAIHandler]]:
    """An endpoint, and the two handlers that all runs share."""
    books = Books()
    with endpoint(books.answer) as server:
        boss = OpenAIHandler("boss", base_url=server.url, api_key="none")
        hand = OpenAIHandler("hand", base_url=server.url, api_key="none")
        try:
            yield books, server, boss, hand
        finally:
            books.release.set()


def held_against_the_books(books: Books, name: str, result: RunResult) -> None:
    """A run's answer and usage are its own, to the token."""
    assert result.answer == [f"seen {name}"] * ITEMS
    assert result.supervisor_usage == books.charged(name, "boss")
    assert result.worker_usage == books.charged(name, "hand")
    assert result.worker_calls == ITEMS


def test_usage_never_leaks_between_runs_that_share_handlers(tmp_path: Path) -> None:
    """Four threads, and a loop with four more, all at once."""
    with shared() as (books, _, boss, hand):

        def from_thread(number: int) -> tuple[str, RunResult]:
            name = f"RUN-thread{number}"
            return name, run(name, "some text", boss, hand, log_dir=tmp_path / name)

        async def from_loop() -> list[tuple[str, RunResult]]:
            names = [f"RUN-task{number}" for number in range(4)]
            asked = [arun(name, "text", boss, hand, log_dir=tmp_path / name) for name in names]
            return list(zip(names, await asyncio.gather(*asked), strict=True))

        with ThreadPoolExecutor(5) as pool:
            loop = pool.submit(lambda: asyncio.run(from_loop()))
            results = [*pool.map(from_thread, range(4)), *loop.result()]
    assert len(results) == 8
    for name, result in results:
        held_against_the_books(books, name, result)
        (told,) = read(tmp_path / name).runs.values()
        assert told.end is not None
        assert told.end.worker_usage.input_tokens == result.worker_usage.input_tokens


def test_runs_may_share_a_log_folder(tmp_path: Path) -> None:
    with shared() as (books, _, boss, hand):

        async def ask() -> list[RunResult]:
            names = ("RUN-a", "RUN-b", "RUN-c")
            asked = (arun(name, "some text", boss, hand, log_dir=tmp_path) for name in names)
            return await asyncio.gather(*asked)

        for name, result in zip("abc", asyncio.run(ask()), strict=True):
            held_against_the_books(books, f"RUN-{name}", result)
    trace, problems = validate(tmp_path)
    assert (len(trace.runs), problems) == (3, [])


def test_run_inside_a_running_loop_waits_as_elsewhere(tmp_path: Path) -> None:
    with shared() as (books, _, boss, hand):

        async def ask() -> RunResult:
            return run("RUN-inside", "some text", boss, hand, log_dir=tmp_path)

        held_against_the_books(books, "RUN-inside", asyncio.run(ask()))


def test_an_error_reaches_who_awaits_it(tmp_path: Path) -> None:
    with shared() as (_, _, boss, hand), pytest.raises(InputError, match="empty"):
        asyncio.run(arun("", "some text", boss, hand, log_dir=tmp_path))


@pytest.mark.parametrize("way", ["cancel", "timeout"])
def test_a_cancelled_task_cancels_its_run_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(background, "CLEAN_UP_S", 60.0)  # however slow the machine is
    with shared() as (books, _, boss, hand):

        async def ask() -> RunResult:
            other = asyncio.create_task(
                arun("RUN-other", "some text", boss, hand, log_dir=tmp_path / "other")
            )
            work = arun("RUN-cut WAIT", "some text", boss, hand, log_dir=tmp_path / "cut")
            task = asyncio.create_task(work)
            await asyncio.to_thread(books.held.wait, 20)
            if way == "cancel":
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(task, 0.01)
            told, problems = validate(tmp_path / "cut")  # at once: it is complete by now
            (cut,) = told.runs.values()
            assert problems == []
            assert cut.end is not None
            assert cut.end.status == "cancelled"
            return await other

        held_against_the_books(books, "RUN-other", asyncio.run(ask()))
        again = run("RUN-again", "some text", boss, hand, log_dir=tmp_path / "again")
        held_against_the_books(books, "RUN-again", again)


def test_a_task_that_is_cancelled_before_its_first_step(tmp_path: Path) -> None:
    with shared() as (books, _, boss, hand):

        async def ask() -> None:
            task = asyncio.create_task(arun("RUN-x", "text", boss, hand, log_dir=tmp_path))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(ask())
        assert books.charged("RUN-x", "hand") == Usage(0, 0)


SCRIPT = """
import asyncio, sys, threading
from pathlib import Path
from distill import OpenAIHandler, arun, run
from distill.supervisor import background

background.CLEAN_UP_S = 60.0
url, folder = sys.argv[1:]
boss = OpenAIHandler("boss", base_url=url, api_key="none")
hand = OpenAIHandler("hand", base_url=url, api_key="none")
print(run("RUN-plain", "text", boss, hand, log_dir=f"{folder}/1").answer)


async def main():
    print((await arun("RUN-awaited", "text", boss, hand, log_dir=f"{folder}/2")).answer)
    asyncio.create_task(arun("RUN-left WAIT", "text", boss, hand, log_dir=f"{folder}/3"))
    while not Path(f"{folder}/3/worker.jsonl").exists():
        await asyncio.sleep(0.05)


asyncio.run(main())
"""


@pytest.mark.slow
def test_a_script_ends_with_its_runs(tmp_path: Path) -> None:
    """Also with one that nobody awaits any more: its trace is complete, and no process stays."""
    with shared() as (_, server, _, _):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        command = [sys.executable, str(script), server.url, str(tmp_path)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=60, env=environment()
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(["seen RUN-plain"] * 3), str(["seen RUN-awaited"] * 3)]
    _, problems = validate(tmp_path / "3")
    assert problems == []


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}


# -- a notebook


class Notebook:
    """A real IPython kernel, asked as a notebook asks it."""

    def __init__(self) -> None:
        from jupyter_client.manager import start_new_kernel

        self._manager, self._client = start_new_kernel(
            startup_timeout=60, kernel_name="python3", env=environment()
        )
        self._is_closed = False
        self.pid = int(self.run("import os; os.getpid()"))

    def send(self, code: str) -> str:
        """Begin a cell."""
        return str(self._client.execute(textwrap.dedent(code)))

    def result(self, cell_id: str, timeout_s: float = 40.0) -> str:
        """What came of the cell: its last value as text, or the error's name and text."""
        came, end_s = "", time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            message = self._client.get_iopub_msg(timeout=timeout_s)
            if message["parent_header"].get("msg_id") != cell_id:
                continue
            content = message["content"]
            if message["msg_type"] == "execute_result":
                came = content["data"]["text/plain"]
            elif message["msg_type"] == "error":
                came = f"{content['ename']}: {content['evalue']}"
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return came
        raise AssertionError("the cell did not end")

    def run(self, code: str) -> str:
        return self.result(self.send(code))

    def interrupt(self) -> None:
        """As the button with the square does."""
        self._manager.interrupt_kernel()

    def close(self) -> None:
        """End it; it may be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._client.stop_channels()
            self._manager.shutdown_kernel(now=False)


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    book = Notebook()
    yield book
    book.close()


def test_a_notebook(tmp_path: Path, notebook: Notebook) -> None:
    """``await arun``, plain ``run``, the stop button; and nothing stays behind."""
    with shared() as (books, server, _, _):
        notebook.run(
            f"""
            import distill
            from distill.supervisor import background
            background.CLEAN_UP_S = 60.0
            boss = distill.OpenAIHandler("boss", base_url={server.url!r}, api_key="none")
            hand = distill.OpenAIHandler("hand", base_url={server.url!r}, api_key="none")
            folder = {str(tmp_path)!r}
            """
        )
        awaited = "await distill.arun('RUN-a', 'text', boss, hand, log_dir=folder + '/a')"
        assert notebook.run(f"({awaited}).answer") == str(["seen RUN-a"] * 3)
        plain = "distill.run('RUN-b', 'text', boss, hand, log_dir=folder + '/b').answer"
        assert notebook.run(plain) == str(["seen RUN-b"] * 3)
        for place, ask in (("e", "distill.run"), ("f", "await distill.arun")):
            books.held.clear()
            cell_id = notebook.send(
                f"{ask}('RUN-{place} WAIT', 'text', boss, hand, log_dir=folder + '/{place}')"
            )
            assert books.held.wait(30)
            notebook.interrupt()
            assert re.match(r"KeyboardInterrupt|CancelledError", notebook.result(cell_id))
            (told,) = read(tmp_path / place).runs.values()
            assert told.end is not None
            assert told.end.status == "cancelled"
        assert (
            notebook.run(plain.replace("RUN-b", "RUN-g").replace("/b", "/g"))[2:12] == "seen RUN-g"
        )
        children = psutil.Process(notebook.pid).children(recursive=True)
        assert children
    notebook.close()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
