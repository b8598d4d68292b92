"""``--split``: no text, and no task, is on two sides."""

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path

from distill.errors import InputError
from distill.exports.graded import GradedRun
from distill.exports.reading import part_hashes

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # as `datasets` takes the name of a split
WHOLE = "train"
"""The one split where none was asked for."""
SEEDS_TRIED = 200


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


def clusters(runs: Iterable[GradedRun]) -> dict[str, str]:
    """What each run, by its id, must stay together with: equal names are on one side.

    Runs that share a text (the whole of it, or one of the texts in a list or dict), a task of
    ``--tasks`` or a root run belong together, and so do those that are linked through others. A
    sub-run has the texts of the runs above it too, whether these are exported or not: what it asks
    about is mostly a piece of theirs. The name of a cluster is the lowest hash of its texts.
    """
    runs = list(runs)
    linked = _Linked()
    parts: dict[tuple[Path, str], set[str]] = {}  # a text may be damaged in one of the folders
    texts: dict[str, set[str]] = {}
    for graded in runs:
        texts[graded.run.id] = set()
        for each in (graded, *graded.above):
            key = (each.run.folder, each.document)
            if key not in parts:
                parts[key] = part_hashes(each.run)
            texts[graded.run.id] |= parts[key]
        keys = [f"text {each}" for each in texts[graded.run.id]]
        if graded.root.is_task:
            keys.append(f"task {graded.task}")
        linked.join([f"run {graded.root.run.id}", *keys])
    lowest: dict[str, str] = {}
    for graded in runs:
        cluster, low = linked.of(f"run {graded.root.run.id}"), min(texts[graded.run.id])
        lowest[cluster] = min(lowest.get(cluster, low), low)
    return {graded.run.id: lowest[linked.of(f"run {graded.root.run.id}")] for graded in runs}


def sides(clusters: Mapping[str, str], given: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of each run, by its id.

    The seed and the name of its cluster alone decide, so a text stays on its side when more runs
    are exported later, unless they link it with another. Shares are therefore met on average over
    many texts, not exactly.
    """
    return {run: _drawn(f"{seed}:{cluster}", given) for run, cluster in clusters.items()}


def other_seed(clusters: Mapping[str, str], given: Mapping[str, float], seed: int) -> int | None:
    """The next seed with which every split gets a run; None: there is none nearby."""
    tried = range(seed + 1, seed + 1 + SEEDS_TRIED)
    return next(
        (each for each in tried if set(sides(clusters, given, each).values()) == set(given)), None
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


class _Linked:
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
