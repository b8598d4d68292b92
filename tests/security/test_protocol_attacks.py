"""Attacks on the keeper: a jail that says what no interpreter of ours would say.

Each is run in a real jail against a real keeper, and must meet exactly its outcome; the keeper
must stay alive and small, and its next jail must work.
"""

import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from distill.protocol.jail_link import FRAME_LIMIT_BYTES, Limits
from distill.protocol.message import Shutdown
from distill.protocol.sandbox_link import CellDone, HostCall, JailLost, JailReady
from distill.sandbox.seal import MEMORY_BYTES
from tests.sandbox.conftest import MIB
from tests.sandbox.harness import Function, Host
from tests.security.forged import (
    ATTACKS,
    FORGE,
    LIMITS,
    ROOMY,
    Harmless,
    Killed,
    KilledLater,
    Outcome,
    Raised,
)
from tests.security.keepers import PeakMemory, running_host

GROWTH_LIMIT_BYTES = 5 * FRAME_LIMIT_BYTES
"""Of the keeper, whatever the jail sends. The worst are two frames of replies that wait for it, the
copies of one that is passed on, and what malloc has not given back of the attack before."""


def echo(*args: Any, **kwargs: Any) -> str:
    return f"{list(args)} {kwargs}" if kwargs else repr(list(args))


FUNCTIONS: dict[str, Function] = {
    "f": echo,
    "quiet": lambda _: None,
    "large": lambda: "x" * (20 * MIB),
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with running_host() as host:
        yield host


@pytest.fixture(scope="module")
def at_rest_bytes(host: Host) -> int:
    """The keeper's memory when it has done nothing but run one honest cell."""
    assert isinstance(host.open(LIMITS, functions=FUNCTIONS), JailReady)
    assert host.printed("print(f(1))") == "[1]\n"
    return psutil.Process(host.keeper_pid).memory_info().rss


def check(outcome: CellDone | JailLost, expected: Outcome) -> None:
    match expected:
        case Killed():
            assert isinstance(outcome, JailLost), outcome
            assert (outcome.cause, outcome.cell) == (expected.cause, 1), outcome
            assert expected.detail in outcome.detail
            assert outcome.stdout.startswith("before\n"), "what was printed before is lost"
        case KilledLater():
            assert isinstance(outcome, CellDone), outcome
        case Raised():
            assert isinstance(outcome, CellDone), outcome
            assert outcome.error is not None
            assert outcome.error.name == expected.name
            assert expected.detail in outcome.error.message
        case Harmless():
            assert isinstance(outcome, CellDone), outcome
            assert outcome.error is None, outcome.error.traceback
            assert outcome.stdout == expected.stdout


def check_later(host: Host, expected: Outcome) -> None:
    """What happens once the cell is over."""
    if isinstance(expected, KilledLater):
        lost = host.expect(JailLost)
        assert (lost.cause, lost.cell) == (expected.cause, None), lost
        assert expected.detail in lost.detail
    elif not isinstance(expected, Killed):
        assert host.printed("print(1)") == "1\n"


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(host: Host, at_rest_bytes: int, name: str) -> None:
    attack = ATTACKS[name]
    memory = PeakMemory(host.keeper_pid)
    assert isinstance(host.open(attack.limits, functions=FUNCTIONS), JailReady)
    memory.start()
    host.start((FORGE + attack.code).replace("{fd}", str(host.plan.socket_fd)))
    check(host.finish(), attack.outcome)
    check_later(host, attack.outcome)
    grown = memory.peak_bytes - at_rest_bytes
    assert grown < GROWTH_LIMIT_BYTES, f"the keeper grew by {grown >> 20} MiB"
    # The liar was the only one to suffer: its keeper goes on.
    assert isinstance(host.open(LIMITS, functions=FUNCTIONS), JailReady)
    assert host.printed("print(f('honest'))") == "['honest']\n"


def test_large_frames_do_not_add_up(host: Host, at_rest_bytes: int) -> None:
    """Each is gone before the next: nothing waits for the garbage collector."""
    memory = PeakMemory(host.keeper_pid)
    assert isinstance(host.open(ROOMY, functions=FUNCTIONS), JailReady)
    memory.start()
    code = "for _ in range(8):\n    try: f('x' * (60 * 2**20))\n    except LimitError: print('no')"
    assert host.printed(code) == "no\n" * 8
    assert memory.peak_bytes - at_rest_bytes < 4 * FRAME_LIMIT_BYTES


def test_open_calls_share_one_limit_of_bytes(host: Host) -> None:
    """Each is allowed, all together are not: the driver would hold them all."""
    size = 10 * MIB
    limits = replace(ROOMY, call_bytes=2 * size)
    assert isinstance(host.open(limits, functions=FUNCTIONS), JailReady)
    host.start(
        "from concurrent.futures import ThreadPoolExecutor\n"
        f"data = 'x' * {size}\n"
        "def one(_):\n"
        "    try: return len(f(data))\n"
        "    except LimitError as error: return str(error)\n"
        "with ThreadPoolExecutor(8) as pool: print(*pool.map(one, range(8)), sep='\\n')"
    )
    calls = [host.expect(HostCall) for _ in range(FRAME_LIMIT_BYTES // size)]
    with pytest.raises(queue.Empty):
        host.receive(2.0)
    for call in calls:
        host.answer(call)
    outcome = host.finish()
    assert isinstance(outcome, CellDone)
    assert outcome.stdout.count(f"{size + 4}\n") == len(calls)
    assert outcome.stdout.count("bytes in all open calls together is 67108864\n") == 2


def test_a_claim_does_not_break_the_link_to_the_driver(host: Host) -> None:
    """Sums with what the jail claims must stay numbers that the driver can read."""
    assert isinstance(host.open(LIMITS, functions=FUNCTIONS), JailReady)
    code = "for _ in range(3): output('x' * 500_000)\ndone(dropped_bytes=2**64 - 1)"
    outcome = host.run((FORGE + code).replace("{fd}", str(host.plan.socket_fd)))
    assert isinstance(outcome, CellDone)
    assert 2**53 < outcome.dropped_bytes < 2**54


def test_open_calls_share_one_limit_of_values(host: Host) -> None:
    """Each is allowed, all together are not: the driver would hold them all."""
    assert isinstance(host.open(Limits(), functions={"f": len}), JailReady)
    host.start(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "data = [[]] * 400_000\n"
        "def one(_):\n    try: return f(data)\n    except LimitError as e: return str(e)\n"
        "with ThreadPoolExecutor(4) as pool: print(*pool.map(one, range(4)), sep='\\n')"
    )
    calls = [host.expect(HostCall), host.expect(HostCall)]
    with pytest.raises(queue.Empty):
        host.receive(3.0)
    for call in calls:
        host.answer(call)
    done = host.finish()
    assert isinstance(done, CellDone)
    assert done.stdout.count("400000\n") == 2
    assert done.stdout.count("all open calls together is 1000000\n") == 2


def test_the_keeper_has_a_memory_limit_of_its_own(host: Host) -> None:
    limits = Path(f"/proc/{host.keeper_pid}/limits").read_text()
    data = next(line for line in limits.splitlines() if line.startswith("Max data size"))
    assert data.split()[3:5] == [str(MEMORY_BYTES)] * 2


WHILE_IT_ENDS = {
    "calls": "n = 0\nwhile True: n += 1; call([[]] * 900_000, number=n)",
    "output": "while True: output()",
    "a reader that never reads": "park()",
    "catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
}


@pytest.mark.parametrize("name", WHILE_IT_ENDS)
def test_the_keeper_ends_at_shutdown_whatever_the_jail_does(name: str) -> None:
    with running_host() as host:
        limits = Limits(call_bytes=1000, calls_in_flight=10**6, calls_per_cell=10**6)
        assert isinstance(host.open(limits, functions={"f": len}), JailReady)
        host.start((FORGE + WHILE_IT_ENDS[name]).replace("{fd}", str(host.plan.socket_fd)))
        time.sleep(1.0)
        keeper = psutil.Process(host.keeper_pid)
        started = time.monotonic()
        host.send(Shutdown())
        keeper.wait(5.0)
        assert time.monotonic() - started < 2.0


def test_there_are_enough_mechanisms() -> None:
    assert len({attack.mechanism for attack in ATTACKS.values()}) >= 30
