"""The journal: one writer, whole lines, nothing torn, the context once."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from distill.errors import InputError
from distill.protocol.worker_link import pack_ids
from distill.supervisor.journal import Journal, encode_context, now
from distill.supervisor.volume import ids_json, text_json
from distill.traces import read
from distill.traces import records as R
from tests.engine_stand_in.spec import calls_in
from tests.supervisor.processes import environment, python

PRODUCER = R.Producer("driver", "driver", 1)


def event(name: str, **detail: Any) -> R.Event:
    return R.Event(t=now(), run=None, producer=PRODUCER, event=name, detail=detail)


def names(folder: Path) -> list[str]:
    return [each.event for each in read(folder).events]


def test_what_is_written_is_read_back_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log")
    journal.supervisor(event("one", text='quote " and \n newline \u2028 é \x00'))
    assert read(tmp_path / "log").events[0].detail["text"] == 'quote " and \n newline \u2028 é \x00'
    assert (tmp_path / "log" / "supervisor.jsonl").read_bytes().count(b"\n") == 1
    journal.close()


def test_a_line_is_found_where_it_was_said_to_begin(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    texts = ["", "é" * 70_000, "last"]
    journal.worker([event("before")])
    places = journal.worker([event("e", text=text) for text in texts])
    found = [json.loads(journal.line(R.WORKER_LOG, place)) for place in places]
    assert [line["detail"]["text"] for line in found] == texts
    with pytest.raises(OSError, match="no line at byte"):
        journal.line(R.WORKER_LOG, 1 << 30)
    journal.close()


def test_a_disk_that_fills_in_a_line_costs_no_other_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.supervisor(event("before"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.supervisor(event("refused"), event("torn", text="x" * 9000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.supervisor(event("after"))
    journal.close()
    assert names(tmp_path) == ["before", "after"]
    assert not read(tmp_path).skipped


def test_long_fields_that_are_json_already_are_the_same_to_a_reader(tmp_path: Path) -> None:
    ids = [0, 7, 50_000, (1 << 32) - 1]
    journal = Journal(tmp_path)
    for odd in ("", "\ud800"):  # with a lone surrogate beside them, all goes another way
        journal.worker(
            [
                R.Call(
                    t=0.0,
                    run="r",
                    producer=PRODUCER,
                    id="r-1.0",
                    turn=1,
                    cell=1,
                    call=1,
                    item=0,
                    function="worker",
                    attempt=1,
                    prompt=text_json('é " \u2028 \n \x00' + odd),
                    response="said" + odd,
                    finish_reason="stop",
                    usage=R.TokenUsage(4, 1),
                    sampling={},
                    model=R.Model("m"),
                    messages=text_json([{"role": "user", "content": "hé"}]),
                    prompt_token_ids=ids_json(pack_ids(ids)),
                    token_ids=ids_json(b""),
                )
            ]
        )
    journal.close()
    for odd, call in zip(("", "?"), calls_in(tmp_path), strict=True):
        assert call.prompt == 'é " \u2028 \n \x00' + odd
        assert call.response == "said" + odd
        assert call.messages == ({"role": "user", "content": "hé"},)
        assert call.prompt_token_ids == tuple(ids)
        assert call.token_ids == ()


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log")
    _, path = journal.store_context("secret")
    journal.close()
    for file in (tmp_path / "log" / "supervisor.jsonl", tmp_path / "log" / "worker.jsonl", path):
        assert file.stat().st_mode & 0o077 == 0


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.supervisor(event("one"))
    journal.close()
    with open(tmp_path / "supervisor.jsonl", "ab") as file:
        file.write(b'{"type":"event","v":1,"t":1.0,"ru')
    journal = Journal(tmp_path)
    journal.supervisor(event("two"))
    journal.close()
    assert names(tmp_path) == ["one", "two"]
    assert [skipped.line for skipped in read(tmp_path).skipped] == [2]


def test_what_others_spooled_is_merged_once(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    spool = tmp_path / R.SPOOL_FOLDER
    spool.mkdir()
    line = (
        b'{"type":"event","v":1,"t":1.0,"run":null,'
        b'"producer":{"kind":"sandbox","name":"s","pid":3},"event":"spooled"}'
    )
    (spool / "a.jsonl").write_bytes(line + b"\n" + line)
    (spool / "b.jsonl").write_bytes(b"")
    for _ in range(2):
        journal = Journal(tmp_path)
        journal.supervisor(event("after"))
        journal.close()
    assert names(tmp_path) == ["spooled", "spooled", "after", "after"]
    assert list(spool.iterdir()) == []


def test_a_second_writer_is_refused_and_the_first_unharmed(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    with pytest.raises(InputError, match="another distill"):
        Journal(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from distill.supervisor.journal import Journal\n"
        "Journal(Path(sys.argv[1]))"
    )
    process = python(code, tmp_path, str(tmp_path))
    assert "another distill" in process.communicate(timeout=30)[1]
    first.supervisor(event("still"))
    first.close()
    Journal(tmp_path).close()
    assert names(tmp_path) == ["still"]


def test_a_writer_that_was_killed_frees_the_folder_and_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path\n"
        "from distill.supervisor.journal import Journal\n"
        "from tests.supervisor.test_journal import event\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.supervisor(*[event(str(n)) for n in range(1000)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = python(code, tmp_path, str(tmp_path / "log"))
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    Journal(tmp_path / "log").close()
    assert names(tmp_path / "log") == [str(n) for n in range(1000)]


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def write(lane: int) -> None:
        for number in range(50):
            journal.supervisor(*[event(f"{lane}", number=number, pad="x" * 5000)] * 3)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    journal.close()
    trace = read(tmp_path)
    assert trace.skipped == []
    assert len(trace.events) == 8 * 50 * 3


def test_a_late_write_never_reaches_another_file(tmp_path: Path) -> None:
    """A closed journal's descriptors are reused at once: a late answer must not land there."""
    journal = Journal(tmp_path / "log")
    journal.close()
    others = [os.open(tmp_path / f"other-{n}", os.O_CREAT | os.O_RDWR) for n in range(20)]
    try:
        with pytest.raises(OSError, match=r".+"):
            journal.supervisor(event("late"))
    finally:
        for descriptor in others:
            os.close(descriptor)
    assert all((tmp_path / f"other-{n}").stat().st_size == 0 for n in range(20))


@pytest.mark.parametrize(
    ("context", "kind", "chars"),
    [("text é", "text", 6), (["ab", "c"], "json", 3), ({"x": "ab", "y": {"z": "c"}}, "json", 3)],
)
def test_a_context_is_stored_once_under_its_hash(
    tmp_path: Path, context: Any, kind: str, chars: int
) -> None:
    journal = Journal(tmp_path)
    ref, path = journal.store_context(context, ["a.txt"])
    before = path.stat().st_mtime_ns
    again, _ = journal.store_context(context)
    journal.close()
    assert (ref.kind, ref.chars, ref.sources) == (kind, chars, ("a.txt",))
    assert ref.sha256 == again.sha256
    assert path.stat().st_mtime_ns == before
    assert [file.name for file in (tmp_path / "contexts").iterdir()] == [path.name]
    text = path.read_text("utf-8")
    assert (text if kind == "text" else json.loads(text)) == context


def test_two_runs_at_once_store_the_same_context(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    context = "x" * 3_000_000
    barrier = threading.Barrier(8)

    def store(_: int) -> tuple[str, int]:
        barrier.wait()
        ref, path = journal.store_context(context)
        return ref.sha256, path.stat().st_size

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(store, range(8)))) == 1
    journal.close()
    (file,) = (tmp_path / "contexts").iterdir()
    assert file.stat().st_size == 3_000_000


def test_a_full_disk_leaves_no_half_of_a_context(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from distill.errors import DistillError\n"
        "from distill.supervisor.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "try:\n"
        "    journal.store_context('x' * 1_000_000)\n"
        "except (OSError, DistillError) as error:\n"
        "    print('refused')"
    )

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        env=environment(tmp_path),
        preexec_fn=small,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "refused\n", done.stderr
    assert list((tmp_path / "log" / "contexts").iterdir()) == []


@pytest.mark.parametrize(
    "context",
    [
        "lone \ud800 surrogate",
        ["\udfff"],
        {"a": b"bytes"},
        {"a": {1, 2}},
        [float("nan")],
        [float("inf")],
        None,
        5,
        b"bytes",
        ("tuple",),
        object(),
    ],
)
def test_a_context_that_has_no_bytes_is_refused(context: Any) -> None:
    with pytest.raises(InputError, match="context"):
        encode_context(context)


def test_a_context_without_end_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for context in (loop, deep):
        with pytest.raises(InputError):
            encode_context(context)


def test_keys_that_json_would_change_are_refused() -> None:
    """``{1: …}`` would reach the jail as ``{"1": …}``, and ``{1: a, "1": b}`` would lose one."""
    with pytest.raises(InputError):
        encode_context({1: "a", "1": "b"})


@pytest.mark.parametrize("name", ["supervisor.jsonl", "worker.jsonl", ".lock", "contexts"])
def test_a_folder_that_can_not_be_used_is_named_and_let_go(tmp_path: Path, name: str) -> None:
    if name == "contexts":
        (tmp_path / name).write_text("a file where a folder should be")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="can't be used"):
        Journal(tmp_path)
    (tmp_path / name).unlink() if name == "contexts" else (tmp_path / name).rmdir()
    Journal(tmp_path).close()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing/here")):
        with pytest.raises(InputError, match="can't be used"):
            Journal(path)
