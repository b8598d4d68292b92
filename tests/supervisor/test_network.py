"""Workers on other machines, as network namespaces: they join, are cut off, and come back."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.far import PROMPTS, RIGHT, Ask, Far, with_engine
from tests.supervisor.nodes import Node, nodes


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def two() -> Iterator[list[Node]]:
    with nodes(2) as made:
        yield made


def join(far: Far, name: str, node: Node, redial_s: int = 60) -> None:
    port = far.endpoint.rpartition(":")[2]
    words = ["--connect", f"tcp://{node.gateway}:{port}", "--redial-s", str(redial_s)]
    far.join(name, *words, before=node.before)


@pytest.mark.slow
def test_a_link_is_cut_and_mended(tmp_path: Path, two: list[Node]) -> None:
    async def body(far: Far, ask: Ask) -> None:
        join(far, "stays", two[0])
        join(far, "cut", two[1])
        await far.until_ready("stays", "cut")
        assert await ask(PROMPTS[:50]) == RIGHT[:50]
        answers = asyncio.ensure_future(ask(PROMPTS))
        await asyncio.sleep(0.3)
        assert not answers.done()
        two[1].link("down")
        began_s = time.monotonic()
        assert await answers == RIGHT
        assert time.monotonic() - began_s < 20
        await far.until_ready("stays")
        two[1].link("up")
        await far.until_ready("stays", "cut")
        assert await ask(PROMPTS) == RIGHT

    calls = with_engine(tmp_path, body, listen="tcp://*:0")
    assert {call.producer.name for call in calls} == {"stays", "cut"}
    assert {call.attempt for call in calls} == {1, 2}
    assert len(calls) == 50 + 2 * len(PROMPTS)
    err = (tmp_path / "cut.err").read_text()
    assert "dialling again" in err
    assert " again\n" in err


@pytest.mark.slow
def test_the_only_worker_is_cut_off_and_what_waits_waits(tmp_path: Path, two: list[Node]) -> None:
    async def body(far: Far, ask: Ask) -> None:
        join(far, "only", two[0])
        await far.until_ready("only")
        answers = asyncio.ensure_future(ask(PROMPTS))
        await asyncio.sleep(0.3)
        two[0].link("down")
        await asyncio.sleep(9)
        assert far.ready() == set()
        assert not answers.done()
        two[0].link("up")
        assert await answers == RIGHT

    calls = with_engine(tmp_path, body, listen="tcp://*:0")
    assert [call.item for call in calls] == list(range(len(PROMPTS)))


@pytest.mark.slow
def test_a_link_that_stays_cut_ends_both_sides_hopes(
    tmp_path: Path, two: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.supervisor.fleet.AWAY_LIMIT_S", 5.0)

    async def body(far: Far, ask: Ask) -> None:
        join(far, "only", two[0], redial_s=3)
        await far.until_ready("only")
        answers = asyncio.ensure_future(ask(PROMPTS))
        await asyncio.sleep(0.3)
        two[0].link("down")
        with pytest.raises(Exception, match="no worker is left"):
            await answers
        assert list(far.fleet.workers()) == []
        status, told = await far.ended(far.started[0], "only")
        assert (status, "within 3 s" in told) == (3, True)

    with_engine(tmp_path, body, listen="tcp://*:0")
