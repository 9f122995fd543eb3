"""A run's latency out of many intervals' percentiles, in bounded memory. Pure.

Each transaction publishes the p50 and p99 of the interval before it. Over a run, the p50 is the median of
those p50 and the p99 is the 99th percentile of those p99, each weighted with the events it stands for: the
first is close, the second never flatters.
"""

from __future__ import annotations

import math

from shared.results import LatencyMilliseconds

# Buckets grow by 5 %: that is also the error of what is read from them.
_GROWTH = math.log(1.05)
_SMALLEST_MILLISECONDS = 0.01


class WeightedPercentile:
    """One percentile of weighted values, within 5 %."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
        self._weights: dict[int, int] = {}

    def add(self, milliseconds: float, weight: int) -> None:
        """Take a value in, as if it had come `weight` times."""
        bucket = math.ceil(math.log(max(milliseconds, _SMALLEST_MILLISECONDS)) / _GROWTH)
        self._weights[bucket] = self._weights.get(bucket, 0) + weight

    @property
    def milliseconds(self) -> float | None:
        """The percentile, or None without values."""
        wanted = sum(self._weights.values()) * self._fraction
        so_far = 0
        for bucket in sorted(self._weights):
            so_far += self._weights[bucket]
            if so_far >= wanted:
                return round(math.exp(bucket * _GROWTH), 2)
        return None


class RunLatency:
    """The latency of a run, fed with every interval that is seen."""

    def __init__(self) -> None:
        self._p50 = WeightedPercentile(0.5)
        self._p99 = WeightedPercentile(0.99)

    def add(self, interval: LatencyMilliseconds, events: int) -> None:
        """Take in the percentiles of an interval in which `events` were committed."""
        if events > 0 and interval.p99 > 0:
            self._p50.add(interval.p50, events)
            self._p99.add(interval.p99, events)

    @property
    def summary(self) -> LatencyMilliseconds | None:
        """p50 and p99 of the run, or None without any interval."""
        p50, p99 = self._p50.milliseconds, self._p99.milliseconds
        return None if p50 is None or p99 is None else LatencyMilliseconds(p50=p50, p99=p99)
