"""Packages that the user lets into the jail: installed distributions with all they depend on.

Only what was named, and what that needs, is there: site-packages itself never is. A tree is
``site/`` (what a site-packages folder of these alone would hold) and ``lib/`` (the shared
libraries that their extension modules need and the interpreter's own files lack).
"""

import compileall
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from py_compile import PycInvalidationMode

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, NormalizedName, canonicalize_name

from distill.sandbox import cache, stage
from distill.sandbox.bubblewrap import PACKAGES_SITE
from distill.sandbox.copying import bytecode_beside_sources, copy, digest, make_readable
from distill.sandbox.libraries import needed_by

NEVER_IMPORTED = re.compile(r"/tests?/")
"""Copied, but not worth the time to compile."""
NOT_COPIED = frozenset({"direct_url.json"})
"""Of a distribution's own records: it names folders of the host."""


class PackageError(Exception):
    """A package can't be given to the jail; the text says why, and what to install where."""


@dataclass(frozen=True, slots=True)
class Package:
    """One installed distribution, by its normalised name."""

    name: str
    version: str
    distribution: metadata.Distribution

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def resolve(names: Iterable[str]) -> tuple[Package, ...]:
    """The packages of these names, then what they need, each once. Raises PackageError.

    Extras are followed where a dependency asks for them.
    """
    found: dict[str, Package] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    wanted: list[tuple[str, frozenset[str], str]] = [
        (name, frozenset(), "") for name in dict.fromkeys(map(_checked, names))
    ]
    while wanted:
        name, extras, dependent = wanted.pop(0)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name not in found:
            found[name] = _installed(name, dependent)
        wanted += [
            (canonicalize_name(need.name), frozenset(need.extras), name)
            for need in _needs(found[name], extras)
        ]
    return tuple(found.values())


def _checked(name: str) -> NormalizedName:
    try:
        return canonicalize_name(name.strip(), validate=True)
    except InvalidName:
        raise PackageError(
            f"{name!r} is not a package's name: give the name alone, as for pip, without a "
            "version or extras"
        ) from None


def _installed(name: str, dependent: str) -> Package:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        who = f"{dependent} needs {name}, which is not" if dependent else f"{name} is not"
        raise PackageError(
            f"{who} installed where distill runs: {sys.executable} -m pip install {name}"
        ) from None
    return Package(name, found.version, found)


def _needs(package: Package, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in package.distribution.requires or ():
        try:
            need = Requirement(text)
        except InvalidRequirement as error:
            raise PackageError(f"{package} has a requirement that can't be read: {error}") from None
        if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in ("", *extras)):
            yield need


def prepare(names: Iterable[str]) -> Path:
    """The tree of the packages of these names; made the first time, which takes seconds.

    Raises PackageError, OSError, SubprocessError.
    """
    packages = resolve(names)
    base_libraries = stage.prepare_python() / "lib"
    records = [_record(package) for package in packages]
    key = digest(sys.version, str(base_libraries), *sorted(records))
    return cache.entry("packages", key, lambda draft: _build(draft, packages, base_libraries))


def _record(package: Package) -> str:
    """What is installed: its list of files with a hash of each, and where that lies."""
    recorded = package.distribution.read_text("RECORD")
    if recorded is None:
        raise PackageError(
            f"{package.name} was installed without a list of its files (RECORD), as "
            f"distributions' packages are: {sys.executable} -m pip install {package.name}, "
            "in a virtual environment"
        )
    origin = json.loads(package.distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        raise PackageError(
            f"{package.name} is installed as editable, so its files lie elsewhere: "
            f"{sys.executable} -m pip install {origin['url'].removeprefix('file://')}"
        )
    where = package.distribution.locate_file("")
    return f"{package}:{where}:{hashlib.sha256(recorded.encode()).hexdigest()}"


def _build(draft: Path, packages: Sequence[Package], base_libraries: Path) -> None:
    site = draft / "site"
    modules = []
    for package in packages:
        for source, place in _files(package):
            copy(source, site / place)
            if ".so" in source.suffixes:
                modules.append(source)
    site.mkdir(exist_ok=True)
    # Never the bytecode that lies beside the sources: it holds the paths of the host.
    with bytecode_beside_sources():
        compileall.compile_dir(
            site,
            quiet=2,
            rx=NEVER_IMPORTED,
            stripdir=str(site),
            prependdir=PACKAGES_SITE,
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
        )
    _copy_libraries(draft / "lib", modules, packages, base_libraries)
    make_readable(draft)


def _files(package: Package) -> Iterator[tuple[Path, PurePosixPath]]:
    """Each file that can be imported or read as a package's data, and its place."""
    for listed in package.distribution.files or ():
        outside = listed.is_absolute() or ".." in listed.parts  # scripts, manual pages
        is_start_up = len(listed.parts) == 1 and listed.suffix == ".pth"
        if outside or is_start_up or listed.suffix == ".pyc" or listed.name in NOT_COPIED:
            continue
        source = Path(str(listed.locate()))
        if source.is_file():
            yield source, listed


def _copy_libraries(
    target: Path, modules: Sequence[Path], packages: Sequence[Package], base_libraries: Path
) -> None:
    """What modules need from outside the packages, whose own libraries keep their places."""
    target.mkdir()
    if not modules:
        return
    roots = {Path(str(each.distribution.locate_file(""))).resolve() for each in packages}
    for name, path in needed_by(modules).libraries.items():
        real = path.resolve()
        if (base_libraries / name).exists() or any(real.is_relative_to(root) for root in roots):
            continue
        copy(real, target / name)
