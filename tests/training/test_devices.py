"""Which device is trained on, and what it can do."""

import os
import re

import pytest

from distill.errors import MachineError
from distill.training.devices import choose, has_bfloat16, may_be_among
from distill.worker_server.gpus import Gpu, pick

torch = pytest.importorskip("torch", reason="needs the extra train")


@pytest.mark.parametrize(("seen", "device"), [("0", "cuda:1"), ("0,1", "cuda:5"), ("", "cuda")])
def test_a_gpu_that_is_not_to_be_seen_is_no_other_one(
    monkeypatch: pytest.MonkeyPatch, seen: str, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    told = re.escape(f"there is no {device}: CUDA_VISIBLE_DEVICES={seen} ")
    with pytest.raises(MachineError, match=told):
        choose(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize(
    ("seen", "device", "left"), [("4,GPU-7", "cuda:1", "GPU-7"), ("4,5", None, "4"), ("", None, "")]
)
def test_one_gpu_is_left_of_those_to_be_seen(
    monkeypatch: pytest.MonkeyPatch, seen: str, device: str | None, left: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(seen))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert choose(device) == ("cuda" if seen else "cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left


@pytest.mark.parametrize(
    ("seen", "device", "taken", "may_be"),
    [
        (None, None, "0", True),
        (None, None, "1+2", False),
        (None, "cuda:2", "1+2", True),
        (None, "cpu", "0", False),
        (None, None, "", False),
        ("2,1", "cuda:1", "1", True),
        ("2,1", "cuda:1", "2", False),
        ("GPU-2222", "cuda", "2", True),
        ("GPU-2222,GPU-1111", "cuda:1", "2", False),
        ("GPU-22", "cuda", "1", True),  # CUDA takes a shorter start than we do
        ("", None, "0", False),
    ],
)
def test_whether_a_gpu_is_one_that_others_have(
    monkeypatch: pytest.MonkeyPatch, seen: str | None, device: str | None, taken: str, may_be: bool
) -> None:
    there = [Gpu(each, f"GPU-{each * 4}", "H100", 9, 9) for each in "012"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert may_be_among(device, pick(taken, there) if taken else [], there) is may_be


def test_bfloat16_that_is_emulated_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a T4, where torch computes it in float32, and slowly."""

    def of_a_t4(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", of_a_t4)
    assert not has_bfloat16("cuda")
