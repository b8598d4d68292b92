"""Attacks on the machine: what a cell must not be able to do, and which layer sees to it.

Each attack is tried four ways. Without a jail it works, else it would prove nothing. In the jail it
is denied as foretold, and the host's canaries are untouched. With its layers off it works again,
so they are the reason. And each of its layers denies it alone, so that one of them may fail.
"""

import pytest

from tests.security.arena import IS_ROOT, Arena, complement
from tests.security.attack import Attack
from tests.security.attacks import AREAS, ATTACKS, NOT_COUNTED
from tests.security.layers import ALL, Layer

CONTROLS = """
import asyncio, concurrent.futures, socket, sqlite3, tempfile, threading
with open('note', 'w') as f: f.write('x')
os.rename('note', 'renamed')
with tempfile.NamedTemporaryFile() as f: f.write(b'x')
a, b = socket.socketpair(); a.send(b'ping'); assert b.recv(9) == b'ping'
with concurrent.futures.ThreadPoolExecutor(4) as pool: assert sum(pool.map(abs, [-1, 2])) == 3
assert asyncio.run(asyncio.sleep(0, 'x')) == 'x'
import collections, csv, datetime, decimal, hashlib, json, math, re, statistics, unicodedata, zlib
assert sqlite3.connect(':memory:').execute('select 1').fetchone() == (1,)
database = sqlite3.connect('file.db')
database.execute('create table t (x)'); database.commit()
assert context.startswith('the text') and len(os.urandom(8)) == 8
assert len(bytes(100 << 20)) == 100 << 20
"""
WORKS = Attack("an honest cell", "what a program needs", CONTROLS, {"mounts": "worked"})


def reachable(attack: Attack) -> bool:
    """Whether this user can take away what stops it: only root can do without its own uid."""
    own = frozenset(attack.stopped) | attack.together
    return IS_ROOT or attack.owner_writes or "user namespace" not in own


def tried_bare() -> list[str]:
    """Attacks that the kernel allows to this user where there is no jail."""
    return [name for name, attack in ATTACKS.items() if IS_ROOT or not attack.root_only]


def tried_open() -> list[str]:
    return [name for name, attack in ATTACKS.items() if reachable(attack)]


def alone() -> list[tuple[str, Layer]]:
    """Each attack with each of the layers that stop it."""
    return [
        (name, layer)
        for name in tried_open()
        for layer in ATTACKS[name].stopped
        if len(ATTACKS[name].stopped) > 1 and (IS_ROOT or layer != "user namespace")
    ]


@pytest.fixture
def arena(namespaces: Arena) -> Arena:
    """The arena, its canaries in order."""
    if namespaces.canaries.changes():
        namespaces.canaries.renew()
    return namespaces


@pytest.mark.slow
@pytest.mark.parametrize("name", tried_bare())
def test_works_without_a_jail(arena: Arena, name: str) -> None:
    attack = ATTACKS[name]
    assert arena.attempt(attack, complement(attack) if attack.keeps else ALL) == attack.worked


@pytest.mark.parametrize("name", ATTACKS)
def test_denied_in_the_jail(arena: Arena, name: str) -> None:
    attack = ATTACKS[name]
    assert arena.attempt(attack) == denied(attack)
    assert not arena.canaries.changes()


def denied(attack: Attack) -> str:
    """What the complete jail answers, to this user."""
    answers = [
        answer for layer, answer in attack.stopped.items() if IS_ROOT or layer != "user namespace"
    ]
    return answers[0]


@pytest.mark.parametrize("name", tried_open())
def test_works_with_its_layers_off(arena: Arena, name: str) -> None:
    attack = ATTACKS[name]
    off = frozenset(attack.stopped) | attack.together
    assert arena.attempt(attack, off if IS_ROOT else off - {"user namespace"}) == attack.worked


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), alone())
def test_each_layer_denies_it_alone(arena: Arena, name: str, layer: Layer) -> None:
    attack = ATTACKS[name]
    assert arena.attempt(attack, complement(attack, layer)) == attack.stopped[layer]


@pytest.mark.parametrize("off", ["nothing", "all", "filters", "mounts", "Landlock", "limits"])
def test_an_honest_cell_works(arena: Arena, off: str) -> None:
    """A jail in which nothing works would deny everything."""
    layers: dict[str, frozenset[Layer]] = {
        "nothing": frozenset(),
        "all": ALL,
        "filters": frozenset({"inner filter", "outer filter"}),
        "mounts": frozenset({"mounts"}),
        "Landlock": frozenset({"Landlock"}),
        "limits": frozenset(layer for layer in ALL if layer.startswith("RLIMIT_")),
    }
    assert arena.attempt(WORKS, layers[off]) == "worked"


def test_there_are_enough() -> None:
    """Each by a mechanism of its own, none twice."""
    mechanisms = [attack.mechanism for attack in ATTACKS.values()]
    assert len(set(mechanisms)) == len(mechanisms) >= 120
    assert len(ATTACKS) == sum(len(area) for area in AREAS.values())
    assert all(len(reason) > 10 for reason in NOT_COUNTED.values())
