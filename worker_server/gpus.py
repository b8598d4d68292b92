"""The machine's NVIDIA GPUs and their MIG slices, as ``nvidia-smi`` lists them.

A GPU that is cut into slices can't be used as a whole: its slices stand in its place.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from distill.worker_server.errors import DeviceUnavailable

NVIDIA_SMI_TIMEOUT_S = 20
FIELDS = "index,uuid,name,memory.free,memory.total"
SHORTEST_PREFIX = len("GPU-") + 4
"""CUDA_VISIBLE_DEVICES takes the start of a UUID, too."""
_GPU_LINE = re.compile(r"GPU (\d+):")
_SLICE_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU or one MIG slice of one, as its driver knows it; memory in bytes.

    ``index`` of a slice is ``GPU:SLICE``, and its memory what its profile promises.
    """

    index: str
    uuid: str
    name: str
    free_bytes: int
    total_bytes: int

    @property
    def is_slice(self) -> bool:
        """Whether it is a part of a GPU."""
        return self.uuid.startswith("MIG-")


def list_gpus() -> list[Gpu]:
    """What CUDA could use here, whatever CUDA_VISIBLE_DEVICES says; empty without NVIDIA GPUs."""
    printed = _nvidia_smi(f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
    gpus = [_parse_gpu(line) for line in printed.splitlines() if line.count(",") == 4]
    if not gpus:
        return []
    slices = _slices(_nvidia_smi("-L"))
    return [part for gpu in gpus for part in _parts(gpu, slices.get(gpu.index, []))]


def pick(wanted: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs of ``0+1``: each an index, a UUID, or the start of one that is nobody else's.

    Raises DeviceUnavailable where one isn't there, and for what CUDA can't use together.
    """
    found = [_named(name, gpus) for name in wanted.split("+")]
    missing = [name for name, gpu in zip(wanted.split("+"), found, strict=True) if gpu is None]
    chosen = [gpu for gpu in found if gpu is not None]
    if missing or len(set(chosen)) < len(chosen):
        there = ", ".join(f"{gpu.index} ({gpu.name}, {gpu.uuid})" for gpu in gpus)
        raise DeviceUnavailable(
            f"no GPU {', '.join(missing) or wanted} on this machine; "
            + (f"there are: {there}" if there else "there is none (is nvidia-smi on the PATH?)")
        )
    if len(chosen) > 1 and any(gpu.is_slice for gpu in chosen):
        raise DeviceUnavailable(
            f"{wanted}: CUDA shows a process one MIG slice at a time, so they can't be joined by "
            "+; give each a worker of its own, with a comma between them"
        )
    return chosen


def check_apart(servers: Sequence[str], gpus: Sequence[Gpu]) -> None:
    """Raise DeviceUnavailable unless each server's GPUs are there, and nobody else's."""
    taken: dict[Gpu, str] = {}
    for server in servers:
        for gpu in pick(server, gpus):
            if gpu in taken:
                raise DeviceUnavailable(f"{taken[gpu]} and {server} are one GPU: {gpu.uuid}")
            taken[gpu] = server


def _named(name: str, gpus: Sequence[Gpu]) -> Gpu | None:
    for gpu in gpus:
        if name in (gpu.index, gpu.uuid):
            return gpu
    begins = [gpu for gpu in gpus if gpu.uuid.startswith(name)]
    return begins[0] if len(begins) == 1 and len(name) >= SHORTEST_PREFIX else None


def _nvidia_smi(*arguments: str) -> str:
    """What it prints; nothing where it is not there or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        return subprocess.run(
            [program, *arguments],
            capture_output=True,
            check=True,
            text=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _parse_gpu(line: str) -> Gpu:
    index, uuid, name, free_mib, total_mib = (part.strip() for part in line.split(","))
    return Gpu(index, uuid, name, _mib(free_mib), _mib(total_mib))


def _mib(text: str) -> int:
    """Bytes; a GPU that shares the machine's memory reports none of its own."""
    return int(text) << 20 if text.isdigit() else int(psutil.virtual_memory().available)


def _slices(listed: str) -> dict[str, list[tuple[str, str, str]]]:
    """GPU index → (slice index, UUID, profile) of its slices, from ``nvidia-smi -L``."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    gpu = ""
    for line in listed.splitlines():
        if heading := _GPU_LINE.match(line):
            gpu = heading[1]
        elif part := _SLICE_LINE.match(line):
            found.setdefault(gpu, []).append((part[2], part[3], part[1]))
    return found


def _parts(gpu: Gpu, slices: Sequence[tuple[str, str, str]]) -> Iterator[Gpu]:
    if not slices:
        yield gpu
    for number, uuid, profile in slices:
        promised = re.search(r"(\d+)gb", profile)  # 1g.10gb, 1c.3g.20gb, 1g.5gb+me
        size_bytes = int(promised[1]) * 10**9 if promised else gpu.total_bytes
        yield Gpu(f"{gpu.index}:{number}", uuid, f"{gpu.name} {profile}", size_bytes, size_bytes)
