"""When events are due. Pure: the clock is handed in, and starts a pacer at its first call.

A pacer that was held up, by a stalled Kafka or a stopped process, makes up for at most its catch-up
seconds and lets the rest go: a load that is late must not become a flood.
"""

from __future__ import annotations

import math
from typing import Protocol

from services.generator.draws import Fractions

_GAPS_STREAM = 3


class Pacer(Protocol):
    """Says how many events are due."""

    def take(self, now: float, limit: int) -> int:
        """Return how many events to make at `now` (monotonic seconds), at most `limit`.

        They count as made. 0 says that none is due before `next_at`.
        """

    @property
    def next_at(self) -> float:
        """When the next event is due (monotonic seconds); it may be past."""

    @property
    def let_go_seconds(self) -> float:
        """By how much the schedule was put off, in all, because it could not be kept."""


class AsFastAsPossible:
    """An event is always due."""

    next_at = -math.inf
    let_go_seconds = 0.0

    def take(self, now: float, limit: int) -> int:  # noqa: ARG002 — as the role asks
        """Return `limit`."""
        return limit


class FixedRate:
    """Event i is due i / rate seconds after the first: evenly spaced, and no error adds up.

    Args:
        per_second: events a second, above 0.
        catch_up_seconds: how much lateness is made up for.
    """

    def __init__(self, per_second: float, *, catch_up_seconds: float) -> None:
        self._per_second = per_second
        self._catch_up_seconds = catch_up_seconds
        self._origin = -math.inf
        self._taken = 0
        self.let_go_seconds = 0.0

    @property
    def next_at(self) -> float:
        """When the next event is due (monotonic seconds)."""
        return self._due_at(self._taken)

    def take(self, now: float, limit: int) -> int:
        """Return how many events are due at `now`, at most `limit`."""
        if self._origin == -math.inf:
            self._origin = now
        too_late = now - self.next_at - self._catch_up_seconds
        if too_late > 0:
            self._origin += too_late
            self.let_go_seconds += too_late
        due = max(math.floor((now - self._origin) * self._per_second) + 1 - self._taken, 0)
        # What the clock says must agree with next_at to the last bit, or the caller would wait for a
        # moment that is past, or ask again at once.
        while self._due_at(self._taken + due) <= now:
            due += 1
        while due and self._due_at(self._taken + due - 1) > now:
            due -= 1
        count = min(due, limit)
        self._taken += count
        return count

    def _due_at(self, index: int) -> float:
        return self._origin + index / self._per_second


class ReferenceGaps:
    """The reference system's pace for user events: a random gap between one event and the next.

    Args:
        low_seconds: the shortest gap.
        high_seconds: the longest gap.
        seed: as the workload's; the gaps have a stream of their own.
        catch_up_seconds: how much lateness is made up for.
    """

    def __init__(
        self, low_seconds: float, high_seconds: float, *, seed: int, catch_up_seconds: float
    ) -> None:
        self._low = low_seconds
        self._span = high_seconds - low_seconds
        self._fractions = Fractions(seed, _GAPS_STREAM)
        self._catch_up_seconds = catch_up_seconds
        self.next_at = -math.inf
        self.let_go_seconds = 0.0

    def take(self, now: float, limit: int) -> int:
        """Return how many events are due at `now`, at most `limit`."""
        if self.next_at == -math.inf:
            self.next_at = now
        too_late = now - self.next_at - self._catch_up_seconds
        if too_late > 0:
            self.next_at += too_late
            self.let_go_seconds += too_late
        count = 0
        while count < limit and self.next_at <= now:
            count += 1
            self.next_at += self._low + self._span * self._fractions.next()
        return count


class Rounds:
    """Events in rounds: all of one at once, then nothing until the next; the sensors' reference pace.

    Args:
        size: events a round.
        interval_seconds: from one round to the next.
        catch_up_seconds: how much lateness is made up for.
    """

    def __init__(self, size: int, interval_seconds: float, *, catch_up_seconds: float) -> None:
        self._size = size
        self._rounds = FixedRate(1 / interval_seconds, catch_up_seconds=catch_up_seconds)
        self._left = 0

    @property
    def next_at(self) -> float:
        """When the next event is due (monotonic seconds)."""
        return -math.inf if self._left else self._rounds.next_at

    @property
    def let_go_seconds(self) -> float:
        """By how much the schedule was put off, in all."""
        return self._rounds.let_go_seconds

    def take(self, now: float, limit: int) -> int:
        """Return how many events are due at `now`, at most `limit`."""
        if not self._left:
            self._left = self._size * self._rounds.take(now, max(1, limit // self._size))
        count = min(self._left, limit)
        self._left -= count
        return count
