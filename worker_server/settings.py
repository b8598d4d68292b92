"""How vLLM is started: every choice that differs from its defaults, and why.

Figures: SmolLM2-135M on 2 cores, warm disk, noisy; ratios are what to trust.
"""

import os
from typing import Any

from distill.worker_server.adapters import HELD_LIMIT
from distill.worker_server.device import GIB, Device
from distill.worker_server.inside import OWNER_VARIABLE, SCRATCH_VARIABLE, Inside
from distill.worker_server.model import OVERHEAD_BYTES, WEIGHTS_FACTOR, ModelFolder

CPU_STEP_TOKENS = 1024
"""On these CPUs a healthy step of 4,096 tokens takes 7 s, as long as a hang is let be."""
CPU_SEQUENCES = 64
CPU_CACHE_SHARE = 0.25
CPU_CACHE_LIMITS_BYTES = (GIB // 4, 4 * GIB)
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM has room for; an adapter of a lower one fits."""
LORAS_AT_ONCE = 2
"""Adapters in one step; each has room on the device. Two, so that a new version need not wait
for the last answers of the one before."""


def engine_arguments(
    folder: ModelFolder, device: Device, window_tokens: int | None
) -> dict[str, Any]:
    """The AsyncEngineArgs for this model on this device."""
    arguments: dict[str, Any] = {
        "model": str(folder.path),
        "served_model_name": folder.name,
        # -1: the longest window up to the model's own whose cache fits the memory.
        "max_model_len": window_tokens or -1,
        "enable_prefix_caching": True,
        "tensor_parallel_size": device.tensor_parallel_size,
        "seed": 0,
        "use_tqdm_on_load": False,
        # The steps' clock is our only statistics logger; this keeps the default ones out.
        "disable_log_stats": True,
        "worker_extension_cls": f"{Inside.__module__}.{Inside.__qualname__}",
    }
    if device.kind == "cpu":
        arguments |= _cpu_arguments(folder, device)
    return arguments


def lora_arguments(max_lora_rank: int | None) -> dict[str, Any]:
    """What makes an engine take LoRA adapters, up to this rank. Raises ValueError: too high."""
    if max_lora_rank is None:
        return {}
    ranks = [rank for rank in LORA_RANKS if rank >= max_lora_rank]
    if not ranks:
        raise ValueError(f"a LoRA rank of {max_lora_rank}; the most is {LORA_RANKS[-1]}")
    return {
        "enable_lora": True,
        "max_lora_rank": ranks[0],
        "max_loras": LORAS_AT_ONCE,
        "max_cpu_loras": HELD_LIMIT,
    }


def _cpu_arguments(folder: ModelFolder, device: Device) -> dict[str, Any]:
    return {
        # Compiling takes 50 s of the start and gains 9 % tokens/s.
        "enforce_eager": True,
        # One process for engine and model (with VLLM_ENABLE_V1_MULTIPROCESSING=0, see
        # device.py): start 11 s against 22, 4,341 prompt tokens/s against 2,274.
        "distributed_executor_backend": "uni",
        "max_num_batched_tokens": CPU_STEP_TOKENS,
        "max_num_seqs": CPU_SEQUENCES,
        # Explicit: "auto" takes 92 % of the memory and refuses to start beside anything else;
        # and with it set, vLLM skips its profiling run.
        "kv_cache_memory_bytes": cpu_cache_bytes(folder, device),
    }


def cpu_cache_bytes(folder: ModelFolder, device: Device) -> int:
    """A quarter of what the weights leave, within limits."""
    low, high = CPU_CACHE_LIMITS_BYTES
    left = device.memory_bytes - int(folder.weights_bytes * WEIGHTS_FACTOR) - OVERHEAD_BYTES // 2
    return max(low, min(high, int(left * CPU_CACHE_SHARE)))


def engine_environment(device: Device, scratch: str, *, log_level: str) -> dict[str, str]:
    """Variables in place while vLLM is imported and its processes start."""
    return device.environment | {
        OWNER_VARIABLE: str(os.getpid()),
        SCRATCH_VARIABLE: scratch,
        "TMPDIR": scratch,
        "VLLM_RPC_BASE_PATH": scratch,
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_LEVEL": log_level,
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # The model lies on this machine by now; without this each file is looked up online.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
