"""What is known of the committed work: figures for `/stats`, metrics, health, and the log's lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from services.processor.meters import PartitionMeter
from services.processor.partition import Transaction
from services.processor.settings import ProcessorSettings
from services.processor.topology import Outgoing, Place, Topology
from shared.health import Health
from shared.logs import Logger
from shared.metrics import ProcessorMetrics

_NOTICES_A_SECOND = 10
# Reading a state back is progress once more after a failure. Again and again, without a commit, it is none.
_BUILDS_BORNE = 1
_SUMMED = (
    "events",
    "sourced_events",
    "sourced_dead_letters",
    "unsourced_events",
    "duplicates",
    "gaps",
    "late",
    "dead_letters",
    "skipped",
)
_LOGGED = ("events", "duplicates", "gaps", "late", "dead_letters")


class TopologyReport:
    """The committed figures of one topology in this process.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        topology: Topology,
        settings: ProcessorSettings,
        *,
        metrics: ProcessorMetrics,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        log: Logger,
    ) -> None:
        self._topology = topology
        self._log_every_events = settings.log_every_events
        self.metrics = metrics
        self.health = health
        self.clock = clock
        self.wall_clock = wall_clock
        self._log = log
        self._partitions: dict[int, dict[str, Any]] = {}
        self._lags: dict[int, int] = {}
        self._logged_events = 0
        self._events_seen = 0
        self._last_line_at = clock()
        self._notices = _Notices(_NOTICES_A_SECOND, log)

    def observer(self, place: Place) -> PartitionObserver:
        """Return what a task of this topology reports to."""
        return PartitionObserver(self, place, self._topology.notices)

    def figures(self) -> dict[str, Any]:
        """Return what `/stats` shows of this topology."""
        shown = list(self._partitions.values())
        return {
            "results": self._topology.summarize([one["results"] for one in shown]),
            "accounts": {name: sum(one["accounts"][name] for one in shown) for name in _SUMMED},
            "lag": sum(self._lags.values()),
            "partitions": {str(partition): one for partition, one in sorted(self._partitions.items())},
        }

    def update(self, partition: int, figures: dict[str, Any], counted: int) -> None:
        """Take the committed figures of a partition in; `counted` events are new in this process."""
        self._partitions[partition] = figures
        self._events_seen += counted

    def lag(self, partition: int, records: int) -> None:
        """Take in how far a partition is behind."""
        self._lags[partition] = records

    def forget(self, partition: int) -> None:
        """Forget a partition that somebody else has now."""
        self._partitions.pop(partition, None)
        self._lags.pop(partition, None)

    def notice(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Show result records in the log, within the limit."""
        self._notices.show(topic, records, self.clock())

    def tick(self) -> None:
        """Log a line if enough was committed since the last one. Called once a second."""
        self._notices.flush(self.clock())
        if self._events_seen - self._logged_events >= self._log_every_events:
            self._line("statistics")

    def close(self) -> None:
        """Log the last line."""
        self._notices.flush(self.clock(), force=True)
        self._line("statistics_at_stop")

    def _line(self, event: str) -> None:
        now = self.clock()
        seconds = max(now - self._last_line_at, 1e-9)
        figures = self.figures()
        self._log.info(
            event,
            topology=self._topology.name,
            partitions=sorted(self._partitions),
            events_per_second=round((self._events_seen - self._logged_events) / seconds, 1),
            lag=figures["lag"],
            accounts={name: figures["accounts"][name] for name in _LOGGED},
            results=figures["results"],
        )
        self._last_line_at = now
        self._logged_events = self._events_seen


class _Notices:
    """Result records shown one by one, at most so many a second of each topic; the rest as a count."""

    def __init__(self, most: int, log: Logger) -> None:
        self._most = most
        self._log = log
        self._second = 0.0
        self._shown: dict[str, int] = {}

    def show(self, topic: str, records: Sequence[Outgoing], now: float) -> None:
        self.flush(now)
        if not records:
            return
        shown = self._shown.get(topic, 0)
        for _, value, _ in records[: max(self._most - shown, 0)]:
            if value is not None:
                self._log.info(topic, record=msgspec.json.decode(value))
        self._shown[topic] = shown + len(records)

    def flush(self, now: float, *, force: bool = False) -> None:
        if now - self._second < 1.0 and not force:
            return
        for topic, shown in self._shown.items():
            if shown > self._most:
                self._log.info(f"{topic}_not_shown", count=shown - self._most)
        self._shown.clear()
        self._second = now


class PartitionObserver:
    """Listens to the tasks of one partition; see `services.processor.task.Observer`."""

    def __init__(self, report: TopologyReport, place: Place, notices: tuple[str, ...]) -> None:
        self._report = report
        self._place = place
        self._notices = notices
        self._name = f"{place.topic}:{place.partition}"
        self._counted: dict[str, int] | None = None
        # Since the partition last committed or was caught up.
        self._useless_builds = 0
        self._meter = PartitionMeter(report.metrics, place, report.clock)

    def restoring(self, records: int, left: int) -> None:
        """Note that changelog records were read and how many are left."""
        self._meter.restoring(records, left)
        if self._useless_builds <= _BUILDS_BORNE:
            self._report.health.moved(self._name, f"a restore with {left} records left", behind=True)

    def restored(self, seconds: float, figures: dict[str, Any]) -> None:
        """Note that the state is back."""
        self._meter.restored(seconds)
        self._report.health.ready(self._name)
        self._take(figures)

    def committed(self, transaction: Transaction, seconds: float, figures: dict[str, Any]) -> None:
        """Note a commit."""
        self._useless_builds = 0
        self._meter.committed(transaction, seconds, self._report.wall_clock() * 1000)
        self._take(figures)
        for topic in self._notices:
            published = transaction.outputs.by_topic.get(topic, ())
            self._report.notice(topic, published)

    def position(
        self, committed_offset: int, next_offset: int, last_stable_offset: int | None, *, overdue: bool
    ) -> None:
        """Note where the partition stands."""
        if last_stable_offset is None:
            return
        lag = max(last_stable_offset - committed_offset, 0)
        self._report.lag(self._place.partition, lag)
        # What was read and is not due to be committed yet is no stall.
        behind = next_offset < last_stable_offset or overdue
        self._meter.position(lag, behind=behind)
        if not behind:
            self._useless_builds = 0
        # Reading on is no movement where a commit is due and does not come.
        position = committed_offset if overdue else (committed_offset, next_offset)
        self._report.health.moved(self._name, position, behind=behind)

    def holding(self, records: int, size_bytes: int, bounded_keys: int) -> None:
        """Note what is held for the next commit, and what the state has of its bound."""
        self._meter.holding(records, size_bytes, bounded_keys)

    @property
    def longest_round_seconds(self) -> float:
        """How often `position` has to be called at least."""
        return self._report.health.round_seconds

    def opening(self) -> None:
        """Note that a task for the partition is being built: from now on it has to move."""
        self._report.health.not_ready(self._name, "restoring")
        self._report.health.begin(self._name)

    def stopped(self) -> None:
        """Note that the partition is not served any more, because the process stops."""
        self._report.health.forget(self._name)

    def gone(self) -> None:
        """Note that the partition is no longer this process's."""
        self._report.health.ready(self._name)
        self._report.health.forget(self._name)
        self._report.forget(self._place.partition)
        self._meter.gone()

    def rebuilt(self, reason: str) -> None:
        """Note that a task was closed dirty."""
        self._useless_builds += 1
        self._meter.rebuilt(reason)

    def _take(self, figures: dict[str, Any]) -> None:
        """Turn committed totals into what is new since this process first saw the partition.

        From totals, so that a commit whose answer was lost is counted all the same.
        """
        accounts: dict[str, int] = figures["accounts"]
        before = self._counted or accounts
        new = {name: max(accounts[name] - before[name], 0) for name in _SUMMED}
        self._counted = accounts
        self._meter.counted(new, gaps=accounts["gaps"], state_keys=figures["state_keys"])
        self._report.update(self._place.partition, figures, new["events"])
