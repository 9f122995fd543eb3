"""The last readings of a sensor. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

_MOST_SUMMED_FAST = 1e6


class Window(msgspec.Struct, array_like=True):
    """The last `size` readings, by offset: values, and timestamps in seconds since the epoch."""

    values: list[float] = []
    timestamps: list[float] = []

    def extend(self, values: Sequence[float], timestamps: Sequence[float], *, size: int) -> None:
        """Take readings in, in order, and let go of what is beyond `size`, also when the size was changed."""
        self.values += values
        self.timestamps += timestamps
        if len(self.values) > size:
            del self.values[:-size]
            del self.timestamps[:-size]

    def add(self, value: float, timestamp: float, *, size: int) -> None:
        """Take one reading in."""
        self.extend((value,), (timestamp,), size=size)


class Summary(msgspec.Struct):
    """What is published of a window: see the contract's SensorStats."""

    avg: float
    min: float
    max: float
    median: float


def summarize(window: Window) -> Summary:
    """Return the summary of a window that is not empty."""
    values = window.values
    return Summary(
        avg=_rounded_mean(values),
        min=min(values),
        max=max(values),
        median=round(statistics.median(values), 2),
    )


def _rounded_mean(values: list[float]) -> float:
    """Return `round(statistics.mean(values), 2)`, mostly without exact fractions (16 µs for ten of them).

    The two means are within 1e-9 of each other. They round alike but for those that lie about half-way
    between two hundredths, or next to 0, whose sign shows.
    """
    mean = math.fsum(values) / len(values)
    rounded = round(mean, 2)
    if rounded and abs(mean) < _MOST_SUMMED_FAST and abs(abs(mean - rounded) - 0.005) > 1e-8:
        return rounded
    return round(statistics.mean(values), 2)
