"""That nothing which is held out is trained on: by the ids of tasks, and by hashes of their texts.

A text is known by the SHA-256 that the log has of it (``run.context``), and so is each text of a
list or object: a task may hand its run a list of passages, and another one of them alone. That is
to the letter: a text with a line break more, or one that holds another, is another text.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.supervisor.journal import encode_context
from distill.tasks import Task
from distill.texts import Texts
from distill.traces.contexts import texts_of
from distill.training.data import DataSet

NAMED = 3
"""Of what leaks, so many are named."""
TRAINED_ON = "What is trained on proves nothing"


class Documents:
    """The hashes of tasks' texts; files are read once while they are in use."""

    def __init__(self) -> None:
        self._texts = Texts()

    def of(self, task: Task) -> set[str]:
        """Of the whole text, and of each text in it. Raises InputError: it can't be read."""
        context = task.context
        if task.paths:
            encoding = str(task.options.get("encoding", "utf-8"))
            context = self._texts.read(task.paths, encoding).context
        return hashes(context)


def hashes(context: Any) -> set[str]:
    """Of a text, list or object as a log has it, and of the texts in a list or object.

    What is blank is no text: tasks may share it. So may they the keys of objects.
    """
    if not context or (isinstance(context, str) and not context.strip()):
        return set()
    kind, data, _ = encode_context(context)
    found = {sha256(data).hexdigest()}
    if kind == "json":
        found |= {
            sha256(text.encode()).hexdigest() for _, text in texts_of(context) if text.strip()
        }
    return found


class HeldOut:
    """What must not be trained on: the tasks of files that are held out, by what they are for."""

    def __init__(self, files: dict[str, Sequence[Task]]) -> None:
        self._files = files
        documents = Documents()
        self._ids = {task.id: name for name, tasks in files.items() for task in tasks}
        self._texts = {
            text: (name, task.id)
            for name, tasks in files.items()
            for task in tasks
            for text in documents.of(task)
        }

    def check_tasks(
        self, tasks: Sequence[Task], name: str = "the training tasks", why: str = TRAINED_ON
    ) -> None:
        """Raise InputError where one of these tasks has an id, or a text, of one held out.

        ``why`` that matters, and what they are called, is for people.
        """
        documents = Documents()
        shared = [task.id for task in tasks if task.id in self._ids]
        apart = f"{name} are not apart from {' and '.join(self._files)}"
        self._refuse(
            shared, f"{apart}: these ids are in both", f"{why}: give each task an id of its own, or"
        )
        pairs = (
            f"{task.id} and {self._texts[text][1]}"
            for task in tasks
            for text in sorted(documents.of(task) & set(self._texts))
        )
        self._refuse(pairs, f"{apart}: these tasks have the same text", f"{why}:")

    def _refuse(self, leaks: Iterable[str], what: str, remedy: str) -> None:
        if named := list(islice(leaks, NAMED + 1)):
            more = ", …" if len(named) > NAMED else ""
            raise InputError(
                f"{what}: {', '.join(named[:NAMED])}{more}. {remedy} leave them out of one of the "
                "files"
            )

    def check_data(self, folder: Path) -> None:
        """Raise InputError where a data set is not what its manifest says, or has such rows."""
        data = DataSet.read(folder)
        for number, row in enumerate(data.rows("task", "document"), 1):
            text, task = str(row["document"]), str(row["task"])
            if text in self._texts or task in self._ids:
                name = self._texts[text][0] if text in self._texts else self._ids[task]
                raise InputError(
                    f"{data.file}, row {number} is of the task {task!r} and the document "
                    f"{text[:12]}…, which {name} has: nothing is evaluated with weights that were "
                    "trained on it"
                )
