"""The text of a run: stored by its hash, indexed for spans, mapped into jails."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from distill.supervisor.context import ContextFile
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.journal import Journal, encode_context, stored_name
from distill.supervisor.redacted import RunRedactor
from distill.supervisor.shared_context import SharedContext, shared_context
from distill.traces import records

T = TypeVar("T")


class RunText:
    """What a run has of its context while it lasts; all runs about it share the large parts."""

    def __init__(
        self, context: Any, name: str, ref: records.ContextRef, shared: SharedContext
    ) -> None:
        self._context = context
        self.name = name
        """Which text it is, whatever of it is stored."""
        self.ref = ref
        self._shared: SharedContext | None = shared
        self.index = shared.index()

    @classmethod
    async def stored(
        cls,
        host: Driver,
        journal: Journal,
        context: Any,
        sources: Sequence[str],
        redactor: RunRedactor | None = None,
    ) -> "RunText":
        """Store and index it. What is stored is redacted; the run works on all of it.

        Raises InputError for what can't be stored.
        """
        async with host.starts:
            name, ref = await in_thread(host, _store, journal, context, sources, redactor)
            shared = await in_thread(host, shared_context, name, context)
        return cls(context, name, ref, shared)

    def file(self, context: Any) -> ContextFile:
        """The memory file of what a jail maps as its context."""
        if self._shared is None:
            return ContextFile(context)
        return self._shared.file(self._context, context)

    def made(self, make: Callable[[Any], T]) -> T:
        """What ``make`` makes of it, once for all runs about it. In a call's thread.

        Raises TimeoutError: the run has ended, and nobody waits for the call.
        """
        if (shared := self._shared) is None:
            raise TimeoutError("the run has ended")
        return shared.made(make, self._context)

    def forget(self) -> None:
        """Let go at once: the rest of a run waits for the garbage collector, these are large."""
        self.index.forget()
        self._shared = None


def _store(
    journal: Journal, context: Any, sources: Sequence[str], redactor: RunRedactor | None
) -> tuple[str, records.ContextRef]:
    """Which text it is, and what is stored of it; in a thread."""
    if redactor is None:
        ref, _ = journal.store_context(context, sources)
        return ref.file, ref
    # Two texts may be one without what tells them apart: the jails have theirs by its own name.
    kind, data, _ = encode_context(context)
    name, _ = stored_name(kind, data)
    ref, _ = journal.store_context(redactor.context(context), sources)
    return name, ref
