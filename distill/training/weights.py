"""A model to train: loaded with its tokenizer, named by its hashes, saved as vLLM loads it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.exports.writing import at_once
from distill.protocol.worker_link import ModelCard
from distill.training import devices
from distill.training.settings import TrainSettings
from distill.user_folders import cache_folder
from distill.worker_server.adapter_files import CONFIG, AdapterFiles
from distill.worker_server.errors import AdapterRefused, ModelUnavailable
from distill.worker_server.fingerprint import TOKENIZER_PARTS, fingerprint
from distill.worker_server.model import ModelFolder, resolve

COPIED = ("config.json", *TOKENIZER_PARTS, "chat_template.jinja", "generation_config.json")
"""Files of a model that training does not change: copied as they are, so are their hashes."""
HALF = ("bfloat16", "float16")
"""Types of weights that lose nothing, or all but, in bfloat16, which they are served in."""
WINDOW_TOKENS = 2048
"""Of a model whose configuration does not say."""


@dataclass(slots=True)
class Weights:
    """``model`` is transformers' or PEFT's, ``folder`` that of the model itself; ``card`` is as a
    worker server with these files would have it, but for device, engine and dtype.
    """

    model: Any
    tokenizer: Any
    folder: ModelFolder
    card: ModelCard
    device: str
    is_mixed: bool = False
    """Kept in float32, to be multiplied in bfloat16."""

    @property
    def is_adapter(self) -> bool:
        """Whether a LoRA adapter is trained, and no more."""
        return hasattr(self.model, "peft_config")

    def save(self, folder: Path) -> None:
        """Write a new folder that vLLM loads, as an adapter or as a model; whole or not at all."""
        with at_once(folder) as part:
            if self.is_adapter:
                self.model.save_pretrained(part)
                _without_paths(part, self.folder)
            else:
                self._save_whole(part)

    def _save_whole(self, part: Path) -> None:
        """In the type that the model is stored in: its weights are rounded to it, here too."""
        import torch

        self.model.to(getattr(torch, _stored_type(self.folder.path)))
        self.model.save_pretrained(part)
        for name in COPIED:
            if (self.folder.path / name).is_file():
                shutil.copyfile(self.folder.path / name, part / name)


def _without_paths(adapter: Path, base: ModelFolder) -> None:
    """Have what PEFT has saved be the same on any machine, in any process: so is its hash then.

    Not before: PEFT asks the hub for a name.
    """
    path = adapter / CONFIG
    config = json.loads(path.read_bytes())
    config["base_model_name_or_path"] = base.own_name
    if isinstance(config.get("target_modules"), list):  # a set, in whatever order
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (adapter / "README.md").unlink(missing_ok=True)


def load(settings: TrainSettings) -> Weights:
    """The model of these settings, ready to be trained; its new LoRA weights hang on the seed.

    Raises InputError where the model or the parent's adapter can't be used.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    folder = resolved(settings.model)
    device = devices.choose(settings.device)
    is_half = _stored_type(folder.path) in HALF and devices.has_bfloat16(device)
    # Steps of all weights are too small for bfloat16; PEFT keeps LoRA's weights in float32 itself.
    is_mixed = is_half and settings.lora_rank is None
    dtype = torch.bfloat16 if is_half and not is_mixed else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path)
        model = AutoModelForCausalLM.from_pretrained(folder.path, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder.name} can't be loaded: {error}") from error
    set_seed(settings.seed)
    if settings.lora_rank is not None:
        model = _with_lora(model, settings, folder)
    model.to(device)
    card = _card(settings, folder, model, device)
    return Weights(model, tokenizer, folder, card, device, is_mixed)


def resolved(model: str | None) -> ModelFolder:
    """The model's folder, as a worker server finds it. Raises InputError."""
    try:
        return resolve(model, cache_folder())
    except ModelUnavailable as error:
        raise InputError(str(error)) from error


def rank_of(adapter: Path) -> int:
    """The rank of a LoRA adapter. Raises InputError."""
    return int(_of_config(adapter, "r"))


def check_parent(settings: TrainSettings) -> None:
    """Raise InputError where the adapter to go on from has another form than is asked for."""
    if settings.adapter is None:
        return
    if rank_of(settings.adapter) != settings.lora_rank:
        raise InputError(
            f"{settings.adapter} has rank {rank_of(settings.adapter)}, not "
            f"{settings.lora_rank}: leave out --lora-rank"
        )
    alpha = _of_config(settings.adapter, "lora_alpha")
    if settings.lora_alpha not in (None, alpha):
        raise InputError(
            f"{settings.adapter} has alpha {alpha:g}, not {settings.lora_alpha:g}: leave out "
            "--lora-alpha"
        )


def _of_config(adapter: Path, name: str) -> float:
    if not adapter.is_dir():
        raise InputError(f"there is no folder {adapter} with an adapter")
    try:
        return float(json.loads((adapter / CONFIG).read_bytes())[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{adapter} is no LoRA adapter as PEFT saves it: {error}") from error


def _with_lora(model: Any, settings: TrainSettings, folder: ModelFolder) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if settings.adapter is not None:
        _adapter_files(settings.adapter, folder)
        check_parent(settings)
        return PeftModel.from_pretrained(model, str(settings.adapter), is_trainable=True)
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * (settings.lora_rank or 0),
        target_modules="all-linear",  # but for the output matrix, which vLLM takes none of
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _adapter_files(adapter: Path, folder: ModelFolder) -> AdapterFiles:
    try:
        return AdapterFiles.read(str(adapter), folder)
    except AdapterRefused as error:
        raise InputError(str(error)) from error


def _card(settings: TrainSettings, folder: ModelFolder, model: Any, device: str) -> ModelCard:
    import transformers

    hashes = fingerprint(folder, cache_folder())
    adapter = None if settings.adapter is None else _adapter_files(settings.adapter, folder)
    return ModelCard(
        model=folder.name,
        weights_hash=hashes.weights,
        tokenizer_hash=hashes.tokenizer,
        template_hash=hashes.template,
        dtype=str(model.dtype).removeprefix("torch."),
        device=device,
        engine="transformers",
        engine_version=transformers.__version__,
        window_tokens=getattr(model.config, "max_position_embeddings", WINDOW_TOKENS),
        logprobs_mode="raw_logprobs",
        adapter=None if adapter is None else adapter.folder.name,
        adapter_hash="" if adapter is None else adapter.sha256,
    )


def _stored_type(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_bytes())
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")
