"""`distill train sft`: real steps of a tiny model, stopped and gone on with; what is refused."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from distill import export
from distill.cli import cli
from distill.errors import InputError
from distill.exports import manifest
from distill.exports.writing import sha256
from distill.training.alone import alone
from distill.training.collapse import CollapseError
from distill.training.data import DataSet
from distill.training.fitting import newest, rows_at_once
from distill.training.settings import TrainSettings
from distill.training.sft import Sft, train
from distill.training.tokens import UNTRAINED, tokenised
from distill.training.trained import TrainProgress
from distill.training.weights import Weights, load
from distill.worker_server.adapter_files import CONFIG, WEIGHTS, AdapterFiles, files_hash
from distill.worker_server.fingerprint import fingerprint
from distill.worker_server.model import ModelFolder, resolve
from tests.training.sampled import TEXTS, evaluated
from tests.training.tiny import TinyWorker, tiny_adapter, tiny_model

pytest.importorskip("trl", reason="needs the extra train")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other

ROOT = Path(__file__).resolve().parents[2]
OF_A_TRAINING = {"data", "adapter", "model", "tensorboard", "checkpoints", "training.json", ".lock"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Mapping[str, Path]:
    """The exports that are trained on."""
    folder = tmp_path_factory.mktemp("data")
    names = ("worker-sft", "worker-sft-text", "supervisor-turns", "token-sft", "prompts")
    for name in names:
        export(logs, folder / name, format=name)
    return {name: folder / name for name in names}


def quick(out: Path, model: Path, **options: Any) -> TrainSettings:
    """A few steps that move a tiny model."""
    few: dict[str, Any] = {"max_steps": 6, "learning_rate": 0.02, "batch_rows": 4, "device": "cpu"}
    return TrainSettings(out=out, model=str(model), **(few | options))


def loss(data: Path, model: Path, adapter: Path | None = None) -> float:
    """Of the completions, in nats a token: all rows, so it hangs on no batch."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    lm = lm if adapter is None else PeftModel.from_pretrained(lm, str(adapter))
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = tokenised(DataSet.read(data).rows("prompt", "completion"), tokenizer, 2048).rows
    with torch.no_grad():
        losses = [
            float(lm(**{name: torch.tensor([ids]) for name, ids in row.items()}).loss)
            for row in rows
        ]
    return sum(losses) / len(losses)


def command(*words: object) -> Result:
    return CliRunner().invoke(cli, ["train", "sft", *map(str, words)])


def test_an_adapter_learns_the_rows(tmp_path: Path, data: Mapping[str, Path], tiny: Path) -> None:
    heard: list[TrainProgress] = []
    out = tmp_path / "out"
    trained = train(data["worker-sft"], quick(out, tiny, lora_rank=4), heard.append)
    assert trained.weights == out / "adapter"
    assert [at.step for at in heard] == [1, 2, 3, 4, 5, 6]
    assert heard[-1].left_s == 0
    assert trained.fitted.last_loss < trained.fitted.first_loss
    before = loss(data["worker-sft"], tiny)
    assert loss(data["worker-sft"], tiny, trained.weights) < before - 0.1
    AdapterFiles.read(str(trained.weights), ModelFolder("tiny", tiny))  # as the engine checks it
    told = json.loads((out / "training.json").read_bytes())
    assert told["asked"]["data"]["manifest_sha256"] == DataSet.read(data["worker-sft"]).sha256
    assert told["trained"]["steps"] == 6
    assert {each.name for each in out.iterdir()} <= OF_A_TRAINING - {"checkpoints"}
    # The same again trains nothing.
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = train(data["worker-sft"], quick(out, tiny, lora_rank=4), heard.append)
    assert again == replace(trained, is_new=False)
    assert files == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert len(heard) == 6


def test_a_loss_that_is_no_number_ends_it(
    tmp_path: Path, data: Mapping[str, Path], tiny: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(CollapseError, match=r"the loss is nan at step .*a lower --learning-rate"):
        train(data["worker-sft"], quick(out, tiny, learning_rate=1e30, lora_rank=None))
    assert not (out / "model").exists()


def test_an_adapter_is_the_same_wherever_its_model_lies(tmp_path: Path, tiny: Path) -> None:
    hashes = set()
    for place in ("here", "there"):
        model = shutil.copytree(tiny, tmp_path / place / "small")
        adapter = tmp_path / place / "adapter"
        load(TrainSettings(out=tmp_path, model=str(model), lora_rank=2, device="cpu")).save(adapter)
        hashes.add(files_hash(adapter))
        assert {each.name for each in adapter.iterdir()} == {CONFIG, WEIGHTS}
        config = json.loads((adapter / CONFIG).read_bytes())
        assert config["base_model_name_or_path"] == "small"
        assert config["target_modules"] == sorted(config["target_modules"])
    assert len(hashes) == 1


def test_the_order_in_which_runs_ended_is_not_that_of_the_steps(
    tmp_path: Path, data: Mapping[str, Path], tiny: Path
) -> None:
    rows = data["worker-sft"]
    other = shutil.copytree(rows, tmp_path / "other")
    file, told = other / "train.jsonl", json.loads((other / manifest.FILE).read_bytes())
    file.write_bytes(b"".join(reversed(file.read_bytes().splitlines(keepends=True))))
    told["files"][0]["sha256"] = sha256(file)
    (other / manifest.FILE).write_text(json.dumps(told))

    def trained(rows: Path, name: str) -> str:
        options = {"lora_rank": 2, "max_steps": 2, "parity_rows": 0}
        return files_hash(train(rows, quick(tmp_path / name, tiny, **options)).weights)

    assert trained(rows, "one") == trained(other, "two")


def test_all_weights_learn_the_rows(tmp_path: Path, data: Mapping[str, Path], tiny: Path) -> None:
    rows = data["worker-sft-text"]
    trained = train(rows, quick(tmp_path / "out", tiny, lora_rank=None))
    made = resolve(str(trained.weights), tmp_path)  # as a worker server looks for what is missing
    assert loss(rows, made.path) < loss(rows, tiny) - 0.1
    before, after = fingerprint(ModelFolder("tiny", tiny), tmp_path), fingerprint(made, tmp_path)
    assert before.weights != after.weights
    assert (tiny / "config.json").read_bytes() == (made.path / "config.json").read_bytes()
    assert (before.tokenizer, before.template) == (after.tokenizer, after.template)


def test_a_parent_is_gone_on_from(tmp_path: Path, data: Mapping[str, Path], tiny: Path) -> None:
    parent = tiny_adapter(tmp_path / "parent", tiny, spread=0.01)
    out = tmp_path / "out"
    words = [data["worker-sft"], "--model", tiny, "--adapter", parent, "--learning-rate", 1e-9]
    words += ["--lora-alpha", 4]  # as it has, as from the second iteration of a loop on
    done = command(*words, "--max-steps", 1, "-o", out)
    assert done.exit_code == 0, done.output
    rows = data["worker-sft"]
    assert loss(rows, tiny, out / "adapter") == pytest.approx(loss(rows, tiny, parent), abs=1e-4)
    told = json.loads((out / "training.json").read_bytes())
    assert told["asked"]["settings"]["lora_rank"] == 4
    made = AdapterFiles.read(str(parent), ModelFolder("tiny", tiny))
    assert told["model"]["adapter_hash"] == made.sha256


def test_replies_of_a_supervisor_whose_code_ran_are_learnt(
    tmp_path: Path, logs: Path, tiny: Path
) -> None:
    """Each run of the two attempts has one such reply; the failed cell's is only read."""
    out = tmp_path / "out"
    words = [logs, "--of", "supervisor", "--model", tiny, "--max-steps", 2, "-o", out]
    done = command(*words)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out / 'adapter'}\n"
    rows = list(DataSet.read(out / "data").rows())
    assert len(rows) == 6
    assert all("FINAL" in row["completion"][0]["content"] for row in rows)
    assert "6 rows" in done.stderr


def test_what_there_is_more_of_is_trained_on_and_told(
    tmp_path: Path, logs: Path, tiny: Path
) -> None:
    words = [logs, "--model", tiny, "--max-steps", 1]
    chats = command(*words, "-o", tmp_path / "chats")
    assert "rows of worker-sft," in chats.stderr
    assert "6 dropped: a bare prompt has no messages" in chats.stderr
    bare = command(*words, "--where", "'Answer:' in call.prompt", "-o", tmp_path / "bare")
    assert "rows of worker-sft-text," in bare.stderr


@pytest.mark.parametrize("name", ["worker-sft", "worker-sft-text", "supervisor-turns"])
def test_the_completion_alone_is_learnt_and_its_end(
    data: Mapping[str, Path], tokenizer: Any, name: str
) -> None:
    rows = list(DataSet.read(data[name]).rows("prompt", "completion"))
    made = tokenised(rows, tokenizer, 2048)
    assert len(made.rows) == len(rows)
    for row, tokens in zip(rows, made.rows, strict=True):
        said = row["completion"]
        text = said if isinstance(said, str) else said[0]["content"]
        start = tokens["labels"].count(UNTRAINED)
        assert tokens["labels"][start:] == tokens["input_ids"][start:]
        assert tokenizer.decode(tokens["labels"][start:]) == text + tokenizer.eos_token


def test_a_long_row_is_dropped_and_never_cut(
    tmp_path: Path, data: Mapping[str, Path], tokenizer: Any, tiny: Path
) -> None:
    rows = list(DataSet.read(data["worker-sft"]).rows("prompt", "completion"))
    lengths = sorted(len(each["input_ids"]) for each in tokenised(rows, tokenizer, 2048).rows)
    limit = lengths[len(lengths) // 2]
    made = tokenised(rows, tokenizer, limit)
    kept = [length for length in lengths if length <= limit]
    assert sorted(len(each["input_ids"]) for each in made.rows) == kept
    assert made.dropped == {f"longer than {limit} tokens": len(lengths) - len(kept)}
    trained = train(data["worker-sft"], quick(tmp_path / "out", tiny, max_tokens=limit))
    assert trained.rows == len(kept)
    (told,) = trained.warnings
    assert told == f"{len(lengths) - len(kept)} rows dropped: longer than {limit} tokens"
    with pytest.raises(InputError, match="no row is left to train on"):
        train(data["worker-sft"], quick(tmp_path / "none", tiny, max_tokens=3))


def test_token_ids_are_learnt_as_they_were_sampled(tmp_path: Path, tiny: Path) -> None:
    logs = evaluated(tmp_path, TinyWorker(tiny), list(TEXTS)[:1])
    done = command(logs, "--exact", "--model", tiny, "--max-steps", 1, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    exported = DataSet.read(tmp_path / "out" / "data")
    made = tokenised(exported.rows("input_ids", "completion_mask"), None, 2048)
    assert made.rows == list(exported.rows("input_ids", "labels"))


def test_the_loss_on_a_cpu_is_that_of_trl(
    tmp_path: Path, data: Mapping[str, Path], tiny: Path
) -> None:
    import torch
    from trl import SFTTrainer

    rows = DataSet.read(data["worker-sft"])
    settings = quick(tmp_path, tiny, lora_rank=None)
    trainer = Sft().trainer(load(settings), rows, settings).trainer
    batch = next(iter(trainer.get_train_dataloader()))
    for tokens in (None, torch.tensor(17)):
        ours = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=tokens)
        theirs = SFTTrainer.compute_loss(
            trainer, trainer.model, dict(batch), num_items_in_batch=tokens
        )
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)


KILLED = """\
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from distill.training.settings import TrainSettings
from distill.training.sft import train

def die(at):
    if at.step == 8:
        os.kill(os.getpid(), signal.SIGKILL)

data, out, model = map(Path, sys.argv[1:])
train(data, TrainSettings(
    out=out, model=str(model), max_steps=12, learning_rate=0.02, batch_rows=4, device="cpu",
    save_every_steps=3, lora_rank=4,
), die)
"""


def test_a_killed_training_goes_on_to_the_same_end(
    tmp_path: Path, data: Mapping[str, Path], tiny: Path
) -> None:
    rows, out = data["worker-sft"], tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, rows, out, tiny],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {each.name for each in out.iterdir()} <= OF_A_TRAINING - {"adapter"}
    start = newest(out / "checkpoints")
    assert start is not None
    assert start.name == "checkpoint-6"
    # One that was cut off while it was written is as if it were not there.
    half = out / "checkpoints" / "checkpoint-9"
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    heard: list[TrainProgress] = []
    same: dict[str, Any] = {"max_steps": 12, "save_every_steps": 3, "lora_rank": 4}
    trained = train(rows, quick(out, tiny, **same), heard.append)
    assert [at.step for at in heard] == list(range(7, 13))
    assert trained.fitted.steps == 12
    straight = train(rows, quick(tmp_path / "straight", tiny, **same))
    assert trained.fitted.tokens == straight.fitted.tokens
    name = "adapter_model.safetensors"
    assert (trained.weights / name).read_bytes() == (straight.weights / name).read_bytes()
    assert {each.name for each in out.iterdir()} <= OF_A_TRAINING - {"checkpoints"}


def test_ctrl_c_leaves_nothing_half(tmp_path: Path, data: Mapping[str, Path], tiny: Path) -> None:
    def stop(at: TrainProgress) -> None:
        if at.step == 4:
            raise KeyboardInterrupt

    settings = quick(tmp_path / "out", tiny, save_every_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(data["worker-sft"], settings, stop)
    assert {each.name for each in settings.out.iterdir()} <= OF_A_TRAINING - {"adapter"}
    heard: list[TrainProgress] = []
    assert train(data["worker-sft"], settings, heard.append).fitted.steps == 6
    assert [at.step for at in heard] == [3, 4, 5, 6]


def test_events_are_there_for_tensorboard(
    tmp_path: Path, data: Mapping[str, Path], tiny: Path
) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra train"
    )
    settings = quick(tmp_path / "out", tiny)
    heard: list[TrainProgress] = []
    train(data["worker-sft"], settings, heard.append)
    events = accumulator.EventAccumulator(str(settings.tensorboard)).Reload()
    shown = [(each.step, each.value) for each in events.Scalars("train/loss")]
    assert shown == [(at.step, pytest.approx(at.loss)) for at in heard]


def test_another_command_into_the_same_folder_is_refused(
    tmp_path: Path, logs: Path, tiny: Path
) -> None:
    words = [logs, "--model", tiny, "-o", tmp_path / "out"]
    assert command(*words, "--max-steps", 1).exit_code == 0
    for other, why in (
        (["--max-steps", 2], "max-steps was 1, and is 2 now"),
        (["--max-steps", 1, "--dedup"], "was exported with --dedup False, not True"),
        (["--max-steps", 1, "--full"], "lora-rank was 16, and is None now"),
    ):
        done = command(*words, *other)
        assert done.exit_code != 0
        assert why in str(done.exception) + done.output
    assert command(*words, "--max-steps", 1).exit_code == 0


@pytest.mark.parametrize("steps", [{"max_steps": 4}, {"max_steps": None, "epochs": 1.5}])
def test_stopped_after_its_last_checkpoint_it_takes_no_step_more(
    tmp_path: Path,
    data: Mapping[str, Path],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: dict[str, Any],
) -> None:
    """Steps that end inside an epoch."""
    rows = data["worker-sft"]

    def full(_weights: Weights, _folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def few(name: str) -> TrainSettings:
        return quick(tmp_path / name, tiny, lora_rank=4, **steps)

    straight = train(rows, few("straight"))
    with monkeypatch.context() as patch:
        patch.setattr(Weights, "save", full)
        with pytest.raises(OSError, match="No space left"):
            train(rows, few("out"))
    again = train(rows, few("out"))
    assert again.fitted.steps == straight.fitted.steps
    assert again.fitted.tokens == straight.fitted.tokens
    assert again.fitted.last_loss == straight.fitted.last_loss
    weights = [each.weights / "adapter_model.safetensors" for each in (straight, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_what_cannot_be_trained_on_is_refused(
    tmp_path: Path, data: Mapping[str, Path], tiny: Path, tokenizer: Any
) -> None:
    out = tmp_path / "out"

    def refused(why: str, of: Path, **options: Any) -> None:
        with pytest.raises(InputError, match=why):
            train(of, quick(out, options.pop("model", tiny), **options))
        assert not (out / "adapter").exists()

    rows = data["worker-sft"]
    refused("has rows of prompts", data["prompts"])
    refused("is no data set", tmp_path)
    refused("which is not that of", data["token-sft"])
    refused("no such folder", rows, model="/nowhere/model")
    refused("leave out --full", rows, adapter=tmp_path, lora_rank=None)
    refused("there is no folder", rows, adapter=tmp_path / "none")
    refused("--epochs is above 0", rows, epochs=0)
    refused("--device is cpu, cuda", rows, device="tpu")
    wide = tiny_model(tmp_path / "wide", tokenizer, head_size=16)
    parent = tiny_adapter(tmp_path / "parent", wide)
    refused("is not for", rows, adapter=parent, lora_rank=4)
    own = tiny_adapter(tmp_path / "own", tiny)
    refused("has rank 4, not 8", rows, adapter=own, lora_rank=8)
    refused("has alpha 4, not 8", rows, adapter=own, lora_rank=4, lora_alpha=8)


def test_rows_that_are_not_those_of_the_manifest_are_refused(
    tmp_path: Path, logs: Path, tiny: Path
) -> None:
    export(logs, tmp_path / "data", format="worker-sft")
    with (tmp_path / "data" / "train.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(InputError, match="is not what its manifest says"):
        train(tmp_path / "data", quick(tmp_path / "out", tiny))


def test_an_export_is_taken_as_it_is(tmp_path: Path, data: Mapping[str, Path], tiny: Path) -> None:
    words = [data["worker-sft"], "--model", tiny, "--max-steps", 1, "-o", tmp_path / "out"]
    assert "leave out --select, --dedup" in command(*words, "--select", "best", "--dedup").stderr
    assert "leave out --correct-from" in command(*words, "--correct-from", 0).stderr
    assert "one export is trained on at a time" in command(data["prompts"], *words).stderr
    assert command(*words).exit_code == 0
    assert not (tmp_path / "out" / "data").exists()


def test_a_loops_folder_is_no_trainings(
    tmp_path: Path, data: Mapping[str, Path], tiny: Path
) -> None:
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "loop.json").write_text("{}")
    done = command(data["worker-sft"], "--model", tiny, "-o", tmp_path / "loop")
    assert done.exit_code
    assert "is a loop's folder" in done.stderr
    assert [each.name for each in (tmp_path / "loop").iterdir()] == ["loop.json"]


def test_one_training_at_a_time_is_at_work_in_a_folder(
    tmp_path: Path, data: Mapping[str, Path], tiny: Path
) -> None:
    out = tmp_path / "out"
    with (
        alone(out, "training"),
        pytest.raises(InputError, match=f"another training is at work in {out}: wait"),
    ):
        train(data["worker-sft"], quick(out, tiny))
    assert [each.name for each in out.iterdir()] == [".lock"]


def test_no_rows_wrong_words_and_no_packages_are_refused(
    tmp_path: Path, logs: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [logs, "--model", tiny, "-o", tmp_path / "out"]
    done = command(*words, "--where", "run.turns > 99")
    assert "no row is left" in done.output + done.stderr
    done = command("--model", tiny, "-o", tmp_path / "out")
    assert "nothing to train on" in done.output + done.stderr
    own = tiny_adapter(tmp_path / "own", tiny)
    for wrong, said in (
        (("--device", "tpu"), "--device is cpu, cuda"),
        (("--adapter", "nowhere"), "there is no folder nowhere"),
        (("--adapter", own, "--lora-rank", 8), "has rank 4, not 8"),
    ):
        assert said in command(*words, *wrong).stderr
        assert not (tmp_path / "out").exists()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "manifest.json").write_text('{"family": "extract"}')
    done = command(tmp_path / "tasks", *words[1:])
    assert f"--tasks {tmp_path}/tasks/train.jsonl" in done.stderr
    monkeypatch.setitem(sys.modules, "trl", None)
    done = command(*words)
    assert "training needs trl" in done.output + done.stderr
    assert not (tmp_path / "out").exists()


def test_threads_of_a_training_do_not_spin(
    tmp_path: Path, logs: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless somebody wants them to."""
    words = [logs, "--model", tiny, "--where", "run.turns > 99", "-o", tmp_path / "out"]
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command(*words)
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    command(*words)
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_a_batch_is_computed_in_parts_that_fit() -> None:
    assert rows_at_once(8, longest_tokens=120, limit_tokens=2048) == 8
    assert rows_at_once(8, longest_tokens=500, limit_tokens=2048) == 4
    assert rows_at_once(7, longest_tokens=500, limit_tokens=2048) == 1
    assert rows_at_once(8, longest_tokens=9000, limit_tokens=2048) == 1
