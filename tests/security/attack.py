"""An attack as data: what it does, what stops it, and how it is told that it worked."""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.security.layers import Layer

WORKED = "worked"
"""The outcome of an attack that did what it set out to do."""
FILTERS: Mapping[Layer, str] = {"inner filter": "EPERM", "outer filter": "EPERM"}
"""What is on neither list."""
LIBC = ctypes.CDLL(None, use_errno=True)


def sysv_key() -> int:
    """The key of the host's own System V memory segment."""
    return 0x5EC0_0000 | os.getpid() & 0xFFFF


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to harm the machine.

    ``code`` runs as a cell, after ``prelude.py``: it ends without an exception only if the attack
    has worked, and proves it by its asserts. ``stopped`` names every layer that stops it, with what
    each of them answers when all the others are off: an errno's name, an exception's, ``Nothing``
    (there was nothing to find), or the keeper's word for how the jail ended. The first one is what
    the complete jail answers.
    """

    name: str
    mechanism: str
    code: str
    stopped: Mapping[Layer, str]
    together: frozenset[Layer] = field(default_factory=frozenset)
    """Layers that stop it only where others hold as well: off with those that are listed."""
    keeps: frozenset[Layer] = field(default_factory=frozenset)
    """Layers that stay on where no jail is wanted: a throw-away namespace, where it would harm."""
    root_only: bool = False
    """The kernel refuses it to every ordinary user: without a jail it is tried as root only."""
    owner_writes: bool = False
    """Done to files that are root's, where root has staged them: a user can do it to his own."""
    worked: str = WORKED
    """The outcome that is success: for one that kills its own process, how that is told."""

    @property
    def denied(self) -> str:
        """What the complete jail answers."""
        return next(iter(self.stopped.values()))

    def stopped_by(self, layers: frozenset[Layer]) -> dict[Layer, str]:
        """Of what stops it, these layers."""
        return {layer: answer for layer, answer in self.stopped.items() if layer in layers}
