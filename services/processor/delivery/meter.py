"""What the delivery of one topic tells: metrics, and the figures of `/stats`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.logs import Logger
from shared.metrics import DeliveryMetrics

_LINE_SECONDS = 1.0


class DeliveryMeter:
    """Counts the deliveries of one topic by this process.

    Args:
        topic: full name.
        log_every: deliveries between two lines of the log; at most one a second.
        clock: monotonic seconds.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        metrics: DeliveryMetrics,
        topic: str,
        *,
        log_every: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        log: Logger,
    ) -> None:
        self._metrics = metrics
        self._topic = topic
        self._log_every = log_every
        self._clock = clock
        self._wall_clock = wall_clock
        self._log = log
        self._delivered = 0
        self._failed = 0
        self._given_up = 0
        self._waiting = 0
        self._logged = 0
        self._logged_at = clock()

    def attempted(self, seconds: float) -> None:
        """Note an attempt, and how long it took."""
        self._metrics.attempt.labels(self._topic).observe(seconds)

    def delivered(self, timestamp_milliseconds: int) -> None:
        """Note a delivery, and the timestamp of its record."""
        self._delivered += 1
        self._metrics.delivered.labels(self._topic).inc()
        latency = self._wall_clock() - timestamp_milliseconds / 1000
        self._metrics.latency.labels(self._topic).observe(max(latency, 0.0))
        due = self._delivered - self._logged >= self._log_every
        if due and self._clock() - self._logged_at >= _LINE_SECONDS:
            self.line()

    def failed(self) -> None:
        """Note an attempt that did not deliver."""
        self._failed += 1
        self._metrics.failed.labels(self._topic).inc()

    def given_up(self) -> None:
        """Note a dead letter."""
        self._given_up += 1
        self._metrics.dead_letters.labels(self._topic).inc()

    def waiting(self, records: int) -> None:
        """Note how many records are read and not finished."""
        self._waiting = records
        self._metrics.waiting.labels(self._topic).set(records)

    def line(self) -> None:
        """Log the figures, if there are new ones."""
        if self._delivered == self._logged:
            return
        self._logged, self._logged_at = self._delivered, self._clock()
        self._log.info("delivery", topic=self._topic, **self.figures())

    def figures(self) -> dict[str, Any]:
        """Return what `/stats` shows, since the process started."""
        return {
            "delivered": self._delivered,
            "failed_attempts": self._failed,
            "dead_letters": self._given_up,
            "waiting": self._waiting,
        }
