"""A jail's plan with some of its layers switched off, down to no jail at all."""

import json
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from distill.protocol.sandbox_link import JailPlan
from distill.sandbox import interpreter
from distill.sandbox.bubblewrap import ENVIRONMENT, FILTER_FD
from distill.sandbox.interpreter import NO_STATUS
from tests.security import layers
from tests.security.layers import ALL, IN_ORDER, STEPS, WITHOUT_NAMESPACES, Edit, Layer

ALLOW_EVERYTHING = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF_0000)
WORDS: dict[Layer, tuple[str, ...]] = {
    "user namespace": ("--unshare-user", "--uid 1000", "--gid 1000"),
    "pid namespace": ("--unshare-pid", "--as-pid-1"),
    "net namespace": ("--unshare-net",),
    "ipc namespace": ("--unshare-ipc",),
    "uts namespace": ("--unshare-uts", "--hostname jail"),
    "--clearenv": ("--clearenv",),
}
"""Words of bubblewrap's that are left out."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A plan, and where an attack finds the jail's own files in it."""

    plan: JailPlan
    modules: str
    python: str


@dataclass(frozen=True, slots=True)
class _Trees:
    """Where the plan's trees lie on the host."""

    modules: Path
    python: Path
    libraries: Path


class Workshop:
    """Makes variants of one plan, of either tier; keeps the edited copies of its files."""

    def __init__(self, plan: JailPlan, folder: Path, leak: tuple[str, str]) -> None:
        self._plan = plan
        self._folder = folder
        self._leak = leak
        self._copies: dict[tuple[Edit, ...], Path] = {}
        self._real = self._in_sight(_trees(plan))
        self._python = self._real.python
        self._start = folder / "start.py"
        shutil.copyfile(Path(__file__).with_name("start.py"), self._start)
        self._start.chmod(0o444)
        self._work = folder / "work"
        self._work.mkdir()
        self.sweep()

    def _in_sight(self, staged: _Trees) -> _Trees:
        """The trees where no scratch folder is mounted over them: a test's home may be in /tmp."""
        if not staged.python.is_relative_to("/tmp"):
            return staged
        python = shutil.copytree(staged.python, self._folder / "staged-python")
        libraries = shutil.copytree(staged.libraries, self._folder / "staged-libraries")
        return _Trees(staged.modules, Path(python), Path(libraries))

    def without(
        self, off: Iterable[Layer], canary: dict[str, str], spoiled: bool = False
    ) -> Variant:
        """The plan with these layers off; all of them: no jail, the interpreter alone.

        ``spoiled`` says that the attack writes to the interpreter's own files: it gets a copy.
        """
        missing = frozenset(off)
        self._python = self._python_copy() if spoiled and missing else self._real.python
        if missing == ALL:
            return self._bare(canary)
        if self._plan.tier == "landlock":
            return self._alone(missing & WITHOUT_NAMESPACES, canary)
        return self._jailed(missing, canary) if missing else Variant(self._plan, "/jail", "/python")

    def _bare(self, canary: dict[str, str]) -> Variant:
        """What the tier "none" is, without its limits."""
        modules = self._modules([*_edits(ALL, ("RLIMIT", "closed", "inner")), self._in_work()])
        environment = self._environment(modules) | canary
        python = str(self._python)
        command = interpreter.command(python, str(modules), "none", "")
        plan = self._started(environment, command)
        plan = msgspec.structs.replace(plan, uid=None, blobs={}, status_fd=NO_STATUS)
        return Variant(plan, str(modules), python)

    def _alone(self, off: frozenset[Layer], canary: dict[str, str]) -> Variant:
        """The tier without namespaces, with what is left of it."""
        if not off:
            return Variant(self._plan, str(self._real.modules), str(self._real.python))
        python = str(self._python)
        modules = self._modules([*_edits(off), self._in_work()])
        readable = (python, str(self._real.libraries), str(modules))
        command = interpreter.command(python, str(modules), "landlock", "", *readable)
        scrubbed = "scrubbed environment" not in off
        environment = self._environment(modules) | ({} if scrubbed else canary)
        plan = msgspec.structs.replace(
            self._plan,
            argv=command,
            env=environment,
            uid=None if "user namespace" in off else self._plan.uid,
        )
        if "closed descriptors" in off:
            started = self._started(environment, command)
            plan = msgspec.structs.replace(plan, argv=started.argv, env=started.env)
        return Variant(plan, str(modules), python)

    def _jailed(self, off: frozenset[Layer], canary: dict[str, str]) -> Variant:
        trees = _Trees(self._modules(_edits(off)), self._python, self._real.libraries)
        argv = _with_trees(_without_words(self._plan.argv, off), trees, off)
        environment = canary if "scrubbed environment" in off else dict(self._plan.env)
        places = ("/jail", "/python")
        if "mounts" in off:
            argv = _on_the_host(argv, trees, off)
            places = (str(trees.modules), str(trees.python))
        plan = msgspec.structs.replace(
            self._plan,
            argv=argv,
            env=environment,
            uid=None if "user namespace" in off else self._plan.uid,
            blobs={FILTER_FD: ALLOW_EVERYTHING} if "outer filter" in off else self._plan.blobs,
        )
        if "closed descriptors" in off:
            started = self._started(environment, argv)
            plan = msgspec.structs.replace(plan, argv=started.argv, env=started.env)
        return Variant(plan, *places)

    def _started(self, environment: dict[str, str], command: tuple[str, ...]) -> JailPlan:
        """The plan with ``start.py`` in front of its command."""
        told = json.dumps({"leak": self._leak, "environment": environment})
        python = (str(self._real.python / "bin/python3"), "-I", "-S", str(self._start), told)
        loader = {"LD_LIBRARY_PATH": str(self._real.libraries)}
        return msgspec.structs.replace(self._plan, argv=(*python, *command), env=loader)

    def _environment(self, modules: Path) -> dict[str, str]:
        return interpreter.environment(str(self._real.libraries), str(modules), str(self._work))

    def _in_work(self) -> Edit:
        """Where no scratch folder is mounted, relative names lie in a folder of the test's own."""
        before = "        _go_without_scratch(limits)\n"
        return ("confine.py", before, f'{before}        os.chdir("{self._work}")\n')

    def _modules(self, edits: list[Edit]) -> Path:
        """A copy of the jail's modules with these edits, made once."""
        key = tuple(edits)
        if key not in self._copies:
            copy = self._folder / f"modules-{len(self._copies)}"
            shutil.copytree(self._real.modules, copy)
            for edit in edits:
                layers.apply(edit, copy / "distill/sandbox/jail")
            self._copies[key] = copy
        return self._copies[key]

    def _python_copy(self) -> Path:
        """A copy of the interpreter's own files that an attack may spoil."""
        copy = self._folder / "python"
        if not copy.exists():
            shutil.copytree(self._real.python, copy)
        return copy

    def forget(self) -> None:
        """Throw the copies away: an attack has spoiled them."""
        for copy in (*self._copies.values(), self._folder / "python"):
            shutil.rmtree(copy, ignore_errors=True)
        self._copies.clear()

    def sweep(self) -> None:
        """Empty the folder in which attacks without a scratch folder work."""
        shutil.rmtree(self._work)
        self._work.mkdir()
        self._work.chmod(0o777)


def _edits(off: frozenset[Layer], starts: tuple[str, ...] = ("",)) -> list[Edit]:
    wanted = [layer for layer in IN_ORDER if layer in off and layer.startswith(starts)]
    return [edit for layer in wanted for edit in STEPS.get(layer, ())]


def _trees(plan: JailPlan) -> _Trees:
    if plan.tier == "landlock":
        libraries = Path(plan.env["LD_LIBRARY_PATH"])
        return _Trees(Path(plan.env["PYTHONPATH"]), libraries.parent / "python", libraries)
    binds = _binds(plan.argv)
    return _Trees(binds["/jail"], binds["/python"], binds["/lib"])


def _binds(argv: tuple[str, ...]) -> dict[str, Path]:
    """Place inside → path on the host."""
    starts = [at for at, word in enumerate(argv) if word == "--ro-bind"]
    return {argv[at + 2]: Path(argv[at + 1]) for at in starts}


def _cut(
    argv: tuple[str, ...], words: tuple[str, ...], instead: tuple[str, ...]
) -> tuple[str, ...]:
    """``argv`` with this run of words replaced, which must be there once."""
    found = [at for at in range(len(argv)) if argv[at : at + len(words)] == words]
    assert len(found) == 1, f"{words} stands {len(found)} times in the plan's arguments"
    return (*argv[: found[0]], *instead, *argv[found[0] + len(words) :])


def _without_words(argv: tuple[str, ...], off: frozenset[Layer]) -> tuple[str, ...]:
    for layer in off:
        for words in WORDS.get(layer, ()):
            argv = _cut(argv, tuple(words.split()), ())
    if "capabilities" in off:
        dropped = ("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN")
        argv = _cut(argv, dropped, ("--cap-add", "ALL"))
    return argv


def _with_trees(argv: tuple[str, ...], trees: _Trees, off: frozenset[Layer]) -> tuple[str, ...]:
    bind = "--bind" if "read-only tree" in off else "--ro-bind"
    binds = _binds(argv)
    for place, tree in (("/jail", trees.modules), ("/python", trees.python)):
        words = ("--ro-bind", str(binds[place]), place)
        argv = _cut(argv, words, (bind, str(tree), place))
    if "no /proc" in off:
        argv = _cut(argv, ("--remount-ro",), ("--proc", "/proc", "--remount-ro"))
    if "read-only tree" in off:
        argv = _cut(argv, ("--remount-ro", "/"), ())
    return argv


def _on_the_host(argv: tuple[str, ...], trees: _Trees, off: frozenset[Layer]) -> tuple[str, ...]:
    """The host's whole tree in place of the jail's."""
    bind = "--bind" if "read-only tree" in off else "--ro-bind"
    root = ["--dev-bind", "/", "/"]
    for tree in (trees.modules, trees.python):
        root += [bind, str(tree), str(tree)]
    root += ["--proc" if "no /proc" in off else "--tmpfs", "/proc"]
    argv = (*argv[: argv.index(bind)], *root, *argv[argv.index("--chdir") :])
    argv = _cut(argv, ("PYTHONPATH", "/jail"), ("PYTHONPATH", str(trees.modules)))
    libraries = ("LD_LIBRARY_PATH", ENVIRONMENT["LD_LIBRARY_PATH"])
    argv = _cut(argv, libraries, ("LD_LIBRARY_PATH", str(trees.libraries)))
    inside = interpreter.command("/python", "/jail", "namespaces", "")
    on_host = interpreter.command(str(trees.python), str(trees.modules), "namespaces", "")
    return _cut(argv, inside, on_host)
