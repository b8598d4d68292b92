"""Limits as a user sets them: parsed, bounded, and at their least still a sandbox that works."""

from typing import Any

import msgspec
import pytest

from distill import REPL, Limits, limits
from distill.errors import InputError
from tests.distill.conftest import Ask
from tests.distill.scripted import Supervisor, cell

GIB = 1 << 30


def test_limits_that_are_none_are_refused(ask: Ask) -> None:
    with pytest.raises(InputError, match=r"limits must be a distill\.Limits, not dict"):
        ask(cell("1"), limits={"cell_s": 3})


def test_every_limit_has_bounds_that_hold_its_default() -> None:
    assert tuple(limits.BOUNDS) == Limits.__struct_fields__
    limits.check(Limits())
    for name, bound in limits.BOUNDS.items():
        assert 0 < bound.least < getattr(Limits(), name) < bound.most
        assert name in limits.table()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("memory_bytes=4GiB", 4 * GIB),
        ("memory_bytes = 1.5 gib", 3 * GIB // 2),
        ("memory_bytes=4g", 4 * GIB),
        ("memory_bytes=1TB", 10**12),
        ("memory_bytes=512MiB", GIB // 2),
        ("call_bytes=100kB", 100_000),
        ("call_bytes=4096B", 4096),
        ("call_bytes=4096", 4096),
        ("cell_s=0.5", 0.5),
        ("cell_s=300", 300.0),
        ("threads=8", 8),
    ],
)
def test_limits_are_read_as_people_write_them(word: str, value: float) -> None:
    name = word.partition("=")[0].strip()
    assert limits.parse([word]) == {name: value}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("memory=4GiB", "memory_bytes"),
        ("=4", "memory_bytes"),
        ("memory_bytes", "NAME=VALUE"),
        ("memory_bytes=", "a size"),
        ("memory_bytes=4 parsecs", "a size"),
        ("memory_bytes=-4GiB", "a size"),
        ("memory_bytes=1e9", "a size"),
        ("cell_s=2min", "seconds"),
        ("cell_s=nan", "a number"),
        ("cell_s=inf", "a number"),
        ("threads=1.5", "whole number"),
        ("threads=4GiB", "whole number"),
        ("memory_bytes=0", "the least is 64 MiB"),
        ("memory_bytes=63MiB", "the least is 64 MiB"),
        ("memory_bytes=5000TiB", "the most is 1024 TiB"),
        ("scratch_bytes=0", "the least is 64 KiB"),
        ("scratch_inodes=0", "the least is 8"),
        ("open_files=-1", "the least is 32"),
        ("cell_s=0", "the least is 0.1 s"),
        ("cell_s=-5", "the least is 0.1 s"),
        ("output_bytes=1GiB", "the most is 48 MiB"),
    ],
)
def test_what_can_not_be_a_limit_is_told(word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        limits.parse([word])


@pytest.mark.parametrize("name", Limits.__struct_fields__)
@pytest.mark.parametrize("value", [0, -1, "4GiB", None, True, float("nan")])
def test_limits_in_python_are_checked_as_well(ask: Ask, name: str, value: Any) -> None:
    given = msgspec.structs.replace(Limits(), **{name: value})
    with pytest.raises(InputError, match=name):
        ask(limits=given)
    with REPL("text", "question", str, list) as repl:
        repl.limits = given
        with pytest.raises(InputError, match=name):
            repl.start()


def test_the_least_limits_together_are_a_sandbox_that_works() -> None:
    least = {
        name: type(getattr(Limits(), name))(bound.least) for name, bound in limits.BOUNDS.items()
    }
    least.update(cell_s=10.0, run_s=60.0)  # not a question of this machine's speed
    code = (
        "import json, random, re\n"
        "open('file', 'w').write('x' * 1000)\n"
        "print(json.dumps(re.findall('e', context)), worker('x' * 500), len(bytearray(1 << 24)))"
    )
    with REPL("the text", "question", len, list) as repl:
        repl.limits = limits.check(Limits(**least))
        for _ in range(2):
            result = repl.execute(code)
            assert result.error is None, result.error.traceback
            assert result.lost is None, result.lost
            assert result.stdout == '["e", "e"] 500 16777216\n'


def test_the_most_that_a_cell_may_print_arrives() -> None:
    most = int(limits.BOUNDS["output_bytes"].most)
    with REPL("text", "question", str, list, output_limit=100) as repl:
        repl.limits = Limits(output_bytes=most)
        result = repl.execute(f"import sys\nfor _ in range(48): sys.stdout.write('é' * {1 << 19})")
        assert result.lost is None
        assert len(result.full_stdout.encode()) == most


def test_a_runs_limits_are_in_its_log_and_hold(ask: Ask, logged: Any) -> None:
    supervisor = Supervisor(cell("x = bytearray(150 << 20)"), cell("FINAL(1)"))
    ask(supervisor=supervisor, limits=Limits(memory_bytes=128 << 20))
    assert "MemoryError" in supervisor.shown(2)
    assert logged().start.options["limits"]["memory_bytes"] == 128 << 20
