"""The layers of a jail, and the edits of its own files that take one out.

Production code has no off-switch. A layer is switched off from outside: here by a copy of the
jail's files with one step taken out, in ``variants`` by another command line. An edit whose place
is not found is an error: a layer can't lose its switch unnoticed.
"""

from pathlib import Path
from typing import Literal, get_args

Layer = Literal[
    "inner filter",
    "outer filter",
    "Landlock",
    "capabilities",
    "user namespace",
    "pid namespace",
    "net namespace",
    "ipc namespace",
    "uts namespace",
    "mounts",
    "no /proc",
    "read-only tree",
    "scratch bytes",
    "scratch inodes",
    "scratch noexec",
    "RLIMIT_DATA",
    "RLIMIT_AS",
    "RLIMIT_NOFILE",
    "RLIMIT_NPROC",
    "RLIMIT_FSIZE",
    "RLIMIT_CORE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_SIGPENDING",
    "scrubbed environment",
    "--clearenv",
    "closed descriptors",
    "sealed context",
    "the clock",
]
"""``user namespace`` is that and, as root, the uid of the jail's own that comes with it."""
ALL: frozenset[Layer] = frozenset(get_args(Layer))
IN_ORDER: tuple[Layer, ...] = get_args(Layer)
_START: frozenset[Layer] = frozenset({"scrubbed environment", "closed descriptors"})
_OTHERS: frozenset[Layer] = frozenset({"Landlock", "user namespace", "sealed context", "the clock"})
WITHOUT_NAMESPACES: frozenset[Layer] = frozenset(
    layer
    for layer in ALL
    if layer in _START | _OTHERS or layer.startswith(("RLIMIT_", "inner filter"))
)
"""What the second tier has: the filter, Landlock, a uid of its own, limits, a clean start."""

Edit = tuple[str, str, str]
"""File of the jail's modules, a text in it, and what stands there instead."""


def _limit(name: str) -> Edit:
    return ("confine.py", f"        resource.{name}: ", f"        # resource.{name}: ")


STEPS: dict[Layer, tuple[Edit, ...]] = {
    "inner filter": (
        ("confine.py", "        _install_filter(FILTERS[tier])\n", "        pass\n"),
        ("confine.py", "    return ctypes.get_errno() == 1\n", "    return True\n"),
    ),
    "Landlock": (
        (
            "confine.py",
            'landlock.restrict(libc, readable=("/",), writable=(SCRATCH, "/dev/null"))\n',
            "pass\n",
        ),
        ("confine.py", 'if tier == "landlock" and not', "if False and not"),
    ),
    "capabilities": (("confine.py", "        drop_privileges()\n", "        pass\n"),),
    "scratch bytes": (("confine.py", "size={size_bytes},", ""),),
    "scratch inodes": (("confine.py", "nr_inodes={inodes},", "nr_inodes=0,"),),
    "scratch noexec": (("confine.py", " | MS_NOEXEC\n", "\n"),),
    "RLIMIT_DATA": (
        _limit("RLIMIT_DATA"),
        (
            "confine.py",
            "    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))",
            "    del soft",
        ),
    ),
    "RLIMIT_AS": (_limit("RLIMIT_AS"),),
    "RLIMIT_NOFILE": (_limit("RLIMIT_NOFILE"),),
    "RLIMIT_NPROC": (_limit("RLIMIT_NPROC"),),
    "RLIMIT_FSIZE": (_limit("RLIMIT_FSIZE"),),
    "RLIMIT_CORE": (_limit("RLIMIT_CORE"),),
    "RLIMIT_MEMLOCK": (_limit("RLIMIT_MEMLOCK"),),
    "RLIMIT_MSGQUEUE": (_limit("RLIMIT_MSGQUEUE"),),
    "RLIMIT_SIGPENDING": (_limit("RLIMIT_SIGPENDING"),),
    "closed descriptors": (
        (
            "context.py",
            "_map(fd, size_bytes)\n    os.close(fd)\n",
            "_map(fd, size_bytes)\n    os.dup2(fd, 25)\n",
        ),
    ),
}


def apply(edit: Edit, folder: Path) -> None:
    """Make one edit in a copy of the jail's modules."""
    file, before, after = edit
    path = folder / file
    text = path.read_text()
    assert before in text, f"{file} has no {before!r}: this layer has no switch"
    path.chmod(0o644)
    path.write_text(text.replace(before, after))
    path.chmod(0o444)
    for compiled in (folder / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()
