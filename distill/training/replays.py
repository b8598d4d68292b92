"""What a log folder has of replays: which recorded run each does again, and how far it came."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from distill.recorded_results import FAILED
from distill.traces import records
from distill.traces.reading import Skipped, lines


@dataclass(frozen=True, slots=True)
class Replay:
    """The last replay of a recorded run; ``end`` is None if it was cut off."""

    id: str
    end: records.RunEnd | None = None

    @property
    def is_done(self) -> bool:
        """Whether it came to its end, with an answer or without one."""
        return self.end is not None and self.end.status not in FAILED


def replays_in(folder: Path, runs: Collection[str]) -> dict[str, Replay]:
    """Those of these recorded runs that a worker was asked for, by the recorded run's id.

    One that came to its end goes before those that did not; of equal ones the last counts.
    """
    if not (folder / records.SUPERVISOR_LOG).is_file():
        return {}
    begun: dict[str, str] = {}
    ends: dict[str, records.RunEnd] = {}
    for _, record in lines(folder, records.SUPERVISOR_LOG):
        if isinstance(record, Skipped) or record.run is None:
            continue
        if isinstance(record, records.RunStart) and (of := _replayed(record)) in runs:
            begun[record.run] = of
        elif isinstance(record, records.RunEnd) and record.run in begun:
            ends[record.run] = record
    found: dict[str, Replay] = {}
    for run, of in begun.items():
        replay = Replay(run, ends.get(run))
        if of not in found or replay.is_done or not found[of].is_done:
            found[of] = replay
    return found


def _replayed(start: records.RunStart) -> str:
    """The id of the run that this one does again with a worker; empty: it does none."""
    told = start.options.get("replay_of")
    if start.parent is not None or not isinstance(told, dict) or told.get("answers") != "worker":
        return ""
    return str(told.get("run"))
