"""The page: our HTML, style and script in one document, with the policy that lets only them run.

The script is the modules of ``pages/`` one after the other, without their imports and exports: a
file that is opened from a disk can't load modules, and so one document serves both ways.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

MODULES = (
    "dom.js",
    "numbers.js",
    "source.js",
    "calls.js",
    "coverage.js",
    "canvas.js",
    "load.js",
    "used.js",
    "time_window.js",
    "timeline.js",
    "table.js",
    "overview.js",
    "conversation.js",
    "reader.js",
    "call_view.js",
    "call_table.js",
    "runs.js",
    "main.js",
)
"""In the order in which they stand on each other."""
IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) )", re.MULTILINE)
STYLE_MARK, SCRIPT_MARK, POLICY_MARK = "/*style*/", "/*script*/", "<!--policy-->"
GENERATOR = '<meta name="generator" content="distill view">'
"""Stands in the head of every page."""
DATA_MARK, LATE_DATA_MARK = "<!--data-->", "<!--late data-->"


@dataclass(frozen=True, slots=True)
class Page:
    """A document and the Content-Security-Policy that goes with it."""

    html: str
    policy: str

    @classmethod
    def live(cls) -> "Page":
        """The page that asks a server; the policy goes into its headers."""
        return cls(_document(), _policy("connect-src 'self'", "frame-ancestors 'none'"))

    @classmethod
    def file(cls) -> "Page":
        """The page that holds its data, at the marks; the policy is in the document."""
        policy = _policy()
        told = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        return cls(_document().replace(POLICY_MARK, told), policy)


@cache
def _document() -> str:
    html = _read("index.html")
    return html.replace(STYLE_MARK, _read("style.css")).replace(SCRIPT_MARK, script())


@cache
def script() -> str:
    """All modules as one script."""
    modules = (EXPORT.sub("", IMPORT.sub("", _read(name))) for name in MODULES)
    return '"use strict";\n(async () => {\n' + "\n".join(modules) + "})();\n"


def _read(name: str) -> str:
    return resources.files("distill.view").joinpath("pages", name).read_text("utf-8")


def _policy(*more: str) -> str:
    """Nothing may run, be loaded or be sent, but for what is named. Trusted Types have the browser
    refuse text where markup or script is expected, should our script ever try.
    """
    rules = (
        "default-src 'none'",
        f"script-src {_hash(script())}",
        f"style-src {_hash(_read('style.css'))}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        *more,
    )
    return "; ".join(rules)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
