import os
from pathlib import Path

import pytest

from distill.worker_server import device
from distill.worker_server.device import Gpu
from distill.worker_server.errors import DeviceUnavailable

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


def test_nvidia_smi_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho '0, GPU-aa, NVIDIA H100, 70000, 81559'\n"
        "echo '1, GPU-bb, NVIDIA GB10, [N/A], [N/A]'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    first, second = device.list_gpus()
    assert first == Gpu("0", "GPU-aa", "NVIDIA H100", 70000 << 20, 81559 << 20)
    assert second.free_bytes > 0  # memory shared with the machine


def test_memory_is_the_least_of_what_limits_it() -> None:
    assert 0 < device.available_memory_bytes() <= os.sysconf("SC_PHYS_PAGES") * 4096
