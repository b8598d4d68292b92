"""What the tripwire counts of an answer, and which prompts it asks."""

import json
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra train")

from distill.training.answering import PROMPTS, Answering, Drawing, Prompt, _answer, prompts
from distill.training.weights import Weights
from tests.training.toy import Toy

GREEDY = "{}"
LINES = json.dumps({"temperature": 0.7, "stop": ["\n"], "max_tokens": 5})


def row(prompt: list[int], completion: list[int], reward: float, how: str = GREEDY) -> Any:
    return {
        "prompt_ids": prompt, "completion_ids": completion, "reward": reward, "sampling": how,
    }  # fmt: skip


def test_a_prompt_is_asked_once_and_first_where_something_was_earned(tokenizer: Any) -> None:
    lamp, boat = (tokenizer(word)["input_ids"] for word in ("lamp", "boat"))
    end = [tokenizer.eos_token_id]
    found = prompts(
        [
            row([1], lamp + end, 0.0),
            row([2], lamp + end, 0.7),
            row([2], lamp, 0.9),
            row([2], boat + end, 0.0),
        ],
        tokenizer,
    )
    assert [list(each.ids) for each in found] == [[2], [1]]
    assert found[0].earned == {"lamp": 0.9, "boat": 0.0}
    assert found[0].tokens == max(len(lamp), len(boat)) + 1
    many = [row([number], lamp, 1.0) for number in range(2 * PROMPTS)]
    assert len(prompts(many, tokenizer)) == PROMPTS


def test_what_was_greedy_is_drawn_to_vary() -> None:
    assert Drawing.of(GREEDY) == Drawing(1.0, (), None)
    assert Drawing.of(LINES) == Drawing(0.7, ("\n",), 5)


@pytest.mark.parametrize(
    ("text", "ends", "wanted"),
    [
        ("boat", True, ("boat", False, 0.5)),
        ("lamp", True, ("lamp", False, 0.0)),
        ("boat", False, ("boat", True, 0.5)),
        ("", True, ("", False, 0.0)),
        ("boat\nlamp", False, ("boat", False, 0.5)),  # it was stopped by the line's end
        ("\nboat", False, ("", False, 0.0)),
    ],
)
def test_an_answer_is_empty_cut_or_worth_what_it_was_in_the_log(
    tokenizer: Any, text: str, ends: bool, wanted: tuple[str, bool, float]
) -> None:
    end = tokenizer.eos_token_id
    ids = tokenizer(text)["input_ids"] if text else []
    said = [*ids, *([end, end, end] if ends else [])]  # what follows the end is padding
    asked = Prompt([1], Drawing.of(LINES), {"boat": 0.5})
    found = _answer(tokenizer, said, [end], asked)
    assert (found.text, found.is_cut, found.earned) == wanted
    assert found.tokens == len(ids) + ends


def test_the_same_noise_gives_the_same_answers(toy_weights: Weights, toy: Toy) -> None:
    """And changes nothing of the training around it."""
    import torch

    asked = [Prompt(each, Drawing(1.0, (), 8), {}, 4) for each in toy.prompts]
    asked += [Prompt(toy.prompts[0], Drawing(0.5, ("e",), 4), {}, 4)]
    toy_weights.model.train()
    before = torch.random.get_rng_state()
    first, second = (Answering(toy_weights, asked, 3).sample(step) for step in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert toy_weights.model.training
    assert (first.step, second.step) == (0, 1)
    assert (first.tokens, first.empty, first.cut) == (second.tokens, second.empty, second.cut)
    assert first.examples == second.examples
    assert first.answers == 3 * len(asked)
