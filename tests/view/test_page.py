"""The page in a real browser: what it shows, by keyboard, live, as a file, of hostile logs."""

import contextlib
import re
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Position, expect

from distill.traces import Run, provenance, read, records
from distill.view.answers import Answers
from distill.view.export import export
from distill.view.opening import opened
from distill.view.server import ViewServer
from tests.view.conftest import WAIT_MS, Watched
from tests.view.logs import TEXT, Log, lamp_run, logs_runs

Serve = Callable[..., ViewServer]
expect.set_options(timeout=WAIT_MS)


def test_a_run_is_shown_from_answer_to_passage(watched: Watched, serve: Serve, log: Log) -> None:
    lamp_run(log)
    page = watched.page
    page.goto(serve(log.folder).url)
    expect(page.locator(".badge").first).to_have_text("answered")
    expect(page.locator(".question-text")).to_have_text("Which lamp?")
    expect(page.locator(".answer-text").first).to_have_text("It is the lamp of year 3")
    figures = page.locator(".figures")
    expect(figures).to_contain_text("1 failed")
    expect(page.locator(".overview")).to_contain_text(
        re.compile(r"answer of 1 call stands in the final answer")
    )
    read_chars = f"{provenance.of(the_run(log)).coverage.read_chars:,}"
    expect(page.locator(".overview")).to_contain_text(f"{read_chars} of {len(TEXT):,} characters")
    page.get_by_role("tab", name="Conversation").click()
    cell = page.locator("#cell-1")
    expect(cell.locator(".code")).to_have_text("answers = worker_batch(parts)\nprint(answers)")
    expect(cell.locator(".tok-b").first).to_have_text("print")
    expect(cell.locator(".output")).to_contain_text("the lamp of year 3")
    expect(page.locator("#turn-1 .prose")).to_have_text(["I look.", "Done."])
    cell.get_by_role("button", name="3 calls, 1 failed").click()
    expect(page.locator(".trow")).to_have_count(3)
    page.locator(".trow").nth(1).click()
    view = page.locator(".call-view")
    expect(view.locator(".passage-part")).to_have_text(TEXT[60000:60500])
    expect(view.locator(".around mark").first).to_have_text(TEXT[60000:60500])
    view.get_by_role("button", name="characters 60,000–60,500").click()
    expect(page.locator(".passage mark.here")).to_have_text(TEXT[60000:60500])
    page.locator(".passage mark.here").click()
    expect(page.locator(".calls .note").first).to_have_text("1 of 3 calls")


def the_run(log: Log) -> Run:
    (run,) = read(log.folder).runs.values()
    return run


def test_timeline_and_map_lead_to_what_they_show(
    watched: Watched, serve: Serve, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    logs_runs().write_run(folder, 200, context_chars=100_000, batch_calls=50, turn_calls=50)
    page = watched.page
    page.goto(serve(folder).url)
    expect(page.locator(".overview")).to_contain_text("Workers have read")
    cells: Position = {"x": 700, "y": 63}  # their lane
    page.locator("canvas.timeline").hover(position=cells)
    expect(page.locator(".tip")).to_contain_text(re.compile(r"Cell \d \(turn \d\)"))
    number = page.locator(".tip").inner_text().split()[1]
    page.locator("canvas.timeline").click(position=cells)
    expect(page.get_by_role("tab", name="Conversation")).to_have_attribute("aria-selected", "true")
    expect(page.locator(f"#cell-{number}")).to_be_in_viewport()
    page.keyboard.press("1")
    page.locator(".overview canvas.strip").click(position={"x": 600, "y": 20})
    expect(page.locator(".reader")).to_contain_text("characters 40,000–60,000 of 100,000")
    expect(page.locator(".passage .read").first).to_be_attached()


def test_what_is_before_the_first_turn_has_a_name(watched: Watched, serve: Serve, log: Log) -> None:
    lamp_run(log)  # says that it took 2 s: most of it before the first record
    log.process()
    page = watched.page
    page.goto(serve(log.folder).url)
    expect(page.locator(".badge").first).to_have_text("answered")
    page.locator("canvas.timeline").hover(position={"x": 700, "y": 63})
    expect(page.locator(".tip")).to_contain_text("the jail started")


def test_most_at_once_is_of_calls_not_of_pixels(watched: Watched, serve: Serve, log: Log) -> None:
    log.begin()
    log.turn("```repl\nworker_batch(parts)\n```")
    prompts: list[tuple[str, str | None]] = [(f"{TEXT[:300]} {number}?", "yes") for number in "123"]
    log.calls(prompts, queue_s=0.0, compute_s=0.5, total_s=0.5)
    log.cell("worker_batch(parts)")
    log.end("yes", elapsed_s=2000.0)
    page = watched.page
    page.goto(serve(log.folder).url)
    expect(page.locator(".figures")).to_contain_text(f"301 of {len(TEXT):,} characters")
    page.locator("canvas.timeline").hover(position={"x": 700, "y": 119})
    expect(page.locator(".tip")).to_contain_text("worker-0: 0 computed, 0 in its queue; at most 3")


def test_it_goes_by_keyboard_alone(watched: Watched, serve: Serve, log: Log) -> None:
    lamp_run(log)
    page, keys = watched.page, watched.page.keyboard
    page.goto(serve(log.folder).url)
    expect(page.locator(".figures dd").first).to_be_visible()
    keys.press("?")
    expect(page.locator("#help")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    keys.press("2")
    expect(page.locator("#cell-1")).to_be_visible()
    keys.press("j")
    expect(page.locator(".turn:focus")).to_have_count(1)
    keys.press("/")
    keys.type("NEEDLE")  # whatever the case
    keys.press("Enter")
    expect(page.locator(".trow")).to_have_count(1)
    keys.press("Enter")
    expect(page.locator(".call-view .answer-text")).to_have_text("another needle")
    keys.press("Escape")
    expect(page.locator(".call-view")).to_be_hidden()
    keys.press("Escape")
    expect(page.locator(".trow")).to_have_count(3)
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    keys.press("Enter")
    expect(page.locator(".call-view .caution")).to_have_text("engine: it broke")
    keys.press("4")
    expect(page.locator(".passage mark.here")).to_have_count(1)
    keys.press("1")
    timeline = page.locator("canvas.timeline")
    timeline.focus()
    for key in ("+", "ArrowRight", "-", "0"):
        keys.press(key)
    expect(timeline).to_be_focused()


def test_a_run_is_seen_while_it_goes_on(watched: Watched, serve: Serve, log: Log) -> None:
    page = watched.page
    log.begin()
    page.goto(serve(log.folder).url)
    expect(page.locator(".badge").first).to_have_text("running")
    page.get_by_role("tab", name="Calls").click()
    log.turn("```repl\nworker_batch(parts)\n```")
    log.calls([(f"Passage: {TEXT[:300]}", "one")])
    expect(page.locator(".trow")).to_have_count(1)
    log.calls([(f"Passage: {TEXT[900:1900]}", "two"), ("no passage", None)])
    expect(page.locator(".trow")).to_have_count(3)
    page.get_by_role("tab", name="Conversation").click()
    log.cell("worker_batch(parts)", "printed live")
    expect(page.locator("#cell-1 .output")).to_have_text("printed live")
    page.get_by_role("tab", name="Overview").click()
    log.end("found at last")
    expect(page.locator(".badge").first).to_have_text("answered")
    expect(page.locator(".answer-text")).to_have_text("found at last")


def test_a_run_that_failed_says_why(watched: Watched, serve: Serve, log: Log) -> None:
    log.begin()
    log.turn("```repl\n1/0\n```")
    failure = {
        "name": "ZeroDivisionError",
        "message": "division by zero",
        "traceback": "cell 1, line 1",
        "line": 1,
    }
    log.cell("1/0", status="error", error=failure)
    log.end(status="failed", error="the endpoint said 401: no such key")
    page = watched.page
    page.goto(serve(log.folder).url)
    expect(page.locator(".badge").first).to_have_text("failed")
    expect(page.locator(".top .caution")).to_have_text("the endpoint said 401: no such key")
    expect(page.locator(".answer")).to_contain_text("none")


def test_a_file_leads_a_browser_to_it(
    watched: Watched, serve: Serve, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    lamp_run(log)
    monkeypatch.setattr(webbrowser, "open", watched.page.goto)
    with opened(serve(log.folder).url):
        expect(watched.page.locator(".badge").first).to_be_visible()


AT_ONCE = """
new MutationObserver((_, self) => {
  if (!document.querySelector(".figures")?.textContent) return;
  self.disconnect();
  dispatchEvent(new KeyboardEvent("keydown", { key: "3" }));
}).observe(document, { subtree: true, childList: true });
"""


def test_a_key_as_soon_as_a_run_is_there_is_not_undone(
    watched: Watched, serve: Serve, log: Log
) -> None:
    log.begin()
    log.calls([("why?", "so")])
    log.end(status="answered")
    page = watched.page
    page.add_init_script(AT_ONCE)
    page.goto(serve(log.folder).url)
    calls = page.get_by_role("tab", name="Calls")
    expect(calls).to_have_attribute("aria-selected", "true")
    page.wait_for_timeout(200)
    expect(calls).to_have_attribute("aria-selected", "true")


def test_long_texts_are_shown_by_pieces(watched: Watched, serve: Serve, log: Log) -> None:
    """What a browser lays out at once is bounded, whichever field of the log it is."""
    long = "long words " * 20_000
    log.begin()
    log.turn("```repl\nx = 1\n```")
    log.calls([("why?", None)], error=records.CallFailure("engine", long))
    log.cell("x = 1", variables=(records.Variable("x", "str", long, 3),), lost=long)
    log.end(status="failed", error=long)
    page = watched.page
    page.goto(serve(log.folder).url)
    shown = [page.locator(".top .caution")]
    expect(shown[0]).to_contain_text("show more")
    page.keyboard.press("2")
    page.locator("#cell-1 summary", has_text="Variables").click()
    shown += [page.locator("#cell-1 .variables dd"), page.locator("#cell-1 .caution")]
    page.keyboard.press("3")
    page.locator(".trow").first.click()
    shown.append(page.locator(".call-view .caution"))
    for each in shown:
        expect(each).to_contain_text("long words")
        assert len(each.text_content() or "") < 10_000


HOSTILE = [
    "<script>window.canary = 1</script>",
    "</script><script>window.canary = 2</script>",
    "<img src=x onerror='window.canary = 3'>",
    "\"' onfocus=window.canary=4 autofocus x='",
    "javascript:window.canary=5",
    "<svg onload=window.canary=6><a href='javascript:window.canary=7'>x</a></svg>",
    "<!--<script>", "]]>", "<base href='//evil.invalid/'>", "<style>*{display:none}</style>",
    "\x1b[31mred\x1b[0m\x1b]8;;http://evil.invalid\x07",
    "\u202egnp.exe \u2066bidi\u2069 \u200f",
    "\x00NUL and \x07BEL", "\u2028\u2029line separators", "__proto__", "data/state",
]  # fmt: skip
BAD = " ".join(HOSTILE)


def hostile_run(log: Log) -> None:
    """Everything that a model, a document or a jail can choose is an attack; one line is 10 MB."""
    options = {BAD: [BAD], "budget": {"tokens": BAD}}
    log.begin(BAD, supervisor=BAD, worker=BAD, label=BAD, options=options)
    log.turn(f"{BAD}\n```repl\nx = '''{BAD}'''\n```")
    wild = ((-5, 10**15, -7, "<script>"), (3, 1, 2, "<script>"), (0, 99, 10**9, "__proto__"))
    spans = tuple(records.Span(*each) for each in wild)
    asked = [(f"{BAD} {TEXT[:300]}", BAD), (BAD, None)]
    far = {"total_s": 1e300, "queue_s": -1e300, "compute_s": 1e15, "gpu_s": -5.0}
    log.calls(asked, server=BAD[:200], spans=spans, **far)
    log.calls([("x" * 10_000_000, "<b>" * 1_000_000)])
    log.cell(
        f"x = '''{BAD}'''",
        "y" * 10_000_000,
        status="error",
        stderr=BAD,
        elapsed_s=-1e300,
        error=records.CellFailure(BAD, BAD, BAD),
        variables=(
            records.Variable(BAD, BAD, BAD, 1),
            records.Variable("__proto__", "constructor", "toString"),
        ),
    )
    for t in (-1.7e308, 1.7e308):  # the time between them is no number any more
        log.journal.supervisor(
            records.Event(t=t, run=log.run, producer=records.Producer("driver", BAD, 1), event=BAD)
        )
    log.tell(BAD)
    log.end({BAD: [BAD, None, 1e308]}, answer_problem=BAD, error=BAD)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    log = Log(tmp_path / "hostile", {"<script>": TEXT, BAD: BAD})
    hostile_run(log)
    log.close()
    return log.folder


def walk(watched: Watched) -> None:
    """Open all that the page has."""
    page = watched.page
    expect(page.locator(".figures dd").first).to_be_visible()
    expect(page.locator("#progress")).to_be_hidden()
    for summary in page.locator(".more-facts summary").all():
        summary.click()
    page.keyboard.press("2")
    expect(page.locator("#cell-1 .output").first).to_be_visible()
    for summary in page.locator(".turn summary").all():
        summary.click()
    page.keyboard.press("3")
    for place in range(3):
        page.locator(".trow").nth(place).click()
        expect(page.locator(".call-view h2")).to_have_text(f"Call {place + 1}")
    page.keyboard.press("4")
    expect(page.locator(".passage")).to_contain_text("Line")


def harmless(watched: Watched) -> None:
    """Nothing of the log ran, became an element, or was asked for."""
    page = watched.page
    assert page.evaluate("window.canary") is None
    assert (
        page.evaluate("document.querySelectorAll('img, svg, a, base, iframe, object').length") == 0
    )
    assert page.evaluate("document.querySelectorAll('style').length") == 1
    text = page.evaluate("document.body.innerText")
    assert not re.search(r"[\x00-\x08\x1b\u202a-\u202e\u2066-\u2069]", text)


def test_nothing_of_a_hostile_log_runs(watched: Watched, serve: Serve, hostile: Path) -> None:
    page = watched.page
    server = serve(hostile)
    page.goto(server.url)
    walk(watched)
    harmless(watched)
    assert page.evaluate("[...document.scripts].length") == 1
    origin = server.url.partition("?")[0]
    assert all(url.startswith((origin, "data:image/svg+xml,")) for url in watched.requests)


def test_the_policy_stands_behind_the_escaping(watched: Watched, serve: Serve, log: Log) -> None:
    """Even if the page's own script slipped, the browser would refuse."""
    lamp_run(log)
    page = watched.page
    page.goto(serve(log.folder).url)
    expect(page.locator(".figures dd").first).to_be_visible()
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<img src=x onerror=window.canary=1>'")
    page.evaluate(
        """() => {
            const script = document.createElementNS('http://www.w3.org/1999/xhtml', 'script');
            try { script.append('window.canary = 1'); document.body.append(script); } catch {}
            const button = document.createElement('button');
            try { button.setAttribute('onclick', 'window.canary = 1'); } catch {}
            document.body.append(button);
            button.click();
            return fetch('http://127.0.0.1:9/').catch(() => 0);
        }"""
    )
    assert page.evaluate("window.canary") is None
    assert any("Content Security Policy" in error for error in watched.errors)
    watched.errors.clear()


def test_a_file_holds_all_and_asks_for_nothing(
    watched: Watched, hostile: Path, tmp_path: Path
) -> None:
    target = tmp_path / "page.html"
    export(Answers([hostile]), target)
    assert target.stat().st_mode & 0o777 == 0o600
    page = watched.page
    page.goto(target.as_uri())
    walk(watched)
    harmless(watched)
    page.keyboard.press("3")
    page.get_by_role("searchbox").fill("LINE 2 TELLS")
    page.keyboard.press("Enter")
    expect(page.locator(".trow")).to_have_count(1)
    asked = [url for url in watched.requests if not url.startswith("data:image/svg+xml,")]
    assert asked == [target.as_uri()]


def test_several_runs_have_a_list(watched: Watched, serve: Serve, tmp_path: Path) -> None:
    for number in range(3):
        with contextlib.closing(Log(tmp_path / str(number % 2), run=f"run-{number}")) as log:
            log.begin(f"Question {number}?", label=f"task {number}")
            log.end(f"answer {number}")
            log.score("exact", 0.25)
    page = watched.page
    page.goto(serve(tmp_path / "0", tmp_path / "1").url)
    expect(page.locator(".question-text")).to_have_text("Question 2?")
    page.keyboard.press("5")
    expect(page.locator(".runs .trow")).to_have_count(3)
    for text in ("task 1", "hand", "0.25"):
        expect(page.locator(".runs .trow", has_text="Question 1?")).to_contain_text(text)
    page.locator(".runs .trow", has_text="Question 1?").click()
    expect(page.locator(".question-text")).to_have_text("Question 1?")
    page.go_back()
    expect(page.locator(".runs")).to_be_visible()


def test_an_address_leads_to_its_run_and_view(
    watched: Watched, serve: Serve, tmp_path: Path
) -> None:
    for number in range(2):
        with contextlib.closing(Log(tmp_path, run=f"run-{number}")) as log:
            lamp_run(log, f"Question {number}?")
    page = watched.page
    page.goto(f"{serve(tmp_path).url}#0.0/calls")
    expect(page.locator(".calls .trow")).to_have_count(3)
    expect(page.get_by_role("tab", name="Calls")).to_have_attribute("aria-selected", "true")
    expect(page).to_have_title("Question 0? · distill")


def scrolls(watched: Watched, calls: int) -> None:
    """The table of so many calls goes to its end, is sorted and searched, with few elements."""
    page = watched.page
    page.keyboard.press("3")
    expect(page.locator(".calls .bar [role=status]")).to_have_text(f"{calls:,} calls")
    page.locator(".calls .tbody").focus()
    page.keyboard.press("End")
    expect(page.locator(".trow.chosen")).to_contain_text(f"{calls:,}")
    assert page.locator(".calls .trow").count() < 100
    page.get_by_role("button", name="total").click()
    page.keyboard.press("Home")
    expect(page.locator(".calls [aria-sort=descending]")).to_have_text("total ▾")
    page.locator(".calls .tbody").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".call-view .prompt")).to_contain_text("lamp")


def test_pages_of_calls_are_put_together(watched: Watched, serve: Serve, tmp_path: Path) -> None:
    logs_runs().write_run(tmp_path / "log", 6000)
    watched.page.goto(serve(tmp_path / "log").url)
    expect(watched.page.locator(".figures")).to_contain_text("6,000")
    scrolls(watched, 6000)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["live", "file"])
def test_100_000_calls_do_not_freeze_it(
    how: str, watched: Watched, serve: Serve, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    logs_runs().write_run(folder, 100_000)
    if how == "file":
        export(Answers([folder]), tmp_path / "page.html")
    page = watched.page
    page.goto(serve(folder).url if how == "live" else (tmp_path / "page.html").as_uri())
    expect(page.locator(".figures")).to_contain_text("100,000")
    scrolls(watched, 100_000)
