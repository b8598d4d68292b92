"""From what the user wrote after ``--worker`` to a folder that vLLM can load."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from distill.worker_server import smollm2
from distill.worker_server.device import GIB, Device
from distill.worker_server.errors import ModelTooBig, ModelUnavailable

DEFAULT_MODEL = "default"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "vocab.txt")
WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt")
NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
DOWNLOAD_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]
WEIGHTS_FACTOR = 1.15
"""Memory of loaded weights over their size on disk: padding, copies while loading."""
OVERHEAD_BYTES = 2 * GIB
"""Beside the weights: two Pythons with torch, activations, the smallest useful KV cache."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A complete model on this machine; ``name`` is what the user called it."""

    name: str
    path: Path

    @property
    def own_name(self) -> str:
        """``name`` without where on this machine it is."""
        return self.path.name if Path(self.name).expanduser().is_dir() else self.name

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights, in a stable order; of one format only."""
        for pattern in WEIGHT_PATTERNS:
            found = sorted(f for f in self.path.glob(pattern) if f.name not in NOT_WEIGHTS)
            if found:
                return found
        return []

    @property
    def weights_bytes(self) -> int:
        """The size of the weights on disk."""
        return sum(file.stat().st_size for file in self.weight_files)


def resolve(model: str | None, cache: Path) -> ModelFolder:
    """The folder of ``model``: None or "default", a folder, or a Hugging Face id.

    May convert (the default model, 5 s) or download (an id that is not cached).
    Raises ModelUnavailable, which says what is missing and what to do.
    """
    if model in (None, "", DEFAULT_MODEL):
        return ModelFolder(smollm2.NAME, smollm2.prepare(cache))
    assert model is not None
    path = Path(model).expanduser()
    if path.is_dir():
        return _checked(ModelFolder(model, path.resolve()))
    if path.exists():
        raise ModelUnavailable(
            f"{model} is a file: name the model's folder, the one with config.json"
        )
    if model.startswith(("/", "./", "../", "~")) or model.count("/") != 1:
        raise ModelUnavailable(
            f"{model}: no such folder, and not a Hugging Face id (those look like owner/name)"
        )
    return _checked(ModelFolder(model, _from_hub(model)))


def _checked(folder: ModelFolder) -> ModelFolder:
    """``folder`` if it holds all that serving needs."""
    missing = []
    if not (folder.path / "config.json").is_file():
        missing.append("config.json")
    if not any((folder.path / name).is_file() for name in TOKENIZER_FILES):
        missing.append(f"a tokenizer (one of {', '.join(TOKENIZER_FILES)})")
    if not folder.weight_files:
        missing.append("weights (*.safetensors)")
    if missing:
        raise ModelUnavailable(
            f"{folder.path} is not a complete model: it has no {'; no '.join(missing)}. "
            "A GGUF file alone or a LoRA adapter can't be served; name a full model's folder."
        )
    try:
        json.loads((folder.path / "config.json").read_bytes())
    except ValueError as error:
        raise ModelUnavailable(f"{folder.path / 'config.json'} is not JSON: {error}") from error
    return folder


def read_template(path: str) -> str:
    """A chat template from a file, in Jinja. Raises ModelUnavailable."""
    try:
        text = Path(path).expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"the chat template {path} can't be read: {error}") from error
    if not text.strip():
        raise ModelUnavailable(f"the chat template {path} is empty")
    return text


def _from_hub(model: str) -> Path:
    """The snapshot in the local Hugging Face cache, else downloaded."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ModelUnavailable(
            f"{model} looks like a Hugging Face id, but huggingface_hub is not installed: "
            "install distill[cpu] or distill[gpu], or name a folder"
        ) from error
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            path = Path(snapshot_download(model, local_files_only=True))
            if (path / "config.json").is_file():  # else: only a few files were ever fetched
                return path
        return Path(snapshot_download(model, allow_patterns=DOWNLOAD_PATTERNS))
    except HFValidationError as error:
        raise ModelUnavailable(f"{model}: no such folder, and not a Hugging Face id") from error
    except Exception as error:  # a dozen kinds, from three network libraries
        raise ModelUnavailable(_no_download(model, error)) from error


def _no_download(model: str, error: Exception) -> str:
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return (
        f"{model} is neither a folder nor in this machine's Hugging Face cache, and it could "
        f"not be downloaded ({type(error).__name__}: {first_line[:300]}). Check the name; for a "
        "gated model set HF_TOKEN; without a network, copy the model's folder here and name it. "
        "The small default model, for which none is named, needs no network."
    )


def check_fits(folder: ModelFolder, device: Device) -> None:
    """Raises ModelTooBig if the weights can't fit ``device.memory_bytes``."""
    needed = int(folder.weights_bytes * WEIGHTS_FACTOR) + OVERHEAD_BYTES
    if needed > device.memory_bytes:
        raise ModelTooBig(
            f"{folder.name} needs about {needed / GIB:.1f} GiB (weights "
            f"{folder.weights_bytes / GIB:.1f} GiB), {device.name} has "
            f"{device.memory_bytes / GIB:.1f} GiB free: use a smaller or quantised model, free "
            "memory, or give it more GPUs (0+1)"
        )
