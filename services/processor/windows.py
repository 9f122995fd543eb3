"""The last readings of a sensor. Pure."""

from __future__ import annotations

import statistics

import msgspec


class Window(msgspec.Struct, array_like=True):
    """The last `size` readings, by offset: values, and timestamps in seconds since the epoch."""

    values: list[float] = []
    timestamps: list[float] = []

    def add(self, value: float, timestamp: float, *, size: int) -> None:
        """Take a reading in and let go of what is beyond `size`, also when the size was changed."""
        self.values.append(value)
        self.timestamps.append(timestamp)
        if len(self.values) > size:
            del self.values[:-size]
            del self.timestamps[:-size]


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
        avg=round(statistics.mean(values), 2),
        min=min(values),
        max=max(values),
        median=round(statistics.median(values), 2),
    )
