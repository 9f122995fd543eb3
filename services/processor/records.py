"""What is read: one record as the client gives it, and consecutive ones as a batch. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Record(Protocol):
    """One record as the client gives it. `timestamp` is milliseconds since the epoch."""

    @property
    def offset(self) -> int:
        """Return the place in the partition."""

    @property
    def timestamp(self) -> int:
        """Return the time of making, or of appending, as the topic is set."""

    @property
    def key(self) -> bytes | None:
        """Return the key."""

    @property
    def value(self) -> bytes | None:
        """Return the value."""

    @property
    def headers(self) -> Any:
        """Return pairs of name (str) and value (bytes or None)."""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of one partition.

    Attributes:
        records: may be empty: a control batch or an aborted one still moves the position.
        next_offset: where reading goes on after this batch.
        size_bytes: as fetched; the first batch of an answer has all of it, 0 where it is not known.
    """

    records: list[Record]
    next_offset: int
    size_bytes: int = 0

    def split(self, count: int) -> tuple[RecordBatch, RecordBatch]:
        """Return the first `count` records as a batch of their own, and the rest (neither is empty)."""
        head, tail = self.records[:count], self.records[count:]
        first = RecordBatch(head, head[-1].offset + 1, self.size_bytes)
        return first, RecordBatch(tail, self.next_offset)
