"""``compare``: the recorded code of runs is done again with versions of a worker, and they differ.

The supervisor's replies are those of the log, so nobody pays for them, and what differs is what the
workers answered. Each pair of replays is of one recorded run, whose id their logs name.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from distill.adapters import is_path
from distill.engine import Engine
from distill.errors import InputError, ModelError
from distill.intervals import paired
from distill.labels import Labels, LabelsSource, read_labels
from distill.models import ModelHandler
from distill.resident import Resident
from distill.scorers import Sample, Scorer, scorer_from
from distill.scoring import Runs, score_on_loop
from distill.standings import Pair, Standing, standing_of
from distill.supervisor import background
from distill.supervisor.backends import Backend
from distill.task_options import CONCURRENCY, CONCURRENCY_LIMIT, SCORER
from distill.traces.answering import names_of, weights_of_runs
from distill.traces.reading import read_runs
from distill.traces.results import TaskResult
from distill.training.comparing import ComparisonProgress, Replays
from distill.training.originals import Way, originals, ways_of
from distill.training.versions import Asker, Handlers, Version, through_engine, through_resident
from distill.user_folders import make_private

SUPERVISOR = "replay"
Answerer = ModelHandler | Backend | Path | str | None
"""Of a version: a handler, or of an engine the folder of an adapter, the name of one that it has
loaded, or None, its bare model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFigures:
    """What came of a version: its ``standing`` over the replays that came to their end.

    ``weights`` name what answered, by what the logs say: more than one where the same version was
    something else in between. ``other_way`` are the recorded runs (ids) that asked this version
    something else than they had asked, or whose cells ended otherwise; ``unfinished`` says of those
    without a replay why. ``worker_failures`` of the calls failed. ``results`` are by the recorded
    run's id, ``folder`` has the logs.
    """

    name: str
    folder: Path
    weights: tuple[str, ...]
    standing: Standing
    worker_failures: int
    other_way: tuple[str, ...]
    unfinished: dict[str, str]
    results: dict[str, TaskResult]


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison came to: each version, and each but the first against the first.

    ``runs`` were done again, ``left_out`` says of others why they could not be. A pair is of the
    questions that both have a score of: its differences are means over the recorded runs of one
    question.
    """

    scorer: str
    runs: int
    versions: list[VersionFigures]
    pairs: list[Pair]
    left_out: dict[str, str]


class Comparison:
    """A comparison in its three parts: what there is to do, who does it, what came of it."""

    def __init__(self, replays: Replays, scorer: Scorer) -> None:
        self.replays = replays
        self._scorer = scorer

    @staticmethod
    def begin(
        runs: Runs,
        versions: Sequence[Version],
        out: str | Path,
        *,
        scorer: str | Callable[[Sample], Any] | Scorer = SCORER,
        labels: LabelsSource | None = None,
        on_progress: Callable[[ComparisonProgress], None] | None = None,
        base: Callable[[], str] = str,
    ) -> "Comparison":
        """Read what is to be compared. Raises InputError for what can't be, before any is asked.

        ``base`` is the hash of the engine's model, empty where that is not known.
        """
        names = [version.name for version in versions]
        if not names:
            raise InputError("name the versions that are to be compared (--version)")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"--version: {twice[0]} is named twice")
        chosen = scorer_from(scorer)
        known = Labels() if labels is None else read_labels(labels)
        found = originals([runs] if isinstance(runs, str | Path) else runs, known)
        if chosen.needs_label and all(each.label is None for each in found.runs.values()):
            raise InputError(
                f"{chosen.name} holds answers against labels, and no run has one: give --labels "
                'FILE, a line each like {"id": "the label of the run", "label": "the answer"}'
            )
        folder = Path(out).expanduser().absolute()
        replays = Replays(found, versions, folder, on_progress, base)
        replays.check()
        try:
            make_private(folder)
        except OSError as error:
            raise InputError(f"{folder} can't be made: {error.strerror or error}") from error
        return Comparison(replays, chosen)

    async def conclude(self) -> Compared:
        """Score what was done, and hold it side by side.

        Raises ModelError: nothing was; InputError: an engine has answered that has another model.
        """
        replays, found = self.replays, self.replays.originals
        await asyncio.to_thread(replays.check)
        if not any(replays.done(version) for version in replays.versions):
            why = next(iter(replays.errors.values()), "none was begun")
            raise ModelError(f"no replay has come to its end: {why}")
        figures = [await self._figures(version) for version in replays.versions]
        first, *others = figures
        pairs = [pair for each in others if (pair := _pair(each, first)) is not None]
        return Compared(self._scorer.name, len(found.runs), figures, pairs, found.left_out)

    async def _figures(self, version: Version) -> VersionFigures:
        replays, runs = self.replays, self.replays.originals.runs
        folder = replays.folder(version)
        of = {replay.id: run for run, replay in replays.done(version).items()}
        results = await self._results(version, of) if of else {}
        ways = await asyncio.to_thread(_ways, folder, of) if of else {}
        return VersionFigures(
            name=version.name,
            folder=folder,
            weights=await asyncio.to_thread(_weights, folder, of),
            standing=standing_of(list(results.values()), SUPERVISOR, version.name),
            worker_failures=sum(each.worker_failures for each in results.values()),
            other_way=tuple(of[id_] for id_, way in ways.items() if way != runs[of[id_]].way),
            unfinished={
                run: replays.errors.get((version.name, run), "it was not begun")
                for run in runs
                if run not in of.values()
            },
            results=results,
        )

    async def _results(self, version: Version, of: Mapping[str, str]) -> dict[str, TaskResult]:
        """The scored replays by the recorded run that each (``of``, by its id) does again."""
        folder, runs = self.replays.folder(version), self.replays.originals.runs
        labels = {id_: runs[run].label for id_, run in of.items() if runs[run].label is not None}
        told = await score_on_loop(folder, self._scorer, labels=labels or None)
        if (why := told.busy.get(folder.resolve())) is not None:
            raise InputError(why)
        named = {"supervisor": SUPERVISOR, "worker": version.name}
        return {
            of[result.run_id]: msgspec.structs.replace(result, **named)
            for result in told.results[self._scorer.name]
            if result.run_id is not None and result.run_id in of
        }


def _ways(folder: Path, replays: Collection[str]) -> dict[str, Way]:
    """How each of these replays went."""
    return ways_of(folder, [run for run in read_runs(folder).runs.values() if run.id in replays])


def _weights(folder: Path, replays: Collection[str]) -> tuple[str, ...]:
    """What answered these replays; an adapter that was loaded once more is the same still."""
    found = {
        msgspec.structs.replace(each, weights_version=0)
        for id_, weights in weights_of_runs(folder).items()
        if id_ in replays
        for each in weights
    }
    return tuple(sorted(names_of(found).values()))


def _pair(one: VersionFigures, other: VersionFigures) -> Pair | None:
    """The two at the recorded runs that both have a score of; None where there is none."""
    differences: defaultdict[str, list[float]] = defaultdict(list)
    for run, result in one.results.items():
        beside = other.results[run].score if run in other.results else None
        if isinstance(result.score, float) and isinstance(beside, float):
            differences[result.asked].append(result.score - beside)
    means = [sum(each) / len(each) for each in differences.values()]
    return Pair(one.name, other.name, paired(means)) if means else None


async def compare_on_loop(
    runs: Runs,
    versions: Mapping[str, Answerer],
    out: str | Path,
    *,
    engine: Engine | Resident | None = None,
    scorer: str | Callable[[Sample], Any] | Scorer = SCORER,
    labels: LabelsSource | None = None,
    concurrency: int = CONCURRENCY,
    on_progress: Callable[[ComparisonProgress], None] | None = None,
) -> Compared:
    """Do recorded runs again with versions of a worker, score that, and hold them side by side.

    ``runs`` are log folders, or FOLDER#RUN; the supervisor says what it had said, so it costs
    nothing. ``versions`` are by name, the first is what the others are held against: ModelHandlers,
    or with ``engine`` what that has: None (its bare model), the folder of an adapter, which is
    loaded under a name of its own (the version's and its hash), or the name of one that it has
    loaded. The replays of each are
    the log folder ``out``/NAME, ``concurrency`` of all at a time; what is done there is not done
    again. Their scores by ``scorer`` (see ``distill.scorers``) are appended there; ``labels`` and
    where else labels come from: as of ``score``.

    Runs that can't be done again are left out, and a replay that fails stops no other. Raises
    InputError for runs, versions or labels that can't be used, before anything is asked;
    ModelError or MachineError when an engine is lost, or where no replay came to its end.
    """
    if not 1 <= concurrency <= CONCURRENCY_LIMIT:
        raise InputError(f"concurrency is 1 to {CONCURRENCY_LIMIT:,}, not {concurrency}")
    named = [_version(name, given) for name, given in versions.items()]
    begin = Comparison.begin
    comparison = await asyncio.to_thread(
        begin, runs, named, out, scorer=scorer, labels=labels, on_progress=on_progress
    )
    if open_ := await asyncio.to_thread(comparison.replays.open, named):
        await comparison.replays.run(asker_of(engine), open_, concurrency)
    return await comparison.conclude()


def _version(name: str, given: Answerer) -> Version:
    if isinstance(given, str):
        return Version(name, Path(given) if is_path(given) else given)
    if given is None or isinstance(given, Path):
        return Version(name, given)
    return Version(name, handler=given)


def asker_of(engine: Engine | Resident | None) -> Asker:
    """Who does runs again: an engine, or this process with handlers."""
    if isinstance(engine, Resident):
        return through_resident(engine)
    return Handlers() if engine is None else through_engine(engine)


compare = background.waiting(compare_on_loop)
compare.__name__ = compare.__qualname__ = "compare"
compare_on_loop.__qualname__ = "compare"
acompare = background.arriving(compare_on_loop)
acompare.__name__ = acompare.__qualname__ = "acompare"
