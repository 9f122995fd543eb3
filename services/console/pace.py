"""So many a second, evenly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pace:
    """Lets so many records a second through, evenly; 0 is as fast as they come.

    Args:
        rate: records a second.
        clock: monotonic seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._began: float | None = None
        self._count = 0

    async def wait(self) -> None:
        """Wait for the next record's moment."""
        if not self._rate:
            return
        now = self._clock()
        if self._began is None:
            self._began = now
        due = self._began + self._count / self._rate
        self._count += 1
        if due > now:
            await asyncio.sleep(due - now)
