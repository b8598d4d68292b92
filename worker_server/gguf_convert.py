"""Turn a GGUF file of a llama model with a GPT-2 style vocabulary into a folder for vLLM.

    GGUF  ── metadata ───►  config.json, generation_config.json
          ── tensors ────►  dequantise, un-permute Q and K, round to bf16 ─► model.safetensors
          ── vocabulary ─►  tokenizer.json, tokenizer_config.json (with the chat template)

Written for, and tested against, SmolLM2. Why not `transformers`' own reader: it saves no
model that it unpacked from GGUF, and the tokenizer that it builds for this vocabulary leaves
out the splitting of digits, so that every number becomes other tokens than in training.

Needs numpy, gguf and tokenizers, but no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from gguf import GGUFReader

    Float32Array = npt.NDArray[np.float32]
    UInt16Array = npt.NDArray[np.uint16]

# `tokenizer.ggml.token_type` of a control token, as llama.cpp numbers them.
_CONTROL_TOKEN = 3
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}


def convert(gguf_path: Path, folder: Path) -> None:
    """Write the model and tokenizer files of `gguf_path` into the existing `folder`.

    Raises:
        ImportError: gguf or tokenizers is missing.
        KeyError: the file holds a tensor that a llama model does not have.
        OSError: the folder can't be written.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf_path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    _write_json(folder / "config.json", _model_config(fields))
    _write_json(
        folder / "generation_config.json",
        {"_from_model_config": True, **_token_ids(fields)},
    )
    _write_tokenizer(fields, folder)
    _write_weights(reader, fields, folder / "model.safetensors")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _model_config(fields: dict[str, Any]) -> dict[str, Any]:
    """Return `config.json` for the GGUF metadata `fields` (name -> value)."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        # The file has no output matrix of its own: it is the embedding.
        "tie_word_embeddings": True,
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.rope.dimension_count"],
        "max_position_embeddings": fields["llama.context_length"],
        # Stored as the float32 next to 1e-05; say what was meant.
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": fields["llama.rope.freq_base"],
        **_token_ids(fields),
    }


def _token_ids(fields: dict[str, Any]) -> dict[str, int]:
    return {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """Build the tokenizer from vocabulary and merges, with each digit a token of its own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in special]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": tokens[i] for name, i in _named_tokens(fields).items()}
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": fields["llama.context_length"],
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
            **named,
            "chat_template": fields["tokenizer.chat_template"],
        },
    )


def _named_tokens(fields: dict[str, Any]) -> dict[str, int]:
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return {short: fields[f"tokenizer.ggml.{long}_token_id"] for short, long in names.items()}


def _write_weights(reader: GGUFReader, fields: dict[str, Any], path: Path) -> None:
    """Write all tensors as bf16 under the names that `LlamaForCausalLM` uses.

    The format is a JSON header and the raw data. We write it ourselves: the `safetensors`
    package knows bf16 only from torch's tensors or from raw pointers.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]  # GGUF: innermost first
        start, end = end, end + 2 * math.prod(shape)
        header[_tensor_name(tensor.name)] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [start, end],
        }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # the data begins at a multiple of 8 bytes
    with path.open("wb") as handle:
        handle.write(len(head).to_bytes(8, "little") + head)
        for bits in _bfloat16_tensors(reader, fields):
            handle.write(bits.astype("<u2", copy=False).tobytes())


def _bfloat16_tensors(reader: GGUFReader, fields: dict[str, Any]) -> Iterator[UInt16Array]:
    """Yield the tensors in file order, one at a time: all as float32 would be 540 MB."""
    from gguf.quants import dequantize

    query_heads = fields["llama.attention.head_count"]
    key_heads = fields["llama.attention.head_count_kv"]
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith("attn_q.weight"):
            values = _unpermute(values, query_heads)
        elif tensor.name.endswith("attn_k.weight"):
            values = _unpermute(values, key_heads)
        yield to_bfloat16_bits(values)


def _tensor_name(gguf_name: str) -> str:
    if gguf_name in _TOP_TENSORS:
        return _TOP_TENSORS[gguf_name]
    _, layer, kind, suffix = gguf_name.split(".")
    return f"model.layers.{layer}.{_LAYER_TENSORS[kind]}.{suffix}"


def _unpermute(weights: Float32Array, heads: int) -> Float32Array:
    """Undo llama.cpp's reordering of the rows of Q and K, shape (heads * head_dim, hidden).

    llama.cpp rotates neighbouring pairs of a head's rows, `LlamaForCausalLM` rotates row i
    with row i + head_dim / 2; GGUF files of llama models hold the rows in the former order.
    """
    rows, columns = weights.shape
    pairs = weights.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def to_bfloat16_bits(values: Float32Array) -> UInt16Array:
    """Round finite float32 `values` to the nearest bf16, ties to even; same shape, as bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    round_up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + round_up) >> np.uint32(16)).astype(np.uint16)
