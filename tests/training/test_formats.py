"""The formats of token ids, preferences, prompts and episodes, held against their logs."""

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import LMResponse, export, run
from distill.errors import InputError
from distill.exports.compression import Lengths, reward
from distill.exports.exact_tokens import NO_IDS, NOT_RECORDED, REDACTED, why_not
from distill.exports.graded import GradedRun
from distill.exports.pairs import Answer, Pair, pairs
from distill.exports.selection import UNSCORED
from distill.traces import Run, read, records
from tests.distill.scripted import SMALL, Supervisor, Worker, cell
from tests.training.sampled import LABELS, Letters, Sampler, evaluated

Rows = Callable[..., list[dict[str, Any]]]
PREFERENCES = ("worker-preferences", "worker-preferences-text", "supervisor-preferences")


class Cut(Sampler):
    """Of another tokenizer; all that it says to a conversation but for the first is cut off."""

    def chat(self, *args: Any, **kw: Any) -> LMResponse:
        said = super().chat(*args, **kw)
        return said if "Ahab" in said.text else replace(said, finish_reason="length")


@pytest.fixture(scope="module")
def cut_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two runs with such a worker."""
    return evaluated(tmp_path_factory.mktemp("cut"), Cut(Letters(), "e" * 64), ["boat"])


@pytest.fixture
def rows(logs: Path, tmp_path: Path) -> Rows:
    """The rows of an export, as they were written."""

    def rows(name: str, folder: Path = logs, **options: Any) -> list[dict[str, Any]]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        export(folder, out, format=name, **options)
        return [json.loads(line) for line in (out / "train.jsonl").read_text("utf-8").splitlines()]

    return rows


def calls_of(logs: Path) -> dict[str, records.Call]:
    return {call.id: call for told in read(logs).runs.values() for call in told.calls}


# -- exact tokens


def test_ids_are_those_that_were_read_and_sampled(logs: Path, rows: Rows) -> None:
    calls, found = calls_of(logs), rows("token-sft")
    assert [row["call"] for row in found] == list(calls)
    for row in found:
        call = calls[row["call"]]
        prompt, completion = list(call.prompt_token_ids or ()), list(call.token_ids or ())
        assert row["input_ids"] == prompt + completion
        assert row["labels"] == [-100] * len(prompt) + completion
        assert row["completion_mask"] == [0] * len(prompt) + [1] * len(completion)
        assert (row["weights_version"], row["adapter"]) == (3, "mine")
        assert row["tokenizer_hash"] == call.model.tokenizer_hash


def test_without_ids_there_is_no_row_and_a_reason(tmp_path: Path) -> None:
    asks = "a = worker_batch(['x', 'y'])\nb = worker_batch(['x', 'y'])\nFINAL(a)"
    for name, worker in (("ids", Sampler(Letters())), ("none", Worker())):
        run("?", "text", Supervisor(cell(asks)), worker, log_dir=tmp_path / name,
            limits=SMALL, answer_cache="run")  # fmt: skip
    with_ids = export(tmp_path / "ids", format="token-sft", dry_run=True)
    assert with_ids.rows == {"train": 2}
    cached = "cached: nothing was sampled, so there are no token ids"
    assert with_ids.dropped_rows == {cached: 2}
    with pytest.raises(InputError, match=re.escape(f"2 × {NO_IDS}; 2 × {cached}")):
        export(tmp_path / "none", format="token-sft", dry_run=True)
    # Both reasons at once: who scores these runs has still no ids.
    both = f"2 × {UNSCORED}, and {NO_IDS}; 2 × {UNSCORED}, and {cached}"
    with pytest.raises(InputError, match=re.escape(both)):
        export(tmp_path / "none", format="episodes", dry_run=True)


def test_a_redacted_run_has_no_ids(tmp_path: Path) -> None:
    asks = "FINAL(worker('jane@example.org'))"
    run("?", "text", Supervisor(cell(asks)), Sampler(Letters()), log_dir=tmp_path,
        limits=SMALL, redact=["email"])  # fmt: skip
    with pytest.raises(InputError, match=f"1 × {re.escape(REDACTED)}"):
        export(tmp_path, format="token-sft", dry_run=True)


def test_why_a_call_has_no_ids(logs: Path) -> None:
    (told, *_) = read(logs).runs.values()
    graded, call = GradedRun(told), told.calls[0]
    assert why_not(graded, call) is None
    bare = msgspec.structs.replace(call, token_ids=None, prompt_token_ids=None)
    assert why_not(graded, bare) == NO_IDS
    off = msgspec.structs.replace(bare, sampling={"record": "off"})
    assert why_not(graded, off) == NOT_RECORDED


def test_token_ids_of_two_tokenizers_are_refused(
    logs: Path, cut_logs: Path, tmp_path: Path
) -> None:
    for name in ("token-sft", "episodes"):
        with pytest.raises(InputError, match="two tokenizers"):
            export([logs, cut_logs], tmp_path / name, format=name)
        assert not (tmp_path / name).exists()


# -- preferences


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_answer_of_the_better_run_is_chosen(rows: Rows, name: str) -> None:
    found = rows(name)
    assert {row["task"] for row in found} == set(LABELS)
    assert len(found) == 3
    for row in found:
        assert row["chosen"] != row["rejected"]
        assert (row["chosen_score"], row["rejected_score"]) == (1.0, 0.0)
        assert row["run"] != row["rejected_run"]


def test_a_pair_is_two_answers_that_were_given_to_its_prompt(logs: Path, rows: Rows) -> None:
    for row in rows("worker-preferences"):
        said = {
            call.response
            for call in calls_of(logs).values()
            if call.messages and call.messages[0]["content"] == row["prompt"][0]["content"]
        }
        chosen, rejected = (row[key][0]["content"] for key in ("chosen", "rejected"))
        assert {chosen, rejected} == said
        assert chosen == LABELS[row["task"]]


def test_answers_that_score_alike_are_no_pair(logs: Path) -> None:
    with pytest.raises(InputError, match="no row is left") as refused:
        export(logs, format="worker-preferences", where="run.score == 1", dry_run=True)
    for reason in (
        "no other answer to its prompt",
        "the answers to its prompt score alike",
        "a bare prompt has no messages (worker-preferences-text takes it)",
    ):
        assert f" × {reason}" in str(refused.value)


def test_an_answer_that_was_cut_off_is_never_chosen(cut_logs: Path) -> None:
    with pytest.raises(InputError, match="7 × the answers to its prompt score alike"):
        export(cut_logs, format="worker-preferences", dry_run=True)


def graded_run(number: int, score: float) -> GradedRun:
    """A run with this score, about one text."""
    driver = records.Producer("driver", "driver", 1)
    text = records.ContextRef("0" * 64, "text", 1, 1, "contexts/0")
    start = records.RunStart(
        t=0.0, run=f"run-{number}", producer=driver, query="?", context=text, supervisor="boss",
        worker="hand", options={}, versions={},
    )  # fmt: skip
    graded = GradedRun(Run(f"run-{number}", Path(), start=start))
    graded.score = score
    return graded


GOT = st.tuples(st.integers(0, 3), st.sampled_from("pq"), st.sampled_from("abc"), st.booleans())
"""A run, a prompt, the answer to it, and whether that is whole."""


@given(st.lists(GOT, max_size=14), st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4))
def test_pairs_are_the_best_whole_and_the_worst_answer(
    got: list[tuple[int, str, str, bool]], scores: list[float]
) -> None:
    runs = [graded_run(number, scores[number]) for number in range(4)]
    answers = [Answer(runs[number], prompt, text, whole) for number, prompt, text, whole in got]
    found = list(pairs(lambda: answers))
    made = [each for each in found if isinstance(each, Pair)]
    for prompt in "pq":
        given_by = defaultdict(set)
        for number, asked, text, _ in got:
            if asked == prompt:
                given_by[text].add(number)
        means = {
            text: statistics.fmean(scores[number] for number in each)
            for text, each in given_by.items()
        }
        whole = {text for _, asked, text, is_whole in got if asked == prompt and is_whole}
        best = max((means[text] for text in whole), default=-1.0)
        of_prompt = [each for each in made if each.chosen.prompt == prompt]
        assert len(of_prompt) == (best > min(means.values(), default=2.0))
        for pair in of_prompt:
            assert pair.rejected.prompt == prompt
            assert pair.chosen.text in whole
            assert means[pair.chosen.text] == pair.chosen_score == best
            assert means[pair.rejected.text] == pair.rejected_score == min(means.values())
    assert len(found) + len(made) == len(answers)  # each answer is told of once


# -- prompts


def test_each_prompt_is_there_once_with_its_best_answer(logs: Path, rows: Rows) -> None:
    found = rows("prompts")
    asked = [row["prompt"][0]["content"] for row in found]
    calls = [call for call in calls_of(logs).values() if call.messages]
    # `why?` was asked about three texts, for three questions.
    assert sorted(set(asked)) == sorted({call.messages[0]["content"] for call in calls})  # type: ignore[index]
    assert len(asked) == len(set(asked)) + 2
    for row in found:
        assert row["label"] == json.dumps(LABELS[row["task"]])
        assert row["reference_score"] == 1.0
        assert row["question"] == f"Who was it, of the {row['task']}?"
        if row["prompt"][0]["content"].startswith("It is told of"):
            assert row["reference"] in (LABELS[row["task"]], calls_of(logs)[row["call"]].response)


# -- episodes


def test_an_episode_has_what_was_sampled_and_what_it_earned(logs: Path, rows: Rows) -> None:
    calls, found = calls_of(logs), rows("episodes")
    assert len(found) == len(calls)
    for row in found:
        call = calls[row["call"]]
        assert row["completion_ids"] == list(call.token_ids or ())
        assert row["logprobs"] == list(call.logprobs or ())
        assert row["logprobs_mode"] == "raw_logprobs"
        assert json.loads(row["sampling"])["temperature"] == 1.0
        assert 0.8 <= row["reward"] <= 1.0 if row["score"] else row["reward"] == 0.0


def test_all_runs_of_a_group_weigh_the_same(rows: Rows) -> None:
    found = rows("episodes")
    by_run: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        by_run[row["run"]].append(row)
    assert {len(each) for each in by_run.values()} == {2, 8}
    for each in by_run.values():
        assert math.isclose(sum(row["weight"] for row in each), 1)
    for group in {row["group"] for row in found}:
        runs = [each for each in by_run.values() if each[0]["group"] == group]
        means = [statistics.fmean(row["advantage"] for row in each) for each in runs]
        assert math.isclose(sum(means), 0, abs_tol=1e-9)


def test_equal_samples_are_no_duplicates_of_an_episode(rows: Rows) -> None:
    assert rows("episodes", dedup=True) == rows("episodes")


def test_length_takes_as_much_as_is_asked(rows: Rows) -> None:
    assert {row["reward"] for row in rows("episodes", length_weight=0)} == {0.0, 1.0}
    strict = [row["reward"] for row in rows("episodes", length_weight=0.9) if row["score"]]
    assert min(strict) < 0.6


@pytest.mark.parametrize("weight", [-0.1, 1, math.nan])
def test_a_length_weight_that_would_undo_the_score_is_refused(logs: Path, weight: float) -> None:
    with pytest.raises(InputError, match="--length-weight"):
        export(logs, format="episodes", length_weight=weight, dry_run=True)
    with pytest.raises(InputError, match="for episodes"):
        export(logs, format="prompts", length_weight=0.1, dry_run=True)


LENGTHS = st.lists(st.integers(0, 4000), min_size=1, max_size=20)


@given(LENGTHS, st.floats(0, 1), st.integers(0, 10**6), st.floats(0, 0.99))
def test_no_length_makes_a_wrong_answer_worth_more_than_a_right_one(
    lengths: list[int], score: float, tokens: int, weight: float
) -> None:
    group = Lengths()
    for each in lengths:
        group.add(each, 1.0)
    earned = reward(score, tokens, group, weight)
    assert score * (1 - weight) <= earned <= score
    assert earned >= reward(score, tokens + 1, group, weight)
    assert reward(0.0, 0, group, weight) == 0.0


@given(LENGTHS)
def test_mean_and_deviation_are_those_of_the_lengths(lengths: list[int]) -> None:
    group = Lengths()
    for each in lengths:
        group.add(each, 0.25)
    assert math.isclose(group.mean, statistics.fmean(lengths), abs_tol=1e-6)
    assert math.isclose(group.deviation, statistics.pstdev(lengths), abs_tol=1e-3)
