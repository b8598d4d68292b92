"""Which versions of an adapter the driver takes, by what workers say of them; no process."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest

from distill.errors import ModelError
from distill.protocol import worker_link as wire
from distill.protocol.errors import RemoteProtocolError
from distill.protocol.message import Message
from distill.supervisor.adapters import Adapters, Served, _Load
from distill.supervisor.workers import Worker
from tests.supervisor.test_suspects import ready


def test_files_are_compared_with_those_of_a_worker_that_has_ended_since() -> None:
    load = _Load(Served("tuned", 1, "m", "/adapter"), [ready("w0"), ready("w1")])
    load.settle("w0", "a hash", None)
    load.forget("w0")
    load.settle("w1", "another", None)
    assert load.is_done.is_set()
    assert load.served.workers == ()
    assert load.served.refused == {"w1": "the files at /adapter are others there than at w0"}


@dataclass
class Fleet:
    """Two ready workers of model m, and what they are told."""

    told: list[tuple[str, Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workers = [ready("w0"), ready("w1")]
        self.adapters = Adapters(lambda: self.workers, self.send, self.hear, self.hear)

    def hear(self, *_: object, **__: object) -> None:
        """What is logged, and that who serves what has changed."""

    def send(self, worker: Worker, message: Message) -> None:
        self.told.append((worker.name, message))

    def dropped(self) -> list[tuple[str, str, int]]:
        drops = [(name, each) for name, each in self.told if isinstance(each, wire.DropAdapter)]
        return [(name, each.adapter, each.version) for name, each in drops]

    async def load(self, *loaded: wire.AdapterLoaded | None) -> Served:
        """A load of "tuned", of which the workers say ``loaded``."""
        loading = asyncio.ensure_future(self.adapters.load("tuned", "/adapter", "m"))
        await asyncio.sleep(0)
        for worker, said in zip(self.workers, loaded, strict=True):
            if said is not None:
                self.adapters.on_loaded(worker, said)
        await asyncio.sleep(0)
        if None in loaded:
            loading.cancel()
        return await loading


def test_what_is_loaded_and_not_served_is_dropped() -> None:
    """Each stays in its engine's memory otherwise, until that takes no more."""
    loaded = wire.AdapterLoaded

    async def scenario() -> None:
        fleet = Fleet()
        one, two = fleet.workers
        served = await fleet.load(loaded("tuned", 1, "a"), loaded("tuned", 1, "b"))
        assert (served.workers, list(served.refused)) == (("w0",), ["w1"])
        assert fleet.dropped() == [("w1", "tuned", 1)]
        with contextlib.suppress(asyncio.CancelledError):
            await fleet.load(loaded("tuned", 2, "c"), None)
        assert fleet.dropped()[1:] == [("w0", "tuned", 2)]
        fleet.adapters.on_loaded(two, loaded("tuned", 2, "c"))
        assert fleet.dropped()[2:] == [("w1", "tuned", 2)]
        with pytest.raises(ModelError, match="can't be served"):
            await fleet.load(*[loaded("tuned", 3, refused="no")] * 2)
        assert len(fleet.dropped()) == 3
        fleet.adapters.on_loaded(two, loaded("strange", 1, "d"))
        assert fleet.dropped()[3:] == [("w1", "strange", 1)]
        assert (one.serving, two.serving) == ({"tuned": 1}, {})
        assert ("strange", 1) not in two.adapter_cards

    asyncio.run(scenario())


def test_who_has_other_files_than_it_said_at_first_serves_no_more() -> None:
    async def scenario() -> None:
        fleet = Fleet()
        one, _ = fleet.workers
        await fleet.load(*[wire.AdapterLoaded("tuned", 1, "a")] * 2)
        fleet.adapters.on_loaded(one, wire.AdapterLoaded("tuned", 1, "b"))
        assert one.serving == {}
        assert one.adapter_cards["tuned", 1].adapter_hash == "a"
        with pytest.raises(RemoteProtocolError, match="without files"):
            fleet.adapters.on_loaded(one, wire.AdapterLoaded("tuned", 1))

    asyncio.run(scenario())
