"""Loops on scripted pieces: a worker whose skill is its adapter's number, trained by a table.

A task is right if its number is below the skill of the version that answers: so a version's
accuracy is what a test says. Run as a program it is a loop that kills itself, and its process
group, at the event whose number is the second argument.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from distill import LMResponse, ModelHandler, Usage
from distill.display import Display
from distill.errors import InputError, ModelError
from distill.tasks import Task
from distill.training.data import DataSet
from distill.training.examiner import Examiner
from distill.training.iterations import Came, Loop
from distill.training.lineage import FILE, Version
from distill.training.plan import Plan, begin, of_model
from distill.training.task_sets import TaskSets
from distill.training.workers import Workers
from distill.worker_server.adapter_files import WEIGHTS
from distill.worker_server.model import ModelFolder
from tests.adapter_folder import write_adapter
from tests.distill.scripted import SMALL, cell

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "tests" / "engine_stand_in" / "model"
BASE_SKILL = 1.0
ALWAYS_FAILS = -1.0
Messages = Sequence[Mapping[str, str]]


def tasks(kind: str, count: int) -> list[Task]:
    """Of a kind, numbered from 0."""
    return [
        Task(
            id=f"{kind}-{number}",
            query="What is it?",
            context=f"{kind} number {number}",
            label="right",
        )
        for number in range(count)
    ]


def skill_of(adapter: Path) -> float:
    """The number that an adapter was written with."""
    return float(memoryview((adapter / WEIGHTS).read_bytes()[-4:]).cast("f")[0])


class Skilled(ModelHandler):
    """Knows the answers to tasks whose numbers are below its skill."""

    model = "skilled"
    skill = BASE_SKILL

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        number = int(messages[-1]["content"].split()[-1])
        text = "right" if number < self.skill else "wrong"
        return LMResponse(text, Usage(7, 3), self.model, 0.01)

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]


class Boss(ModelHandler):
    """A supervisor that asks the worker about the whole text, once."""

    def __init__(self, model: str = "boss", code: str = "FINAL(worker(context))") -> None:
        self.model = model
        self._code = code

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        return LMResponse(cell(self._code), Usage(10, 5), self.model, 0.01)

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]


class SkilledWorkers(Workers):
    """One handler, whose skill is that of the adapter in use."""

    def __init__(self) -> None:
        self.handler = Skilled()
        self.base_skill = BASE_SKILL
        self.used: list[str] = []

    def use(self, adapter: Path | None, sha256: str = "") -> tuple[Any, dict[str, Any]]:
        self.used.append("base" if adapter is None else adapter.parent.parent.name)
        self.handler.skill = self.base_skill if adapter is None else skill_of(adapter)
        return self.handler, {"limits": SMALL}

    def close(self) -> None:
        """There is nothing to end."""


class Failing(Boss):
    """A supervisor whose runs fail where the worker's skill is that of one that always fails."""

    def __init__(self, model: str, workers: SkilledWorkers) -> None:
        super().__init__(model)
        self._workers = workers

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        if self._workers.handler.skill == ALWAYS_FAILS:
            raise ModelError("the worker is of no use")
        return super().chat(messages, **kw)


class Table:
    """A trainer whose adapters have the skills of a table, by the name of what is trained.

    In place of a skill there may be the error that its training ends with.
    """

    def __init__(self, skills: Mapping[str, float | Exception]) -> None:
        self.skills = skills
        self.trained: list[tuple[str, str]] = []

    def __call__(
        self, data: Path, out: Path, parent: Path | None, hear: Callable[[str], None]
    ) -> None:
        rows = DataSet.read(data)
        name = out.parent.name
        self.trained.append((name, "base" if parent is None else parent.parent.parent.name))
        out.mkdir(parents=True, exist_ok=True)
        hear("step 1/2")
        if isinstance(skill := self.skills[name], Exception):
            raise skill
        write_adapter(out / "adapter", skill)
        hear("step 2/2")
        told = {
            "asked": {"method": "sft", "settings": {"learning_rate": 0.1}},
            "trained": {
                "weights": "adapter",
                "rows": sum(1 for _ in rows.rows("run")),
                "steps": 2,
                "first_loss": 2.0,
                "last_loss": 1.0,
                "seconds": 0.5,
                "parity": "2 calls: ids are equal",
            },
        }
        (out / "training.json").write_text(json.dumps(told))


class Silent(Display):
    """Counts what is to be told, and tells nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def tasks(self, text: str) -> None:
        """Say nothing."""

    def line(self, text: str) -> None:
        self.lines.append(text)


class Deadly(Silent):
    """Kills the process group at an event: when a step has begun, moved, or ended."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._left = at

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.killpg(0, signal.SIGKILL)

    def tasks(self, text: str) -> None:
        if " · accuracy so far" not in text:  # how many of these there are is the clock's
            self._count()

    def line(self, text: str) -> None:
        self._count()


def plan(**changes: Any) -> Plan:
    """A plan of two iterations of ``sft``."""
    given = {
        "method": "sft",
        "tasks": "train.jsonl",
        "tasks_sha256": "a",
        "held_out": "test.jsonl",
        "held_out_sha256": "b",
        "iterations": 2,
        "supervisor": "boss",
        "collect_with": "teacher",
        "baselines": (),
        "whole_runs": None,
        "whole_runs_sha256": "",
        "whole_runs_with": "boss",
        "scorer": "exact",
        "labels": "logged",
        "margin": 0.0,
        "tasks_per_iteration": None,
        "worker": "skilled",
        "window_tokens": None,
        "limits": (),
        "sandbox_packages": (),
        "base_url": None,
        "selection": {},
        "training": {},
    }
    return msgspec.convert(given | changes, Plan)


def go_round(
    out: Path,
    asked: Plan,
    trainer: Any,
    workers: Workers,
    *,
    sets: TaskSets,
    display: Display | None = None,
    base: Path = STAND_IN,
    supervisors: Callable[[str], ModelHandler] = Boss,
    look: Callable[[Came], object] = lambda _: None,
) -> Came:
    """A loop to its end."""
    display = display or Silent()
    asked = of_model(asked, ModelFolder("m", base))
    begin(out, asked)
    asking = Examiner(out, workers, supervisors, display, scorer=asked.scorer, concurrency=4)
    return Loop(asked, out, sets, ModelFolder("m", base), asking, trainer, display).run(look)


def lineage(out: Path) -> list[Version]:
    """Of a loop that has ended; without the hash of the manifest, which has the time in it."""
    lines = (out / FILE).read_bytes().splitlines()
    found = [msgspec.json.decode(line, type=Version) for line in lines]
    return [msgspec.structs.replace(each, data_manifest_sha256="") for each in found]


SKILLS = {"iteration-1": 3.0, "iteration-2": 2.0, "iteration-3": 4.0, "oracle": 9.0}
"""The first version is better than the base, the second worse than the first."""


def deadly(out: Path, at: int) -> None:
    """A loop with all that there may be in one, killed at an event."""
    asked = plan(labels="oracle", baselines=("other",), whole_runs="whole.jsonl")
    sets = TaskSets(tasks("train", 2), tasks("test", 3), tasks("whole", 1))
    go_round(out, asked, Table(SKILLS), SkilledWorkers(), sets=sets, display=Deadly(at))


if __name__ == "__main__":
    try:
        deadly(Path(sys.argv[1]), int(sys.argv[2]))
    except InputError as error:
        sys.exit(str(error))
