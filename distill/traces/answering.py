"""Which weights answered the calls of each run, read from a log without the texts."""

from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path

import msgspec

from distill.traces import records


class Weights(msgspec.Struct, frozen=True, gc=False):
    """A model to the byte, as far as a call says: of ``records.Model``, what tells two apart."""

    model: str = ""
    weights_hash: str = ""
    adapter: str | None = None
    weights_version: int = 0
    adapter_hash: str = ""

    @property
    def name(self) -> str:
        """For people; several may have one name."""
        version = f" v{self.weights_version}" if self.weights_version else ""
        return f"{self.model}{'' if self.adapter is None else f' + {self.adapter}'}{version}"


class _Asked(msgspec.Struct, frozen=True, gc=False):
    model: str | None = None


class _Line(msgspec.Struct, frozen=True, gc=False):
    """Of a line of worker.jsonl, only what is needed; all else is passed over."""

    type: str
    run: str | None
    model: Weights | None = None
    sampling: _Asked = _Asked()


def weights_of_runs(folder: Path) -> dict[str, frozenset[Weights]]:
    """Of each run that asked its worker: the weights that answered.

    Calls that named a model themselves are left out: the run's own worker is not who answered.
    Lines that can't be read are passed over (``distill doctor`` names them).
    """
    decoder = msgspec.json.Decoder(_Line)
    found: defaultdict[str, set[Weights]] = defaultdict(set)
    try:
        file = (folder / records.WORKER_LOG).open("rb")
    except FileNotFoundError:
        return {}
    with file:
        for text in file:
            try:
                line = decoder.decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            is_own = line.type == "call" and line.sampling.model is None
            if is_own and line.run is not None and line.model is not None:
                found[line.run].add(line.model)
    return {run: frozenset(weights) for run, weights in found.items()}


def names_of(known: Collection[Weights]) -> dict[Weights, str]:
    """A name for each; those that would have one name also say a hash, if they have one."""
    each_name = Counter(each.name for each in set(known))
    names = {}
    for each in known:
        digest = each.adapter_hash or each.weights_hash
        is_double = each_name[each.name] > 1 and digest
        names[each] = f"{each.name} ({digest[:8]})" if is_double else each.name
    return names
