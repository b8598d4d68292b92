"""What a loop tells at its end: the table, the JSON, and a page that runs and loads nothing."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from distill.training import loop_page
from distill.training.curve import Line, Point, curve
from distill.training.decision import compare, decide
from distill.training.figures import Figures
from distill.training.iterations import Came
from distill.training.lineage import Version
from distill.training.loop_report import Report, report_of, table
from tests.training.loops import plan

HOSTILE = '<script src="http://example.org/x.js">alert(1)</script>\x1b[31m\ud800 & "more"'


def figures(*scores: float, supervisor: str = "recipe:extract") -> Figures:
    return Figures(
        supervisor=supervisor,
        scores={str(place): score for place, score in enumerate(scores)},
        accuracy=sum(scores) / len(scores),
        interval=(0.1, 0.9),
        runs=len(scores),
        failed=1,
        unanswered=0,
        supervisor_tokens=5,
        worker_calls=4,
        worker_input_tokens=1234,
        worker_output_tokens=56,
        run_s=7.0,
        wall_s=3.5,
    )


def version(number: int, scores: Figures, parent: Figures) -> Version:
    decision = decide(scores.scores, parent.scores, 0.0)
    return Version(
        version=number, parent=number - 1, kept=decision.kept, why=decision.why, rows=9, steps=3,
        method="sft", adapter_sha256="a" * 64, accuracy=scores.accuracy, decision=decision,
    )  # fmt: skip


@pytest.fixture
def report(tmp_path: Path) -> Report:
    held_out = {0: figures(0, 0, 1, 0), 1: figures(1, 0, 1, 1), 2: figures(0, 0, 1, 1)}
    versions = [
        Version(version=0), *(version(n, held_out[n], held_out[n - 1]) for n in (1, 2))
    ]  # fmt: skip
    came = Came(
        versions=versions,
        held_out=held_out,
        collected={1: figures(1, 0)},
        baselines={HOSTILE: figures(0, 1, 1, 0, supervisor=HOSTILE)},
        whole_runs={"base": figures(0, 0), "trained": figures(1, 0)},
        oracle=figures(1, 1, 1, 1),
    )
    asked = plan(labels="oracle", baselines=(HOSTILE,), training={"--seed": 7}, worker=HOSTILE)
    return report_of(tmp_path, asked, came, f"distill train sft --baseline '{HOSTILE}'")


def test_what_is_held_against_what(report: Report) -> None:
    pairs = {(pair.first, pair.second): pair.figures.difference for pair in report.pairs}
    assert pairs == {
        ("version 1", "base"): 0.5,
        ("version 1", f"baseline {HOSTILE}"): 0.25,
        ("version 2", "version 1"): -0.25,
        ("oracle", "base"): 0.75,
        ("oracle", "version 1"): 0.25,
        ("whole runs, trained", "whole runs, base"): 0.5,
    }
    one = next(pair for pair in report.pairs if pair.second == "base")
    assert one.figures == compare(
        {"0": 1, "1": 0, "2": 1, "3": 1}, {"0": 0, "1": 0, "2": 1, "3": 0}
    )


def test_what_it_ended_with_is_named(report: Report, tmp_path: Path) -> None:
    adapter = "iteration-1/train/adapter"
    versions = [report.versions[0], replace(report.versions[1], adapter=adapter)]
    came = Came(versions, {0: figures(0), 1: figures(1)}, {}, {"recipe:x": figures(1)}, {})
    (tmp_path / "loop.json").touch()
    one = report_of(tmp_path, plan(worker="default", iterations=1), came, "distill")
    assert one.serve == f"bin/distill-up --adapter {tmp_path / adapter}"
    text = "".join(Page(loop_page.page(one)).text)
    assert one.serve in text
    assert "1 iteration" in text
    assert "1 iterations" not in text
    assert "Worker SmolLM2-135M-Instruct." in text
    assert "UTC: 0 min" in text
    assert report.serve == ""


def test_each_name_of_nearly_equal_baselines_leads_to_its_own_line() -> None:
    point = Point("base", 0.1, (0.0, 0.2))
    lines = [Line("31.0  recipe:extract-shots-schema", 0.31), Line("30.5  other", 0.305)]
    drawn = curve([point, point], lines, None)
    assert "recipe:extract-shots-schema<" in drawn  # there is room for it
    assert drawn.count('class="baseline"') == 4


def test_the_table_tells_each_figure(report: Report) -> None:
    told = table(report)
    lines = {line.partition("  ")[0]: line for line in told.splitlines()}
    assert lines["version 1"].endswith("kept")
    assert lines["version 2"].endswith("dropped")
    assert "0.750" in lines["version 1"]
    assert "version 1 less base: +0.500 (" in told
    assert "\x1b" not in told


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [f"{name}={value}" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_runs_and_loads_nothing_whatever_the_names(report: Report, tmp_path: Path) -> None:
    file = loop_page.write(tmp_path, report)
    html = file.read_text("utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert page.links == []
    assert {"svg", "table", "style"} <= page.tags
    text = "".join(page.text)
    assert '<script src="http://example.org/x.js">alert(1)</script>' in text
    assert "prefers-color-scheme: dark" in text
    assert "seed 7" in text
    assert "default-src 'none'" in html
    assert file.stat().st_mode & 0o077 == 0
    told = json.loads((tmp_path / loop_page.DATA).read_bytes())
    assert told["seed"] == 7
    assert [each["kept"] for each in told["versions"]] == [True, True, False]
    assert "scores" not in told["rows"][0]["figures"]
