"""The loop: run tasks, score, export, train, load, evaluate, keep or drop; and again.

::

    held-out tasks: base (iteration 0), each baseline
        │
    ┌─► collect ─► data ─► train ─► load, evaluate ─► decide ──┐
    │   runs of    rows    in its   the held-out      kept: the version, dropped: its parent,
    └── training           own      tasks             is where the next iteration starts from ─┘
        tasks              process
        │
    oracle (its own figure), whole runs: base and the last version kept

A step is finished when its file is there (``markers``); what is not is done again, or gone on with:
the same command after any end ends with the same versions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from distill.display import Display
from distill.errors import InputError, NoRowsError
from distill.tasks import Task
from distill.training import oracle, rows
from distill.training import plan as plans
from distill.training.collapse import CollapseError
from distill.training.data import DataSet, is_data_set
from distill.training.decision import decide
from distill.training.examiner import LOGPROBS, LOGS, Examiner, known_figures
from distill.training.figures import Figures
from distill.training.lineage import Version, write_lineage
from distill.training.markers import found, written
from distill.training.plan import Plan
from distill.training.task_sets import TaskSets
from distill.training.trainer import Trainer, trained_in
from distill.worker_server.adapter_files import AdapterFiles
from distill.worker_server.errors import AdapterRefused
from distill.worker_server.model import ModelFolder

DECISION, HELD_OUT = "decision.json", "held-out"
ORACLE = -1
"""No version's number."""
FEW_ROWS = 32
"""With fewer a version hardly learns more than their form."""
NO_VERSION = "the oracle, no version: it was taught the labels of the tasks"


@dataclass(slots=True)
class Came:
    """What came of a loop: versions, and figures by what they are of.

    ``held_out`` has a version's by its number, if it did not collapse, ``collected`` an
    iteration's. ``whole_runs`` are of the base worker and of the last version that was kept.
    ``no_oracle`` says why there is none, where one was asked for.
    """

    versions: list[Version]
    held_out: dict[int, Figures]
    collected: dict[int, Figures]
    baselines: dict[str, Figures]
    whole_runs: dict[str, Figures]
    oracle: Figures | None = None
    no_oracle: str = ""

    @property
    def last(self) -> Version:
        """The last version that was kept."""
        return next(each for each in reversed(self.versions) if each.kept)


def _first(plan: Plan) -> Version:
    """Version 0; whose adapter, if it has one, is not in the loop's folder."""
    if plan.adapter is None:
        return Version(version=0)
    adapter = str(Path(plan.adapter).expanduser().absolute())
    return Version(version=0, adapter=adapter, adapter_sha256=plan.adapter_sha256)


class Loop:
    """One loop in its folder ``out``. ``base`` is the worker's model, as worker servers find it."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        sets: TaskSets,
        base: ModelFolder,
        asking: Examiner,
        trainer: Trainer,
        display: Display,
    ) -> None:
        self._plan, self._out, self._sets, self._base = plan, out, sets, base
        self._examiner, self._trainer, self._display = asking, trainer, display
        self._held_out = sets.apart()
        self._first = _first(plan)
        self._came = Came([self._first], {}, {}, {}, {})

    def run(self, on_iteration: Callable[[Came], object] = lambda _: None) -> Came:
        """Go on to the end. Raises DistillError; the same again goes on.

        ``on_iteration`` gets what there is after each.
        """
        came, plan, first = self._came, self._plan, self._first
        came.held_out[0] = self._examined("base", self._out / "iteration-0", first)
        came.versions[0] = msgspec.structs.replace(first, accuracy=came.held_out[0].accuracy)
        for number, name in enumerate(plan.baselines, 1):
            place = self._out / "baselines" / f"{number}"
            came.baselines[name] = self._examiner.figures(
                f"baseline {name}", place, self._sets.held_out, name, first
            )
        for number in range(1, plan.iterations + 1):
            came.versions.append(self._iteration(number, came.last))
            write_lineage(self._out, came.versions)
            self._recall()
            on_iteration(came)
        if plan.labels == "oracle":
            came.oracle = self._oracle()
        if self._sets.whole_runs:
            came.whole_runs["base"] = self._whole_runs("base", first)
            if came.last.version:
                came.whole_runs["trained"] = self._whole_runs("trained", came.last)
        return came

    def _recall(self) -> None:
        """What an earlier end has measured already, of a loop that goes on or grows."""
        came = self._came
        came.oracle = known_figures(self._out / "oracle" / HELD_OUT)
        versions = {"base": self._first} | ({"trained": came.last} if came.last.version else {})
        known = {name: known_figures(self._whole_runs_of(of)) for name, of in versions.items()}
        came.whole_runs = {name: each for name, each in known.items() if each is not None}

    def _examined(self, what: str, folder: Path, version: Version) -> Figures:
        """The held-out figures of a version; they lie with what it came from."""
        asked = (self._sets.held_out, self._plan.supervisor, version)
        return self._examiner.figures(
            f"{what} · held-out", folder / HELD_OUT, *asked, may_fail=version.version != 0
        )

    def _whole_runs(self, name: str, version: Version) -> Figures:
        place, asked = self._whole_runs_of(version), self._plan.whole_runs_with
        what = f"whole runs, {name}"
        return self._examiner.figures(
            what, place, self._sets.whole_runs, asked, version, may_fail=version.version != 0
        )

    def _whole_runs_of(self, version: Version) -> Path:
        """By its number: the last version is another one when iterations are added."""
        return self._out / "whole-runs" / f"version-{version.version}"

    # -- an iteration

    def _iteration(self, number: int, parent: Version) -> Version:
        what, folder = self._name(number), self._out / f"iteration-{number}"
        self._came.collected[number] = self._collect(number, parent)
        version = found(folder / DECISION, Version)
        if version is None:
            version = self._made(what, number, folder, parent)
            written(folder / DECISION, version)
            kept = "kept" if version.kept else f"dropped, version {parent.version} stays"
            self._display.line(f"{what} · {kept}: {version.why}")
        elif version.adapter is not None:
            self._came.held_out[number] = self._examined(what, folder, version)
        return version

    def _made(self, what: str, number: int, folder: Path, parent: Version) -> Version:
        """A new version, kept or dropped; of one that collapsed, or that had nothing to learn from,
        there is no adapter, and there are no figures.
        """
        nothing = Version(version=number, parent=parent.version, kept=False, why="")
        nothing = msgspec.structs.replace(nothing, method=self._plan.method)
        try:
            data = self._data(what, number, folder, rows.of(self._plan))
        except NoRowsError as error:
            return msgspec.structs.replace(nothing, why=str(error))
        try:
            version = self._trained(what, number, data, folder / "train", parent)
        except (CollapseError, NoRowsError) as error:
            sha256 = DataSet.read(data).sha256
            return msgspec.structs.replace(nothing, why=str(error), data_manifest_sha256=sha256)
        figures = self._came.held_out[number] = self._examined(what, folder, version)
        return self._decided(version, figures, parent)

    def _decided(self, version: Version, figures: Figures, parent: Version) -> Version:
        known = self._came.held_out[parent.version]
        decision = decide(figures.scores, known.scores, self._plan.margin)
        if figures.failed == figures.runs:  # no better than a parent that was always wrong
            why = f"all of its {figures.runs:,} runs failed"
            decision = msgspec.structs.replace(decision, kept=False, why=why)
        return msgspec.structs.replace(
            version,
            kept=decision.kept,
            why=decision.why,
            accuracy=figures.accuracy,
            decision=decision,
        )

    def _name(self, number: int) -> str:
        return f"iteration {number}/{self._plan.iterations}"

    def _collect(self, number: int, parent: Version) -> Figures:
        """Runs of the training tasks, with the version that was kept last."""
        return self._examiner.figures(
            f"{self._name(number)} · collect",
            self._out / f"iteration-{number}" / "collect",
            self._share(number),
            self._plan.collect_with,
            parent,
            record=LOGPROBS,
        )

    def _share(self, number: int) -> Sequence[Task]:
        """The training tasks of an iteration: all, or the next so many of them, round and round."""
        tasks, count = self._sets.training, self._plan.tasks_per_iteration
        if count is None or count >= len(tasks):
            return tasks
        first = (number - 1) * count % len(tasks)
        return [*tasks, *tasks][first : first + count]

    def _data(self, what: str, number: int, folder: Path, asked: rows.Asked) -> Path:
        """A data set in ``folder``, of the runs of an iteration."""
        self._display.tasks(f"{what} · export")
        logs = self._out / f"iteration-{number}" / f"collect{LOGS}"
        data, made = rows.exported(logs, folder, asked)
        if made is not None:
            count = sum(made.rows.values())
            few = ": few to learn from, more --tasks would help" if count < FEW_ROWS else ""
            self._display.line(f"{what} · export: {count:,} rows of {made.runs:,} runs{few}")
        return data

    def _trained(self, what: str, number: int, data: Path, out: Path, parent: Version) -> Version:
        """A version, trained on a data set that has nothing of what is held out."""
        self._held_out.check_data(data)
        if (told := trained_in(out)) is None:
            self._check_base()
            self._display.tasks(f"{what} · train")
            start = None if parent.adapter is None else self._out / parent.adapter
            self._trainer(data, out, start, lambda line: self._display.tasks(f"{what} · {line}"))
            told = trained_in(out)
        if told is None or told.trained is None:
            raise InputError(f"the training in {out} has not ended: {out.name}.log says why")
        came, adapter = told.trained, out / told.trained.weights
        return Version(
            version=number,
            parent=parent.version,
            method=str(told.asked.get("method")),
            adapter=str(adapter.relative_to(self._out)),
            adapter_sha256=self._files_sha256(adapter),
            data_manifest_sha256=DataSet.read(data).sha256,
            rows=came.rows,
            settings=told.asked.get("settings", {}) | {"model": self._base.own_name},
            steps=came.steps,
        )

    def _check_base(self) -> None:
        """Raise InputError where the engine's worker is not what would be trained."""
        now = plans.of_model(self._plan, self._base)
        if now != self._plan:
            is_adapter = now.adapter_sha256 != self._plan.adapter_sha256
            changed = self._plan.adapter if is_adapter else self._base.path
            raise InputError(
                f"the files in {changed} are not those that this loop was begun with: put "
                "them back, or begin another loop, with another --out"
            )

    def _files_sha256(self, adapter: Path) -> str:
        try:
            return AdapterFiles.read(str(adapter), self._base).sha256
        except AdapterRefused as error:
            raise InputError(f"what was trained can't be loaded: {error}") from error

    # -- the oracle

    def _oracle(self) -> Figures | None:
        """Its figures; None where there is nothing to learn from, or it collapsed."""
        folder = self._out / "oracle"
        if (version := found(folder / DECISION, Version)) is None:
            version = self._taught_labels(folder)
            written(folder / DECISION, version)
        if version.adapter is None:
            self._came.no_oracle = version.why
            self._display.line(f"oracle · left out: {version.why}")
            return None
        return self._examined("oracle", folder, version)

    def _taught_labels(self, folder: Path) -> Version:
        """What the labels of the tasks teach: rows of the first iteration, from version 0 on.

        Its weights, if any came of it, are no version, and nothing is collected with them.
        """
        asked = rows.of(self._plan)
        # All that was asked, whatever was answered: of equal answers none is left out.
        every = rows.Asked(asked.formats, asked.choice | {"select": "all", "dedup": False})
        try:
            logged = self._data("oracle", 1, folder / "logged", every)
            data = folder / "data"
            if not is_data_set(data):
                oracle.relabelled(logged, data, {each.id: each.label for each in self._share(1)})
            version = self._trained("oracle", ORACLE, data, folder / "train", self._first)
        except (CollapseError, NoRowsError) as error:
            return Version(version=ORACLE, kept=False, why=str(error))
        return msgspec.structs.replace(version, kept=False, why=NO_VERSION)
