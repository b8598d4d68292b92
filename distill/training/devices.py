"""The device to train on."""

import os
import re
from collections.abc import Collection, Sequence

from distill.errors import InputError, MachineError
from distill.worker_server.errors import DeviceUnavailable
from distill.worker_server.gpus import Gpu, pick

VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose(device: str | None) -> str:
    """``cpu`` or ``cuda`` for cpu, cuda, cuda:N or None (a GPU if there is one).

    transformers' Trainer takes all GPUs that it sees, so this process is left with one. Raises
    InputError for another name, MachineError where it is not there. Where CUDA_VISIBLE_DEVICES is
    set, N is a place in it, from 0.
    """
    _name(device)
    if device == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_initialized():
        # As nvidia-smi counts them; CUDA itself has the fastest first.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        if (gpu := _gpu(device)) is not None:
            os.environ[VISIBLE] = gpu
        elif device is not None:
            raise MachineError(
                f"there is no {device}: {VISIBLE}={os.environ[VISIBLE]} has no more GPUs"
            )
    if torch.cuda.is_available():
        return "cuda"
    if device is None:
        return "cpu"
    raise MachineError(f"there is no {device} here that torch {torch.__version__} can use")


def check(device: str | None) -> None:
    """Raise InputError for what is no device's name; whether it is there is seen by ``choose``."""
    _name(device)


def may_be_among(device: str | None, taken: Collection[Gpu], there: Sequence[Gpu]) -> bool:
    """Whether a device's name is one of the GPUs ``taken``, of all that are ``there``.

    So, too, where CUDA may know it by a name that ``nvidia-smi`` does not.
    """
    name = None if device == "cpu" else _gpu(device)
    if name is None or not taken:
        return False
    try:
        return any(gpu in taken for gpu in pick(name, there))
    except DeviceUnavailable:
        return True


def _gpu(device: str | None) -> str | None:
    """As CUDA_VISIBLE_DEVICES would name it; None: it has fewer."""
    place = int(_name(device)[1] or 0)
    seen = os.environ.get(VISIBLE)
    if seen is None:
        return str(place)
    names = [each for each in seen.split(",") if each]
    return names[place] if place < len(names) else None


def _name(device: str | None) -> "re.Match[str]":
    wanted = re.fullmatch(r"cpu|cuda(?::(\d+))?", device or "cuda")
    if wanted is None:
        raise InputError(f"--device is cpu, cuda or cuda:N, not {device!r}")
    return wanted


def share_cores() -> None:
    """Have torch's threads sleep while they wait for each other; before torch is imported.

    They spin otherwise, on cores that others need, those that they wait for among them: beside a
    busy process a step took four times as long (SmolLM2's layers, 2 cores).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def has_bfloat16(device: str) -> bool:
    """Whether it multiplies bfloat16 in hardware: about four times as fast as float32."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # the last: Arm's
