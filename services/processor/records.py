"""What is read: one record as the client gives it, and consecutive ones as a batch. Pure."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, overload


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


class Located(NamedTuple):
    """Where the values of consecutive records lie.

    Attributes:
        data: all of them, and whatever stands between.
        starts: where each value begins in the data.
        lengths: of each, in bytes; negative for null.
    """

    data: bytes
    starts: array[int]
    lengths: array[int]

    def values(self) -> list[bytes | None]:
        """Return each value."""
        data = self.data
        return [
            data[start : start + length] if length >= 0 else None
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]


class LeanRecords(Sequence[Record]):
    """Consecutive records of which most need the values alone: the rest is unpacked when it is asked for.

    Args:
        values: of all of them, in order; or where they lie, and then each is made when one is asked for.
        offsets: likewise.
        first_timestamp: of the first one.
        unpack: makes the records.
    """

    __slots__ = ("_found", "_part_of", "_unpack", "_values", "first_timestamp", "located", "offsets")

    def __init__(
        self,
        values: Sequence[bytes | None] | Located,
        offsets: Sequence[int],
        first_timestamp: int,
        unpack: Callable[[], Sequence[Record]],
    ) -> None:
        self.located: Located | None = None
        self._values: Sequence[bytes | None] | None = None
        if isinstance(values, Located):
            self.located = values
        else:
            self._values = values
        self.offsets = offsets
        self.first_timestamp = first_timestamp
        self._unpack = unpack
        self._found: Sequence[Record] | None = None
        self._part_of: tuple[LeanRecords, int] | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def values(self) -> Sequence[bytes | None]:
        """The value of each record."""
        if self._values is None:
            assert self.located is not None, "one of the two was given"
            self._values = self.located.values()
        return self._values

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

    def part(self, start: int, end: int) -> LeanRecords:
        """Return the records from `start` up to, not including, `end`; as `only` does."""
        values: Sequence[bytes | None] | Located
        if self.located is None:
            values = self.values[start:end]
        else:
            data, starts, lengths = self.located
            values = Located(data, starts[start:end], lengths[start:end])
        # Of the whole, also where this is a part itself: a batch may be split record by record.
        whole, first = self._part_of or (self, 0)
        made = LeanRecords(
            values,
            self.offsets[start:end],
            self.first_timestamp,
            lambda: whole._all()[first + start : first + end],  # noqa: SLF001 — one of its own kind
        )
        made._part_of = whole, first + start
        return made

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


def indexes_of(wanted: object, found: Sequence[Any]) -> list[int]:
    """Return where `wanted` stands in `found`: half of what a comprehension takes where it is rare."""
    indexes: list[int] = []
    index = -1
    with contextlib.suppress(ValueError):  # There is no further one.
        while True:
            index = found.index(wanted, index + 1)
            indexes.append(index)
    return indexes


def only(records: Sequence[Record], indexes: Sequence[int]) -> Sequence[Record]:
    """Return the records at `indexes`."""
    if isinstance(records, LeanRecords):
        return records.only(indexes)
    return [records[index] for index in indexes]


def part(records: Sequence[Record], start: int, end: int) -> Sequence[Record]:
    """Return the records from `start` up to, not including, `end`."""
    return records.part(start, end) if isinstance(records, LeanRecords) else records[start:end]


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
        """Return the first `count` records as a batch of their own, and the rest (neither is empty).

        Lean ones keep the first timestamp of the whole: the rest is never taken for younger than it is.
        """
        head, tail = part(self.records, 0, count), part(self.records, count, len(self.records))
        first = RecordBatch(head, offsets_of(head)[-1] + 1, self.size_bytes)
        return first, RecordBatch(tail, self.next_offset)
