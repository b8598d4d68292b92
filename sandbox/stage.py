"""Copies of what a jail may read: the interpreter's own files, ours, msgpack. Nothing else.

Staged rather than bound in place, root or not, for one reason each: as root the jail's uid
can't enter a 0700 home where a Python may live; and a minimal tree (no site-packages, no
tests) is easier to make than to cut out of a full one. A stage is named by what went into it.
"""

import py_compile
import sys
import sysconfig
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from distill.sandbox import cache, jail, seccomp
from distill.sandbox.copying import (
    bytecode_beside_sources,
    copy,
    copy_tree,
    digest,
    make_readable,
    stamps,
)
from distill.sandbox.libraries import needed_by
from distill.sandbox.syscalls import Machine

LIBRARY_INDEX = Path("/etc/ld.so.cache")
"""Rewritten whenever a system library is replaced."""
NO_FOLDERS = frozenset(
    "__phello__ config dist-packages ensurepip idlelib lib2to3 pydoc_data site-packages test tests "
    "tkinter turtledemo venv".split()
)
NO_MODULES = (
    "_crypt _ctypes_test _curses _curses_panel _dbm _gdbm _ssl _test _tkinter _xx nis ossaudiodev "
    "readline spwd xx"
).split()
"""Prefixes of extension modules that are no use in a jail, or drag libraries along."""
JAIL_PACKAGE = "distill/sandbox/jail"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the staged trees lie on the host, and the loader's place inside."""

    python: Path
    modules: Path
    loader: Path | None


def prepare(machine: Machine) -> Stage:
    """The staged trees for this Python and this version of ours. Raises OSError."""
    python = prepare_python()
    loaders = list((python / "loader").rglob("*"))
    loader = next((path for path in loaders if path.is_file()), None)
    sources = [*_module_sources(), *_filter_sources(machine)]
    key = digest(sys.version, *stamps([file for file, _ in sources]))
    modules = cache.entry("jail", key, lambda draft: _build_modules(draft, sources))
    inside = Path("/") / loader.relative_to(python / "loader") if loader else None
    return Stage(python=python, modules=modules, loader=inside)


def prepare_python() -> Path:
    """The interpreter's tree alone. Raises OSError."""
    return cache.entry("python", _python_key(), _build_python)


# -- the interpreter's files


def _base_python() -> Path:
    """The real interpreter, behind any virtual environment."""
    return Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))


def _python_key() -> str:
    files = [_base_python(), _standard_library() / "os.py", LIBRARY_INDEX, *_wire_binaries()]
    return digest(sys.version, *stamps(files))


def _build_python(draft: Path) -> None:
    """``python/`` (prefix), ``lib/`` (libraries, flat), ``loader/`` (the loader at its path)."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    home = draft / "python" / sys.platlibdir / version
    copy(_base_python(), draft / "python" / "bin" / "python3")
    copy_tree(_standard_library(), home, _unwanted)
    platform_library = Path(sysconfig.get_path("platstdlib", vars={"platbase": sys.base_prefix}))
    dynload = home / "lib-dynload"
    if not dynload.is_dir():
        copy_tree(platform_library / "lib-dynload", dynload, _unwanted)
    binaries = [draft / "python" / "bin" / "python3", *dynload.glob("*.so"), *_wire_binaries()]
    _stage_libraries(draft, [_base_python(), *binaries])


def _stage_libraries(draft: Path, binaries: list[Path]) -> None:
    needed = needed_by(binaries)
    for name, path in needed.libraries.items():
        copy(path, draft / "lib" / name)
    (draft / "lib").mkdir(exist_ok=True)
    (draft / "loader").mkdir()
    if needed.loader is not None:
        copy(needed.loader, draft / "loader" / needed.loader.relative_to("/"))


def _unwanted(_folder: str, names: list[str]) -> set[str]:
    return {
        name
        for name in names
        if name in NO_FOLDERS
        or name.startswith("config-")
        or (name.endswith((".so", ".a")) and name.startswith(tuple(NO_MODULES)))
        or name.endswith((".opt-1.pyc", ".opt-2.pyc", ".a", ".exe"))
    }


# -- our modules and msgpack


def _wire_binaries() -> list[Path]:
    """msgpack's own extension: without its libraries msgpack falls back, silently, to Python."""
    return _files(import_module("msgpack"), "*.so")


def _module_sources() -> list[tuple[Path, str]]:
    """Each file and its place; found by the modules' real files, never by links."""
    found = [(file, f"{JAIL_PACKAGE}/{file.name}") for file in _files(jail, "*.py")]
    return found + [
        (file, f"msgpack/{file.name}")
        for pattern in ("*.py", "*.so")
        for file in _files(import_module("msgpack"), pattern)
    ]


def _files(package: ModuleType, pattern: str) -> list[Path]:
    assert package.__file__ is not None
    return sorted(Path(package.__file__).resolve().parent.glob(pattern))


def _filter_sources(machine: Machine) -> list[tuple[Path, str]]:
    """The filters that the interpreter installs, one a tier."""
    return [
        (seccomp.path("inner", machine), "filter.bpf"),
        (seccomp.path("alone", machine), "filter-alone.bpf"),
    ]


def _build_modules(draft: Path, sources: list[tuple[Path, str]]) -> None:
    for file, place in sources:
        copy(file, draft / place)
    for package in ("distill", "distill/sandbox"):
        (draft / package / "__init__.py").write_bytes(b"")
    # Unchecked: the copy never changes, so the interpreter need not look at the source.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    with bytecode_beside_sources():
        for file in draft.rglob("*.py"):
            py_compile.compile(str(file), doraise=True, invalidation_mode=mode)
    make_readable(draft)
