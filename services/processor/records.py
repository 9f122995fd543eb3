"""What is read: one record as the client gives it, and consecutive ones as a batch. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload


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


class LeanRecords(Sequence[Record]):
    """Consecutive records of which most need the values alone: the rest is unpacked when it is asked for.

    Args:
        values: of all of them, in order.
        offsets: likewise.
        first_timestamp: of the first one.
        unpack: makes the records.
    """

    __slots__ = ("_found", "_unpack", "first_timestamp", "offsets", "values")

    def __init__(
        self,
        values: Sequence[bytes | None],
        offsets: Sequence[int],
        first_timestamp: int,
        unpack: Callable[[], Sequence[Record]],
    ) -> None:
        self.values = values
        self.offsets = offsets
        self.first_timestamp = first_timestamp
        self._unpack = unpack
        self._found: Sequence[Record] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_unpacked(self) -> bool:
        """Whether somebody has asked for a record."""
        return self._found is not None

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._all())

    def only(self, indexes: Sequence[int]) -> LeanRecords:
        """Return the records at `indexes`, not unpacked for it; `first_timestamp` stays that of all."""
        values = [self.values[index] for index in indexes]
        offsets = [self.offsets[index] for index in indexes]
        return LeanRecords(
            values, offsets, self.first_timestamp, lambda: [self._all()[index] for index in indexes]
        )

    def _all(self) -> Sequence[Record]:
        if self._found is None:
            self._found = self._unpack()
        return self._found


def values_of(records: Sequence[Record]) -> Sequence[bytes | None]:
    """Return the value of each record."""
    return records.values if isinstance(records, LeanRecords) else [record.value for record in records]


def offsets_of(records: Sequence[Record]) -> Sequence[int]:
    """Return the offset of each record."""
    return records.offsets if isinstance(records, LeanRecords) else [record.offset for record in records]


def only(records: Sequence[Record], indexes: Sequence[int]) -> Sequence[Record]:
    """Return the records at `indexes`."""
    if isinstance(records, LeanRecords):
        return records.only(indexes)
    return [records[index] for index in indexes]


def first_timestamp_of(records: Sequence[Record]) -> int:
    """Return the timestamp of the first record, milliseconds since the epoch."""
    return records.first_timestamp if isinstance(records, LeanRecords) else records[0].timestamp


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of one partition.

    Attributes:
        records: may be empty: a control batch or an aborted one still moves the position.
        next_offset: where reading goes on after this batch.
        size_bytes: as fetched; the first batch of an answer has all of it, 0 where it is not known.
    """

    records: Sequence[Record]
    next_offset: int
    size_bytes: int = 0

    def split(self, count: int) -> tuple[RecordBatch, RecordBatch]:
        """Return the first `count` records as a batch of their own, and the rest (neither is empty)."""
        head, tail = self.records[:count], self.records[count:]
        first = RecordBatch(head, head[-1].offset + 1, self.size_bytes)
        return first, RecordBatch(tail, self.next_offset)
