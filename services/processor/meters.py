"""Brings what tasks and the membership report into the metrics. Nothing here is called for each event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.processor.partition import Transaction
from services.processor.settings import ProcessorSettings
from services.processor.topology import Place
from shared.metrics import ProcessorMetrics

# Known before the first of each: a counter that appears with its first count shows no increase.
REBUILD_REASONS = ("fenced", "in_doubt", "unavailable")


def show_limits(metrics: ProcessorMetrics, settings: ProcessorSettings) -> None:
    """Set the gauges of the bounds that the settings give."""
    metrics.pending_records_limit.set(settings.commit_every_events)
    metrics.pending_limit.set(settings.pending_bytes)
    metrics.keys_limit.set(settings.state_max_keys)


class TopologyMeter:
    """The metrics of one topology's membership.

    Args:
        topic: full name of the input.
        clock: monotonic seconds.
    """

    def __init__(self, metrics: ProcessorMetrics, topic: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held_since: float | None = None
        self._rebalances = metrics.rebalances.labels(topic)
        self._duration = metrics.rebalance_duration.labels(topic)
        self._assigned = metrics.partitions.labels(topic)
        self._partitions = metrics.topic_partitions.labels(topic)
        self._answers = metrics.kafka_answers.labels(topic)
        metrics.rebalance_age.labels(topic).set_function(lambda: _since(self._held_since, self._clock()))
        for reason in REBUILD_REASONS:
            metrics.rebuilds.labels(topic, reason)

    def partitions(self, count: int) -> None:
        """Note how many partitions the input has."""
        self._partitions.set(count)

    def rebalancing(self) -> None:
        """Note that a rebalance begins. One that is begun anew before its end goes on."""
        if self._held_since is None:
            self._held_since = self._clock()

    def rebalanced(self, assigned: int) -> None:
        """Note that a rebalance gave us so many partitions."""
        self._rebalances.inc()
        self._assigned.set(assigned)
        if self._held_since is not None:
            self._duration.observe(self._clock() - self._held_since)
            self._held_since = None

    def kafka_answers(self, *, answers: bool) -> None:
        """Note whether Kafka answers."""
        self._answers.set(answers)


class PartitionMeter:
    """The metrics of one partition.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, metrics: ProcessorMetrics, place: Place, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._topic = place.topic
        self._clock = clock
        self._behind_since: float | None = None
        # Children are looked up once: that is what costs.
        labels = (place.topic, str(place.partition))
        self._records = metrics.records.labels(*labels)
        self._read_bytes = metrics.read_bytes.labels(*labels)
        self._columnar = metrics.columnar_events.labels(*labels)
        self._written_bytes = metrics.written_bytes.labels(*labels)
        self._commits = metrics.commits.labels(*labels)
        self._commit_duration = metrics.commit_duration.labels(place.topic)
        self._latency = metrics.latency.labels(place.topic)
        self._restore_records = metrics.restore_records.labels(*labels)
        self._restore_remaining = metrics.restore_remaining.labels(*labels)
        self._restore_duration = metrics.restore_duration.labels(place.topic)
        self._counted = {
            "events": metrics.events.labels(*labels),
            "duplicates": metrics.duplicates.labels(*labels),
            "late": metrics.late.labels(*labels),
            "dead_letters": metrics.dead_letters.labels(*labels),
            "skipped": metrics.skipped.labels(*labels),
        }
        self._gaps = metrics.gaps.labels(*labels)
        self._lag = metrics.lag.labels(*labels)
        self._state_keys = metrics.state_keys.labels(*labels)
        self._bounded_keys = metrics.bounded_keys.labels(*labels)
        self._pending_records = metrics.pending_records.labels(*labels)
        self._pending_bytes = metrics.pending_bytes.labels(*labels)
        metrics.uncommitted.labels(*labels).set_function(lambda: _since(self._behind_since, self._clock()))

    def restoring(self, records: int, left: int) -> None:
        """Note that changelog records were read and how many are left."""
        self._restore_records.inc(records)
        self._restore_remaining.set(left)

    def restored(self, seconds: float) -> None:
        """Note that the state is back."""
        self._restore_duration.observe(seconds)
        self._restore_remaining.set(0)

    def committed(self, transaction: Transaction, seconds: float, now_ms: float) -> None:
        """Note a commit that took so long; `now_ms` is since the epoch."""
        self._commits.inc()
        self._commit_duration.observe(seconds)
        for timestamp, _count in transaction.oldest:
            self._latency.observe(max(now_ms - timestamp, 0.0) / 1000)
        self._records.inc(transaction.records)
        self._read_bytes.inc(transaction.read_bytes)
        self._columnar.inc(transaction.columnar_events)
        self._written_bytes.inc(transaction.written_bytes)
        if self._behind_since is not None:
            self._behind_since = self._clock()

    def counted(self, new: dict[str, int], *, gaps: int, state_keys: int) -> None:
        """Note what is new in the accounts, and what they and the state now come to."""
        for name, metric in self._counted.items():
            metric.inc(new[name])
        self._gaps.set(gaps)
        self._state_keys.set(state_keys)

    def holding(self, records: int, size_bytes: int, bounded_keys: int) -> None:
        """Note what is held for the next commit, and what the state has of its bound."""
        self._pending_records.set(records)
        self._pending_bytes.set(size_bytes)
        self._bounded_keys.set(bounded_keys)

    def position(self, lag: int, *, behind: bool) -> None:
        """Note how far the partition is behind, and whether there is something it should be doing."""
        self._lag.set(lag)
        if not behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._clock()

    def rebuilt(self, reason: str) -> None:
        """Note that a task was closed dirty."""
        self._metrics.rebuilds.labels(self._topic, reason).inc()

    def gone(self) -> None:
        """Note that the partition is somebody else's: what is so now is theirs to show."""
        self._behind_since = None
        gauges: tuple[Any, ...] = (
            *(self._lag, self._gaps, self._restore_remaining),
            *(self._state_keys, self._bounded_keys, self._pending_records, self._pending_bytes),
        )
        for gauge in gauges:
            gauge.set(0)


def _since(moment: float | None, now: float) -> float:
    return 0.0 if moment is None else now - moment
