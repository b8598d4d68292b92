"""The address of the page for a browser, in a file: who has an account here reads command lines."""

import contextlib
import html
import os
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def opened(url: str) -> Iterator[None]:
    """Have a browser open the address; the file that leads there is gone at the end."""
    told = html.escape(url)
    with tempfile.TemporaryDirectory(prefix="distill-view-") as folder:
        path = Path(folder) / "open.html"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(
                '<!doctype html><meta charset="utf-8"><title>distill</title>'
                f'<meta http-equiv="refresh" content="0; url={told}">'
                f'<a href="{told}">the page</a>\n'
            )
        webbrowser.open(path.as_uri())
        yield
