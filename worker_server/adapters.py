"""LoRA adapters of one engine: which versions it holds, and which of them are still in use.

::

    load ─► held ─► named by requests ─► dropped ─► removed, once the last one has its answer

Each version has a name and a number of its own in the engine: vLLM's prefix cache knows an adapter
by its name, and what it has loaded by its number. A file is read once, when it is loaded, so the
folder may be written anew for the next version. Versions are loaded and dropped one at a time, in
the order in which that was asked for.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from distill.worker_server.adapter_files import AdapterFiles
from distill.worker_server.errors import AdapterRefused
from distill.worker_server.model import ModelFolder
from distill.worker_server.process import in_daemon_thread

HELD_LIMIT = 32
"""Versions in the engine's memory at once; it is told to keep as many, so it evicts none."""

Key = tuple[str, int]


@dataclass(slots=True)
class Held:
    """A version that the engine has loaded; ``number`` is unique for as long as it runs."""

    name: str
    number: int
    path: str
    requests: int = 0
    is_dropped: bool = False


class Adapters:
    """The versions that an engine holds. Belongs to its event loop.

    ``add`` and ``remove`` are the engine's; ``add`` raises whatever it likes, ``remove`` nothing.
    """

    def __init__(
        self,
        base: ModelFolder,
        add: Callable[[Held], Awaitable[None]],
        remove: Callable[[Held], Awaitable[None]],
    ) -> None:
        self._base = base
        self._add = add
        self._remove = remove
        self._held: dict[Key, Held] = {}
        self._numbers = itertools.count(1)
        self._one_at_a_time = asyncio.Lock()

    async def load(self, adapter: str, version: int, path: str) -> str:
        """Load a version; the SHA-256 of its files. Raises AdapterRefused, and holds none then."""
        async with self._one_at_a_time:
            return await self._hold(adapter, version, path)

    async def _hold(self, adapter: str, version: int, path: str) -> str:
        if len(self._held) >= HELD_LIMIT:
            raise AdapterRefused(f"{HELD_LIMIT} versions of adapters are loaded, the most there is")
        files = await in_daemon_thread(lambda: AdapterFiles.read(path, self._base))
        number = next(self._numbers)
        held = Held(f"{adapter}@{version}.{number}", number, str(files.folder))
        try:
            await self._add(held)
        except Exception as error:
            await self._remove(held)  # it may have got half way
            raise AdapterRefused(f"{path}: {error}") from error
        if files.have_changed():
            await self._remove(held)
            raise AdapterRefused(f"{path} was written to while it was loaded: load it again")
        self._held[adapter, version] = held
        return files.sha256

    @contextlib.contextmanager
    def in_use(self, adapter: str, version: int) -> Iterator[Held]:
        """Hold a version for the time of a request. Raises AdapterRefused if it is not there."""
        held = self._held.get((adapter, version))
        if held is None:
            raise AdapterRefused(f"version {version} of the adapter {adapter!r} is not loaded here")
        held.requests += 1
        try:
            yield held
        finally:
            held.requests -= 1

    async def drop(self, adapter: str, version: int) -> None:
        """No request will name it any more: let it go, now or with its last request."""
        async with self._one_at_a_time:  # it may be on its way still
            if (held := self._held.get((adapter, version))) is not None:
                held.is_dropped = True
        await self.sweep()

    async def drop_all(self) -> None:
        """Who named them is out of reach; the next may name others by the same names."""
        async with self._one_at_a_time:
            self._held = {(held.name, -held.number): held for held in self._held.values()}
            for held in self._held.values():
                held.is_dropped = True
        await self.sweep()

    async def sweep(self) -> None:
        """Remove what was dropped and is in use no more."""
        for key, held in list(self._held.items()):
            if held.is_dropped and not held.requests:
                del self._held[key]
                await self._remove(held)
