"""Which LoRA adapters the fleet serves, each in its newest version.

::

    load ─► LoadAdapter to every ready worker of the model ─► AdapterLoaded from each
         ─► the switch: what is given to a worker from here on names the new version
         ─► DropAdapter: the old version goes with the last answer that began on it

A worker that can't load a version does not serve the adapter until there is a version that it
can; one that becomes ready later loads the current ones before it is given requests for them. What
a worker has loaded and nobody will ask for, it is told to drop.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace

from distill.errors import InputError, ModelError
from distill.protocol import worker_link as wire
from distill.protocol.errors import RemoteProtocolError
from distill.protocol.message import Message
from distill.supervisor.workers import Worker

NAME_LIMIT_CHARS = 200
LOAD_LIMIT_S = 300.0
"""A worker that has not said by then what came of it does not serve the version."""


@dataclass(frozen=True, slots=True)
class Served:
    """A version of an adapter that workers answer with.

    ``files_hash`` is the SHA-256 of its files, ``workers`` those that have loaded it, ``refused``
    the reasons of those that could not.
    """

    name: str
    version: int
    model: str
    path: str
    files_hash: str = ""
    workers: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


class _Load:
    """A version on its way to the workers that were ready when it was asked for."""

    def __init__(self, served: Served, workers: Collection[Worker]) -> None:
        self.served = served
        self.key = served.name, served.version
        self.waits_for = {worker.name for worker in workers}
        self._first = ""
        """Who has loaded it first; it may have ended since."""
        self.is_done = asyncio.Event()

    def settle(self, worker: str, files_hash: str, refused: str | None) -> bool:
        """What came of it at a worker; whether that one will serve it.

        The files that the first has loaded are the version's.
        """
        if worker not in self.waits_for:
            return False
        served = self.served
        known_hash = served.files_hash or files_hash
        if refused is None and files_hash != known_hash:
            refused = f"the files at {served.path} are others there than at {self._first}"
        if refused is None:
            self._first = self._first or worker
            loaded = tuple(sorted((*served.workers, worker)))
            self.served = replace(served, files_hash=known_hash, workers=loaded)
        else:
            self.served = replace(served, refused={**served.refused, worker: refused})
        self._heard_of(worker)
        return refused is None

    def forget(self, worker: str) -> None:
        """It has ended, whatever it had loaded; started again, it is one that comes later."""
        left = tuple(name for name in self.served.workers if name != worker)
        self.served = replace(self.served, workers=left)
        self._heard_of(worker)

    def _heard_of(self, worker: str) -> None:
        self.waits_for.discard(worker)
        if not self.waits_for:
            self.is_done.set()


class Adapters:
    """Belongs to the driver's loop. ``changed`` is called when who serves what has changed."""

    def __init__(
        self,
        workers: Callable[[], Collection[Worker]],
        send: Callable[[Worker, Message], None],
        event: Callable[..., None],
        changed: Callable[[], None],
    ) -> None:
        self._workers = workers
        self._send = send
        self._event = event
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._versions: Counter[str] = Counter()
        self._load: _Load | None = None
        self._one_at_a_time = asyncio.Lock()

    def served(self) -> list[Served]:
        """The adapters that calls may name."""
        return list(self._served.values())

    async def load(self, name: str, path: str, model: str) -> Served:
        """Have every worker of ``model`` load a version, and switch to it.

        A name that is served already gets a new version; a version that nobody could load leaves
        the one before in place, and its number is not used again. Raises InputError, ModelError.
        """
        async with self._one_at_a_time:
            self._check(name, model)
            ready = [worker for worker in self._of(model) if worker.is_ready]
            if not ready:
                raise ModelError(f"no worker serves {model} now, so none can load the adapter")
            self._versions[name] += 1
            self._load = load = _Load(Served(name, self._versions[name], model, path), ready)
            try:
                for worker in ready:
                    self._ask(worker, load.served)
                return await self._finish(load)
            except BaseException:  # cancelled, as a rule
                for worker in self._of(model):
                    if worker.name in load.served.workers:
                        self._drop(worker, *load.key)
                raise
            finally:
                self._load = None

    def _of(self, model: str) -> list[Worker]:
        return [worker for worker in self._workers() if worker.model == model]

    def _check(self, name: str, model: str) -> None:
        if not 0 < len(name) <= NAME_LIMIT_CHARS:
            raise InputError(f"an adapter's name has 1 to {NAME_LIMIT_CHARS} characters")
        if self._of(name):
            raise InputError(f"{name} is a model's name: give the adapter another")
        known = self._served.get(name)
        if known is not None and known.model != model:
            raise InputError(f"the adapter {name!r} is one of {known.model}: use another name")

    def _ask(self, worker: Worker, served: Served) -> None:
        worker.expected.add(served.name)
        self._send(worker, wire.LoadAdapter(served.name, served.version, served.path))

    def _drop(self, worker: Worker, name: str, version: int) -> None:
        if worker.conversation.allows(wire.DropAdapter):
            self._send(worker, wire.DropAdapter(name, version))

    async def _finish(self, load: _Load) -> Served:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(load.is_done.wait(), LOAD_LIMIT_S)
        for late in sorted(load.waits_for):
            load.settle(late, "", f"it did not load it within {LOAD_LIMIT_S:g} s")
        if not load.served.workers:
            reasons = [f"{worker}: {why}" for worker, why in load.served.refused.items()]
            told = "; ".join(reasons) or "every worker has ended meanwhile"
            raise ModelError(f"the adapter {load.served.name!r} can't be served. {told}")
        self._switch(load.served)
        return load.served

    def _switch(self, new: Served) -> None:
        """What is given to a worker from here on names the new version."""
        old = self._served.get(new.name)
        self._served[new.name] = new
        for worker in self._of(new.model):
            if worker.name in new.workers:
                worker.serving[new.name] = new.version
            else:
                worker.serving.pop(new.name, None)
            if old is not None:
                self._drop(worker, old.name, old.version)
            is_new_here = worker.name not in (*new.workers, *new.refused)
            if is_new_here and worker.is_ready:
                self._ask(worker, new)
        self._event(
            "adapter_switched",
            **{name: value for name, value in asdict(new).items() if value},
        )
        self._changed()

    # -- what the fleet hears of its workers

    def greet(self, worker: Worker) -> None:
        """It has become ready: it loads the current versions before it is asked for them."""
        for served in self._served.values():
            if served.model == worker.model:
                self._ask(worker, served)

    def on_loaded(self, worker: Worker, message: wire.AdapterLoaded) -> None:
        """It has loaded a version, or can't. Raises RemoteProtocolError for one of no files."""
        name, version = message.adapter, message.version
        if message.refused is None and not message.files_hash:
            raise RemoteProtocolError("it has loaded an adapter without files", peer=worker.name)
        worker.expected.discard(name)
        if self._takes(worker, message):
            worker.learn(name, version, message.files_hash)
        elif message.refused is None:
            self._drop(worker, name, version)
        self._changed()

    def _takes(self, worker: Worker, message: wire.AdapterLoaded) -> bool:
        """Whether it answers with that version, now or from the switch on."""
        if self._load is not None and (message.adapter, message.version) == self._load.key:
            return self._load.settle(worker.name, message.files_hash, message.refused)
        current = self._served.get(message.adapter)
        if current is None or (current.model, current.version) != (worker.model, message.version):
            return False
        return message.refused is None and self._take_in(worker, current, message.files_hash)

    def _take_in(self, worker: Worker, current: Served, files_hash: str) -> bool:
        """A worker that came later has the current version, if that is what it has loaded."""
        if files_hash == current.files_hash:
            worker.serving[current.name] = current.version
            return True
        worker.serving.pop(current.name, None)
        why = (
            f"the files at {current.path} are not those of version {current.version} of "
            f"{current.name!r} any more: keep each version in a folder of its own"
        )
        self._event("adapter_refused", worker=worker.name, detail=why)
        return False

    def lost(self, worker: Worker) -> None:
        """Its process is gone, and with it what it had loaded."""
        worker.expected.update(worker.serving)
        worker.serving.clear()
        if self._load is not None:
            self._load.forget(worker.name)
