"""How far a partition may be committed while its records are finished in any order. Pure."""

from __future__ import annotations

from collections import deque


class Unfinished:
    """The records of one partition from the committed offset on.

    Args:
        offset: where reading begins.

    Attributes:
        position: the next offset to read, markers of transactions behind the last record included.
    """

    def __init__(self, offset: int) -> None:
        self.position = offset
        # In order: what is finished and not committed; from the first that is not finished on; of those,
        # what is finished all the same.
        self._below: deque[int] = deque()
        self._offsets: deque[int] = deque()
        self._finished: set[int] = set()

    def __len__(self) -> int:
        """Return how many records were read and are not committed."""
        return len(self._below) + len(self._offsets)

    def read(self, offset: int) -> None:
        """Note that the record at `offset`, higher than all before, was read."""
        self._offsets.append(offset)
        self.position = offset + 1

    def passed(self, position: int) -> None:
        """Note that there is no record between the last that was read and `position`."""
        self.position = max(self.position, position)

    def finish(self, offset: int) -> None:
        """Note that a record that was read needs nothing more."""
        self._finished.add(offset)
        while self._offsets and self._offsets[0] in self._finished:
            first = self._offsets.popleft()
            self._finished.remove(first)
            self._below.append(first)

    def committed(self, offset: int) -> None:
        """Note that the group has committed `offset`."""
        while self._below and self._below[0] < offset:
            self._below.popleft()

    @property
    def uncommitted(self) -> int:
        """How many records a commit would take out of the window."""
        return len(self._below)

    @property
    def committable(self) -> int:
        """The offset that may be committed: below it everything is finished."""
        return self._offsets[0] if self._offsets else self.position
