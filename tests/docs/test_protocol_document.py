"""docs/protocol.md says what the code does, and the code does no more than it says."""

import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from distill.protocol import (
    PROTOCOL_VERSION,
    client_link,
    jail_link,
    launcher_link,
    message,
    placer_link,
    sandbox_link,
    sockets,
    worker_link,
)
from distill.protocol.message import Message, Value

DOCUMENT = "protocol.md"
MODULES: tuple[ModuleType, ...] = (
    message,
    worker_link,
    sandbox_link,
    jail_link,
    client_link,
    launcher_link,
    placer_link,
)
LINKS: dict[tuple[str, str], tuple[Any, Any]] = {
    ("driver", "worker"): (worker_link.ToWorker, worker_link.FromWorker),
    ("driver", "keeper"): (sandbox_link.ToKeeper, sandbox_link.FromKeeper),
    ("keeper", "jail"): (jail_link.ToJail, jail_link.FromJail),
    ("driver", "client"): (client_link.ToClient, client_link.FromClient),
    ("driver", "launcher"): (launcher_link.ToLauncher, launcher_link.FromLauncher),
    ("driver", "placer"): (placer_link.ToPlacer, placer_link.FromPlacer),
    ("launcher", "keeper"): (sandbox_link.LauncherToKeeper, sandbox_link.KeeperToLauncher),
}
CONVERSATIONS = {
    "States of driver and worker": worker_link.TRANSITIONS,
    "States of driver and keeper": sandbox_link.TRANSITIONS,
    "States of keeper and jail": jail_link.TRANSITIONS,
    "States of driver and client": client_link.TRANSITIONS,
    "States of driver and placer": placer_link.TRANSITIONS,
}


def structs() -> Iterator[type[msgspec.Struct]]:
    """Every message and every value that protocol/ defines, once."""
    for module in MODULES:
        for name, found in vars(module).items():
            is_ours = isinstance(found, type) and issubclass(found, Message | Value)
            if not is_ours or found in (Message, Value):
                continue
            if (found.__module__, found.__name__) == (module.__name__, name):  # no import, no alias
                yield found


def members(union: Any) -> tuple[type[Message], ...]:
    return typing.get_args(union) or (union,)


def directions(struct: type[msgspec.Struct]) -> set[str]:
    """Who sends it to whom; empty for a value."""
    found = set()
    for (one, other), (there, back) in LINKS.items():
        if struct in members(there):
            found.add(f"{one} → {other}")
        if struct in members(back):
            found.add(f"{other} → {one}")
    return found


@pytest.fixture
def tables(tables_of: Callable[[str], dict[str, list[list[str]]]]) -> dict[str, list[list[str]]]:
    return tables_of(DOCUMENT)


@pytest.fixture
def text(root: Path) -> str:
    return (root / "docs" / DOCUMENT).read_text("utf-8")


def test_version(text: str) -> None:
    assert f"This is version {PROTOCOL_VERSION} of the wire." in text


def test_every_struct_has_a_heading_and_every_heading_a_struct(text: str) -> None:
    headings = re.findall(r"^### `(\w+)`$", text, re.MULTILINE)
    assert sorted(headings) == sorted(struct.__name__ for struct in structs())


@pytest.mark.parametrize("struct", list(structs()), ids=lambda struct: struct.__name__)
def test_fields(
    struct: type[msgspec.Struct],
    tables: dict[str, list[list[str]]],
    code_fields: Callable[..., dict[str, tuple[str, str]]],
    document_fields: Callable[..., dict[str, tuple[str, str]]],
) -> None:
    assert document_fields(tables[struct.__name__]) == code_fields(struct)


@pytest.mark.parametrize("struct", list(structs()), ids=lambda struct: struct.__name__)
def test_directions(struct: type[msgspec.Struct], text: str) -> None:
    below = re.split(rf"^### `{struct.__name__}`\n\n", text, maxsplit=1, flags=re.MULTILINE)[1]
    said = below.split(".", 1)[0]
    assert set(said.split(", ")) == (directions(struct) or {"A value"})


@pytest.mark.parametrize("heading", list(CONVERSATIONS))
def test_transitions(heading: str, tables: dict[str, list[list[str]]]) -> None:
    said: dict[str, dict[str, str]] = {}
    for state, message_name, after in tables[heading][1:]:
        if message_name == "–":
            said[state.strip("`")] = {}
        else:
            said.setdefault(state.strip("`"), {})[message_name.strip("`")] = after.strip("`")
    table = CONVERSATIONS[heading]
    assert said == {
        state: {kind.__name__: after for kind, after in row.items()} for state, row in table.items()
    }


def test_no_conversation_is_left_out() -> None:
    in_code = {module.__name__ for module in MODULES if hasattr(module, "TRANSITIONS")}
    assert len(in_code) == len(CONVERSATIONS)


def test_caps(tables: dict[str, list[list[str]]]) -> None:
    """The table of caps has every number of protocol/ that bounds something, and its value."""
    said = {row[0].strip("`"): int(row[1].replace(",", "")) for row in tables["Caps"][1:]}
    in_code = {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in (*MODULES, sockets)
        for name, value in vars(module).items()
        if name.isupper() and type(value) is int and name != "MIB"
    }
    assert said == in_code
