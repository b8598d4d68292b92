"""What is made of a context, once for all runs that ask about it at the same time.

The index of a 10 MB text takes some 100 MB and a second, its memory file 10 MB: 64 runs about it
share one of each, by the hash of its bytes. The last run that lets go of it frees both.
"""

import copy
import threading
from typing import Any
from weakref import WeakValueDictionary

from distill.supervisor.context import ContextFile
from distill.supervisor.provenance import SpanIndex


class SharedContext:
    """The span index and the memory file of one context; runs take their own ends of both."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._index: SpanIndex | None = None
        self._file: ContextFile | None = None

    def make(self, context: Any) -> None:
        """Make both, unless another run has. In a thread: it takes a second for 10 MB."""
        with self._lock:
            if self._index is None:
                self._file = ContextFile(context)
                self._index = SpanIndex(context)

    def index(self) -> SpanIndex:
        """An index of a run's own: it remembers its last prompt, and shares the rest."""
        assert self._index is not None
        return copy.copy(self._index)

    def file(self, own: Any, context: Any) -> ContextFile:
        """What a run, whose ``own`` context has been shared, maps as its context.

        The memory of all, by a descriptor that the run closes; of another one a file of its own.
        """
        assert self._file is not None
        return self._file.again() if context is own else ContextFile(context)

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()


_shared: WeakValueDictionary[str, SharedContext] = WeakValueDictionary()
_lock = threading.Lock()


def shared_context(sha256: str, context: Any) -> SharedContext:
    """Of the context with this hash: held as long as a run holds it. In a thread."""
    with _lock:
        held = _shared.get(sha256)
        if held is None:
            held = _shared[sha256] = SharedContext()
    held.make(context)
    return held
