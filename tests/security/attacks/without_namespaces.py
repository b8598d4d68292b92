"""What stops an attack in the second tier, where it is not the same as in the first.

The rest of the attacks meet the same filter, limits and clock there, and the same answers.
"""

from collections.abc import Mapping

from tests.security.attack import Attack
from tests.security.layers import WITHOUT_NAMESPACES, Layer

By = Mapping[Layer, str]
READING: By = {"Landlock": "EACCES"}
"""The host's files have their names there, and can't be opened."""
CHANGING: By = {"inner filter": "EPERM", "Landlock": "EACCES"}
MAKING: By = {"Landlock": "EACCES", "inner filter": "EPERM"}
"""There is no scratch folder: the first thing that fails is to make a file."""

NOT_CLAIMED = {"learn the machine's name": "there is no uts namespace"}
DIFFERENT: dict[str, By] = {
    "read a file of the host's": READING,
    "climb out by ..": READING,
    "read through a symbolic link": CHANGING,
    "hard link to a file of the host's": CHANGING,
    "read through /proc/self/root": READING,
    "read through another process's root": {**READING, "user namespace": "EACCES"},
    "read another user's file": {**READING, "user namespace": "EACCES"},
    "read another process's environment": {**READING, "user namespace": "EACCES"},
    "open a disk": {**READING, "user namespace": "EACCES"},
    "make a host file everybody's": {"inner filter": "EPERM", "user namespace": "EPERM"},
    "make the staged interpreter writable": {"inner filter": "EPERM", "user namespace": "EPERM"},
    "truncate a file of the host's": CHANGING,
    "remove a file of the host's": CHANGING,
    "spoil the next jail's modules": {**CHANGING, "user namespace": "EPERM"},
    "plant a module in the library": {"Landlock": "EACCES", "user namespace": "EACCES"},
    "hide data in attributes": MAKING,
    "give a file away": MAKING,
    "hold others up by a lease": MAKING,
    "be told of a folder's changes": MAKING,
    "mark a file undumpable": MAKING,
    "run code from the scratch folder": READING,
    "list the machine's processes": READING,
    "read the list of mounts": READING,
    "read the kernel's messages as a file": {**READING, "user namespace": "EPERM"},
    "read the hardware's serial numbers": READING,
    "run a script of its own": MAKING,
    "memory behind a file's pages": {**READING, "RLIMIT_DATA": "ENOMEM", "RLIMIT_AS": "ENOMEM"},
    "fill the disk": READING,
    "one large file": {**READING, "RLIMIT_FSIZE": "EFBIG"},
    "a file of a terabyte": {**READING, "RLIMIT_FSIZE": "EFBIG"},
    "room kept without writing": {**MAKING, "RLIMIT_FSIZE": "EFBIG"},
    "a byte far out": {**READING, "RLIMIT_FSIZE": "EFBIG"},
    "empty files without end": READING,
    "hard links without end": MAKING,
    "symbolic links without end": CHANGING,
    "a tree without a bottom": CHANGING,
    "files without a name": READING,
}


def stopped(attack: Attack) -> By:
    """What stops it in the second tier, the answer of the complete jail first."""
    return DIFFERENT.get(attack.name) or attack.stopped_by(WITHOUT_NAMESPACES)
