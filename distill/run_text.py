"""The text of a run: stored by its hash, indexed for spans, mapped into jails."""

from collections.abc import Sequence
from typing import Any

from distill.supervisor.context import ContextFile
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.journal import Journal
from distill.supervisor.shared_context import SharedContext, shared_context
from distill.traces import records


class RunText:
    """What a run has of its context while it lasts; all runs about it share the large parts."""

    def __init__(self, context: Any, ref: records.ContextRef, shared: SharedContext) -> None:
        self._context = context
        self.ref = ref
        self._shared: SharedContext | None = shared
        self.index = shared.index()

    @classmethod
    async def stored(
        cls, host: Driver, journal: Journal, context: Any, sources: Sequence[str]
    ) -> "RunText":
        """Store and index it. Raises InputError for what can't be stored."""
        async with host.starts:
            ref, _ = await in_thread(host, journal.store_context, context, sources)
            shared = await in_thread(host, shared_context, ref.sha256, context)
        return cls(context, ref, shared)

    def file(self, context: Any) -> ContextFile:
        """The memory file of what a jail maps as its context."""
        if self._shared is None:
            return ContextFile(context)
        return self._shared.file(self._context, context)

    def forget(self) -> None:
        """Let go at once: the rest of a run waits for the garbage collector, these are large."""
        self.index.forget()
        self._shared = None
