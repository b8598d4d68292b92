"""Packages inside, as a run and its supervisor see them."""

import importlib.metadata
import platform
from typing import Any

import pytest

from distill import build_system_prompt
from distill.errors import InputError
from tests.distill.conftest import Ask
from tests.distill.scripted import Supervisor, cell

NUMPY = f"numpy {importlib.metadata.version('numpy')}"


def test_the_model_is_told_and_the_log_says_what_is_inside(ask: Ask, logged: Any) -> None:
    supervisor = Supervisor(cell("import numpy\nFINAL(float(numpy.arange(4).sum()))"))
    assert ask(supervisor=supervisor, sandbox_packages=["numpy"]).answer == 6.0
    told = f"Python {platform.python_version()} with its standard library, and {NUMPY}; nothing"
    assert told in supervisor.seen[0][0]["content"]
    assert logged().start.options["sandbox_packages"] == [NUMPY]


def test_without_any_the_model_is_told_so(ask: Ask) -> None:
    supervisor = Supervisor(cell("import numpy"), cell("FINAL(1)"))
    ask(supervisor=supervisor)
    told = f"Python {platform.python_version()} with its standard library only; nothing can be"
    assert told in supervisor.seen[0][0]["content"]
    assert told in build_system_prompt("text", "question")[0]["content"]
    assert "No module named 'numpy'" in supervisor.shown(2)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["no-such-thing"], "pip install no-such-thing"),
        (["numpy>=1"], "without a version"),
        ("numpy", "must be names"),
        ([5], "must be names"),
    ],
)
def test_what_is_not_there_is_told_before_any_model_is_asked(
    ask: Ask, log: Any, names: Any, said: str
) -> None:
    supervisor = Supervisor(cell("FINAL(1)"))
    with pytest.raises(InputError, match=said):
        ask(supervisor=supervisor, sandbox_packages=names)
    assert supervisor.seen == []
    assert not log.exists()
