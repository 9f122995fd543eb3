"""What the events look like.

A workload is pure and seeded: the same seed gives the same events, byte for byte, apart from `timestamp`
and `source`, which are handed in, and `seq`, which the partition counts.

An event's value is put together from three pieces, so that the dear part can be made ahead:

    body      {"user_id":1234, …                                   by the workload, from the seed
    stamp     "timestamp":"…","source":"…","seq":                  once for all events made at one moment
    ending    42}                                                  the number within the partition
"""

from __future__ import annotations

from typing import Protocol


class Workload(Protocol):
    """Makes the events of one stream."""

    def take(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """Return the next `count` events as their keys and their bodies."""

    def stamp(self, now: float) -> bytes:
        """Return the piece that says when and by whom, for events made at `now` (epoch seconds)."""
