"""Hashes of the grams of a sequence, its ``size`` numbers in a row, without a loop in Python."""

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def gram_hashes(codes: npt.NDArray[np.uint32], size: int) -> Hashes:
    """The hash of each ``size`` codes in a row; ``size`` is 1 or more, and at most their number.

    Made of pairs, pairs of pairs and so on, the last two of which may overlap.
    """
    hashes, width = _mix(codes.astype(np.uint64)), 1
    while width * 2 <= size:
        hashes = _pair(hashes[:-width], hashes[width:])
        width *= 2
    rest = size - width
    return _pair(hashes[: len(hashes) - rest], hashes[rest:]) if rest else hashes


def _pair(left: Hashes, right: Hashes) -> Hashes:
    return _mix(left * np.uint64(0x9E3779B97F4A7C15) + right)


def _mix(values: Hashes) -> Hashes:
    """In place. The multipliers are those of Steele et al., "Fast splittable pseudorandom number
    generators" (OOPSLA 2014), and its second mixer's.
    """
    values ^= values >> np.uint64(31)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(29)
    return values
