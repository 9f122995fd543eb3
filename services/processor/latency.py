"""From a record's Kafka timestamp to its commit. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from shared.results import LatencyMilliseconds


def summarize(oldest: Sequence[tuple[int, int]], committed_at_ms: float) -> LatencyMilliseconds:
    """Return the percentiles over a transaction's records.

    A batch is measured by its oldest record, so that no record took longer than is said here.

    Args:
        oldest: per batch the record timestamp (ms since the epoch) and the number of records.
        committed_at_ms: when the commit was acknowledged, ms since the epoch.
    """
    latencies = sorted((max(committed_at_ms - timestamp, 0.0), count) for timestamp, count in oldest)
    total = sum(count for _, count in latencies)
    return LatencyMilliseconds(
        p50=round(_percentile(latencies, total, 0.50), 3), p99=round(_percentile(latencies, total, 0.99), 3)
    )


def _percentile(latencies: Sequence[tuple[float, int]], total: int, share: float) -> float:
    reached = 0
    for latency, count in latencies:
        reached += count
        if reached >= share * total:
            return latency
    return 0.0
