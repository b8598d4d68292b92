"""The page's server refuses whoever is not its page; the logs are followed as they grow."""

import html
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.errors import InputError
from distill.traces import provenance, read
from distill.view import command, follow, page
from distill.view.answers import Answers
from distill.view.export import export
from distill.view.server import ViewServer
from tests.view.logs import TEXT, Log, lamp_run

Serve = Callable[..., ViewServer]


def get(server: ViewServer, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
    """Ask as a program does; _ in names is a hyphen. The status, and the headers or the JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        reply = connection.getresponse()
        body = reply.read()
        is_json = reply.getheader("Content-Type", "").startswith("application/json")
        return reply.status, json.loads(body) if is_json else dict(reply.getheaders())
    finally:
        connection.close()


@pytest.fixture
def served(serve: Serve, log: Log) -> ViewServer:
    lamp_run(log)
    return serve(log.folder)


def test_who_has_the_token_gets_the_page_and_its_policy(served: ViewServer) -> None:
    status, headers = get(served, f"/?token={served.token}")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document"}
    assert get(served, f"/?token={served.token}", **link)[0] == 200
    status, state = get(served, "/api/state", X_Distill_Token=served.token)
    assert status == 200
    assert len(state["runs"]) in (0, 1)  # it may still be reading


REFUSED = {
    "no token": ("/", {}, 403),
    "a wrong token": ("/?token=guess", {}, 403),
    "no token for data": ("/api/state", {}, 403),
    "a wrong token for data": ("/api/state", {"X_Distill_Token": "gu\xe9ss"}, 403),
    "the token of the address for data": ("/api/state?token=TOKEN", {}, 403),
    "a name that was bound again": ("/?token=TOKEN", {"Host": "evil.invalid:PORT"}, 421),
    "another port": ("/?token=TOKEN", {"Host": "127.0.0.1:1"}, 421),
    "no port": ("/?token=TOKEN", {"Host": "127.0.0.1"}, 421),
    "another origin": ("/?token=TOKEN", {"Origin": "http://evil.invalid"}, 403),
    "a file's origin": ("/api/state", {"X_Distill_Token": "TOKEN", "Origin": "null"}, 403),
    "another site's script": ("/?token=TOKEN", {"Sec_Fetch_Site": "cross-site"}, 403),
    "another port's frame": (
        "/?token=TOKEN", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Dest": "iframe"}, 403,
    ),
    "no such data": ("/api/secrets", {"X_Distill_Token": "TOKEN"}, 404),
    "no such run": ("/api/run/0.7", {"X_Distill_Token": "TOKEN"}, 404),
    "no number": ("/api/call/0.0/x", {"X_Distill_Token": "TOKEN"}, 404),
    "no such call": ("/api/call/0.0/-1", {"X_Distill_Token": "TOKEN"}, 404),
    "too little": ("/api/text", {"X_Distill_Token": "TOKEN"}, 404),
    "a file": ("/api/../../etc/passwd", {"X_Distill_Token": "TOKEN"}, 404),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_nobody_else_gets_anything(case: str, served: ViewServer) -> None:
    path, headers, expected = REFUSED[case]
    filled = {
        name: value.replace("TOKEN", served.token).replace("PORT", str(served.port))
        for name, value in headers.items()
    }
    status, _ = get(served, path.replace("TOKEN", served.token), **filled)
    assert status == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_nothing_can_be_sent(method: str, served: ViewServer) -> None:
    status, _ = get(served, f"/?token={served.token}", method)
    assert status == 501


def test_only_loopback_listens(served: ViewServer) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.port), timeout=5)


def whole(*folders: Path) -> Answers:
    answers = Answers(folders)
    while answers.look():
        pass
    return answers


def test_damaged_lines_are_counted_and_named(log: Log) -> None:
    lamp_run(log)
    for name in ("supervisor.jsonl", "worker.jsonl"):
        with (log.folder / name).open("ab") as file:
            file.write(b'{"type":"call","torn\n\xff\xfe\n{"type":"turn","v":99}\n')
    state = whole(log.folder).state()
    assert state["skipped_lines"] == 6
    assert {(each["file"], each["line"]) for each in state["skipped"]} >= {("worker.jsonl", 4)}
    (run,) = state["runs"]
    assert (run["turns"], run["calls"], run["failed"]) == (2, 3, 1)


def test_a_line_is_read_once_it_is_whole(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is longer than what is read at a time, and one that comes in two pieces."""
    monkeypatch.setattr(follow, "LOOK_BYTES", 100)
    lamp_run(log)
    path = log.folder / "worker.jsonl"
    data = path.read_bytes()
    cut = data.rindex(b'"prompt"')
    path.write_bytes(data[:cut])
    answers = whole(log.folder)
    assert answers.state()["runs"][0]["calls"] == 2
    path.write_bytes(data)
    while answers.look():
        pass
    assert answers.state()["runs"][0]["calls"] == 3
    assert answers.state()["skipped_lines"] == 0
    assert answers.calls("0.0", range(2, 3))[0]["prompt"] == "nothing of the text"


def test_a_torn_line_is_looked_through_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOK_BYTES", 1 << 16)
    lamp_run(log)
    path = log.folder / "worker.jsonl"
    line = path.read_bytes().splitlines(keepends=True)[-1]
    with path.open("ab") as file:
        file.write(line[:-2] + b" " * 2_000_000)
    answers = whole(log.folder)
    before = read_bytes()
    for _ in range(20):
        assert not answers.look()
    assert read_bytes() - before < 1_000_000
    with path.open("ab") as file:
        file.write(line[-2:] + line[:100])
    while answers.look():
        pass
    (run,) = answers.state()["runs"]
    assert (run["calls"], answers.state()["skipped_lines"]) == (4, 0)
    assert answers.calls("0.0", range(3, 4))[0]["prompt"] == "nothing of the text"


def read_bytes() -> int:
    """What this process has read from files, in all."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_log_that_was_replaced_is_read_anew(log: Log) -> None:
    lamp_run(log)
    answers = whole(log.folder)
    path = log.folder / "supervisor.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    while answers.look():
        pass
    (run,) = answers.state()["runs"]
    assert (run["status"], run["turns"], run["calls"]) == ("running", 0, 3)


def test_a_run_without_an_end_is_cut_off_or_goes_on(log: Log) -> None:
    log.begin()
    assert whole(log.folder).state()["runs"][0]["status"] == "running"
    log.close()
    assert whole(log.folder).state()["runs"][0]["status"] == "cut off"


def test_a_run_lasts_as_long_as_it_took(log: Log) -> None:
    """From before its first record; a score of later is no part of it."""
    lamp_run(log)
    log.score("contains", 1.0, later_s=1140.0)
    (run,) = whole(log.folder).state()["runs"]
    assert run["last_t"] - run["first_t"] == pytest.approx(run["elapsed_s"]) == 2.0


def test_matches_are_those_of_the_reading_api(log: Log) -> None:
    lamp_run(log)
    answers = whole(log.folder)
    told = answers.matches("0.0")
    (run,) = read(log.folder).runs.values()
    found = provenance.of(run)
    assert told["share"] == found.coverage.share > 0
    flows = {each.call: each for each in found.flow}
    in_answer = [
        row for row, call in enumerate(run.calls) if call.id in flows and flows[call.id].in_answer
    ]
    assert told["in_answer"] == in_answer == [0]
    assert told["printed"] == [0, 1]


def test_a_line_that_is_no_call_to_others_is_none_here(log: Log, tmp_path: Path) -> None:
    lamp_run(log)
    path = log.folder / "worker.jsonl"
    told = json.loads(path.read_bytes().splitlines()[0])
    for name in ("id", "function", "prompt", "sampling"):
        line = {key: value for key, value in told.items() if key != name}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    answers = whole(log.folder)
    assert answers.state()["runs"][0]["calls"] == len(
        next(iter(read(log.folder).runs.values())).calls
    )
    assert answers.state()["skipped_lines"] == len(read(log.folder).skipped) == 4
    assert answers.matches("0.0")["in_answer"] == [0]
    assert export(answers, tmp_path / "page.html")


def test_matches_do_without_lines_that_are_gone(log: Log) -> None:
    lamp_run(log)
    answers = whole(log.folder)
    path = log.folder / "worker.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\n") + 40])
    assert answers.matches("0.0")["printed"] == [0]


def test_matches_hold_one_line_at_a_time(log: Log) -> None:
    log.begin()
    log.turn("```repl\nx = 1\n```")
    log.calls([("x" * 100_000, "yes")] * 100)
    answers = whole(log.folder)
    tracemalloc.start()
    answers.matches("0.0")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_nothing_is_left_of_a_file_that_was_not_written(log: Log, tmp_path: Path) -> None:
    lamp_run(log)
    target = tmp_path / "pages" / "page.html"
    target.mkdir(parents=True)  # nothing can be put in its place
    (target / "full").touch()
    with pytest.raises(InputError, match="can't be written"):
        export(whole(log.folder), target)
    assert list(target.parent.iterdir()) == [target]


def test_a_text_that_is_gone_is_said(log: Log) -> None:
    lamp_run(log)
    for path in (log.folder / "contexts").iterdir():
        path.unlink()
    answers = whole(log.folder)
    assert answers.run("0.0")["context"]["missing"]
    assert answers.matches("0.0")["share"] == 0
    assert answers.calls("0.0", range(1))[0]["response"] == "the lamp of year 3"


def test_one_run_of_a_folder_is_named(log: Log) -> None:
    log.begin("the first")
    log.close()
    other = Log(log.folder, run="other#run")
    other.begin("the second")
    other.close()
    (run,) = whole(Path(f"{log.folder}#{log.run}")).state()["runs"]
    assert run["query"] == "the first"
    assert len(whole(log.folder).state()["runs"]) == 2
    with pytest.raises(InputError, match=f"no run none; there are {log.run}, other#run"):
        Answers([Path(f"{log.folder}#none")])


def test_texts_come_in_slices(log: Log) -> None:
    lamp_run(log)
    texts = whole(log.folder).texts("0.0")
    assert "".join(texts.slice(0, number) for number in range(99)) == TEXT


def test_the_script_can_stand_in_a_page() -> None:
    """No module's import or export is left, and nothing ends the block that it stands in."""
    script = page.script()
    assert "</script" not in script
    assert "\nimport " not in script
    assert "\nexport " not in script
    assert page.Page.live().html.count("<script") == 1


def test_what_it_can_not_use_is_said_at_once(tmp_path: Path, log: Log) -> None:
    with pytest.raises(InputError, match=r"holds no supervisor\.jsonl"):
        command.view([tmp_path], port=0, opens=False, target=None)
    with pytest.raises(InputError, match="no folder"):
        command.view([log.folder], port=None, opens=False, target=tmp_path / "no" / "page.html")
    for port, opens in ((8080, False), (None, True)):
        with pytest.raises(InputError, match="--export serves nothing"):
            command.view([log.folder], port=port, opens=opens, target=tmp_path / "page.html")
    taken = ViewServer(Answers([log.folder]))
    try:
        with pytest.raises(InputError, match="can't be used"):
            command.view([log.folder], port=taken.port, opens=False, target=None)
    finally:
        taken.close()


def test_the_command_serves_until_ctrl_c(log: Log) -> None:
    lamp_run(log)
    words = [sys.executable, "-m", "distill", "view", str(log.folder)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline()
        assert url.startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 0, told
    assert "Ctrl-C ends it" in told


BROWSER = """#!/bin/sh
file=${1#file://}
cp "$file" "$0.html"
stat -c %a "$file" "$(dirname "$file")" > "$0.modes"
printf %s "$1" > "$0.draft" && mv "$0.draft" "$0.given"
"""


def test_the_token_is_on_no_command_line(log: Log, tmp_path: Path) -> None:
    """A browser gets a file that only its user can read, which leads to the page."""
    lamp_run(log)
    browser = tmp_path / "browser"
    browser.write_text(BROWSER)
    browser.chmod(0o700)
    words = [sys.executable, "-m", "distill", "view", str(log.folder), "--open"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "BROWSER": f"{browser} %s"}
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        given = tmp_path / "browser.given"
        while not given.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert url.partition("token=")[2] not in given.read_text()
    assert f"url={html.escape(url)}" in (tmp_path / "browser.html").read_text()
    assert (tmp_path / "browser.modes").read_text().split() == ["600", "700"]
    assert not Path(given.read_text().removeprefix("file://")).exists()


def test_the_command_writes_a_file(log: Log, tmp_path: Path) -> None:
    lamp_run(log)
    target = tmp_path / "page.html"
    words = [sys.executable, "-m", "distill", "view", str(log.folder), "--export", str(target)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "for any browser" in done.stderr
    assert "It is the lamp of year 3" in target.read_text("utf-8")


def test_only_a_page_is_overwritten(log: Log, tmp_path: Path) -> None:
    lamp_run(log)
    target = tmp_path / "thesis.html"
    target.write_text("<title>distill</title> my only copy")
    with pytest.raises(InputError, match=r"thesis\.html is there"):
        command.view([log.folder], port=None, opens=False, target=target)
    assert "my only copy" in target.read_text()
    target.unlink()
    for _ in range(2):
        assert command.view([log.folder], port=None, opens=False, target=target) == 0
