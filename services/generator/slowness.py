"""Says in the log that Kafka is slow, and when it no longer is: the generator waits and drops nothing."""

from __future__ import annotations

from collections.abc import Sequence

from services.generator.publisher import Publisher
from shared.logs import Logger

_SLOW_SECONDS = 5.0
_AGAIN_SECONDS = 10.0


class SlownessLog:
    """Watches for a full buffer, and for batches that stay without an acknowledgement."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._since: float | None = None
        self._said_at = 0.0
        self._throttled_seconds = 0.0

    def look(
        self, now: float, *, oldest_seconds: float, silent_seconds: float, publishers: Sequence[Publisher]
    ) -> None:
        """Log a line when slowness begins, every ten seconds while it lasts, and when it ends.

        Args:
            now: monotonic seconds.
            oldest_seconds: how long the oldest batch under way has been waited for.
            silent_seconds: how long Kafka has not answered anything.
            publishers: all of them.
        """
        before = self._throttled_seconds
        self._throttled_seconds = sum(publisher.throttled_seconds for publisher in publishers)
        waits = self._throttled_seconds > before or not all(publisher.has_room for publisher in publishers)
        if not waits and oldest_seconds < _SLOW_SECONDS:
            if self._since is not None:
                self._log.info("kafka_caught_up", slow_seconds=round(now - self._since, 1))
                self._since = None
            return
        if self._since is not None and now - self._said_at < _AGAIN_SECONDS:
            return
        self._since = now if self._since is None else self._since
        self._said_at = now
        self._log.warning(
            "kafka_slow",
            effect="the buffer is full: events wait to be made" if waits else "none yet",
            oldest_seconds=round(oldest_seconds, 1),
            silent_seconds=round(silent_seconds, 1),
            in_flight_bytes=sum(publisher.in_flight_bytes for publisher in publishers),
            buffer_bytes=sum(publisher.buffer_bytes for publisher in publishers),
        )
