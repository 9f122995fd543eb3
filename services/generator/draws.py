"""Even draws from a seeded stream of random numbers. Pure.

Only PCG64's raw 64-bit stream is used: numpy promises (NEP 19) that it stays what it is for a seed,
and promises no such thing of the methods of `Generator`. What is made of the raw numbers is our own
arithmetic, so that a seed gives the same events with every version of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import PCG64

_LANE_BITS = 32
_LANE_MASK = 2**_LANE_BITS - 1
_MAX_BOUND = 2**_LANE_BITS
_FRACTION_BITS = 53


class Draws:
    """Rows of whole numbers, each evenly from 0 up to its own bound.

    How the rows are asked for, one at a time or by the thousand, does not change them.

    Args:
        seed: of the whole generator, 0 or more.
        stream: tells the streams that are drawn from one seed apart.
        bounds: one for each number of a row, 1 … 2^32; numbers are below it. A bound's share is even
            to within bound / 2^32.
    """

    def __init__(self, seed: int, stream: int, bounds: Sequence[int]) -> None:
        if not all(1 <= bound <= _MAX_BOUND for bound in bounds):
            raise ValueError(f"bounds are from 1 to 2^32: {bounds}")
        self._bits = PCG64([seed, stream])
        self._bounds = tuple(np.uint64(bound) for bound in bounds)
        self._raws_per_row = (len(bounds) + 1) // 2

    def columns(self, rows: int) -> list[list[int]]:
        """Return the next `rows` rows as columns, one list for each bound."""
        raws = self._bits.random_raw(rows * self._raws_per_row)
        columns = []
        for lane, bound in enumerate(self._bounds):
            numbers = raws[lane // 2 :: self._raws_per_row]
            half = numbers & np.uint64(_LANE_MASK) if lane % 2 else numbers >> np.uint64(_LANE_BITS)
            columns.append(((half * bound) >> np.uint64(_LANE_BITS)).tolist())
        return columns


class Fractions:
    """Numbers evenly from 0 up to 1, one at a time. `seed` and `stream` as in `Draws`."""

    def __init__(self, seed: int, stream: int) -> None:
        self._bits = PCG64([seed, stream])

    def next(self) -> float:
        """Return the next one: 53 random bits, below 1."""
        return float((int(self._bits.random_raw()) >> (64 - _FRACTION_BITS)) * 2.0**-_FRACTION_BITS)
