"""One stream: workload → pacing → publisher, until its bound is reached or it is cancelled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from services.generator.pacing import Pacer
from services.generator.publisher import Publisher
from services.generator.workloads import Workload
from shared.health import Health

# What is made at once without a look at the event loop: about two milliseconds' work.
_MAX_AT_ONCE = 2_000
# The event loop's timers know milliseconds; events that are due within one are made together.
_SHORTEST_SLEEP_SECONDS = 0.001
_STUCK_SECONDS = 30.0


class Stream:
    """Makes events when they are due.

    Args:
        name: for logs and statistics.
        workload: what the events look like.
        pacer: when they are due.
        publisher: where they go.
        events: how many to make; None: no limit.
        duration_seconds: for how long; None: no limit.
        health: takes the heartbeat.
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        *,
        workload: Workload,
        pacer: Pacer,
        publisher: Publisher,
        events: int | None,
        duration_seconds: float | None,
        health: Health,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.name = name
        self.publisher = publisher
        self._workload = workload
        self._pacer = pacer
        self._left = math.inf if events is None else events
        self._duration_seconds = math.inf if duration_seconds is None else duration_seconds
        self._health = health
        self._clock = clock
        self._wall = wall
        self._measured = (0, 0)
        self._per_second = 0.0

    async def run(self) -> None:
        """Make events until a bound is reached. Cancelling it loses nothing: what was made is delivered.

        Kafka being slow makes it wait: what is in flight is bounded.
        """
        ends_at = self._clock() + self._duration_seconds
        beat_name = f"stream {self.name}"
        try:
            while self._left and (now := self._clock()) < ends_at:
                self._health.beat(beat_name, bound_seconds=_STUCK_SECONDS)
                if not self.publisher.has_room:
                    await self.publisher.wait_for_room(self._health.round_seconds)
                    continue
                count = self._pacer.take(now, int(min(self._left, _MAX_AT_ONCE)))
                if count:
                    self._make(count)
                await asyncio.sleep(self._seconds_to_sleep(ends_at))
        finally:
            self._health.ended(beat_name)

    def measure(self, seconds: float) -> bool:
        """Take the rate over the `seconds` since the last call. Say whether anything moved in them."""
        accounts = self.publisher.accounts
        before = self._measured
        self._measured = (sum(a.sent for a in accounts), sum(a.acknowledged for a in accounts))
        self._per_second = (self._measured[1] - before[1]) / max(seconds, 1e-3)
        return self._measured != before

    def figures(self) -> dict[str, Any]:
        """Return what `/stats` and the logs show: JSON types, events and bytes."""
        accounts = self.publisher.accounts
        return {
            "topic": self.publisher.topic,
            "sent": sum(account.sent for account in accounts),
            "acknowledged": sum(account.acknowledged for account in accounts),
            "in_flight": sum(account.in_flight for account in accounts),
            "failed": sum(account.failed for account in accounts),
            "events_per_second": round(self._per_second, 1),
            "in_flight_bytes": self.publisher.in_flight_bytes,
            "throttled_seconds": round(self.publisher.throttled_seconds, 3),
            "let_go_seconds": round(self._pacer.let_go_seconds, 3),
        }

    def _make(self, count: int) -> None:
        keys, bodies = self._workload.take(count)
        now = self._wall()
        self.publisher.add(keys, bodies, self._workload.stamp(now), int(now * 1000))
        self._left -= count

    def _seconds_to_sleep(self, ends_at: float) -> float:
        """Return 0 where the next event is due already: the event loop gets its turn, no more."""
        now = self._clock()
        wake_at = min(self._pacer.next_at, ends_at)
        if wake_at <= now:
            return 0
        return min(max(wake_at - now, _SHORTEST_SLEEP_SECONDS), self._health.round_seconds)
