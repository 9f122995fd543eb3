"""Which record is delivered next: of one key one after another, of different keys in any order. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

# Records without a key have no order to be kept: a lane for each.
_LaneKey: TypeAlias = tuple[int, bytes | None, int]
_KEYED = -1


@dataclass(eq=False, slots=True)
class Parcel:
    """A record on its way to the webhook.

    Attributes:
        record: as the client gives it.
        sent_as: what is delivered; for a retry, what the record was at first.
        attempts: how many have failed.
    """

    record: Any
    sent_as: Any
    attempts: int = 0

    @property
    def size_bytes(self) -> int:
        """Key and value."""
        return len(self.record.key or b"") + len(self.record.value or b"")


class Lanes:
    """The parcels of one topic that are not finished.

    Only the first of a lane is ever ready, under way or asleep: those behind it wait for it to be `done`.

    Attributes:
        records: how many are held.
        size_bytes: of their keys and values.
    """

    def __init__(self) -> None:
        self.records = 0
        self.size_bytes = 0
        self._lanes: dict[_LaneKey, deque[Parcel]] = {}
        self._ready: deque[_LaneKey] = deque()
        self._asleep: list[tuple[float, int, _LaneKey]] = []
        self._tickets = itertools.count()

    def put(self, parcel: Parcel) -> None:
        """Add a parcel behind those with its key."""
        key = _lane_of(parcel)
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = deque([parcel])
            self._ready.append(key)
        else:
            lane.append(parcel)
        self.records += 1
        self.size_bytes += parcel.size_bytes

    def take(self, now: float) -> Parcel | None:
        """Return a parcel that may be delivered now, or None. It is under way until `done` or `later`."""
        while self._asleep and self._asleep[0][0] <= now:
            self._ready.append(heapq.heappop(self._asleep)[2])
        return self._lanes[self._ready.popleft()][0] if self._ready else None

    def done(self, parcel: Parcel) -> None:
        """Note that a parcel is finished: the next one with its key is ready."""
        key = _lane_of(parcel)
        lane = self._lanes[key]
        assert lane[0] is parcel, "it was under way"
        lane.popleft()
        if lane:
            self._ready.append(key)
        else:
            del self._lanes[key]
        self.records -= 1
        self.size_bytes -= parcel.size_bytes

    def later(self, parcel: Parcel, at: float) -> None:
        """Put a parcel to sleep until `at`, and those behind it with it."""
        heapq.heappush(self._asleep, (at, next(self._tickets), _lane_of(parcel)))

    def wakes_at(self) -> float | None:
        """Return when the next one that sleeps is ready, or None."""
        return self._asleep[0][0] if self._asleep else None


def _lane_of(parcel: Parcel) -> _LaneKey:
    record = parcel.record
    return record.partition, record.key, _KEYED if record.key is not None else record.offset
