"""How the jail is confined, as the caller says it and the trace tells it."""

from typing import Any

import pytest

from distill.errors import InputError
from distill.protocol.message import Json
from tests.distill.conftest import Ask
from tests.distill.scripted import Supervisor, cell

HOW = "import os\nFINAL([os.getpid() == 1, os.path.exists('/etc/passwd')])"


def ran(ask: Ask, sandbox: str) -> Any:
    return ask(supervisor=Supervisor(cell(HOW)), sandbox=sandbox).answer


def told(logged: Any) -> dict[str, Json]:
    """What the trace says of the sandbox."""
    return next(p.detail for p in logged().processes if p.producer.kind == "sandbox")


def test_the_best_tier_is_the_default(ask: Ask, logged: Any) -> None:
    assert ask(supervisor=Supervisor(cell(HOW))).answer == [True, False]
    assert told(logged)["tier"] == "namespaces"


@pytest.mark.parametrize("tier", ["landlock", "namespaces"])
def test_a_tier_that_is_named_is_taken(ask: Ask, logged: Any, tier: str) -> None:
    assert ran(ask, tier) == [tier == "namespaces", tier == "landlock"]
    detail = told(logged)
    assert detail["tier"] == tier
    assert "the context is mapped" in detail["notes"]


def test_no_jail_only_by_name_and_the_trace_says_so(
    ask: Ask, logged: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert ran(ask, "none") == [False, True]
    assert told(logged)["tier"] == "none"
    assert "there is no jail" in caplog.text


def test_the_next_run_is_not_confined_as_the_last(ask: Ask) -> None:
    assert ran(ask, "landlock") == [False, True]
    assert ran(ask, "namespaces") == [True, False]


def test_a_tier_that_is_none_is_refused_before_anything_starts(ask: Ask, log: Any) -> None:
    with pytest.raises(InputError, match="one of auto, namespaces, landlock, none, not 'docker'"):
        ran(ask, "docker")
    assert not log.exists()
