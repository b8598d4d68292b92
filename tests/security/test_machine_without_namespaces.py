"""The attacks on the machine in the second tier: Landlock, a filter, limits, and no namespaces.

What harms without a namespace around it (mounts, the host's name) is tried in the jail only.
"""

import pytest

from tests.security.arena import IS_ROOT, Arena
from tests.security.attacks import ATTACKS
from tests.security.attacks.without_namespaces import DIFFERENT, NOT_CLAIMED, stopped
from tests.security.layers import ALL, Layer
from tests.security.test_machine import reachable


def alone() -> list[tuple[str, Layer]]:
    """Each attack with each layer that stops it, where it may be let through."""
    return [
        (name, layer)
        for name, attack in ATTACKS.items()
        if not attack.keeps and reachable(attack) and name not in NOT_CLAIMED
        for layer in stopped(attack)
        if IS_ROOT or layer != "user namespace"
    ]


@pytest.fixture
def arena(landlock: Arena) -> Arena:
    """The arena, its canaries in order."""
    if landlock.canaries.changes():
        landlock.canaries.renew()
    return landlock


@pytest.mark.parametrize("name", ATTACKS)
def test_denied_without_namespaces(arena: Arena, name: str) -> None:
    attack = ATTACKS[name]
    answers = [a for by, a in stopped(attack).items() if IS_ROOT or by != "user namespace"]
    expected = attack.worked if name in NOT_CLAIMED else answers[0]
    assert arena.attempt(attack) == expected
    assert not arena.canaries.changes()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), alone())
def test_each_layer_denies_it_alone_without_namespaces(
    arena: Arena, name: str, layer: Layer
) -> None:
    attack = ATTACKS[name]
    outcome = arena.attempt(attack, ALL - {layer} - (set() if IS_ROOT else {"user namespace"}))
    assert outcome == stopped(attack)[layer]


def test_the_exceptions_are_attacks() -> None:
    assert set(DIFFERENT) | set(NOT_CLAIMED) <= set(ATTACKS)
