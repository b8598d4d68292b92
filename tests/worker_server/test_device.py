import os
from pathlib import Path

import pytest

from distill.worker_server import device, gpus
from distill.worker_server.errors import DeviceUnavailable
from distill.worker_server.gpus import Gpu

GIB = 1 << 30
TWO = [
    Gpu("0", "GPU-aa", "H100", 70 * GIB, 80 * GIB),
    Gpu("1", "GPU-bb", "H100", 80 * GIB, 80 * GIB),
]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(device, "_vllm_build", lambda: "gpu")
    monkeypatch.setattr(device, "list_gpus", lambda: TWO)
    return monkeypatch


def test_the_first_gpu_is_the_default(build: pytest.MonkeyPatch) -> None:
    chosen = device.choose()
    assert chosen.kind == "gpu"
    assert chosen.environment["CUDA_VISIBLE_DEVICES"] == "GPU-aa"
    assert chosen.memory_bytes == 70 * GIB


@pytest.mark.parametrize("name", ["1", "GPU-bb"])
def test_a_gpu_by_index_or_uuid(build: pytest.MonkeyPatch, name: str) -> None:
    assert device.choose(name).environment["CUDA_VISIBLE_DEVICES"] == "GPU-bb"


def test_two_gpus_as_one(build: pytest.MonkeyPatch) -> None:
    chosen = device.choose("0+1")
    assert chosen.tensor_parallel_size == 2
    assert chosen.memory_bytes == 150 * GIB


@pytest.mark.parametrize("name", ["2", "0+7", "0+0", "MIG-x"])
def test_a_missing_gpu_names_those_that_exist(build: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(DeviceUnavailable, match=r"0 \(H100, GPU-aa\)"):
        device.choose(name)


def test_a_gpu_without_a_gpu_build(build: pytest.MonkeyPatch) -> None:
    build.setattr(device, "_vllm_build", lambda: "cpu")
    with pytest.raises(DeviceUnavailable, match=r"distill\[gpu\]"):
        device.choose("0")


def test_without_vllm_it_says_what_to_install(build: pytest.MonkeyPatch) -> None:
    build.setattr(device, "_vllm_build", lambda: None)
    with pytest.raises(DeviceUnavailable, match=r"distill\[cpu\]"):
        device.choose()


def test_cores_are_checked_and_set(build: pytest.MonkeyPatch) -> None:
    build.setattr(device, "_vllm_build", lambda: "cpu")
    mine = sorted(os.sched_getaffinity(0))
    chosen = device.choose(cores=mine[:1])
    assert chosen.kind == "cpu"
    assert chosen.cores == (mine[0],)
    assert chosen.environment["OMP_NUM_THREADS"] == "1"
    with pytest.raises(DeviceUnavailable, match="100000"):
        device.choose(cores=[100000])


LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000)
  MIG 3g.20gb     Device  0: (UUID: MIG-bbbb1111-0000)
  MIG 1c.1g.5gb   Device  1: (UUID: MIG-GPU-aaaa1111-0000/9/0)
GPU 1: NVIDIA GB10 (UUID: GPU-aaaa2222-0000)
"""
QUERIED = """\
0, GPU-aaaa1111-0000, NVIDIA A100-SXM4-40GB, 40000, 40960
1, GPU-aaaa2222-0000, NVIDIA GB10, [N/A], [N/A]
"""


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An nvidia-smi on the PATH: of a GPU in two MIG slices, and one that shares the memory."""
    program = tmp_path / "nvidia-smi"
    cases = f"-L) printf '%s' '{LISTED}';; --query-gpu*) printf '%s' '{QUERIED}';; *) exit 6;;"
    program.write_text(f'#!/bin/sh\ncase "$1" in {cases} esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return program


def test_nvidia_smi_is_understood(smi: Path) -> None:
    large, small, whole = gpus.list_gpus()
    name = "NVIDIA A100-SXM4-40GB"
    size_bytes = 20 * 10**9
    assert large == Gpu("0:0", "MIG-bbbb1111-0000", f"{name} 3g.20gb", size_bytes, size_bytes)
    assert (small.index, small.uuid) == ("0:1", "MIG-GPU-aaaa1111-0000/9/0")
    assert small.free_bytes == 5 * 10**9
    assert (whole.index, whole.uuid) == ("1", "GPU-aaaa2222-0000")
    assert whole.free_bytes > 0  # memory shared with the machine


def test_an_nvidia_smi_that_fails_lists_none(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho '0, GPU-aa, H100, 1, 1'\nexit 9\n")
    assert gpus.list_gpus() == []


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ("0:0", "MIG-bbbb1111-0000"),
        ("MIG-bbbb1111-0000", "MIG-bbbb1111-0000"),
        ("MIG-GPU-aaaa1111-0000/9/0", "MIG-GPU-aaaa1111-0000/9/0"),
        ("1", "GPU-aaaa2222-0000"),
        ("GPU-aaaa", "GPU-aaaa2222-0000"),
    ],
)
def test_what_cuda_sees_is_named_by_its_uuid(
    smi: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, seen: str
) -> None:
    monkeypatch.setattr(device, "_vllm_build", lambda: "gpu")
    assert device.choose(wanted).environment["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("0", r"no GPU 0 on .* 0:0 \(NVIDIA A100-SXM4-40GB 3g.20gb, MIG-bbbb1111-0000\)"),
        ("GPU-aaaa1111-0000", "no GPU GPU-aaaa1111-0000"),
        ("MIG-", "no GPU MIG-"),
        ("MIG-bbbb1111-0000+1", "MIG slice at a time"),
        ("0:0+MIG-bbbb", "no GPU"),
    ],
)
def test_what_cuda_would_not_see_is_refused(smi: Path, wanted: str, why: str) -> None:
    with pytest.raises(DeviceUnavailable, match=why):
        gpus.pick(wanted, gpus.list_gpus())


def test_two_names_of_one_gpu_are_told(smi: Path) -> None:
    there = gpus.list_gpus()
    gpus.check_apart(["0:0", "0:1", "1"], there)
    with pytest.raises(DeviceUnavailable, match="1 and GPU-aaaa2222-0000 are one GPU"):
        gpus.check_apart(["0:0", "1", "GPU-aaaa2222-0000"], there)


def test_memory_is_the_least_of_what_limits_it() -> None:
    assert 0 < device.available_memory_bytes() <= os.sysconf("SC_PHYS_PAGES") * 4096
