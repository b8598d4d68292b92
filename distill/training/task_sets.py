"""The tasks of a loop: to learn from, to choose the versions by, and to choose nothing by."""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.tasks import Task
from distill.training.leakage import HeldOut


@dataclass(frozen=True, slots=True)
class TaskSets:
    """The tasks of a loop, read; ``whole_runs`` may be none."""

    training: Sequence[Task]
    held_out: Sequence[Task]
    whole_runs: Sequence[Task] = ()

    def apart(self) -> HeldOut:
        """What is held out. Raises InputError where training tasks have some of it, or where those
        that choose the versions have some of those that choose nothing.
        """
        files = {"the held-out tasks": self.held_out, "the whole runs": self.whole_runs}
        held_out = HeldOut({name: tasks for name, tasks in files.items() if tasks})
        held_out.check_tasks(self.training)
        if self.whole_runs:
            choosing = HeldOut({"the held-out tasks": self.held_out})
            choosing.check_tasks(
                self.whole_runs, "the whole runs", "What chooses the versions is too kind to them"
            )
        return held_out
