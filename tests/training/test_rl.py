"""Reinforcement learning on a toy task, by real steps of a tiny model."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("trl", reason="needs the extra train")

from distill.errors import InputError
from distill.exports.formats.episodes import EpisodeRow
from distill.training import rl
from distill.training.collapse import CollapseError, Sample, collapse
from distill.training.data import DataSet
from distill.training.loss import Clipping
from distill.training.rl import Rl
from distill.training.weights import Weights, load
from distill.worker_server.adapter_files import files_hash
from tests.training.toy import (
    Toy,
    data_set,
    episodes,
    sampled,
    settings,
    subtracted,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other
Changed = dict[str, Any]


@pytest.fixture(scope="session")
def rows(toy_weights: Weights, toy: Toy) -> list[EpisodeRow]:
    return episodes(sampled(toy_weights, toy, 16), toy, toy_weights.card)


def figures(folder: Path, toy: Toy, seed: int = 99) -> dict[str, float]:
    """What a model says: how much of it is right, how long it is, how much is empty."""
    drawn = sampled(load(settings(Path("none"), folder)), toy, 32, seed)
    return {
        "right": sum(toy.score(each.prompt, each.ids) for each in drawn) / len(drawn),
        "tokens": sum(len(each.ids) for each in drawn) / len(drawn),
        "empty": sum(each.ids == [toy.end] for each in drawn) / len(drawn),
    }


def test_what_is_right_and_short_becomes_likelier_and_nothing_collapses(
    toy_folder: Path, toy: Toy, tmp_path: Path
) -> None:
    """Twice over, each time on what the newest version has said: as the loop does it."""
    newest = toy_folder
    for turn in range(2):
        now = load(settings(Path("none"), newest))
        drawn = sampled(now, toy, 32, seed=turn)
        data = data_set(tmp_path / f"data{turn}", "episodes", episodes(drawn, toy, now.card))
        out = tmp_path / f"out{turn}"
        newest = rl.train(data, settings(out, newest, learning_rate=0.005)).weights
    before, after = figures(toy_folder, toy), figures(newest, toy)
    assert after["right"] > before["right"] + 0.1, (before, after)
    assert after["empty"] <= before["empty"] + 0.02, (before, after)
    taken = json.loads((tmp_path / "out0" / rl.SAMPLES).read_bytes())
    assert [each["step"] for each in taken][:2] == [0, 10]
    assert taken[-1]["step"] == 96
    assert {each["answers"] for each in taken} == {36}


def test_the_tripwire_stops_what_a_subtracted_length_leads_to(
    toy_weights: Weights, toy_folder: Path, toy: Toy, tmp_path: Path
) -> None:
    drawn = sampled(toy_weights, toy, 32)
    data = data_set(
        tmp_path / "data", "episodes", episodes(drawn, toy, toy_weights.card, subtracted)
    )
    out, wide = tmp_path / "out", Rl(clipping=Clipping(0.9, 9.0))
    with pytest.raises(CollapseError, match=r"\d\d% of its answers are empty") as caught:
        rl.train(data, settings(out, toy_folder, save_every_steps=4), method=wide)
    taken = [Sample(**each) for each in json.loads((out / rl.SAMPLES).read_bytes())]
    assert all(collapse(taken[0], each) is None for each in taken[:-1])
    assert collapse(taken[0], taken[-1]) is not None
    assert len(taken) > 2, "there was no good checkpoint to keep"
    good = out / "checkpoints" / f"checkpoint-{taken[-2].step}"
    assert str(good) in str(caught.value)
    assert figures(good, toy)["empty"] < 0.5
    assert not (out / "model").exists()
    # The same command goes on from there, and is stopped again.
    with pytest.raises(CollapseError):
        rl.train(data, settings(out, toy_folder, save_every_steps=4), method=wide)


def test_weights_that_are_no_numbers_are_not_sampled_of(
    rows: list[EpisodeRow], toy_folder: Path, tmp_path: Path
) -> None:
    data = data_set(tmp_path / "data", "episodes", rows)
    asked = settings(tmp_path / "out", toy_folder, save_every_steps=1, learning_rate=1e30)
    with pytest.raises(CollapseError, match=r"lower --learning-rate"):
        rl.train(data, asked)


AT_FIRST = Sample(0, 32, tokens=40, empty=0.05, cut=0.1, earned=0.4, examples=[])


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"empty": 0.3}, None),
        ({"empty": 0.4}, "40% of its answers are empty"),
        ({"cut": 0.5}, "come to no end"),
        ({"earned": 0.26}, None),
        ({"earned": 0.15}, "earn 0.15"),
        ({"tokens": 8, "earned": 0.5}, None),
        ({"tokens": 8, "earned": 0.3}, r"8\.0 tokens"),
    ],
)
def test_what_counts_as_a_collapse(changed: Changed, wanted: str | None) -> None:
    found = collapse(AT_FIRST, replace(AT_FIRST, **changed))
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert wanted.replace("\\", "") in found


def steps_of(
    toy_weights: Weights, rows: list[EpisodeRow], tmp_path: Path, **more: Any
) -> list[float]:
    """The losses of six steps, each on all of the rows."""
    data = data_set(tmp_path / "data", "episodes", rows)
    given = {"batch_rows": len(rows), "max_steps": 6, "save_every_steps": 6, **more}
    asked = settings(tmp_path / "out", toy_weights.folder.path, **given)
    made = Rl().trainer(load(asked), DataSet.read(data), asked)
    made.trainer.train()
    return [each["loss"] for each in made.trainer.state.log_history if "loss" in each]


@pytest.mark.parametrize("rank", [None, 4])
def test_its_own_loss_falls_on_a_fixed_batch(
    toy_weights: Weights, rows: list[EpisodeRow], tmp_path: Path, rank: int | None
) -> None:
    losses = steps_of(toy_weights, rows, tmp_path, lora_rank=rank)
    # At first each ratio is 1: what is left is the mean of the advantages, weighed by tokens.
    tokens = sum(len(row.completion_ids) for row in rows)
    wanted = -sum(row.advantage * len(row.completion_ids) for row in rows) / tokens
    assert losses[0] == pytest.approx(wanted, abs=1e-4)
    # The first step is of the warm-up, with a rate of 0; each of the others goes down.
    assert losses[1:] == sorted(set(losses[1:]), reverse=True)


def test_the_rows_of_a_batch_may_be_computed_one_after_the_other(
    toy_weights: Weights, rows: list[EpisodeRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long rows are, and then each still pulls by its own weight."""
    some = [msgspec.structs.replace(row, weight=1 / (1 + place)) for place, row in enumerate(rows)]
    whole = steps_of(toy_weights, some[:48], tmp_path / "whole")
    monkeypatch.setattr("distill.training.fitting.TOKENS_AT_ONCE", {"cpu": 90})
    parts = steps_of(toy_weights, some[:48], tmp_path / "parts")
    assert parts == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_rows_that_earned_as_much_as_their_group_are_computed_for_an_anchor_only(
    toy_weights: Weights, rows: list[EpisodeRow], tmp_path: Path, kl: float
) -> None:
    some = [
        msgspec.structs.replace(row, advantage=row.advantage if place < 6 else 0.0)
        for place, row in enumerate(rows[:16])
    ]
    telling = sum(bool(row.advantage) for row in some)
    assert 0 < telling <= 6
    data = data_set(tmp_path / "data", "episodes", some)
    asked = settings(tmp_path / "out", toy_weights.folder.path)
    made = Rl(kl=kl).trainer(load(asked), DataSet.read(data), asked)
    assert made.rows == (16 if kl else telling)
    said = f"{16 - telling} rows left out: they earned as much as all of their group"
    assert (said in made.warnings) is not bool(kl)


def refused(
    tmp_path: Path, rows: list[EpisodeRow], toy_folder: Path, method: Rl | None = None
) -> str:
    data = data_set(tmp_path / "data", "episodes", rows)
    with pytest.raises(InputError) as caught:
        rl.train(data, settings(tmp_path / "out", toy_folder), method=method)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"logprobs_mode": "processed_logprobs"}, "after temperature and filters"),
        ({"advantage": 0.0}, "several times"),
        ({"weights_hash": "a" * 64}, "no row was sampled by the weights in training"),
        ({"adapter_hash": "b" * 64, "adapter": "mine", "weights_version": 3}, "version 3 of mine"),
        ({"tokenizer_hash": "c" * 64}, "another tokenizer"),
        ({"sampling": '{"temperature":1,"choices":["a","b"]}'}, "answers to a schema, choices or"),
        ({"sampling": '{"temperature":1,"regex":""}'}, "answers to a schema, choices or"),
        ({"logprobs": [-0.5]}, "one log-probability"),
        ({"completion_ids": [5000, 2], "logprobs": [-1.0, -1.0]}, "that the model does not have"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused(
    tmp_path: Path, rows: list[EpisodeRow], toy_folder: Path, changed: Changed, said: str
) -> None:
    # A log-probability is missing where more than one was sampled.
    long = [row for row in rows if len(row.completion_ids) > 1]
    broken = [msgspec.structs.replace(row, **changed) for row in long]
    assert said in refused(tmp_path, broken, toy_folder)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Rl(clipping=Clipping(1.5, 0.2)), "--clip"),
        (Rl(clipping=Clipping(0.2, float("inf"))), "--clip"),
        (Rl(kl=-1.0), "--kl"),
        (Rl(staleness=-1), "--staleness"),
    ],
)
def test_options_out_of_range_are_refused(
    tmp_path: Path, rows: list[EpisodeRow], toy_folder: Path, method: Rl, said: str
) -> None:
    assert said in refused(tmp_path, rows, toy_folder, method)


def test_rows_of_other_versions_are_left_out_and_counted(
    tmp_path: Path, rows: list[EpisodeRow], toy_weights: Weights, toy_folder: Path
) -> None:
    other = {"adapter": "mine", "adapter_hash": "b" * 64, "weights_version": 1}
    mixed = [
        msgspec.structs.replace(row, **other) if place % 2 else row
        for place, row in enumerate(rows)
    ]
    data = data_set(tmp_path / "data", "episodes", mixed)
    done = rl.train(data, settings(tmp_path / "out", toy_folder, max_steps=1))
    assert done.rows == len(rows) // 2
    assert any(each.startswith(f"{len(rows) // 2} rows dropped") for each in done.warnings)


def test_the_order_in_which_runs_ended_is_not_that_of_the_steps(
    tmp_path: Path, rows: list[EpisodeRow], toy_folder: Path
) -> None:
    def trained(name: str, rows: list[EpisodeRow]) -> str:
        data = data_set(tmp_path / f"{name}-data", "episodes", rows)
        asked = settings(tmp_path / name, toy_folder, max_steps=2, lora_rank=2)
        return files_hash(rl.train(data, asked).weights)

    assert trained("one", rows) == trained("other", rows[::-1])


def test_a_tenth_of_many_groups_is_held_back(tmp_path: Path, rows: list[EpisodeRow]) -> None:
    def held(seed: int, count: int) -> set[str]:
        many = [
            msgspec.structs.replace(rows[place % len(rows)], group=f"g{place % count}")
            for place in range(3 * count)
        ]
        folder = data_set(tmp_path / f"{seed}-{count}", "episodes", many)
        return rl.held_groups(DataSet.read(folder), seed)

    assert held(0, 39) == set()
    assert len(held(0, 40)) == 4
    assert len(held(0, 57)) == 5
    counted = Counter(name for seed in range(1, 9) for name in held(seed, 40))
    assert max(counted.values()) < 8, "another seed holds back others"
