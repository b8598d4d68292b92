"""LoRA adapters' folders, written by hand: the format is a header in JSON, then the numbers."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

Tensor = tuple[tuple[int, ...], list[float]]
LAYER = "model.layers.0.mlp.up_proj"
"""Of the stand-in's model: 8 × 4."""


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors as 32-bit floats: shape and values of each."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        packed = struct.pack(f"<{len(values)}f", *values)
        offsets = [len(data), len(data) + len(packed)]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
        data += packed
    told = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(told)) + told + data)


def write_adapter(
    folder: Path,
    value: float,
    *,
    layers: Mapping[str, tuple[int, int]] | None = None,
    rank: int = 1,
) -> Path:
    """An adapter that adds ``rank × value²`` to every weight of these layers (out × in)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for layer, (rows, columns) in (layers or {LAYER: (8, 4)}).items():
        name = f"base_model.model.{layer}"
        tensors[f"{name}.lora_A.weight"] = ((rank, columns), [value] * (rank * columns))
        tensors[f"{name}.lora_B.weight"] = ((rows, rank), [value] * (rank * rows))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers or (LAYER,)}),
        "base_model_name_or_path": "the model of another",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder
