"""Our LoRA operators for CPU against vLLM's own, and where these are wrong."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs an engine's torch")
vllms: Any = pytest.importorskip("vllm.lora.ops.torch_ops.lora_ops", reason="needs vLLM")

from distill.worker_server import lora_operators as ours  # noqa: E402  (as the skips above)

TOKENS, WIDTH, RANK, ADAPTERS = 7, 24, 4, 3
MIXED = [0, 2, 2, 1, 0, 0, 2]
SAME = [1] * TOKENS


def drawn(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("adapters", [MIXED, SAME], ids=["mixed", "same"])
def test_they_give_what_vllms_give(adapters: list[int], dtype: Any) -> None:
    indices = torch.tensor(adapters)
    shrinking = drawn(ADAPTERS, 1, RANK, WIDTH, dtype=dtype)
    expanding = drawn(ADAPTERS, 1, WIDTH, RANK, dtype=dtype)
    tokens = drawn(TOKENS, WIDTH, dtype=dtype)
    found = []
    for operators in (vllms, ours):
        narrow = torch.full((TOKENS, RANK + 2), 9.0)  # vLLM's buffer is float32, maybe wider
        operators.bgmv_shrink(tokens, shrinking, narrow, indices, 0.5)
        results = [narrow]
        for add in (True, False):
            whole, part = drawn(TOKENS, WIDTH - 3, dtype=dtype), drawn(TOKENS, 40, dtype=dtype)
            operators.bgmv_expand(narrow[:, :RANK], expanding, whole, indices, add)
            operators.bgmv_expand_slice(narrow[:, :RANK], expanding, part, indices, 8, WIDTH, add)
            results += [whole, part]
        found.append(results)
    near = 1e-5 if dtype == torch.float32 else 0.1
    for theirs, own in zip(*found, strict=True):
        torch.testing.assert_close(own, theirs, atol=near, rtol=near)


def test_a_token_without_an_adapter_is_left_as_it_is() -> None:
    indices = torch.tensor([-1, 0, -1, 2, -1, -1, -1])
    bare = indices < 0
    narrow = torch.full((TOKENS, RANK), 9.0)
    ours.bgmv_shrink(drawn(TOKENS, WIDTH), drawn(ADAPTERS, RANK, WIDTH), narrow, indices)
    assert bool((narrow[bare] == 0).all())
    assert bool((narrow[~bare] != 0).all())
    output = drawn(TOKENS, WIDTH)
    before = output.clone()
    ours.bgmv_expand(drawn(TOKENS, RANK), drawn(ADAPTERS, WIDTH, RANK), output, indices)
    assert torch.equal(output[bare], before[bare])
    assert not torch.equal(output[~bare], before[~bare])


def test_nobody_has_an_adapter() -> None:
    output = drawn(TOKENS, WIDTH)
    before = output.clone()
    indices = torch.full((TOKENS,), -1)
    ours.bgmv_expand(drawn(TOKENS, RANK), drawn(ADAPTERS, WIDTH, RANK), output, indices)
    assert torch.equal(output, before)
