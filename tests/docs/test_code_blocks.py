"""Every fenced code block of the documents that tell how to use distill does what it says.

* ``python``: each block stands alone and runs in a process of its own, in a folder that has
  ``examples/``. What a ``print(…)  # words`` promises must be printed. ``OpenAIHandler`` finds a
  scripted endpoint of ours; a block that uses ``VLLMHandler`` starts the real engine.
* ``sh``: each command is run where that is cheap (``distill doctor``, a script), else held
  against the program's own parser, with every file that it names.
* ``text``: diagrams and output, nothing to run.

A block of any other language, or a command that no rule knows, is a failure.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest

from distill.cli import cli
from distill.supervisor import keyring
from distill.supervisor.recipe import recipe_names

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/budgets.md",
    "docs/clusters.md",
    "docs/engine.md",
    "docs/export.md",
    "docs/monitoring.md",
    "docs/privacy.md",
    "docs/provenance.md",
    "docs/python.md",
    "docs/ray.md",
    "docs/runs.md",
    "docs/scores.md",
    "docs/settings.md",
    "docs/tasks.md",
    "docs/traces.md",
    "docs/training.md",
    "docs/trainers.md",
    "docs/view.md",
)
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)
REPOSITORY_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|md|toml))`")
NOT_OURS = re.compile(r"^(contexts/|spool/|runs/|\.venv/|distill/X|worker\.schema\.json)|NAME")
"""In backquotes, and like a path, but not one of the repository."""
BLOCK_TIMEOUT_S = 120
ENGINE_TIMEOUT_S = 500


@dataclass(frozen=True)
class Block:
    """One fenced block; ``line`` is where its fence stands."""

    document: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for document in DOCUMENTS:
        text = (ROOT / document).read_text("utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(document, line, match[1], match[2]))
    return [block for block in found if not languages or block.language in languages]


def python_blocks() -> list[Any]:
    with_engine = (pytest.mark.vllm, pytest.mark.slow)  # it loads a model of its own
    return [
        pytest.param(block, id=str(block), marks=with_engine if "VLLMHandler" in block.code else ())
        for block in blocks("python")
        if "from trl import" not in block.code  # tests/training/test_trainers.py runs these
    ]


def test_no_block_escapes() -> None:
    """Each fence is closed, and each language has a rule."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text("utf-8")
        assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == 2 * len(FENCE.findall(text))
    assert {block.language for block in blocks()} <= {"python", "sh", "text", "toml"}
    assert blocks("python")
    assert blocks("sh")


def test_text_blocks_hold_no_code() -> None:
    for block in blocks("text"):
        assert not re.search(r"^(\$|>>>|import|from \w+ import) ", block.code, re.MULTILINE), block


def test_toml_blocks_are_toml() -> None:
    for block in blocks("toml"):
        assert tomllib.loads(block.code), block


# -- a scripted OpenAI-compatible endpoint

CELL = """\
place = context.find("Aaron")
passage = context[max(0, place - 200) : place + 200]
answers = worker_batch([f"{passage}\\nQuestion: {query}\\nAnswer:"], max_tokens=12)
print(answers)
"""


def script(messages: list[dict[str, str]]) -> str:
    """A supervisor's reply: look, ask the worker, try each added function; a worker's: a name."""
    system = messages[0]["content"]
    if "it runs in a REPL" not in system:
        return "Aaron"
    added = re.findall(r"^- `(\w+)\(", system.partition("Further functions")[2], re.MULTILINE)
    calls = "".join(f'print({name}("John 3:16"))\n' for name in added)
    return f'```repl\n{CELL}{calls}FINAL("Aaron")\n```'


class Endpoint(BaseHTTPRequestHandler):
    """Answers /chat/completions by ``script``."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._reply(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": script(request["messages"])},
                    }
                ],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            }
        )

    def _reply(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def environment(endpoint: str, tmp_path: Path) -> dict[str, str]:
    """What a block finds: the endpoint and a key for it, and folders of its own."""
    named = {
        "OPENAI_BASE_URL": endpoint,
        "OPENAI_API_KEY": "a key for the scripted endpoint",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT),
    }
    return os.environ | named


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder like a clone, where a block may write."""
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.mark.parametrize("block", python_blocks())
def test_python_block(block: Block, environment: dict[str, str], workplace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block.code],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=ENGINE_TIMEOUT_S if "VLLMHandler" in block.code else BLOCK_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    for promise in PROMISE.findall(block.code):
        assert promise in printed, f"{promise!r} was not printed but\n{done.stdout}"


# -- shell

Check = Callable[[list[str], Path], None]


def distill_command(words: list[str], _: Path) -> None:
    """Held against click's parser: every option, its type and its choices."""
    name, *arguments = words
    command = cli.commands[name]
    if isinstance(command, click.Group):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    # Below the group, whose settings a command keeps from the first time that it is parsed.
    group = click.Context(cli, **cli.context_settings)
    with command.make_context(f"distill {name}", arguments, parent=group) as context:
        tasks = context.params.get("tasks")
        named = (*context.params.get("paths", ()), *([] if tasks is None else [str(tasks)]))
    for path in named:
        if path.startswith("examples/"):
            assert (ROOT / path).exists(), path
    recipe = context.params.get("supervisor") or ""
    if recipe.startswith("recipe:"):
        assert recipe.removeprefix("recipe:") in recipe_names()


def doctor(words: list[str], place: Path) -> None:
    """Run: of a run that README's own block about the trace has made, or of the machine.

    Of an engine, which would have to be up, only the words are held against the parser.
    """
    if words and words[0].startswith("--"):
        distill_command(["doctor", *words], place)
        return
    if words:
        makes = next(block for block in blocks("python") if f'"{words[0]}"' in block.code)
        run(["-c", makes.code], place)
    done = run(["-m", "distill", "doctor", *words], place, check=not words)
    assert done.returncode == 0 if words else done.returncode in (0, 3), done.stdout


def run(arguments: list[str], place: Path, *, check: bool = True) -> Any:
    """This Python, with these arguments."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(place / "state")},
        capture_output=True,
        text=True,
        timeout=BLOCK_TIMEOUT_S,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def door(words: list[str], _: Path) -> None:
    """bin/test: its own option, or tests that pytest would find."""
    subprocess.run(["bash", "-n", ROOT / "bin" / "test"], check=True)
    for word in words:
        assert word == "--full" or (ROOT / word).exists(), word
    assert "--full" in (ROOT / "bin" / "test").read_text()


def python_script(words: list[str], place: Path) -> None:
    """Run, writing elsewhere."""
    run([str(ROOT / words[0]), str(place)], place)


def elsewhere(words: list[str], place: Path) -> None:
    """A worker server that is started on another machine."""
    assert words[0] == "distill/bin/distill-worker"
    distill_command(["worker", *words[1:]], place)


def key_copy(words: list[str], _: Path) -> None:
    """The file is the one that the keyring makes."""
    made = keyring.worker_key_path().relative_to(keyring.folder().parents[1])
    assert words[:2] == ["-p", f"~/.config/{made}"]


def job(words: list[str], _: Path) -> None:
    assert (ROOT / words[0]).is_file()


def pip(words: list[str], _: Path) -> None:
    """Held against pyproject.toml: the extras, and the file of requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for word in words:
        if extra := re.fullmatch(r"\.\[(\w+)\]", word):
            assert extra[1] in project["optional-dependencies"]
        else:
            assert word in ("--no-deps", "-r") or (ROOT / word).is_file(), word


def ray_start(words: list[str], _: Path) -> None:
    """Held against Ray's own parser."""
    from ray.scripts.scripts import start

    with start.make_context("ray start", words):
        pass


RULES: dict[str, Check] = {
    ".venv/bin/ray start": ray_start,
    "ssh gpu2": elsewhere,
    "scp": key_copy,
    "sbatch": job,
    "pip install": pip,
    "bin/distill-up": lambda words, place: distill_command(["up", *words], place),
    "bin/distill-worker": lambda words, place: distill_command(["worker", *words], place),
    "bin/distill doctor": doctor,
    "bin/distill": distill_command,
    "bin/test": door,
    "python docs/rebuild_schema.py": lambda _, place: python_script(
        ["docs/rebuild_schema.py"], place
    ),
}


def commands() -> list[Any]:
    return [
        pytest.param(line, id=f"{block.document}:{block.line + 1 + number}")
        for block in blocks("sh")
        for number, line in enumerate(block.code.splitlines())
        if line.strip()
    ]


@pytest.mark.parametrize("command", commands())
def test_shell_command(command: str, workplace: Path) -> None:
    words = shlex.split(command)
    for start, check in RULES.items():
        known = start.split()
        if words[: len(known)] == known:
            check(words[len(known) :], workplace)
            return
    pytest.fail(f"no rule for {command!r}: add one, so that it is tried")


@pytest.mark.parametrize(
    "command", ["bin/distill", "bin/distill-up", "bin/distill-worker", "bin/test", "bin/train"]
)
def test_doors_are_scripts_that_can_be_run(command: str) -> None:
    assert os.access(ROOT / command, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / command], check=True)


def test_a_wrong_option_would_be_noticed(workplace: Path) -> None:
    with pytest.raises(click.UsageError):
        distill_command(["up", "--no-such-option"], workplace)


# -- what the documents name


def documents() -> list[Path]:
    named = [ROOT / name for name in (*DOCUMENTS, "SECURITY.md", "CHANGELOG.md")]
    return named + sorted((ROOT / "docs").rglob("*.md"))


def anchors(document: Path) -> set[str]:
    """What a link may name of a document: its headings, as GitHub spells them."""
    prose = FENCE.sub("", document.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        assert anchor in anchors(document.parent / target if target else document), anchor
    for path in REPOSITORY_PATH.findall(text):
        there = any((ROOT / base / path).exists() for base in (".", "docs", "distill"))
        assert there or NOT_OURS.search(path), path


def test_readme_says_what_is_downloaded() -> None:
    """Its table has the figures by which the set-up announces itself."""
    spec = importlib.util.spec_from_file_location("_setup", ROOT / "bin" / "_setup.py")
    assert spec is not None
    assert spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    text = (ROOT / "README.md").read_text("utf-8")
    for profile in ("cpu", "gpu", "api"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{profile}` |"))
        for size_mb in setup.DOWNLOAD_MB[profile].values():
            assert re.search(rf"\b{size_mb:,}\b", row), (profile, size_mb)
        assert f"{setup.DISK_MB[profile] / 1000:.1f} GB" in row
    _, *tested = setup.parts_of("test", "cpu")
    tests_mb = sum(sum(setup.DOWNLOAD_MB[part].values()) for part in tested)
    (ray_mb,) = setup.DOWNLOAD_MB["ray"].values()
    retrieve_mb = sum(setup.DOWNLOAD_MB["retrieve"].values())
    assert f"downloads {tests_mb} MB more" in text
    assert re.search(rf"`--primitive retrieve` adds its\s+model: {retrieve_mb} MB", text)
    assert f"`--ray` adds Ray: {ray_mb} MB" in text


def test_readme_names_every_exit_code() -> None:
    from distill import errors

    text = (ROOT / "README.md").read_text("utf-8")
    codes = {
        value.exit_code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.DistillError)
    }
    rows = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert rows == codes | {0, 130}
