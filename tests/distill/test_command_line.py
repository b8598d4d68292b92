"""The command line as a person uses it, and what bad input gets."""

import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from distill import run
from distill.cli import cli
from distill.errors import ModelError
from distill.traces import read, validate
from tests.distill.commands import (
    QUESTION,
    TEXT,
    Command,
    Done,
    command,
    command_beside,
    command_here,
    engine,
)
from tests.distill.scripted import (
    Endpoint,
    Reply,
    Supervisor,
    Worker,
    cell,
    endpoint,
    prompt_of,
)
from tests.supervisor.processes import below, environment, kill, left, wait_until


def answer(request: dict[str, Any]) -> str:
    """The worker: reads the passage, as badly as a small model."""
    passage = prompt_of(request).rsplit("Passage:", 1)[-1]
    return "Goliath" if "Goliath" in passage else "the sea"


def slowly(request: dict[str, Any]) -> str:
    time.sleep(0.4)
    return answer(request)


@pytest.fixture
def text(short: Path) -> Path:
    file = short / "text.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def worker() -> Iterator[Endpoint]:
    with endpoint(answer) as server:
        yield server


def of(server: Endpoint) -> tuple[str, ...]:
    return ("--worker-url", server.url, "--worker", "scripted")


def traces(short: Path) -> list[Path]:
    return [path.parent for path in (short / "distill").glob("*/supervisor.jsonl")]


# -- up with a question


def test_up_answers_and_leaves_nothing(short: Path, text: Path, worker: Endpoint) -> None:
    log = short / "log"
    done = command(short, "up", "-c", str(text), "-q", QUESTION, "--log-dir", str(log), *of(worker))
    assert done.code == 0, done.err
    assert done.out == "Goliath\n"
    for part in ("Evidence", "six cubits", "Votes", "Read", "Workers", "Time", str(log)):
        assert part in done.err
    trace, problems = validate(log)
    assert problems == []
    (told,) = trace.runs.values()
    assert told.answer == "Goliath"
    kinds = {process.producer.kind for process in told.processes}
    assert {"driver", "sandbox"} <= kinds
    for name in ("supervisor.jsonl", "worker.jsonl"):
        logged = (log / name).read_text()
        assert '"kind":"driver"' in logged
        assert '"kind":"sandbox"' in logged
    check = command(short, "doctor", str(log))
    assert check.code == 0
    assert "every line is valid" in check.out


@pytest.mark.parametrize("where", ["stdin", "folder", "several"])
def test_the_text_may_come_in_any_form(
    short: Path, text: Path, worker: Endpoint, where: str
) -> None:
    (short / "folder" / "deep").mkdir(parents=True)
    (short / "folder" / "deep" / "a.txt").write_text(TEXT)
    (short / "folder" / "b.txt").write_text("The rivers ran to the sea. " * 40)
    (short / "folder" / "c.bin").write_bytes(b"\0\1\2")
    words = {
        "stdin": ["-c", "-"],
        "folder": ["-c", str(short / "folder")],
        "several": ["-c", str(text), "-c", str(short / "folder" / "b.txt")],
    }[where]
    stdin = TEXT.encode() if where == "stdin" else None
    done = command(short, "up", *words, "-q", QUESTION, *of(worker), stdin=stdin)
    assert (done.code, done.out) == (0, "Goliath\n"), done.err


def test_an_api_supervisor_writes_the_code(short: Path, text: Path, worker: Endpoint) -> None:
    replies = [cell("print(len(context))"), cell("FINAL({'n': len(worker_batch(['a', 'b']))})")]
    with endpoint(lambda request: replies.pop(0)) as boss:
        done = command(
            short, "up", "-c", str(text), "-q", "How many?", "--supervisor", "scripted",
            "--base-url", boss.url, *of(worker), OPENAI_API_KEY="sk-canary",
        )  # fmt: skip
        assert (done.code, done.out) == (0, '{"n": 2}\n'), done.err
        assert boss.keys == ["Bearer sk-canary"] * 2
    (log,) = traces(short)
    logged = b"".join(path.read_bytes() for path in log.rglob("*") if path.is_file())
    assert b"sk-canary" not in logged


def test_limits_and_packages_of_a_run(short: Path, text: Path, worker: Endpoint) -> None:
    replies = [
        cell("x = bytearray(200 << 20)"),
        cell("import numpy\nFINAL(int(numpy.arange(4).sum()))"),
    ]
    with endpoint(lambda request: replies.pop(0)) as boss:
        done = command(
            short, "up", "-c", str(text), "-q", "How many?", "--supervisor", "scripted",
            "--base-url", boss.url, "--limit", "memory_bytes=150MiB", "--limit", "cell_s=20",
            "--sandbox-package", "numpy", *of(worker), OPENAI_API_KEY=None,
        )  # fmt: skip
        assert (done.code, done.out) == (0, "6\n"), done.err
        told = [message["content"] for message in boss.requests[-1]["messages"]]
        assert "and numpy " in told[0]
        assert "MemoryError" in told[-1]
    (log,) = traces(short)
    (ran,) = read(log).runs.values()
    assert ran.start is not None
    assert ran.start.options["limits"]["memory_bytes"] == 150 << 20
    assert ran.start.options["limits"]["cell_s"] == 20


def test_an_engines_limits_and_packages_are_those_of_its_runs(
    short: Path, text: Path, worker: Endpoint
) -> None:
    code = "import numpy\nx = bytearray(200 << 20)\nFINAL(int(numpy.arange(4).sum()))"
    own = ("--limit", "memory_bytes=150MiB", "--sandbox-package", "numpy")
    with endpoint(lambda request: cell(code)) as boss, engine(short, worker, *own) as up:
        ask = ["run", "-c", str(text), "-q", "How many?", "--supervisor", "scripted"]
        ask += ["--base-url", boss.url, "--max-iterations", "1"]
        assert Command(short, *ask).done().code == 5
        done = Command(short, *ask, "--limit", "memory_bytes=500MiB").done()  # its own counts
        assert (done.code, done.out) == (0, "6\n"), done.err
        refused(Command(short, *ask, "--limit", "memory_bytes=1").done(), 2, "64 MiB")
        words = ("--sandbox-package", "no-such")
        refused(Command(short, *ask, *words).done(), 2, "pip install no-such")
        up.interrupt()
        up.done()
        up.nothing_left()


def test_no_answer_within_the_turns(short: Path, text: Path, worker: Endpoint) -> None:
    with endpoint(lambda request: cell("1")) as boss:
        done = command(
            short, "up", "-c", str(text), "-q", "How many?", "--supervisor", "scripted",
            "--base-url", boss.url, "--max-iterations", "2", *of(worker),
        )  # fmt: skip
    assert (done.code, done.out) == (5, ""), done.err
    assert "no answer within" in done.err


# -- what bad input gets


def refused(done: Done, code: int, *said: str) -> None:
    assert done.code == code, (done.code, done.err)
    assert done.out == ""
    assert "Traceback" not in done.err
    assert 'File "' not in done.err
    for word in said:
        assert word in done.err, done.err


BAD_TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "blank": (b" \n\n", "empty"),
    "binary": (b"\x7fELF\0\0\1", "binary"),
    "pdf": (b"%PDF-1.4\0", "broken PDF"),
    "wrong encoding": ("Gr\u00fc\u00dfe aus K\u00f6ln".encode("latin-1"), "--encoding"),
    "utf-16 without a mark": ("text".encode("utf-16-le"), "binary"),
}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_a_text_that_can_not_be_used(short: Path, worker: Endpoint, kind: str) -> None:
    file = short / "bad"
    file.write_bytes(BAD_TEXTS[kind][0])
    ask = command if kind == "pdf" else command_here  # a process reads a PDF
    done = ask(short, "up", "-c", str(file), "-q", QUESTION, *of(worker))
    refused(done, 2, BAD_TEXTS[kind][1])
    assert worker.requests == []


WORDS: dict[str, tuple[list[str], int, str]] = {
    "no file": (["-c", "/nowhere/at.all"], 2, "/nowhere/at.all"),
    "an empty folder": (["-c", "{short}/none"], 2, "none"),
    "no text": ([], 2, "no text"),
    "no question": (["-c", "{text}", "-q", " "], 2, "question"),
    "a text without a question": (["-c", "{text}", "NOQUERY"], 2, "--query"),
    "stdin and a file": (["-c", "-", "-c", "{text}"], 2, "standard input"),
    "prices that are none": (["-c", "{text}", "--prices", "{text}"], 2, "the prices in"),
    "many at once of one": (["-c", "{text}", "--concurrency", "2"], 2, "is for --tasks FILE"),
    "tasks and a question": (["--tasks", "{text}", "-q", "x"], 2, "leave out -c and -q"),
    "unknown recipe": (["-c", "{text}", "--supervisor", "recipe:nonsense"], 2, "find"),
    "a recipe without its word": (["-c", "{text}", "--supervisor", "find"], 2, "recipe:find"),
    "no key": (["-c", "{text}", "--supervisor", "gpt-5"], 2, "OPENAI_API_KEY"),
    "supervisor refuses": (
        ["-c", "{text}", "--supervisor", "m", "--base-url", "http://127.0.0.1:9/v1"], 4, "reached",
    ),
    "log folder is a file": (["-c", "{text}", "--log-dir", "{text}"], 2, "{text}"),
    "log folder below a file": (["-c", "{text}", "--log-dir", "{text}/x"], 2, "log"),
    "log folder in proc": (["-c", "{text}", "--log-dir", "/proc/x"], 2, "log"),
    "log folder is broken": (["-c", "{text}", "--log-dir", "{short}/broken"], 2, "log"),
    "unknown encoding": (["-c", "{text}", "--encoding", "klingon"], 2, "utf-8"),
    "no turns": (["-c", "{text}", "--max-iterations", "0"], 2, "max-iterations"),
    "unknown option": (["-c", "{text}", "--nonsense"], 2, "nonsense"),
    "a number that is none": (["-c", "{text}", "--output-limit", "many"], 2, "output-limit"),
    "a rate of a recipe": (
        ["-c", "{text}", "--supervisor-requests-per-minute", "5"], 2, "recipe:find uses none",
    ),
    "no rate at all": (["-c", "{text}", "--worker-tokens-per-minute", "0"], 2, "per-minute"),
    "a gpu twice": (["-c", "{text}", "--gpus", "0,0"], 2, "gpus"),
    "a number of workers and no cluster": (["--num-workers", "8"], 2, "is for --ray"),
    "a cluster and an endpoint": (["--ray"], 2, "--ray and --worker-url exclude each other"),
    "a gpu without a name": (["-c", "{text}", "--gpus", "0,,1"], 2, "gpus"),
    "a limit that is none": (["-c", "{text}", "--limit", "patience=1"], 2, "memory_bytes"),
    "a limit without a value": (["-c", "{text}", "--limit", "cell_s"], 2, "NAME=VALUE"),
    "a limit too low": (["-c", "{text}", "--limit", "memory_bytes=1MiB"], 2, "64 MiB"),
    "no such package": (["-c", "{text}", "--sandbox-package", "no-such"], 2, "pip install no-such"),
    "a question that is no text": (["-c", "{text}", "-q", "\udcff\udcfe"], 2, ""),
}  # fmt: skip
IN_ITS_PROCESS = (
    "no file",
    "stdin and a file",
    "supervisor refuses",
    "log folder is broken",
    "a question that is no text",
)
"""An error of each kind is seen as the shell sees it, and what starts something leaves nothing."""


@pytest.mark.parametrize("kind", WORDS)
def test_an_argument_that_can_not_be_used(
    short: Path, text: Path, worker: Endpoint, kind: str
) -> None:
    (short / "none").mkdir()
    (short / "broken" / "supervisor.jsonl").mkdir(parents=True)
    words, code, said = WORDS[kind]
    words = [word.format(short=short, text=text) for word in words]
    question = [] if "-q" in words or "NOQUERY" in words else ["-q", QUESTION]
    words = [word for word in words if word != "NOQUERY"]
    ask = command if kind in IN_ITS_PROCESS else command_here
    done = ask(short, "up", *words, *question, *of(worker), OPENAI_API_KEY=None)
    refused(done, code, said.format(text=text))
    assert worker.requests == [], "nothing expensive may have started"


def test_a_text_that_may_not_be_read(short: Path, text: Path, worker: Endpoint) -> None:
    if os.geteuid() == 0:
        text.unlink()
        text.symlink_to("/proc/self/mem")
    else:
        text.chmod(0)
    refused(command(short, "up", "-c", str(text), "-q", "q", *of(worker)), 2, "can't be read")


def test_a_file_whose_name_is_no_text_is_answered_or_named(short: Path, worker: Endpoint) -> None:
    name = os.fsencode(short) + b"/\xff\xfe.txt"
    with open(name, "w") as file:
        file.write(TEXT)
    done = command(short, "up", "-c", os.fsdecode(name), "-q", QUESTION, *of(worker))
    if done.code == 0:
        assert done.out == "Goliath\n"
    else:
        refused(done, 2, "UTF-8")


BAD_WORKERS: dict[str, Any] = {
    "401": Reply({"error": {"message": "bad key"}}, 401),
    "html": Reply(b"<html>hello</html>", 200, {}, "text/html"),
    "no json": Reply(b"{nope", 200),
    "null": Reply(b"null", 200),
    "other shape": Reply({"data": None}),
    "numbers": Reply({"data": [1, 2]}),
    "another model": Reply({"data": [{"id": "gpt-0", "object": "model"}]}),
}


@pytest.mark.parametrize("kind", BAD_WORKERS)
def test_a_worker_endpoint_that_is_none(short: Path, text: Path, kind: str) -> None:
    with endpoint(answer, BAD_WORKERS[kind]) as server:
        done = command(short, "up", "-c", str(text), "-q", QUESTION, *of(server))
    if kind in ("null", "other shape") and done.code == 0:
        pytest.fail("a list of models that is none was taken for one")
    refused(done, 4, server.url)


def test_a_worker_endpoint_that_refuses_connections(short: Path, text: Path) -> None:
    words = ("--worker-url", "http://127.0.0.1:9/v1", "--worker", "m")
    done = command(short, "up", "-c", str(text), "-q", QUESTION, *words)
    refused(done, 4, "127.0.0.1:9", "reached")


def test_a_worker_url_without_a_model(short: Path, text: Path, worker: Endpoint) -> None:
    done = command(short, "up", "-c", str(text), "-q", QUESTION, "--worker-url", worker.url)
    refused(done, 2, "--worker MODEL")


def test_a_rate_of_a_worker_without_an_endpoint(short: Path, text: Path) -> None:
    words = ("--worker-requests-per-minute", "5")
    done = command(short, "up", "-c", str(text), "-q", QUESTION, *words)
    refused(done, 2, "--worker-url")


def test_rates_of_an_engine_and_of_a_question(short: Path, text: Path, worker: Endpoint) -> None:
    own = ("--worker-requests-per-minute", "1000", "--worker-tokens-per-minute", "1000000")
    code = "FINAL(worker_batch(['a', 'b']))"
    with endpoint(lambda request: cell(code)) as boss, engine(short, worker, *own) as up:
        ask = ["run", "-c", str(text), "-q", "How many?", "--supervisor", "scripted"]
        ask += ["--base-url", boss.url, "--supervisor-requests-per-minute", "10"]
        done = Command(short, *ask, "--supervisor-tokens-per-minute", "100000").done()
        assert (done.code, done.out) == (0, '["the sea", "the sea"]\n'), done.err
        up.interrupt()
        up.done()
        up.nothing_left()


def test_a_wait_for_an_endpoints_limit_is_no_hindrance_to_ctrl_c(
    short: Path, text: Path, worker: Endpoint
) -> None:
    text.write_text(TEXT * 50)
    words = ("up", "-c", str(text), "-q", QUESTION, "--worker-requests-per-minute", "1")
    up = Command(short, *words, *of(worker))
    try:
        wait_until(lambda: worker.requests != [], 30, "the first request")
        up.interrupt()
        assert up.done().code == 130
        up.nothing_left()
    finally:
        up.end()
    assert len(worker.requests) == 1


def test_workers_that_fail_one_and_all(short: Path, text: Path) -> None:
    with endpoint(lambda _: Reply({"error": {"message": "no such luck"}}, 400)) as server:
        done = command(short, "up", "-c", str(text), "-q", QUESTION, *of(server))
    assert done.code in (0, 4), done.err
    assert "no such luck" in done.err or done.out == "null\n"
    assert "Traceback" not in done.err or "no such luck" in done.err


def test_a_full_disk_is_a_message(short: Path, text: Path, worker: Endpoint) -> None:
    text.write_text(TEXT * 100)
    log = short / "log"
    words = ["up", "-c", str(text), "-q", QUESTION, "--log-dir", str(log), *of(worker)]
    done = subprocess.run(
        [sys.executable, "-m", "distill", *words],
        env=environment(short),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode not in (0, -25), done
    assert "Traceback" not in done.stderr
    assert list((log / "contexts").glob("*")) == []


@pytest.mark.parametrize("words", [["up", "--help"], ["run", "-h"], ["--help"], ["doctor", "-h"]])
def test_help_is_for_people(short: Path, words: list[str]) -> None:
    done = command_here(short, *words)
    assert done.code == 0
    assert "Exit codes" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def every_command() -> list[str]:
    """Those of groups too: ``train sft``."""
    return sorted(
        name if each is None else f"{name} {each}"
        for name, command in cli.commands.items()
        for each in (command.commands if isinstance(command, click.Group) else [None])
    )


@pytest.mark.parametrize("name", every_command())
def test_every_command_tells_its_exit_codes_and_errors_where_they_came_from(
    name: str, tmp_path: Path
) -> None:
    told = CliRunner().invoke(cli, [*name.split(), "--help"]).output
    assert ("0    answered" in told) == (name in ("up", "run"))
    words = {
        "export": ["--format", "no"],
        "worker": ["--key", "/no"],
        "up": ["-q", "?"],
        "train compare": [str(tmp_path), "--version", "base"],
        "train tasks": ["extract", "--text", "/no"],
    }
    named = words.get(name, [])
    named += [str(tmp_path)] if name in ("doctor", "export", "score", "view") else []
    named += ["-o", str(tmp_path)] if name.startswith("train ") else []
    failed = CliRunner().invoke(cli, [*name.split(), "--traceback", *named])
    assert getattr(failed.exception, "code", None) == 2, failed.output
    assert "Traceback" in failed.output
    assert "InputError" in failed.output


def test_nonsense_commands(short: Path) -> None:
    assert command(short, "fly").code == 2
    assert command(short).code in (0, 2)
    assert command(short, "--version").out.strip()


def test_stdin_that_is_closed(short: Path, worker: Endpoint) -> None:
    words = ["up", "-c", "-", "-q", QUESTION, *of(worker)]
    shell = 'exec "$@" <&-'
    done = subprocess.run(
        ["bash", "-c", shell, "sh", sys.executable, "-m", "distill", *words],
        env=environment(short), capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error(short: Path, text: Path, worker: Endpoint) -> None:
    words = ["up", "-c", str(text), "-q", QUESTION, *of(worker)]
    done = subprocess.run(
        ["bash", "-c", '"$@" | true', "sh", sys.executable, "-m", "distill", *words],
        env=environment(short), capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


# -- doctor


def test_doctor_names_what_is_wrong_with_a_log(short: Path, text: Path, worker: Endpoint) -> None:
    log = short / "log"
    command(short, "up", "-c", str(text), "-q", QUESTION, "--log-dir", str(log), *of(worker))
    with (log / "supervisor.jsonl").open("ab") as file:
        file.write(b'{"type":"nonsense"}\n{torn')
    next((log / "contexts").iterdir()).write_text("changed")
    done = command(short, "doctor", str(log))
    assert done.code == 2
    assert "was changed" in done.out
    assert done.out.count("supervisor.jsonl:") == 2
    refused(command(short, "doctor", str(short / "nothing")), 2, "not a log folder")


# -- workers that join


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("up --listen eth0:5555", "no address of the form tcp://HOST:PORT"),
        ("up --listen tcp://*:0 --worker-url http://127.0.0.1:1", "not for --worker-url"),
        ("up --no-local-workers --gpus 0", "excludes --gpus and --cores"),
        ("worker --connect tcp://127.0.0.1:5555 --key /nowhere", "there is no key file /nowhere"),
        ("worker --key /nowhere", "--key is for an engine on another machine"),
        ("worker --connect tcp://127.0.0.1", "no endpoint of an engine"),
    ],
)
def test_words_about_joining_that_make_no_sense(words: str, said: str) -> None:
    result = CliRunner().invoke(cli, words.split())
    assert getattr(result.exception, "code", None) == 2, result.output
    assert said in result.output
    assert "Traceback" not in result.output


def test_where_nobody_can_listen(short: Path) -> None:
    words = ("up", "--no-local-workers", "--listen", "tcp://192.0.2.7:0")
    refused(
        command(short, *words),
        2,
        "can't listen at tcp://192.0.2.7:0: Cannot assign requested address\n",
    )
    (short / "distill" / "keys").chmod(0o755)
    refused(command(short, *words), 2, f"chmod 700 {short / 'distill' / 'keys'}")


# -- an engine that stays up


def test_run_needs_an_engine(short: Path, text: Path) -> None:
    done = command(short, "run", "-c", str(text), "-q", QUESTION)
    refused(done, 3, "no engine is up", "distill-up")


@pytest.mark.parametrize(
    "connect", ["nonsense", "tcp://10.0.0.1:1", "ipc://", "ipc:///nowhere/x.sock", "tcp://", ""]
)
def test_an_endpoint_that_is_none(short: Path, text: Path, connect: str) -> None:
    done = command(short, "run", "-c", str(text), "-q", QUESTION, "--connect", connect)
    assert done.code in (2, 3), (done.code, done.err)
    refused(done, done.code)


def test_two_clients_at_once_and_ctrl_c(short: Path, text: Path) -> None:
    with endpoint(slowly) as server, engine(short, server) as up:
        clients = [Command(short, "run", "-c", str(text), "-q", QUESTION) for _ in range(2)]
        for client in clients:
            done = client.done()
            assert (done.code, done.out) == (0, "Goliath\n"), done.err
            assert "Evidence" in done.err
        broken = command_beside(short, "run", "-c", str(text), "-q", QUESTION,
                                "--supervisor", "recipe:nonsense")  # fmt: skip
        refused(broken, 2, "find")
        up.look()
        began_s = time.monotonic()
        up.interrupt()
        assert up.done(10).code in (0, 130)
        up.nothing_left()
        assert time.monotonic() - began_s < 5
        assert "Traceback" not in up.err
    for log in traces(short):
        assert validate(log)[1] == []


@pytest.mark.parametrize("number", [9, 2])
def test_a_client_that_goes_takes_its_run_along(short: Path, text: Path, number: int) -> None:
    log = short / "log"
    with endpoint(slowly) as server, engine(short, server) as up:
        text.write_text(TEXT * 12)
        wait_until(lambda: below(up.pid, "sandbox.keeper") != [], 10, "a keeper stands by")
        runs = below(up.pid, "sandbox.keeper")  # the run takes it
        client = Command(short, "run", "-c", str(text), "-q", QUESTION, "--log-dir", str(log))
        wait_until(lambda: len(server.requests) > 16, 20, "the workers are asked")
        kill(client.pid, number)
        client.process.wait(10)

        def is_cancelled() -> bool:
            ends = [each.end for each in read(log).runs.values()]
            return bool(ends) and ends[0] is not None and ends[0].status == "cancelled"

        wait_until(is_cancelled, 6, "the run of a dead client ends")
        wait_until(lambda: not left(runs), 5, "its sandbox is gone")
        asked = len(server.requests)
        time.sleep(1)
        # The two batches of 32 that are under way are not called back.
        assert len(server.requests) <= asked + 64, "workers are asked no more"
        again = command_beside(short, "run", "-c", str(text), "-q", QUESTION)
        assert (again.code, again.out) == (0, "Goliath\n"), again.err
    assert validate(log)[1] == []


def test_a_client_hears_of_the_engines_death(short: Path, text: Path) -> None:
    with endpoint(slowly) as server, engine(short, server) as up:
        text.write_text(TEXT * 12)
        client = Command(short, "run", "-c", str(text), "-q", QUESTION)
        wait_until(lambda: len(server.requests) > 4, 20, "the workers are asked")
        up.look()
        kill(up.pid)
        done = client.done(15)
        refused(done, 3, "engine")
        up.process.wait(5)
        up.nothing_left()


def test_an_engine_in_python(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.engine import Engine
    from distill.errors import InputError

    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(short))
    with endpoint(answer) as server, engine(short, server), Engine() as client:
        for context in (TEXT, [TEXT], {"a": TEXT}):
            result = client.run(QUESTION, context)
            assert result.answer == "Goliath"
        assert result.evidence.quotations[0].part == "a"
        assert validate(result.log_dir)[1] == []
        with pytest.raises(InputError):
            client.run(QUESTION, TEXT, nonsense=1)
        with pytest.raises(InputError):
            client.run(" ", TEXT)
        assert client.run(QUESTION, TEXT).answer == "Goliath"


def test_ctrl_c_in_the_middle_of_a_run(short: Path, text: Path) -> None:
    log = short / "log"
    with endpoint(slowly) as server:
        up = Command(
            short, "up", "-c", str(text), "-q", QUESTION, "--log-dir", str(log), *of(server)
        )
        try:
            wait_until(lambda: len(server.requests) > 2, 20, "the workers are asked")
            up.look()
            began_s = time.monotonic()
            up.interrupt()
            done = up.done(10)
            up.nothing_left()
            assert time.monotonic() - began_s < 5
            assert done.code == 130
            assert (done.out, "Traceback" in done.err) == ("", False), done.err
            assert f"distill: stopped\nstopped at turn 1; the trace is in {log}." in done.err
        finally:
            up.end()
        trace, problems = validate(log)
        assert problems == []
        assert [each.end.status for each in trace.runs.values() if each.end] == ["cancelled"]
        assert server.url in done.err  # it goes on with the same workers, as it is told to
        words = shlex.split(done.err.splitlines()[-1])
        again = command(short, *words[words.index("up") :])
    assert (again.code, again.out) == (0, "Goliath\n"), again.err


def test_a_supervisor_that_fails_in_the_middle_of_a_run(
    short: Path, text: Path, worker: Endpoint
) -> None:
    replies: list[Any] = [cell("print(1)"), Reply({"error": {"message": "no credit"}}, 401)]
    log = short / "log"
    with (
        endpoint(lambda request: replies.pop(0) if replies else cell("FINAL('x')")) as boss,
        engine(short, worker),
    ):
        ask = ["run", "--supervisor", "scripted", "--base-url", boss.url]
        words = ("-c", str(text), "-q", QUESTION, "--log-dir", str(log))
        done = Command(short, *ask, *words).done()
        assert done.code == 4, done.err
        said = done.err.splitlines()
        assert "the key was refused" in said[-3]
        assert said[-2] == f"stopped at turn 1; the trace is in {log}. To go on:"
        assert said[-1].endswith(shlex.join([*ask, "--resume", str(log)]))
        again = Command(short, *ask, "--resume", str(log)).done()
        assert (again.code, again.out) == (0, "x\n"), again.err


# -- recorded runs


def test_a_killed_run_goes_on_and_is_done_again(short: Path, text: Path) -> None:
    log = short / "log"
    asked: list[str] = []

    def slow_worker(request: dict[str, Any]) -> str:
        asked.append(prompt_of(request))
        time.sleep(0.05)
        return answer(request)

    with endpoint(slow_worker) as first, endpoint(answer) as worker:
        words = ("up", "-c", str(text), "-q", QUESTION, "--log-dir", str(log), *of(first))
        killed = Command(short, *words)
        wait_until(lambda: len(asked) > 10, 20)
        kill(killed.pid)
        killed.process.wait()
        (cut,) = read(log).runs.values()
        done = command(short, "up", "--resume", str(log), *of(worker))
        assert (done.code, done.out) == (0, "Goliath\n"), done.err
        (whole,) = read(log).runs.values()
        passages = len(whole.calls) - len(cut.calls)
        # The first endpoint still hears what the killed process had sent.
        assert len(worker.requests) == passages - len(cut.calls)
        again = command(short, "up", "--supervisor", f"replay:{log}")
        assert (again.code, again.out) == (0, "Goliath\n"), again.err
        assert len(worker.requests) == passages - len(cut.calls)
        ended = command(short, "up", "--resume", str(log), *of(worker))
        assert ended.code == 2
        assert "has ended" in ended.err


def test_an_engine_goes_on_with_a_run(short: Path, text: Path) -> None:
    log = short / "log"
    with endpoint(slowly) as worker:
        killed = Command(
            short, "up", "-c", str(text), "-q", QUESTION, "--log-dir", str(log), *of(worker)
        )
        wait_until(lambda: len(worker.requests) > 5, 20)
        kill(killed.pid)
        killed.process.wait()
        with engine(short, worker):
            done = Command(short, "run", "--resume", str(log)).done(30)
            assert (done.code, done.out) == (0, "Goliath\n"), done.err
            again = Command(short, "run", "--supervisor", f"replay:{log}").done(30)
            assert (again.code, again.out) == (0, "Goliath\n"), again.err


def test_no_worker_is_started_for_a_run_that_it_can_not_go_on_with(short: Path) -> None:
    worker = Worker()
    worker.model = "of-an-endpoint"
    with pytest.raises(ModelError):
        run("What?", TEXT, Supervisor(ModelError("down")), worker, log_dir=short / "log")
    done = command(short, "up", "--resume", str(short / "log"), "--supervisor", "recipe:find")
    assert done.code == 2
    assert "was 'of-an-endpoint', which this engine does not serve; there is SmolLM2" in done.err
    assert "starting the worker" not in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--resume", "nowhere"), "not a log folder"),
        (("--supervisor", "replay:nowhere"), "not a log folder"),
        (("--resume", "x", "-q", "Who?"), "its own question"),
        (("--resume", "x", "--log-dir", "y"), "leave out --log-dir"),
        (("--resume", "x", "--supervisor", "replay:x"), "--resume goes on"),
    ],
)
def test_what_a_recorded_run_can_not_be_given(
    short: Path, worker: Endpoint, words: tuple[str, ...], said: str
) -> None:
    done = command_here(short, "up", *words, *of(worker))
    assert done.code == 2
    assert said in done.err
