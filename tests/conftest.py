"""What holds for all tests: which may be skipped, and which run in one process.

A skip that is not on the list fails the run: see allowed_skips.txt.
"""

import signal
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")


def read_allowed_skips(file: Path) -> list[str]:
    """Return the patterns; a line without a reason is an error, because nobody could judge it."""
    patterns = []
    for line in file.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.partition(" : ")
        if not reason.strip():
            message = f"{file.name}: no reason in the line {line!r}"
            raise pytest.UsageError(message)
        patterns.append(pattern.strip())
    return patterns


class SkipGuard:
    """Collects the skips of a run, and turns a run with an unlisted one red."""

    def __init__(self, allowed: list[str]) -> None:
        self._allowed = allowed
        self._unlisted: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "wasxfail"):  # pytest calls an expected failure skipped, too
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        listed = any(fnmatchcase(report.nodeid, glob.replace("[", "[[]")) for glob in self._allowed)
        if report.skipped and not listed:
            self._unlisted.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._unlisted and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._unlisted:
            terminalreporter.section("skipped, but not in tests/allowed_skips.txt", red=True)
            terminalreporter.write_line("\n".join(self._unlisted))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests: a file is one's, and the real engine is one's.

    What needs the engine comes first: it takes longest.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        group = "vllm" if item.get_closest_marker("vllm") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("vllm") is None)


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts us in the background has us ignore Ctrl-C, and so would every process
    # that the tests start to press Ctrl-C on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(SkipGuard(read_allowed_skips(ALLOWED_SKIPS)), "skip-guard")
