"""The interpreter's command line and environment: all that it is told before its first message."""

from pathlib import Path
from typing import Literal

from distill.sandbox.stage import Stage

SOCKET_FD, CONTEXT_FD, STATUS_FD = 10, 11, 12
NO_STATUS = -1
"""Instead of STATUS_FD: the process that is started is the interpreter itself."""
FLAGS = ("-B", "-P", "-s", "-S")
"""No bytecode written, no script folder or user site on the path, no site module (it is slow)."""
NO_FOLDER = "/nonexistent"
"""Home and temporary folder where no file can be made."""


def environment(libraries: str, modules: str, temporary: str) -> dict[str, str]:
    """All of it; nothing is inherited."""
    return {
        "HOME": temporary,
        "TMPDIR": temporary,
        "LC_ALL": "C.UTF-8",
        "LD_LIBRARY_PATH": libraries,
        "MALLOC_ARENA_MAX": "1",  # arenas reserve address space that RLIMIT_DATA counts
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",  # a session can be replayed
        "PYTHONPATH": modules,
    }


def command(prefix: str, modules: str, tier: str, site: str, *readable: str) -> tuple[str, ...]:
    """How it is executed.

    ``site`` is the folder of the user's packages or empty, ``readable`` are the folders that the
    Landlock tier leaves it. The last word, ``map``, is how it holds the context.
    """
    return (
        f"{prefix}/bin/python3",
        *FLAGS,
        f"{modules}/distill/sandbox/jail/interpreter.py",
        str(SOCKET_FD),
        str(CONTEXT_FD),
        tier,
        site,
        *readable,
        "map",
    )


def bare(
    stage: Stage, tier: Literal["landlock", "none"], packages: Path | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Command and environment of an interpreter that runs on the host's own root."""
    prefix, modules = stage.python / "python", stage.modules
    libraries, site = [stage.python / "lib"], ""
    if packages is not None:
        libraries.append(packages / "lib")
        site = str(packages / "site")
    readable = [prefix, modules, *libraries, *([packages] if packages else [])]
    return (
        command(str(prefix), str(modules), tier, site, *map(str, readable)),
        environment(":".join(map(str, libraries)), str(modules), NO_FOLDER),
    )
