"""A LoRA adapter's folder, checked before the engine sees it.

vLLM takes an adapter of a smaller model, and one for layers that the model does not have, without
a word. So the shapes are held against the model's own, from the headers of both files.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from distill.worker_server.errors import AdapterRefused
from distill.worker_server.model import ModelFolder

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HEADER_LIMIT_BYTES = 100 << 20
"""The format's own bound."""
PLAIN_TYPES = ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2")
"""Of tensors that are stored in their own shape; a packed one has another."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The files of one adapter as they were read: ``sha256`` of both, ``stats`` to see a change."""

    folder: Path
    sha256: str
    stats: tuple[tuple[int, int, int], ...]

    @staticmethod
    def read(path: str, base: ModelFolder) -> "AdapterFiles":
        """Check a folder against the model it is for, and hash it. Raises AdapterRefused."""
        folder = Path(path).expanduser()
        stats = _stats(folder)
        config = _config(folder / CONFIG)
        _check_shapes(folder, base, config)
        return AdapterFiles(folder.resolve(), files_hash(folder), stats)

    def have_changed(self) -> bool:
        """Whether somebody has written to them since."""
        try:
            return _stats(self.folder) != self.stats
        except AdapterRefused:
            return True


def files_hash(folder: Path) -> str:
    """The SHA-256 by which logs name an adapter: that of its files. Raises AdapterRefused."""
    _stats(folder)
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _stats(folder: Path) -> tuple[tuple[int, int, int], ...]:
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise AdapterRefused(
            f"{folder} is no LoRA adapter here: it has no {' and no '.join(missing)} (a folder as "
            "PEFT saves it, with weights as safetensors)"
        )
    stats = [(folder / name).stat() for name in (CONFIG, WEIGHTS)]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterRefused(f"{path} can't be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA":
        raise AdapterRefused(f"{path} is not that of a LoRA adapter")
    return config


def _check_shapes(folder: Path, base: ModelFolder, config: dict[str, Any]) -> None:
    """Raises AdapterRefused where a layer is not the model's. What can't be told passes."""
    known = _base_shapes(tuple(base.weight_files))
    layers = _layers(_shapes(folder / WEIGHTS))
    if not layers:
        raise AdapterRefused(f"{folder / WEIGHTS} holds no LoRA weights")
    if not any(layer in known for layer in layers):
        return  # other names, as of a quantised model: the engine's to say
    trained = config.get("base_model_name_or_path") or "another model"
    for layer, (lora_a, lora_b) in layers.items():
        shape = known.get(layer)
        if shape is None:
            raise AdapterRefused(
                f"{folder} is not for {base.name}, which has no {layer}: it was made for {trained}"
            )
        given = (lora_b[:1] or shape[:1]) + (lora_a[-1:] or shape[-1:])
        if shape and given != shape:
            raise AdapterRefused(
                f"{folder} is not for {base.name}, whose {layer} is {_times(shape)}, not "
                f"{_times(given)}: it was made for {trained}"
            )


def _layers(shapes: dict[str, tuple[str, Shape]]) -> dict[str, tuple[Shape, Shape]]:
    """The shapes of A and B, empty where there is none, by the layer that they change."""
    found: dict[str, tuple[Shape, Shape]] = {}
    for tensor, (_, shape) in shapes.items():
        name = tensor.removeprefix("base_model.model.")
        layer, mark, _ = name.partition(".lora_")
        if not mark or len(shape) != 2:
            continue
        lora_a, lora_b = found.get(layer, ((), ()))
        kind = name[len(layer) + len(mark) :]
        found[layer] = (shape, lora_b) if kind.startswith("A.") else (lora_a, shape)
    return found


@cache
def _base_shapes(files: tuple[Path, ...]) -> dict[str, Shape]:
    """The model's layers: shapes, empty for those that are stored in another one."""
    found: dict[str, Shape] = {}
    for file in files:
        if file.suffix != ".safetensors":
            continue
        for tensor, (kind, shape) in _shapes(file).items():
            if tensor.endswith(".weight"):
                plain = kind in PLAIN_TYPES and len(shape) == 2
                found[tensor.removesuffix(".weight")] = shape if plain else ()
    return found


def _shapes(file: Path) -> dict[str, tuple[str, Shape]]:
    """Type and shape of each tensor, from the header of a safetensors file."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > HEADER_LIMIT_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(opened.read(length))
        return {
            name: (str(told["dtype"]), tuple(told["shape"]))
            for name, told in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise AdapterRefused(f"{file} is no safetensors file: {error}") from error


def _times(shape: Shape) -> str:
    return " × ".join(str(size) for size in shape)
