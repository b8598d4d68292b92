"""``--split``: no text, and no task, is on two sides."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from distill.errors import InputError
from distill.exports.graded import GradedRun
from distill.exports.reading import part_hashes

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # as `datasets` takes the name of a split
WHOLE = "train"
"""The one split where none was asked for."""


def shares(text: str | Mapping[str, float] | None) -> dict[str, float]:
    """``train=0.9,test=0.1`` as names with shares of 1. Raises InputError."""
    if text is None:
        return {WHOLE: 1.0}
    pairs = text.items() if isinstance(text, Mapping) else _pairs(text)
    found: dict[str, float] = {}
    for name, share in pairs:
        if not NAME.fullmatch(name) or name in found or not 0 < share <= 1:
            raise InputError(
                f"--split {name}={share}: a split has a name of its own (letters, digits, _) and a "
                "share above 0, as in train=0.9,test=0.1"
            )
        found[name] = share
    if abs(sum(found.values()) - 1) > 1e-6:
        raise InputError(f"the shares of --split add up to {sum(found.values()):g}, not to 1")
    return found


def _pairs(text: str) -> Iterable[tuple[str, float]]:
    for word in text.split(","):
        name, _, share = word.strip().partition("=")
        try:
            yield name, float(share)
        except ValueError:
            raise InputError(
                f"--split {word}: write NAME=SHARE, as in train=0.9,test=0.1"
            ) from None


@dataclass(frozen=True, slots=True)
class Sides:
    """Which split each run belongs to.

    Runs that share a text (the whole of it, or one of the texts in a list or dict), a task of
    ``--tasks`` or a root run belong together, and so do those that are linked through others.
    Where such a cluster goes is decided by the seed and its lowest text hash alone, so a text stays
    on its side when more runs are exported later, unless they link it with another. Shares are
    therefore met on average over many texts, not exactly.
    """

    splits: dict[str, str]

    def of(self, graded: GradedRun) -> str:
        """The name of its split."""
        return self.splits[graded.run.id]


def sides(runs: Iterable[GradedRun], given: Mapping[str, float], seed: int) -> Sides:
    """Share the runs out."""
    runs = list(runs)
    if len(given) == 1:
        (only,) = given
        return Sides({graded.run.id: only for graded in runs})
    clusters = _Clusters()
    parts: dict[str, set[str]] = {}
    for graded in runs:
        if graded.document not in parts:
            parts[graded.document] = part_hashes(graded.run)
        keys = [f"text {each}" for each in parts[graded.document]]
        if graded.root.is_task:
            keys.append(f"task {graded.task}")
        clusters.join([*keys, f"run {graded.root.run.id}"])
    lowest: dict[str, str] = {}
    for graded in runs:
        cluster = clusters.of(f"run {graded.root.run.id}")
        low = min(parts[graded.document])
        lowest[cluster] = min(lowest.get(cluster, low), low)
    return Sides(
        {
            graded.run.id: _drawn(
                f"{seed}:{lowest[clusters.of(f'run {graded.root.run.id}')]}", given
            )
            for graded in runs
        }
    )


def _drawn(key: str, given: Mapping[str, float]) -> str:
    """A split by its share, always the same one for a key."""
    digest = blake2b(key.encode(), digest_size=8).digest()
    place, upto = int.from_bytes(digest, "big") / 2**64, 0.0
    for name, share in given.items():
        upto += share
        if place < upto:
            return name
    return name


class _Clusters:
    """What is joined directly or through others: union-find, with paths halved."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, key: str) -> str:
        above = self._above
        above.setdefault(key, key)
        while above[key] != key:
            above[key] = above[above[key]]
            key = above[key]
        return key

    def join(self, keys: list[str]) -> None:
        first = self.of(keys[0])
        for key in keys[1:]:
            self._above[self.of(key)] = first
