"""Tasks files: what is read, and what is said of a line that can't be."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill import Task
from distill.asking import check_options
from distill.errors import InputError
from distill.tasks import fingerprints, read_tasks


def written(folder: Path, *lines: Any) -> Path:
    """A tasks file with these lines: JSON of what is not a text already."""
    file = folder / "tasks.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts) + "\n")
    return file


def test_a_file_is_read_line_by_line(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"id": "a", "query": "What?", "context": ["x", "y"], "label": 3, "attempts": 2},
        "",
        {"id": "b", "query": "Who?", "path": "texts/b.txt", "options": {"max_iterations": 3}},
        {"id": "c", "query": "Who?", "path": ["/abs.txt", "d.txt"]},
    )
    first, second, third = read_tasks(file)
    assert (first.context, first.label, first.attempts, first.paths) == (["x", "y"], 3, 2, ())
    assert second.paths == (str(tmp_path / "texts/b.txt"),), "beside the tasks file"
    assert second.options == {"max_iterations": 3}
    assert third.paths == ("/abs.txt", str(tmp_path / "d.txt"))
    again = read_tasks([first, {"id": "d", "query": "?", "context": "x"}])
    assert [task.id for task in again] == ["a", "d"]


GOOD = {"id": "a", "query": "What?", "context": "x"}
BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{nope", "malformed"),
    "half a line": ('{"id": "b", "que', "malformed"),
    "not an object": ("[1]", "Expected `object`"),
    "an unknown field": ({**GOOD, "id": "b", "expected": 1}, "unknown field `expected`"),
    "no query": ({"id": "b", "context": "x"}, "missing required field `query`"),
    "a blank query": ({**GOOD, "id": "b", "query": " "}, "the query is empty"),
    "an id that is no text": ({**GOOD, "id": 7}, "Expected `str`"),
    "an id of two lines": ({**GOOD, "id": "b\nc"}, "an id is a line"),
    "an id that is there": (GOOD, "the id 'a' is that of"),
    "neither context nor path": ({"id": "b", "query": "?"}, "either a context or a path"),
    "both": ({**GOOD, "id": "b", "path": "x"}, "either a context or a path"),
    "no attempt": ({**GOOD, "id": "b", "attempts": 0}, "attempts is 1 to"),
    "bytes that are no text": ('{"id": "\udcff"}', ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_named(tmp_path: Path, kind: str) -> None:
    line, said = BAD[kind]
    text = f"{json.dumps(GOOD)}\n\n{line if isinstance(line, str) else json.dumps(line)}\n"
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as raised:
        read_tasks(file)
    assert str(raised.value).startswith(f"{file}, line 3: ")
    assert said in str(raised.value)


def test_what_is_no_list_of_tasks(tmp_path: Path) -> None:
    for tasks, said in (
        (tmp_path / "none.jsonl", "No such file"),
        (tmp_path, "Is a directory"),
        (written(tmp_path, ""), "no task in"),
        ([], "no task in the list"),
        ({"id": "a"}, "a file or a list"),
        ([{**GOOD, "what": 1}], "task 1: .*unknown field `what`"),
        ([GOOD, Task(id="a", query="?", context="x")], "task 2: the id 'a' is that of task 1"),
    ):
        with pytest.raises(InputError, match=said):
            read_tasks(tasks)  # type: ignore[arg-type]


def test_a_text_of_many_tasks_is_held_once(tmp_path: Path) -> None:
    file = written(tmp_path, *({**GOOD, "id": str(n), "context": "long " * 100} for n in range(3)))
    first, *others = read_tasks(file)
    assert all(task.context is first.context for task in others)


def test_a_fingerprint_is_of_what_is_asked() -> None:
    task = Task(id="a", query="?", context={"a": "x"}, label=1)

    def of(task: Task) -> str:
        return fingerprints([task])[task.id]

    same = Task(id="b", query="?", context={"a": "x"}, label=2, attempts=5)
    others = [
        Task(id="a", query="??", context={"a": "x"}),
        Task(id="a", query="?", context={"a": "y"}),
        Task(id="a", query="?", path="a"),
        Task(id="a", query="?", context={"a": "x"}, options={"max_iterations": 2}),
    ]
    assert of(task) == of(same)
    assert len({of(task), *map(of, others)}) == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_iteration": 3}, "max_iteration"),
        ({"max_iterations": "3"}, "Expected `int`"),
        ({"limits": {"patience": 1}}, "no limit 'patience'"),
        ({"log_dir": "x"}, "'log_dir' is set for all"),
        ({"label": "x"}, "'label' is set for all"),
        ({"resume": "x"}, "'resume' is set for all"),
    ],
    ids=str,
)
def test_options_that_no_task_has(options: dict[str, Any], said: str) -> None:
    check_options({"max_iterations": 3, "limits": {"cell_s": 5}, "encoding": "latin-1"})
    with pytest.raises(InputError, match=said):
        check_options(options)
