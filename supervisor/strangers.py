"""Who knocked without a key: told once each, so that a flood fills no log."""

import time
from collections import OrderedDict

SILENT_S = 600.0
"""Who was told of is not told of again for this long."""
STRANGERS_LIMIT = 100
"""More than these in that time are not told of."""


class Strangers:
    """Those who were told of lately."""

    def __init__(self) -> None:
        self._told_s: OrderedDict[str, float] = OrderedDict()

    def is_news(self, who: str) -> bool:
        """Whether to tell of this one."""
        now_s = time.monotonic()
        while self._told_s and next(iter(self._told_s.values())) < now_s - SILENT_S:
            self._told_s.popitem(last=False)
        if who in self._told_s or len(self._told_s) >= STRANGERS_LIMIT:
            return False
        self._told_s[who] = now_s
        return True
