"""The long fuzzer: the same questions as the property tests, for as long as one likes.

    python -m tests.security.fuzz_decoders [--seconds N | --quick] [--corpus FOLDER]

Guided by coverage where ``atheris`` can be imported (a tool for developers: `pip install
atheris`, a version with a wheel for this Python), else by hypothesis alone. Ends with status 1
at the first input that breaks a property; put that into FOUND (``properties.py``).
"""

import argparse
import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from tests.security import hostile_bytes, properties

QUICK_S = 20
STEPS = ("say", "say", "say", "ready", "run", "reply", "close")
SEPARATOR = b"\xc1\xc1"
"""Between the steps of a script: MessagePack does not use this byte."""
INSTRUMENTED = (
    "distill.protocol.codec",
    "distill.sandbox.calls",
    "distill.sandbox.cell",
    "distill.sandbox.frames",
    "distill.sandbox.intake",
    "distill.sandbox.scan",
    "distill.sandbox.session",
    "distill.sandbox.transcript",
)


def ask_all(data: bytes) -> None:
    """Every property of this input. Its first byte says how the stream is cut."""
    properties.check_one_form(data[1:])
    properties.check_agreement(data[1:])
    stream = properties.framed(data[1:]) + data[1:]
    at = data[0] % len(stream) if data else 0
    assert properties.heard([stream[:at], stream[at:]]) == properties.heard([stream])
    properties.play(as_script(data))


def as_script(data: bytes) -> properties.Script:
    """Steps of a session; what is said is framed honestly, or (odd first byte) not at all."""
    script: properties.Script = [("ready", b""), ("run", b"")]
    for part in data.split(SEPARATOR):
        kind = STEPS[part[0] % len(STEPS)] if part else "run"
        said = part[1:] if part and part[0] & 1 else properties.framed(part[1:])
        script.append((kind, said if kind == "say" else b""))  # type: ignore[arg-type]
    return script


def seeds() -> list[bytes]:
    """Honest messages, and what was found before."""
    honest = [
        {"type": "Call", "call": 1, "function": "f", "args": [1, {"a": 2.5}], "kwargs": {"k": []}},
        {"type": "Final", "call": 2, "value": [None, True, msgpack.ExtType(1, b"9" * 30)]},
        {"type": "Output", "stream": "stdout", "text": "text ☃"},
        {"type": "Done", "cell": 1, "error": {"name": "E", "message": "m", "traceback": "t"}},
    ]
    found = [msgpack.packb(message) for message in honest] + list(properties.FOUND.values())
    return [b"\x00" + body for body in found] + [SEPARATOR.join(b"\x00" + body for body in found)]


def fuzz_by_coverage(seconds: int, corpus: Path) -> int:
    """In a process of its own, because libFuzzer ends the one it runs in."""
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    command = [
        *(sys.executable, "-m", "tests.security.fuzz_decoders", "--inside", str(corpus)),
        *(f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=2048", "-timeout=10"),
        *("-print_final_stats=1", f"-artifact_prefix={corpus}/found-"),
    ]
    return subprocess.run(command, check=False).returncode


def inside(arguments: list[str]) -> None:
    """libFuzzer's loop; it never returns."""
    atheris: Any = importlib.import_module("atheris")

    for name in INSTRUMENTED:
        module = importlib.import_module(name)
        for value in list(vars(module).values()):
            for item in [value, *(vars(value).values() if isinstance(value, type) else ())]:
                if callable(item) and getattr(item, "__module__", None) == name:
                    with contextlib.suppress(Exception):
                        atheris.instrument_func(item)
    atheris.Setup([sys.argv[0], *arguments], ask_all)
    atheris.Fuzz()


def fuzz_by_strategies(seconds: int) -> int:
    """Hypothesis, a few thousand examples of each property at a time, until time is up."""
    profile = settings(
        max_examples=2000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    asked = (
        (hostile_bytes.hostile, properties.check_agreement),
        (hostile_bytes.hostile, properties.check_one_form),
        (hostile_bytes.scripts(), properties.play),
    )
    until = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < until:
        for strategy, check in asked:
            ask(profile, strategy, check)
        rounds += 1
    sys.stdout.write(f"{rounds} rounds of 3 x {profile.max_examples} examples, nothing found\n")
    return 0


def ask(profile: settings, strategy: SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """A property of some thousand fresh values. Raises what it raises, and shows the smallest."""

    @profile
    @given(strategy)
    def holds(value: Any) -> None:
        check(value)

    holds()


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--quick", action="store_const", const=QUICK_S, dest="seconds")
    parser.add_argument("--corpus", type=Path, help="kept between runs; left out: thrown away")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        return fuzz_by_strategies(options.seconds)
    with tempfile.TemporaryDirectory(prefix="dst-fuzz-") as folder:
        corpus = options.corpus or Path(folder)
        corpus.mkdir(parents=True, exist_ok=True)
        return fuzz_by_coverage(options.seconds, corpus)


if __name__ == "__main__":
    sys.exit(main())
