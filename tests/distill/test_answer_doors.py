"""Answers that must pass, and PDFs, by the command line and through an engine that is up."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.engine import Engine
from distill.errors import InputError
from tests.distill.commands import command, command_beside, engine
from tests.distill.pdf_files import pdf
from tests.distill.scripted import cell, endpoint

SCHEMA = {
    "type": "object",
    "properties": {"who": {"type": "string"}, "proof": {"type": "string"}},
    "required": ["who", "proof"],
}
WRONG = cell("FINAL({'who': 'Saul'})")
RIGHT = cell("FINAL({'who': 'Goliath', 'proof': '“named Goliath”'})")


def boss(request: Mapping[str, Any]) -> str:
    """Wrong at first; right once it was told so; it never learns where the question says Never."""
    said = str(request["messages"])
    if "Never" in said:
        return WRONG if len(request["messages"]) <= 2 else "It is Saul."
    return RIGHT if "FinalError" in said else WRONG


def test_before_a_set_up_a_pdf_is_only_looked_at(short: Path) -> None:
    book = short / "book.pdf"
    book.write_bytes(b"%PDF-1.7 broken")
    words = (
        "-c",
        str(book),
        "-q",
        "Who?",
        "--worker-url",
        "http://127.0.0.1:9/v1",
        "--worker",
        "m",
    )
    assert command(short, "up", "--check-only", *words).code == 0
    done = command(short, "up", *words)
    assert (done.code, done.out) == (2, "")
    assert "broken PDF" in done.err


def test_an_answer_that_must_pass_by_every_door(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(short))
    book, schema = short / "book.pdf", short / "schema.json"
    book.write_bytes(pdf(["A champion", "named Goliath,\nof Gath"]))
    schema.write_text(json.dumps(SCHEMA))
    with endpoint(boss) as server, engine(short, server) as up:
        words = ("-c", str(book), "--supervisor", "scripted", "--base-url", server.url,
                 "--quote-check", "--answer-schema", str(schema))  # fmt: skip
        done = command_beside(short, "run", "-q", "Who?", *words)
        assert done.code == 0, done.err
        assert json.loads(done.out)["who"] == "Goliath"
        assert f"[{book}:11-24]" in done.err
        assert "on 2 pages" in str(server.requests[-1]["messages"][0])
        assert '"required": ["who", "proof"]' in str(server.requests[-1]["messages"][0])

        done = command_beside(short, "run", "-q", "Never?", "--max-iterations", "1", *words)
        assert (done.code, done.out) == (5, ""), done.err
        assert "It is Saul." in done.err
        assert "does not fit the schema" in done.err

        schema.write_text("{")
        done = command_beside(short, "run", "-q", "Who?", *words)
        assert (done.code, done.out) == (2, "")
        assert str(schema) in done.err

        with Engine() as client:
            with pytest.raises(InputError, match="answer_check"):
                client.run("Who?", "text", answer_check=str)
            with pytest.raises(InputError, match="a pydantic model"):
                client.run("Who?", "text", answer_schema=5)
        up.look()
