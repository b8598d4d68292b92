"""LoRA on CPU: what vLLM's operators do there (``vllm/lora/ops/torch_ops/lora_ops.py``, 0.32), an
adapter at a time.

Theirs copy the matrix of its adapter for each token, which takes most of the time of a long prompt,
and take index -1, no adapter, for the last that has room. These multiply the tokens of an adapter
with its matrix, and leave the others alone.

B tokens; ``inputs`` (B, in), ``weights`` (adapters, 1, out, in) or without the 1, ``indices`` (B,)
of adapters. Imported inside vLLM's worker: torch is only used by its tensors' methods.
"""

from typing import Any


def bgmv_shrink(
    inputs: Any,
    lora_b_weights: Any,
    output_tensor: Any,
    lora_indices_tensor: Any,
    scaling: float = 1.0,
) -> None:
    """``output_tensor`` (B, at least out) becomes the scaled product; 0 where there is none."""
    product = _product(inputs, lora_b_weights, lora_indices_tensor, output_tensor.dtype)
    output_tensor[:, : product.shape[1]] = scaling * product


def bgmv_expand(
    inputs: Any,
    lora_b_weights: Any,
    output_tensor: Any,
    lora_indices_tensor: Any,
    add_inputs: bool = True,
) -> None:
    """The product is added to ``output_tensor`` (B, any), or put there, as wide as both are."""
    product = _product(inputs, lora_b_weights, lora_indices_tensor, output_tensor.dtype)
    width = min(product.shape[1], output_tensor.shape[1])
    _put(product[: len(output_tensor), :width], output_tensor[:, :width], add_inputs)


def bgmv_expand_slice(
    inputs: Any,
    lora_b_weights: Any,
    output_tensor: Any,
    lora_indices_tensor: Any,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """The same for columns ``slice_offset`` and ``slice_size`` that follow."""
    product = _product(inputs, lora_b_weights, lora_indices_tensor, output_tensor.dtype)
    _put(product, output_tensor[:, slice_offset : slice_offset + slice_size], add_inputs)


def _put(product: Any, place: Any, add_inputs: bool) -> None:
    if add_inputs:
        place += product
    else:
        place.copy_(product)


def _product(inputs: Any, weights: Any, indices: Any, dtype: Any) -> Any:
    """(B, out): each token by the matrix of its adapter, in ``dtype``."""
    inputs = inputs.to(dtype)
    first = int(indices[0])
    if first >= 0 and bool((indices == first).all()):  # as a rule; nothing is picked apart
        return inputs @ _matrix(weights, first, dtype).T
    product = inputs.new_zeros(len(inputs), weights.shape[-2])
    for adapter in indices.unique().tolist():
        if adapter >= 0:
            tokens = indices == adapter
            product[tokens] = inputs[tokens] @ _matrix(weights, adapter, dtype).T
    return product


def _matrix(weights: Any, adapter: int, dtype: Any) -> Any:
    return weights[adapter].to(dtype).reshape(weights.shape[-2:])
