"""Answers that nothing came of: a failed or killed cell had got them, equal calls may use them."""

from collections import defaultdict, deque
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Spares(Generic[Answer]):
    """Answers by the key of their call, each used once at most: other equal calls ask anew."""

    def __init__(self) -> None:
        self._unsettled: dict[int, list[tuple[str, Answer]]] = defaultdict(list)
        self._free: dict[str, deque[Answer]] = defaultdict(deque)
        self._failed: set[int] = set()

    def enter(self, cell: int, key: str, answer: Answer) -> None:
        """The cell got this answer. It may come when the cell has failed already."""
        if cell in self._failed:
            self._free[key].append(answer)
        else:
            self._unsettled[cell].append((key, answer))

    def settle(self, cell: int, *, failed: bool) -> None:
        """The cell has ended: if it failed, its answers are free."""
        unsettled = self._unsettled.pop(cell, [])
        if failed:
            self._failed.add(cell)
            for key, answer in unsettled:
                self._free[key].append(answer)

    def __bool__(self) -> bool:
        """Whether any is free."""
        return bool(self._free)

    def take(self, key: str) -> Answer | None:
        """A free answer to this call, which is then used; None if there is none."""
        free = self._free.get(key)
        if free is None:
            return None
        answer = free.popleft()
        if not free:
            del self._free[key]
        return answer
