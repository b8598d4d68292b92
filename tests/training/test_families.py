"""Tasks that are made up: their truth, found again from the documents alone; and what is apart."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from distill.asking import check_options
from distill.cli import cli
from distill.errors import InputError
from distill.tasks import Task, read_tasks
from distill.training.families import FAMILIES, inventions
from distill.training.families.filler import WORD_CHARS, Filler, stretches
from distill.training.families.writing import BOOK, Asking, Sizes, generate

SMALL = Sizes(train=12, test=8)
NAME = r"[A-Z][a-z]+"
GOODS = re.compile(rf"\b(?:for|bought) (?:{'|'.join(inventions.GOODS)})\b")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
HANDED = re.compile(rf"({NAME}) (?:handed the \w+ \w+ on to|that) ({NAME})")
GIVEN = re.compile(rf"given to ({NAME}) by ({NAME})")
HID = re.compile(rf"({NAME}) hid the \w+ \w+ at ({NAME})")
HIDDEN = re.compile(rf"At ({NAME}) the \w+ \w+ was hidden by ({NAME})")
FILES = ("train.jsonl", "test.jsonl")


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning and the end of the King James text."""
    whole, file = BOOK.read_text("utf-8"), tmp_path_factory.mktemp("book") / "book.txt"
    file.write_text(whole[:150_000] + whole[-150_000:])
    return file


@pytest.fixture(scope="module")
def book_words(book: Path) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", book.read_text("utf-8")))


@pytest.fixture(scope="module", params=FAMILIES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, book: Path
) -> Path:
    """A folder of each family, with the sizes that it has itself."""
    out = tmp_path_factory.mktemp("made") / request.param
    return generate(request.param, out, SMALL, text=book).out


def tasks_of(folder: Path, *files: str) -> list[Task]:
    return [task for file in files or FILES for task in read_tasks(folder / file)]


def told_of(task: Task, book_words: set[str]) -> Iterator[str]:
    """The sentences of a document that name what the book does not."""
    for sentence in SENTENCE.split(str(task.context)):
        if set(re.findall(NAME, sentence)) - book_words:
            yield " ".join(sentence.split())


# -- the truth


def extracted(task: Task, told: list[str]) -> str:
    """A buyer has a town, which follows the name; a seller has none."""
    found = {}
    for sentence in told:
        ((buyer, town),) = re.findall(rf"({NAME}) of ({NAME})", sentence)
        (goods,) = set(re.findall(r"[a-z]+", sentence)) & set(inventions.GOODS)
        (marks,) = re.findall(r"(\d+) marks", sentence)
        found[buyer] = (town, goods, marks)
    assert len(found) == len(told)
    if asked := re.search(rf"did ({NAME})", task.query):
        return str(found[asked[1]][2])
    ((buyer, (town, goods, marks)),) = found.items()
    return f"buyer={buyer}; town={town}; goods={goods}; marks={marks}."


def kept(task: Task, told: list[str]) -> str:
    person, thing = re.findall(rf"does ({NAME}) keep the (\w+ \w+)\?", task.query)[0]
    (fact,) = [each for each in told if person in each and thing in each]
    (town,) = set(re.findall(NAME, fact)) - {person, "The", "It", "And"}
    return str(town)


def counted(task: Task, told: list[str]) -> str:
    ending = re.findall(r"were (\w+)\?", task.query)[0]
    return str(sum(ending in sentence for sentence in told))


def followed(task: Task, told: list[str]) -> str:
    """From hand to hand, until a sentence names a place."""
    person = re.findall(rf"first ({NAME}) had", task.query)[0]
    next_of = {
        **{giver: taker for each in told for giver, taker in HANDED.findall(each)},
        **{giver: taker for each in told for taker, giver in GIVEN.findall(each)},
    }
    hidden = {
        **{person: town for each in told for person, town in HID.findall(each)},
        **{person: town for each in told for town, person in HIDDEN.findall(each)},
    }
    steps = 0
    while person in next_of:
        person, steps = next_of[person], steps + 1
    assert steps == 2
    return str(hidden[person])


def looked_up(task: Task, told: list[str]) -> str:
    """Of one buyer the goods or the marks; of a town the number, the sum, or who paid the most."""
    record = rf"({NAME}) of ({NAME}) bought (.+) for (\d+) marks"
    found = [groups for each in told for groups in re.findall(record, each)]
    assert len(found) == len(told)
    if asked := [each for each in found if each[0] in task.query]:
        ((_, _, goods, marks),) = asked
        return str(marks if "marks" in task.query else goods)
    paid: dict[str, int] = {
        buyer: int(marks) for buyer, town, _, marks in found if town in task.query
    }
    if re.match("How many (buyers|people)|In how many", task.query):
        return str(len(paid))
    if re.match("Who|Which|Of the", task.query):
        return max(paid, key=paid.__getitem__)
    return str(sum(paid.values()))


SOLVERS = {
    "extract": extracted, "needle": kept, "count": counted, "hops": followed, "ledger": looked_up,
}  # fmt: skip


def test_every_family_is_solved_here() -> None:
    assert set(SOLVERS) == set(FAMILIES)


def test_the_answer_is_what_the_document_says(made: Path, book_words: set[str]) -> None:
    for task in tasks_of(made):
        told = list(told_of(task, book_words))
        assert SOLVERS[made.name](task, told) == task.label, task.id


def test_of_several_records_one_is_asked_about(
    tmp_path: Path, book: Path, book_words: set[str]
) -> None:
    sizes = Sizes(train=8, test=8, entries=5)
    made = generate("extract", tmp_path / "out", sizes, text=book).out
    for task in tasks_of(made):
        told = list(told_of(task, book_words))
        assert len(told) == 5 == len(str(task.context).split("\n\n"))
        assert extracted(task, told) == task.label


# -- the sides


def test_the_sides_share_no_name_no_goods_and_no_sentence(
    made: Path, book: Path, book_words: set[str], tmp_path: Path
) -> None:
    """The test side of another seed is new to what was trained on this one too."""
    other = generate(made.name, tmp_path / "other", SMALL, seed=5, text=book).out
    train, test = tasks_of(made, "train.jsonl"), tasks_of(made, "test.jsonl")
    test += tasks_of(other, "test.jsonl")
    sides = [
        [each for task in tasks for each in told_of(task, book_words)] for tasks in (train, test)
    ]
    for pattern in (NAME, GOODS):
        mine, others = (
            {each for told in side for each in re.findall(pattern, told)} for side in sides
        )
        assert not (mine & others) - book_words
    whole = set(
        SENTENCE.split(
            " ".join(re.sub(r"^.*? \d+:\d+ ", "", line) for line in book.read_text().splitlines())
        )
    )
    prose = [
        {each for task in tasks for each in SENTENCE.split(str(task.context))} & whole
        for tasks in (train, test)
    ]
    assert all(prose)
    assert not prose[0] & prose[1]


def test_names_are_new_to_the_text(made: Path, book_words: set[str]) -> None:
    for task in tasks_of(made):
        assert not set(re.findall(NAME, str(task.label))) & book_words


def test_a_task_says_its_side_and_nothing_twice(made: Path) -> None:
    for side in ("train", "test"):
        tasks = tasks_of(made, f"{side}.jsonl")
        assert all(task.id.startswith(f"{made.name}-{side}-0-") for task in tasks)
        assert len({task.context for task in tasks}) == len(tasks)


# -- the same again, sizes, the manifest


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_the_seed_decides_every_byte(made: Path, book: Path, tmp_path: Path) -> None:
    assert bytes_of(generate(made.name, tmp_path / "same", SMALL, text=book).out) == bytes_of(made)
    for one, other in zip(
        bytes_of(made),
        bytes_of(generate(made.name, tmp_path / "else", SMALL, seed=1, text=book).out),
        strict=True,
    ):
        assert not set(one.splitlines()) & set(other.splitlines())


def test_more_tasks_begin_with_those_of_fewer(made: Path, book: Path, tmp_path: Path) -> None:
    more = generate(made.name, tmp_path / "more", Sizes(train=15, test=9), text=book).out
    for few, many in zip(bytes_of(made), bytes_of(more), strict=True):
        assert many.startswith(few)
        assert len(many) > len(few)


@pytest.mark.parametrize(("entries", "chars"), [(None, None), (4, 4_000), (30, 7_200)])
def test_sizes_are_met(
    made: Path, book: Path, tmp_path: Path, entries: int | None, chars: int | None
) -> None:
    sizes = Sizes(train=3, test=2, entries=entries, chars=chars)
    out = generate(made.name, tmp_path / "out", sizes, text=book).out
    told = json.loads((out / "manifest.json").read_text())
    family = FAMILIES[made.name]
    assert told["sizes"] == {
        "train": 3, "test": 2, "entries": entries or family.entries, "chars": chars or family.chars,
    }  # fmt: skip
    for name, count in zip(FILES, (3, 2), strict=True):
        tasks = tasks_of(out, name)
        assert len(tasks) == count
        for task in tasks:
            parts = str(task.context).split("\n\n")
            assert len(parts) == (1 if made.name == "needle" else told["sizes"]["entries"])
            # A passage ends with a whole word, an entry with a whole character.
            missing = told["sizes"]["chars"] - len(str(task.context))
            assert 0 <= missing <= 41 * len(parts)


def test_the_manifest_tells_what_it_is_made_of(made: Path, book: Path) -> None:
    told = json.loads((made / "manifest.json").read_text())
    assert told["family"] == made.name
    assert (told["seed"], told["version"]) == (0, FAMILIES[made.name].version)
    assert told["text_sha256"] == hashlib.sha256(book.read_bytes()).hexdigest()


@given(
    seed=st.integers(0, 10_000),
    chars=st.integers(200, 3_000),
    facts=st.lists(st.text("abc", min_size=1, max_size=30).map("{}.".format), max_size=4),
)
def test_a_passage_is_as_long_as_asked_and_holds_each_fact(
    seed: int, chars: int, facts: list[str]
) -> None:
    filler = Filler(
        [f"{word} " * at + "so it was." for at, word in enumerate(("It", "rained", "on"))]
    )
    text = filler.passage(Random(seed), chars, *facts, between="\n")
    assert chars - WORD_CHARS <= len(text) <= chars
    rest = text.split("\n")
    for fact in facts:
        rest.remove(fact)
    assert set(" ".join(rest).replace(".", "").split()) <= {"It", "rained", "on", "so", "it", "was"}


# -- texts of one's own, and what is refused


def test_a_text_of_ones_own(tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text(
        "\n\n".join(f"On day {at} it rained.\nThe wind blew {at} hours." for at in range(1500))
    )
    out = generate("extract", tmp_path / "out", SMALL, text=text).out
    for name, low in (("train.jsonl", 0), ("test.jsonl", 750)):
        for task in tasks_of(out, name):
            days = [int(each) for each in re.findall(r"day (\d+) it", str(task.context))]
            assert days
            assert all(low <= each < low + 750 for each in days)
    text.write_text("Too short. And too few. " * 5_000)  # the same again, which is on one side only
    with pytest.raises(InputError, match="the text is too short"):
        stretches(text.read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "there is no family 'nonsense'; there are needle, extract, count, hops"),
        (["extract", "--train", "0"], "--train of extract is 1 to 100,000, not 0"),
        (["extract", "--entries", "0"], "--entries of extract is 1 to 200, not 0"),
        (["hops", "--entries", "2"], "--entries of hops is 3 to 200, not 2"),
        (
            ["count", "--entries", "9", "--chars", "2000"],
            "--chars of count is 2,160 (240 an entry)",
        ),
        (["extract", "--text", "/no/such/file"], "/no/such/file"),
        (["extract", "--attempts", "0"], "--attempts is at least 1, not 0"),
        (["extract", "--temperature", "-1"], "--temperature is at least 0, not -1"),
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_wrong_words(words: list[str], said: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(
        cli, ["train", "tasks", *words, "-o", str(out)], standalone_mode=False
    )
    assert getattr(done.exception, "code", None) == 2
    assert said in done.stderr
    assert not out.exists()


def test_tasks_for_rl_are_asked_several_times_at_a_temperature(tmp_path: Path, book: Path) -> None:
    """The rest of them is as without; what a loop of rl checks holds."""
    asking = Asking(attempts=3, temperature=1.0)
    plain = tasks_of(generate("extract", tmp_path / "plain", SMALL, text=book).out)
    several = tasks_of(generate("extract", tmp_path / "rl", SMALL, asking=asking, text=book).out)
    for one, other in zip(plain, several, strict=True):
        assert (one.attempts, one.options) == (1, {})
        assert other.attempts == 3
        assert other.options == {"worker_options": {"temperature": 1.0}}
        check_options(other.options)
        assert (one.id, one.query, one.context) == (other.id, other.query, other.context)


def test_each_family_has_a_line_in_the_help() -> None:
    done = CliRunner().invoke(cli, ["train", "tasks", "--help"], terminal_width=100)
    shown = " ".join(done.stdout.split())
    for name, family in FAMILIES.items():
        assert f"{name} {family.about}" in shown


def test_the_command(tmp_path: Path) -> None:
    words = [
        "train",
        "tasks",
        "extract",
        "-o",
        str(tmp_path / "out"),
        "--train",
        "3",
        "--test",
        "2",
    ]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert (done.return_value, done.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert "train 3, test 2" in done.stderr
    again = CliRunner().invoke(cli, words, standalone_mode=False)
    assert getattr(again.exception, "code", None) == 2
