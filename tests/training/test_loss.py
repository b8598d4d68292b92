"""The losses, against values worked out by hand."""

import math
from array import array
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("trl", reason="needs the extra train")

from distill.training.completions import Completion, Padding  # noqa: E402  (after the skips)
from distill.training.loss import (  # noqa: E402
    Clipping,
    clipped,
    drift,
    reverse_kl,
    sampled_logprobs,
    weighted,
)


def logs(*ratios: float) -> Any:
    """Log-probabilities that are so many times as likely as what was logged, which is 0.5."""
    return torch.tensor([[math.log(0.5 * ratio) for ratio in ratios]], requires_grad=True)


LOGGED = torch.full((1, 4), math.log(0.5))


@pytest.mark.parametrize(
    ("advantage", "wanted", "pulled"),
    [
        # -min(r A, clip(r) A): of what is good, 1.3 counts as 1.2, and no more is pulled up.
        (2.0, (-1.4, -2.0, -2.4, -2.4), (True, True, False, False)),
        # Of what is bad, 0.7 counts as 0.8, and no more is pushed down.
        (-2.0, (1.6, 2.0, 2.6, 4.0), (False, True, True, True)),
    ],
)
def test_a_ratio_is_clipped_on_the_side_that_its_advantage_pulls_to(
    advantage: float, wanted: tuple[float, ...], pulled: tuple[bool, ...]
) -> None:
    logprobs = logs(0.7, 1.0, 1.3, 2.0)
    each = clipped(logprobs, LOGGED, torch.tensor([[advantage]]), Clipping(0.2, 0.2))
    assert each[0].tolist() == pytest.approx(wanted)
    each.sum().backward()
    assert [value != 0 for value in logprobs.grad[0].tolist()] == list(pulled)
    down = torch.sign(logprobs.grad[0][1]).item()
    assert down == -math.copysign(1, advantage)  # a step against it makes the good likelier


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_what_is_far_from_what_was_logged_has_a_gradient_of_numbers(advantage: float) -> None:
    logprobs = torch.tensor([[-0.1, -200.0]], requires_grad=True)
    logged = torch.tensor([[-200.0, -0.1]])
    each = clipped(logprobs, logged, torch.tensor([[advantage]]), Clipping())
    (each + drift(logprobs, logged)).sum().backward()
    assert torch.isfinite(each).all()
    assert torch.isfinite(logprobs.grad).all()


def test_the_sides_of_a_clip_are_set_apart() -> None:
    good = clipped(logs(0.4, 1.0, 1.3, 2.0), LOGGED, torch.tensor([[1.0]]), Clipping(0.5, 0.28))
    assert good[0].tolist() == pytest.approx([-0.4, -1.0, -1.28, -1.28])
    bad = clipped(logs(0.4, 1.0, 1.3, 2.0), LOGGED, torch.tensor([[-1.0]]), Clipping(0.5, 0.28))
    assert bad[0].tolist() == pytest.approx([0.5, 1.0, 1.3, 2.0])


def test_drift_is_the_divergence_of_the_model_from_the_one_that_sampled() -> None:
    """Over all tokens, each as likely as it was to be sampled, the estimate is the exact value."""
    now, then = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    logprobs = now.log().requires_grad_()
    each = drift(logprobs, then.log())
    assert each.min() >= 0
    assert each[1].item() == pytest.approx(0, abs=1e-6)
    exact = (now * (now / then).log()).sum().item()
    assert (then * each).sum().item() == pytest.approx(exact)
    (then * each).sum().backward()
    # Of KL(now, then) by the logarithm of now's own probability, before it is normalised.
    assert logprobs.grad.tolist() == pytest.approx((now * (now / then).log()).tolist())


def test_reverse_kl_is_over_the_whole_vocabulary() -> None:
    ours, theirs = torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[0.2, 0.3, 0.5]])
    found = reverse_kl(ours.log() + 7, theirs.log() - 2)  # logits are no probabilities
    wanted = 0.6 * math.log(3) + 0.1 * math.log(0.2)
    assert found.tolist() == pytest.approx([wanted], abs=1e-6)
    assert reverse_kl(ours.log(), ours.log()).tolist() == pytest.approx([0], abs=1e-6)


def test_rows_weigh_by_their_weight_and_padding_nothing() -> None:
    each = torch.tensor([[1.0, 2.0, math.nan], [4.0, math.inf, math.nan]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss = weighted(each, mask, torch.tensor([0.5, 2.0]), tokens=4.0)
    assert loss.item() == pytest.approx((0.5 * 3 + 2 * 4) / 4)
    loss.backward()
    assert each.grad.tolist() == [[0.125, 0.125, 0.0], [0.5, 0.0, 0.0]]


def test_a_run_of_400_calls_pulls_as_hard_as_one_of_four() -> None:
    weights = torch.tensor([1 / 400] * 400 + [1 / 4] * 4)
    each = torch.zeros(404, 5, requires_grad=True)
    mask = torch.ones(404, 5, dtype=torch.bool)
    for rows in torch.arange(404).split(8):  # whichever rows stand beside each other
        weighted(each[rows], mask[rows], weights[rows], tokens=1.0).backward()
    long, short = each.grad[:400].sum().item(), each.grad[400:].sum().item()
    assert long == pytest.approx(short, rel=1e-4)


def test_prompts_are_padded_before_and_completions_after() -> None:
    rows = [
        Completion(array("i", [5, 6, 7]), array("i", [8]), array("d", [-0.5]), 0.25, 0.5),
        Completion(array("i", [9]), array("i", [3, 4]), array("d", [-1.0, -2.0]), -1.0, 1.0),
    ]
    batch = {name: each.tolist() for name, each in Padding(0)(rows).items()}
    assert batch == {
        "input_ids": [[5, 6, 7, 8, 0], [0, 0, 9, 3, 4]],
        "attention_mask": [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]],
        "position_ids": [[0, 1, 2, 3, 3], [0, 0, 0, 1, 2]],
        "mask": [[True, False], [True, True]],
        "logged": [[-0.5, 0.0], [-1.0, -2.0]],
        "advantages": [0.25, -1.0],
        "weights": [0.5, 1.0],
    }


def test_logprobs_are_those_of_the_ids_in_full_precision() -> None:
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids = torch.tensor([[1, 2, 3], [4, 5, 49]])
    wanted = logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    assert torch.allclose(sampled_logprobs(logits, ids), wanted, atol=1e-5)
