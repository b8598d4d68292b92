"""What bench/engine has answered: the models, the prompts, and how every contestant starts vLLM."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.user_folders import cache_folder
from distill.worker_server import model

MIB = 1 << 20
RANDOM_LAYERS, RANDOM_HIDDEN = 2, 64
WINDOW_TOKENS = 2048


@dataclass(frozen=True)
class Load:
    """One block of work: ``count`` prompts of ``prompt_chars``, answers of ``answer_tokens``."""

    count: int
    prompt_chars: int
    answer_tokens: int


@dataclass(frozen=True)
class Setting:
    """How an engine is started, the same for all contestants; JSON on their command line.

    ``cores`` is empty where ``gpu`` names the device. ``arguments`` are vLLM's.
    """

    folder: str
    gpu: str | None
    cores: tuple[int, ...]
    window_tokens: int
    arguments: dict[str, Any]


def on_cores(folder: Path, cores: tuple[int, ...], cache_bytes: int) -> Setting:
    """An engine on these cores. The cache is named: by default it follows the free memory."""
    return Setting(str(folder), None, cores, WINDOW_TOKENS, {"kv_cache_memory_bytes": cache_bytes})


def on_gpu(folder: Path, gpu: str, contestants: int) -> Setting:
    """An engine that shares this GPU with those of the other contestants, which wait meanwhile."""
    share = round(0.9 / contestants, 2)
    return Setting(str(folder), gpu, (), WINDOW_TOKENS, {"gpu_memory_utilization": share})


def small() -> Path:
    """The folder of the default worker model; prepared where it is not yet there."""
    return model.resolve(None, cache_folder()).path


def make_random(folder: Path) -> Path:
    """Save a random Llama with the default model's tokenizer; it computes next to nothing.

    It has no end-of-sequence token, so every answer is as long as it may be.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    source = small()
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=RANDOM_LAYERS,
        hidden_size=RANDOM_HIDDEN,
        intermediate_size=2 * RANDOM_HIDDEN,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=json.loads((source / "config.json").read_text())["vocab_size"],
        max_position_embeddings=WINDOW_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer = json.loads((source / "tokenizer_config.json").read_text())
    tokenizer.pop("eos_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    shutil.copy(source / "tokenizer.json", folder)
    return folder
