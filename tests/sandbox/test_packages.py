"""Packages inside: what was named, with what it needs, as usual; and nothing else."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distill.protocol.sandbox_link import JailPlan, NoJail
from distill.repl import REPL, ExecResult
from distill.sandbox import cache, packages, plan, probe, probe_cell

ORDINARY_UID = 12345


@pytest.fixture(scope="module", autouse=True)
def _no_trees_left() -> Iterator[None]:
    """The cache is the machine's: what the tests staged of packages of their own is removed."""
    before = set(cache.directory().glob("packages-*"))
    yield
    for tree in set(cache.directory().glob("packages-*")) - before:
        if not (tree / "site" / "numpy").exists():
            shutil.rmtree(tree)


@pytest.fixture(scope="module")
def numpy_repl() -> Iterator[REPL]:
    """A session with numpy; the tests that share it leave nothing behind that matters."""
    with REPL("text", "question", str, list) as repl:
        repl.packages = ("NumPy",)  # any spelling
        yield repl


def printed(result: ExecResult) -> str:
    assert result.error is None, result.error.traceback
    assert result.lost is None, result.lost
    return result.stdout.strip()


def a_wheel(folder: Path, name: str, files: dict[str, str], requires: tuple[str, ...] = ()) -> None:
    """A distribution in a site-packages folder, as pip leaves it."""
    info = f"{name}-1.0.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}"
    files = {**files, f"{info}/METADATA": metadata, f"{info}/direct_url.json": "{}"}
    for place, text in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)
    record = "".join(f"{place},,\n" for place in (*files, f"{info}/RECORD", "../../bin/tool"))
    (folder / info / "RECORD").write_text(record)


# -- which


def test_a_package_comes_with_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_wheel(
        tmp_path,
        "Top_Level",
        {"top.py": "import middle"},
        ("middle.part[fast]>=0.1", "not-here; python_version < '3'", "other; extra == 'all'"),
    )
    a_wheel(
        tmp_path,
        "middle_part",
        {"middle/__init__.py": ""},
        ("fast ; extra == 'fast'", "slow ; extra == 'slow'", "top-level"),
    )
    a_wheel(tmp_path, "fast", {"fast.py": ""})
    monkeypatch.syspath_prepend(str(tmp_path))
    found = packages.resolve(["top.level", "Top_Level"])
    assert list(map(str, found)) == ["top-level 1.0", "middle-part 1.0", "fast 1.0"]


@pytest.mark.parametrize("name", ["", "numpy>=2", "numpy[all]", "../numpy", "numpy pandas", "nü"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(packages.PackageError, match="not a package's name"):
        packages.resolve([name])


def test_a_package_that_is_missing_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(packages.PackageError, match="pip install no-such-thing") as caught:
        packages.resolve(["No_Such.Thing"])
    assert sys.executable in str(caught.value)
    a_wheel(tmp_path, "half", {"half.py": ""}, ("no-such-thing",))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(packages.PackageError, match="half needs no-such-thing"):
        packages.resolve(["half"])


@pytest.mark.parametrize("kind", ["editable", "no list of files"])
def test_what_has_no_files_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    a_wheel(tmp_path, "strange", {"strange.py": ""})
    info = tmp_path / "strange-1.0.dist-info"
    if kind == "editable":
        origin = '{"url": "file:///home/me/strange", "dir_info": {"editable": true}}'
        (info / "direct_url.json").write_text(origin)
    else:
        (info / "RECORD").unlink()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(packages.PackageError, match=r"strange .*pip install"):
        packages.prepare(["strange"])


def test_a_keeper_says_what_is_missing() -> None:
    found = plan.make(packages=["no-such-thing"])
    assert isinstance(found, NoJail)
    assert "pip install no-such-thing" in found.tried[0]


# -- the tree


def test_the_tree_is_kept_until_the_package_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_wheel(tmp_path, "pure", {"pure/__init__.py": "x = 1\n", "pure/data.txt": "words"})
    monkeypatch.syspath_prepend(str(tmp_path))
    tree = packages.prepare(["pure"])
    before = tree.stat().st_ino
    assert packages.prepare(["pure"]).stat().st_ino == before
    a_wheel(tmp_path, "pure", {"pure/__init__.py": "x = 2\n", "pure/more.py": ""})
    other = packages.prepare(["pure"])
    assert other != tree
    assert (other / "site/pure/__init__.py").read_text() == "x = 2\n"


def test_a_tree_holds_nothing_of_the_host_and_nobody_may_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "lib" / "site"
    a_wheel(site, "pure", {"pure/__init__.py": "x = 1\n", "pure.pth": "import sys\n"})
    (site / "unnamed.py").write_text("")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("#!/bin/sh\n")
    monkeypatch.syspath_prepend(str(site))
    previous = os.umask(0o077)
    try:
        tree = packages.prepare(["pure"])
    finally:
        os.umask(previous)
    files = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    tag = sys.implementation.cache_tag
    assert files == {
        "site/pure/__init__.py",
        f"site/pure/__pycache__/__init__.{tag}.pyc",
        "site/pure-1.0.dist-info/METADATA",
        "site/pure-1.0.dist-info/RECORD",
    }
    for path in tree.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o444), path
        if path.suffix == ".pyc":
            assert str(tmp_path).encode() not in path.read_bytes()


# -- inside


def test_numpy_works_as_usual(numpy_repl: REPL) -> None:
    code = """
import importlib.metadata
import numpy as np
from numpy.linalg import eigh, svd
a = np.arange(90000.0).reshape(300, 300)
assert np.allclose(a @ np.eye(300), a)
assert svd(a)[1][0] > 1e6
assert np.fft.ifft(np.fft.fft(a[0])).real.round(6).tolist() == a[0].tolist()
assert np.sort(np.random.permutation(5)).tolist() == [0, 1, 2, 3, 4]
np.save("a.npy", a); assert np.load("a.npy").shape == (300, 300)
print(np.__version__ == importlib.metadata.version("numpy"), np.__file__)
"""
    assert printed(numpy_repl.execute(code)) == "True /packages/site/numpy/__init__.py"


def test_nothing_else_came_in_with_it(numpy_repl: REPL) -> None:
    code = """
import importlib, os
print(sorted({name.split("-")[0].split(".")[0] for name in os.listdir("/packages/site")}))
for name in ("packaging", "zmq", "msgspec", "pip", "pytest", "distill.errors", "openai"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    print(name)
"""
    assert printed(numpy_repl.execute(code)) == "['numpy']"


def test_without_a_name_there_is_no_package() -> None:
    with REPL("text", "question", str, list) as repl:
        result = repl.execute("import os; print(os.path.exists('/packages'))\nimport numpy")
        assert result.error is not None
        assert result.error.name == "ModuleNotFoundError"
        assert result.stdout == "False\n"


def test_packages_can_not_be_written(numpy_repl: REPL) -> None:
    code = """
import errno, os
for attack in (
    lambda: open("/packages/site/numpy/__init__.py", "a"),
    lambda: open("/packages/site/random.py", "w"),
    lambda: os.unlink("/packages/site/numpy/__init__.py"),
    lambda: os.chmod("/packages/site/numpy/__init__.py", 0o666),
    lambda: os.rename("/packages/site/numpy", "/packages/site/other"),
):
    try:
        attack()
    except OSError as error:
        print(errno.errorcode[error.errno], end=" ")
"""
    for name in printed(numpy_repl.execute(code)).split():
        assert name in ("EROFS", "EPERM", "EACCES")
    assert len(printed(numpy_repl.execute(code)).split()) == 5


def test_a_package_shadows_neither_the_standard_library_nor_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jail of the plan has passed the probe, whose cells and interpreter import all these."""
    names = ("socket", "threading", "errno", "msgpack/__init__", "distill/__init__")
    files = {f"{name}.py": "raise SystemExit('shadowed')\n" for name in names}
    a_wheel(tmp_path, "shadow", files)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    found = plan.make(packages=["shadow"])
    assert isinstance(found, JailPlan), found
    at = found.argv.index("/packages")
    assert (Path(found.argv[at - 1]) / "site" / "socket.py").exists()


def test_random_numbers_are_the_same_in_every_session() -> None:
    code = """
import numpy as np
first = np.random.rand()
import random
one, two = np.random.default_rng().random(), np.random.default_rng().random()
assert one != two
print(first, one, two, random.random(), np.random.SeedSequence().entropy)
"""
    told = []
    for _ in range(2):
        with REPL("text", "question", str, list) as repl:
            repl.packages = ("numpy",)
            told.append(printed(repl.execute(code)))
    assert told[0] == told[1]
    assert len(set(told[0].split())) == 5


def test_linear_algebra_takes_one_thread() -> None:
    """Counted on the host, while the jail waits in a call after a product of matrices."""
    seen: list[int] = []

    def count() -> None:
        mine = psutil.Process().children(recursive=True)
        jails = [each for each in mine if "interpreter.py" in " ".join(each.cmdline())]
        seen.extend(each.num_threads() for each in jails if "bwrap" not in each.name())

    with REPL("text", "question", str, list, primitives={"count": count}) as repl:
        repl.packages = ("numpy",)
        repl.execute("import numpy; a = numpy.ones((600, 600)); b = a @ a; count()")
    assert seen
    assert set(seen) == {1}


def test_the_second_tier_has_them_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the probe's own conversation: what its cell prints is told as what does not hold."""
    found = plan.make("landlock", ["numpy"])
    assert isinstance(found, JailPlan), found
    code = (
        "import numpy\n"
        "good = numpy.linalg.svd(numpy.eye(50))[1].sum() == 50 and numpy.random.rand() < 0.55\n"
        "try:\n    import packaging\n    good = False\n"
        "except ModuleNotFoundError:\n    pass\n"
        "try:\n    open(numpy.__file__, 'a')\n    good = False\n"
        "except PermissionError:\n    pass\n"
        "print(*([] if good else ['numpy works']))\n"
    )
    monkeypatch.setattr(probe_cell, "code", lambda tier: code)
    probe.run(found)


def test_a_killed_jail_has_its_packages_again() -> None:
    with REPL("text", "question", str, list) as repl:
        repl.packages = ("numpy",)
        assert repl.execute("import numpy, os; os._exit(3)").lost is not None
        assert printed(repl.execute("import numpy; print(numpy.ones(3).sum())")) == "3.0"


def test_two_sessions_make_one_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_wheel(tmp_path, f"race{os.getpid()}", {"race.py": f"x = {time.time_ns()}\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(packages.prepare([f"race{os.getpid()}"])))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(found)) == 1
    assert len(found) == 4
    assert not list(cache.directory().glob(f".draft-{os.getpid()}-*"))


def a_python_for_others() -> str | None:
    """A Python of this version that other users can execute, if there is one."""
    for path in (Path(sys.executable), Path(f"/usr/bin/python3.{sys.version_info[1]}")):
        real = path.resolve()
        if real.exists() and all(parent.stat().st_mode & 0o001 for parent in (real, *real.parents)):
            return str(path)
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_has_them_too() -> None:
    python = a_python_for_others()
    if python is None:
        pytest.skip("no Python that other users can execute")
    program = (
        "from distill.repl import REPL\n"
        "with REPL('t', 'q', str, list) as repl:\n"
        "    repl.packages = ('numpy',)\n"
        "    print(repl.execute('import numpy; print(numpy.ones(4).sum())').stdout)\n"
    )
    ours = [str(Path(__file__).parents[2]), *(path for path in sys.path if "-packages" in path)]
    with tempfile.TemporaryDirectory(prefix="dst-") as home:
        os.chown(home, ORDINARY_UID, ORDINARY_UID)
        told = subprocess.run(
            [python, "-c", program],
            user=ORDINARY_UID,
            group=ORDINARY_UID,
            extra_groups=[],
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": os.pathsep.join(ours)},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        staged = list(Path(home).rglob("packages-*/site/numpy"))
    assert told.stdout.strip() == "4.0", told.stderr
    assert staged
