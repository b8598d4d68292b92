"""A real browser: Debian's Chromium, without a window, driven by Playwright."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright, sync_playwright

from distill.view.answers import Answers
from distill.view.server import ViewServer
from tests.view.logs import Log

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT_MS = 30_000
"""How long anything is waited for: the machine may be busy."""


@pytest.fixture(scope="session")
def chromium() -> str:
    """Its path. Nothing stands in for it: bin/test installs it where it may, else says how."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None and (os.geteuid() or shutil.which("apt-get") is None):
        pytest.skip("there is no chromium, and only root can install it")
    assert path, "there is no chromium: apt-get install -y --no-install-recommends chromium"
    return path


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """For a module: while it runs, no other test of this thread can have a loop of its own."""
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(
    playwright: Playwright, chromium: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserContext]:
    """One for all tests, with nothing of the user's."""
    context = playwright.chromium.launch_persistent_context(
        tmp_path_factory.mktemp("browser"), executable_path=chromium, args=FLAGS,
        viewport={"width": 1280, "height": 860},
    )  # fmt: skip
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


class Watched:
    """What a page said and asked for while it was open."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console",
            lambda said: self.errors.append(said.text) if said.type == "error" else None,
        )
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def watched(browser: BrowserContext) -> Iterator[Watched]:
    """A page that said no error in the end."""
    page = browser.new_page()
    seen = Watched(page)
    yield seen
    page.close()
    assert seen.errors == []


@pytest.fixture
def serve() -> Iterator[Callable[..., ViewServer]]:
    """Servers of log folders, closed in the end."""
    opened: list[ViewServer] = []

    def serve(*folders: Path) -> ViewServer:
        opened.append(ViewServer(Answers(folders)))
        return opened[-1]

    yield serve
    for server in opened:
        server.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log that this test writes, as a driver does: while it is open, its run goes on."""
    written = Log(tmp_path / "log")
    yield written
    written.close()
