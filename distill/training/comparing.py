"""A comparison while it lasts: what is left to be done again, in lanes, by whoever answers.

::

    recorded runs × versions ──► replays that are not done ──► lanes ──► asker
                                                                           │
                    OUT/VERSION, a log folder each ◄───────────────────────┘
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.errors import DistillError, InputError
from distill.progress import Progress, shielded
from distill.traces.answering import weights_of_runs
from distill.training.originals import Original, Originals
from distill.training.replays import Replay, replays_in
from distill.training.versions import Asker, Version, weights_hash

TELL_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class ComparisonProgress:
    """How far a comparison is: replays of those ``total`` that there are to be, tokens, seconds."""

    done: int
    total: int
    running: int
    failed: int
    tokens: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class _Task:
    """A recorded run that a version is to do again; ``cut_off`` is a replay to go on with."""

    run: Original
    version: Version
    cut_off: Replay | None

    @property
    def key(self) -> tuple[str, str]:
        """Which version, and which recorded run."""
        return self.version.name, self.run.run.id


class Replays:
    """The replays of some recorded runs by some versions, under ``out``. All on the loop.

    ``errors`` says of a version and a recorded run why there is no replay of it now. ``base`` is
    the hash of the engine's model, empty where that is not known before it is up.
    """

    def __init__(
        self,
        originals: Originals,
        versions: Sequence[Version],
        out: Path,
        on_progress: Callable[[ComparisonProgress], None] | None = None,
        base: Callable[[], str] = str,
    ) -> None:
        self.originals, self.versions = originals, versions
        self._base = base
        self.errors: dict[tuple[str, str], str] = {}
        self._out = out
        self._tell = shielded(on_progress, "on_progress")
        self._queue: deque[_Task] = deque()
        self._running: dict[tuple[str, str], int] = {}
        """Tokens of those that are under way."""
        self._done, self._tokens = 0, 0
        self._begun_s, self._told_s = time.monotonic(), 0.0

    def folder(self, version: Version) -> Path:
        """The log folder of a version."""
        return self._out / version.name

    def done(self, version: Version) -> dict[str, Replay]:
        """The replays of this version that came to their end, by the recorded run's id."""
        found = replays_in(self.folder(version), self.originals.runs)
        return {run: replay for run, replay in found.items() if replay.is_done}

    def check(self) -> None:
        """Raise InputError where a version's folder has answers of another adapter or model.

        Versions of an engine's own model must have been answered by one, whichever.
        """
        bases: dict[str, Path] = {}
        for version in self.versions:
            folder, wanted = self.folder(version), version.known_hash
            found = [each for known in weights_of_runs(folder).values() for each in known]
            others = {each.adapter_hash for each in found} - {wanted}
            if wanted is not None and others:
                had = " and ".join(_in_words(each) for each in sorted(others))
                raise self._other(version, had, _in_words(wanted))
            models = {each.weights_hash for each in found} - {""}
            if models and (wanted := self._weights_hash(version)) and models != {wanted}:
                had = " and ".join(f"the model {each[:8]}" for each in sorted(models - {wanted}))
                raise self._other(version, had, f"of the model {wanted[:8]}")
            if version.has_engines_model:
                bases |= dict.fromkeys(models, folder)
        if len(bases) > 1:
            had = " and ".join(f"{name[:8]} ({folder})" for name, folder in sorted(bases.items()))
            raise InputError(
                f"versions of several models would be compared as if they were of one: {had}. "
                "Choose another folder with -o"
            )

    def _other(self, version: Version, had: str, now: str) -> InputError:
        return InputError(
            f"{self.folder(version)} has answers of {had}, and {version.name!r} is {now} now: "
            "choose another folder with -o, or another name"
        )

    def _weights_hash(self, version: Version) -> str:
        """Of the model that is to answer; empty: it is not known."""
        if version.has_engines_model:
            return self._base()
        return "" if version.model is None else weights_hash(str(version.model))

    def open(self, versions: Sequence[Version]) -> list[Version]:
        """Those of these versions that have replays to be done."""
        return [each for each in versions if len(self.done(each)) < len(self.originals.runs)]

    async def run(self, asker: Asker, versions: Sequence[Version], concurrency: int) -> None:
        """Have these versions do all that they have not done, in turns.

        A replay that fails stops no other. Raises what the asker says if it is lost, or can't take
        a version.
        """
        left = await asyncio.to_thread(self._left, versions)
        for version in dict.fromkeys(task.version for task in left):
            await asker.take(version)
        self._queue.extend(left)
        lanes = [asyncio.create_task(self._lane(asker)) for _ in range(min(concurrency, len(left)))]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
            self._show(now_too=True)

    def _left(self, versions: Sequence[Version]) -> list[_Task]:
        """Run by run, so that whatever changes meanwhile changes for all versions."""
        runs = self.originals.runs
        known = {each.name: replays_in(self.folder(each), runs) for each in versions}
        self._done += sum(each.is_done for found in known.values() for each in found.values())
        return [
            _Task(run, version, replay)
            for name, run in runs.items()
            for version in versions
            if (replay := known[version.name].get(name)) is None or not replay.is_done
        ]

    async def _lane(self, asker: Asker) -> None:
        while self._queue:
            task = self._queue.popleft()
            self._running[task.key] = 0
            self._show()
            try:
                await self._do(asker, task)
                self._done += 1
            except Exception as error:
                if (lost := asker.lost()) is not None:
                    raise lost from error
                kind = "" if isinstance(error, DistillError) else f"{type(error).__name__}: "
                self.errors[task.key] = f"{kind}{error}"
            finally:
                self._tokens += self._running.pop(task.key)
            self._show()

    async def _do(self, asker: Asker, task: _Task) -> None:
        folder = self.folder(task.version)

        def hear(progress: Progress) -> None:
            if task.key in self._running:
                self._running[task.key] = progress.tokens
                self._show()

        if task.cut_off is not None:
            try:
                await asker.go_on(task.cut_off.id, task.version, folder, hear)
            except InputError:
                pass  # it had hardly begun, or its log is damaged: it is done anew
            else:
                return
        await asker.replay(task.run, task.version, folder, hear)

    def _show(self, *, now_too: bool = False) -> None:
        at_s = time.monotonic()
        if self._tell is None or (at_s - self._told_s < TELL_EVERY_S and not now_too):
            return
        self._told_s = at_s
        self._tell(
            ComparisonProgress(
                done=self._done,
                total=len(self.versions) * len(self.originals.runs),
                running=len(self._running),
                failed=len(self.errors),
                tokens=self._tokens + sum(self._running.values()),
                elapsed_s=at_s - self._begun_s,
            )
        )


def _in_words(adapter_hash: str) -> str:
    return f"the adapter {adapter_hash[:8]}" if adapter_hash else "the bare model"
