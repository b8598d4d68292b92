"""What is made of a context, once for all runs that ask about it at the same time.

The index of a 10 MB text takes some 100 MB and a second, its memory file 10 MB: 64 runs about it
share one of each, by the hash of its bytes, and what a primitive makes of the text. The last run
that lets go of it frees all.
"""

import copy
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from distill.supervisor.context import ContextFile
from distill.supervisor.provenance import SpanIndex

T = TypeVar("T")


class SharedContext:
    """The span index and the memory file of one context, of which runs take their own ends, and
    what else was made of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._index: SpanIndex | None = None
        self._file: ContextFile | None = None
        self._others: dict[Any, Any] = {}

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

    def made(self, make: Callable[[Any], T], context: Any) -> T:
        """What ``make`` makes of the context, made by the first run that asks. In a thread."""
        with self._lock:
            if make not in self._others:
                self._others[make] = make(context)
            made: T = self._others[make]
            return made

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()


_shared: WeakValueDictionary[str, SharedContext] = WeakValueDictionary()
_lock = threading.Lock()


def shared_context(name: str, context: Any) -> SharedContext:
    """Of the context that is stored under this name: held as long as a run holds it. In a thread.

    The name tells a text from a list that is written with the same bytes.
    """
    with _lock:
        held = _shared.get(name)
        if held is None:
            held = _shared[name] = SharedContext()
    held.make(context)
    return held
