"""The settings file: what is in force, from where, and what is refused before anything starts."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distill.cli import cli
from tests.distill.commands import QUESTION, TEXT, command, command_here


def write(folder: Path, text: str) -> Path:
    """The user's own settings file."""
    path = folder / "distill" / "config.toml"
    path.parent.mkdir()
    path.write_text(text)
    return path


def in_force(folder: Path, *words: str, name: str = "up") -> dict[str, tuple[Any, str]]:
    """Each option's value and where it came from, as ``--show-config`` prints them."""
    done = command_here(folder, name, "--show-config", *words)
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if not line.startswith("#")]
    told = [line.rpartition("  # ") for line in lines]
    values = tomllib.loads("\n".join(line for line, _, _ in told))
    return {
        name: (value, source)
        for (name, value), (_, _, source) in zip(values.items(), told, strict=True)
    }


def test_what_is_typed_goes_before_the_file_and_the_file_before_the_defaults(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path,
        'max-iterations = 20\noutput-limit = 500\nsandbox-package = ["msgpack"]\ngpus = 3\n',
    )
    found = in_force(tmp_path, "--output-limit", "700")
    assert found["max-iterations"] == (20, str(path))
    assert found["output-limit"] == (700, "command line")
    assert found["sandbox-package"] == (["msgpack"], str(path))
    assert found["gpus"] == ("3", str(path))
    assert found["record"] == ("ids", "default")


def test_what_is_shown_is_a_settings_file(tmp_path: Path) -> None:
    words = ("-q", 'say "a\\b"\tnow', "--limit", "cell_s=30", "--limit", "threads=9")
    shown = command_here(tmp_path, "up", "--show-config", *words).out
    again = tmp_path / "again.toml"
    again.write_text(shown)
    found = in_force(tmp_path, "--config", str(again))
    assert found["query"] == ('say "a\\b"\tnow', str(again))
    assert found["limit"] == (["cell_s=30", "threads=9"], str(again))


def test_a_command_takes_what_it_has(tmp_path: Path) -> None:
    path = write(tmp_path, 'gpus = "0"\nmax-iterations = 7\nconnect = "ipc:///none"\n')
    found = in_force(tmp_path, name="run")
    assert found["max-iterations"] == (7, str(path))
    assert "gpus" not in found
    assert "connect" not in in_force(tmp_path, name="up")


def test_the_file_decides_how_a_run_goes(tmp_path: Path) -> None:
    """From the file alone to an answer: a recipe, a text, and a worker that can't be reached."""
    (tmp_path / "text").write_text(TEXT)
    path = tmp_path / "mine.toml"
    path.write_text(
        f'context = "{tmp_path / "text"}"\nquery = "{QUESTION}"\nmax-iterations = 1\n'
        'worker-url = "http://127.0.0.1:9/v1"\nworker = "m"\nrate = 1\n'
    )
    done = command_here(tmp_path, "up", "--config", str(path))
    assert (done.code, "no option 'rate'" in done.err) == (2, True)
    path.write_text(path.read_text().replace("rate = 1\n", ""))
    done = command(tmp_path, "up", "--config", str(path))
    assert (done.code, "127.0.0.1:9" in done.err) == (4, True), done.err


def test_settings_of_questions_do_not_keep_an_engine_from_waiting(tmp_path: Path) -> None:
    told = 'supervisor = "gpt-5"\nlabel = "mine"\nredact = ["email"]\notlp = "http://h:1"\n'
    write(tmp_path, f"{told}otlp-content = true\n")
    assert command_here(tmp_path, "up", "--check-only").code == 0
    for words in (["--label", "mine"], ["--redact", "email"]):
        typed = command_here(tmp_path, "up", "--check-only", *words)
        assert "only waits for questions" in typed.err


@pytest.mark.parametrize("supervisor", ["recipe:find", "local:default"])
def test_what_the_file_says_of_an_endpoint_is_not_for_a_supervisor_without_one(
    tmp_path: Path, supervisor: str
) -> None:
    write(tmp_path, 'base-url = "http://127.0.0.1:9/v1"\nsupervisor-requests-per-minute = 5\n')
    (tmp_path / "text").write_text(TEXT)
    words = ["--check-only", "-c", str(tmp_path / "text"), "-q", QUESTION]
    words += ["--supervisor", supervisor]
    done = command_here(tmp_path, "up", *words)
    assert done.code == 0, done.err
    done = command_here(tmp_path, "up", *words, "--base-url", "http://127.0.0.1:9/v1")
    assert (done.code, f"{supervisor.partition(':')[0]}:" in done.err) == (2, True)
    assert "uses none" in done.err


def test_secrets_are_told_of_and_never_told(tmp_path: Path) -> None:
    done = command_here(tmp_path, "up", "--show-config", OPENAI_API_KEY="sk-secret")
    assert "OPENAI_API_KEY is set" in done.out
    assert "DISTILL_WORKER_KEY is not set" in done.out
    assert "sk-secret" not in done.out + done.err


def test_passwords_in_addresses_are_not_shown(tmp_path: Path) -> None:
    url = "http://me:hunter22@h/v1?api-key=sekret99"
    words = ["--base-url", url, "--otlp", url]
    done = command_here(tmp_path, "up", "--show-config", *words, OPENAI_BASE_URL=url)
    assert done.out.count("http://h/v1") == 3
    assert "hunter22" not in done.out + done.err
    assert "sekret99" not in done.out + done.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('base-url = "http://me:pw@h/v1"', "secrets are not kept in files"),
        ('otlp = "http://me:pw@h"', "secrets are not kept in files"),
        ("max-iteration = 3", "did you mean 'max-iterations'?"),
        ("max_iterations = 3", "did you mean 'max-iterations'?"),
        ('max-iterations = "x"', "max-iterations: 'x' is not a valid integer"),
        ("max-iterations = 1.5", "max-iterations: '1.5' is not a valid integer"),
        ("max-iterations = 0", "max-iterations: 0 is not in the range"),
        ("max-iterations = true", "max-iterations needs a value, not true"),
        ("traceback = 1", "traceback is true or false, not 1"),
        ("gpus = [0, 1]", "gpus can't be a list"),
        ("gpus = {a = 1}", "gpus can't be a table"),
        ('record = "all"', "record: 'all' is not one of"),
        ('sandbox = "none"', "a file can't take the jail away"),
        ('openai-api-key = "sk-1"', "keys are not kept in files"),
        ("prepare = true", "there is no option 'prepare'"),
        ("a = [", "is not TOML"),
        ("a = 1\na = 2", "is not TOML"),
    ],
)
def test_what_can_not_be_used_is_named_with_its_file(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path, text)
    done = CliRunner().invoke(cli, ["up", "--show-config"], env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert done.exit_code == 2
    assert str(path) in done.stderr
    assert told in done.stderr


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    done = command_here(tmp_path, "run", "--config", str(tmp_path / "none.toml"), "-q", "x")
    assert (done.code, "there is no settings file" in done.err) == (2, True)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes(b'label = "\xff"\n')
    done = command_here(tmp_path, "up", "--show-config")
    assert (done.code, "can't be read" in done.err) == (2, True)


def test_help_does_not_need_a_good_file(tmp_path: Path) -> None:
    write(tmp_path, "a = [")
    assert command_here(tmp_path, "up", "--help").code == 0
