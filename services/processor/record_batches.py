"""Whole record batches out of the client, instead of one Python object per record.

This, `answer_reader` and `shared.header_names` are what reaches into the client's internals for reading. It
replaces, for a single consumer, the classes that unpack a fetch response; everything else (positions,
assignment, errors) stays the client's own. It was checked with one client version; on any other,
`read_whole_batches` says so and leaves the public path in place, which `batches` turns into the same shape.

A batch is unpacked when its turn comes, and in pieces. One fetch of compressed batches can hold ten times its
size: unpacked as a whole it would be in nobody's cache by the time it is counted. Mostly it is not unpacked
at all: the compiled part says where its values lie, and who needs more has it made then.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from typing import Any

import aiokafka
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError

from services.processor.answer_reader import read_answers_whole
from services.processor.native.library import UnusableError, installed
from services.processor.records import LeanRecords, Located, RecordBatch
from shared.header_names import CHECKED_VERSION, RawRecords, replace_in_fetcher

__all__ = ["CHECKED_VERSION", "batches", "read_whole_batches", "unpacked"]

_value = attrgetter("value")
_READ_COMMITTED = fetcher.READ_COMMITTED
# Records that are unpacked at a time: some 0.5 MB with all that is made of them.
PIECE_RECORDS = 1_000
# And where they are only located: twice what the batches of our generator hold.
LOCATED_RECORDS = 2_400
_LOG_APPEND_TIME = 1


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch as it was fetched, its checksum compared, not unpacked.

    Attributes:
        batch: of the client.
        answer: what it came in.
        where: and where it stands in that.
        start: records below this offset are left out.
        next_offset: from the batch, not from its last record: compaction may have removed that one.
        size_bytes: see `RecordBatch`.
    """

    batch: Any
    answer: RawRecords
    where: slice
    start: int
    next_offset: int
    size_bytes: int

    def pieces(self, *, lean: bool) -> Iterator[RecordBatch]:
        """Unpack it, piece by piece.

        Args:
            lean: the values alone are asked for, as a rule: the records of a piece are then unpacked once
                more for whoever asks for one.

        Raises:
            CorruptRecordException: it is not what its checksum says.
        """
        # Where the position lies inside the batch, records are left out: brokers answer with whole batches.
        if lean and self.start <= self.batch.base_offset and self.answer.is_dense(self.batch, self.where):
            library = installed()
            return (
                self._lean_pieces() if isinstance(library, UnusableError) else self._located_pieces(library)
            )
        return self._full_pieces()

    def _located_pieces(self, library: ctypes.CDLL) -> Iterator[RecordBatch]:
        """Yield pieces of which nothing is unpacked; what is not plain, as `_full_pieces` does."""
        base, end, size_bytes = self.batch.base_offset, self.next_offset, self.size_bytes
        data, position, stop = self.answer.content(self.where)
        appended = self.batch.max_timestamp if self.batch.timestamp_type == _LOG_APPEND_TIME else None
        first_delta = ctypes.c_int64()
        for at in range(base, end, LOCATED_RECORDS):
            offsets = range(at, min(at + LOCATED_RECORDS, end))
            starts, lengths = array("q", bytes(8 * len(offsets))), array("i", bytes(4 * len(offsets)))
            position = library.tandem_locate(
                data,
                position,
                stop,
                at - base,
                len(offsets),
                starts.buffer_info()[0],
                lengths.buffer_info()[0],
                ctypes.addressof(first_delta),
            )
            if position < 0 or (offsets.stop == end and position != stop):
                yield from self._full_pieces(at - base)
                return
            timestamp = self.batch.first_timestamp + first_delta.value if appended is None else appended
            records = LeanRecords(
                Located(data, starts, lengths), offsets, timestamp, partial(self._records_at, offsets)
            )
            yield RecordBatch(records, offsets.stop, size_bytes)
            size_bytes = 0
            if records.is_unpacked and offsets.stop < end:
                # Who has asked for a record will ask again, and each time it goes from the beginning.
                yield from self._full_pieces(offsets.stop - base)
                return

    def _lean_pieces(self) -> Iterator[RecordBatch]:
        base, end, size_bytes = self.batch.base_offset, self.next_offset, self.size_bytes
        left = chain(self.batch)
        for at in range(base, end, PIECE_RECORDS):
            offsets = range(at, min(at + PIECE_RECORDS, end))
            try:
                first = next(left)
                values = [first.value, *map(_value, islice(left, len(offsets) - 1))]
                if offsets.stop == end:
                    next(left, None)  # The client says now whether something is left over.
            except UnicodeDecodeError:
                yield from self._full_pieces(at - base, self.answer.again(self.where))
                return
            records = LeanRecords(values, offsets, first.timestamp, partial(self._records_at, offsets))
            yield RecordBatch(records, offsets.stop, size_bytes)
            size_bytes = 0
            if records.is_unpacked and offsets.stop < end:
                # Who has asked for a record will ask again, and each time it goes from the beginning.
                yield from self._full_pieces(offsets.stop - base, self.answer.again(self.where))
                return

    def _records_at(self, offsets: range) -> list[Any]:
        base = self.batch.base_offset
        return list(islice(chain(self.answer.again(self.where)), offsets.start - base, offsets.stop - base))

    def _full_pieces(self, done: int = 0, batch: Any = None) -> Iterator[RecordBatch]:
        """Unpack all but the first `done` records, out of `batch`: one can't be gone through twice."""
        left: Iterator[Any] = islice(chain(self.batch if batch is None else batch), done, None)
        size_bytes, is_last = 0 if done else self.size_bytes, False
        while not is_last:
            try:
                records = list(islice(left, PIECE_RECORDS))
            except UnicodeDecodeError:
                left = islice(self.answer.reread(self.batch), done, None)
                continue
            done += len(records)
            is_last = len(records) < PIECE_RECORDS
            next_offset = self.next_offset if is_last else records[-1].offset + 1
            if records and records[0].offset < self.start:
                if next_offset <= self.start:
                    continue
                records = [record for record in records if record.offset >= self.start]
            yield RecordBatch(records, next_offset, size_bytes)
            size_bytes = 0


class _WholeBatches(fetcher.PartitionRecords):  # type: ignore[misc]  # the client has no types
    """Yields a packed batch where the client's own class yields a record."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[PackedBatch | RecordBatch]:
        records = self._records
        # One count for the answer: batches do not tell their size.
        size_bytes = records.size_in_bytes()
        while records.has_next():
            batch, where = records.next_located(self._tp, check=self._check_crcs)
            start: int = self.next_fetch_offset
            self.next_fetch_offset = batch.next_offset
            if self._skips(batch):
                yield RecordBatch([], batch.next_offset, size_bytes)
            else:
                yield PackedBatch(batch, records, where, start, batch.next_offset, size_bytes)
            size_bytes = 0

    def _skips(self, batch: Any) -> bool:
        """Say whether a batch holds nothing for readers: control records, or an aborted transaction."""
        if self._isolation_level == _READ_COMMITTED and batch.producer_id is not None:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)


def read_whole_batches(consumer: aiokafka.AIOKafkaConsumer) -> bool:
    """Make `consumer` (started, nothing assigned yet) yield from `getmany` what `batches` unpacks.

    Returns:
        False where this client version was not checked: the consumer is left as it is.
    """
    read_answers_whole(consumer)
    return replace_in_fetcher(consumer, PartitionRecords=_WholeBatches, MemoryRecords=RawRecords)


def batches(fetched: list[Any], *, lean: bool = False) -> Iterator[RecordBatch]:
    """Yield what `getmany` gave for one partition as batches, also where it gave single records.

    Args:
        fetched: emptied meanwhile, so that what has been yielded can be freed.
        lean: of most batches nothing but the values, offsets and first timestamp will be asked for.

    Raises:
        CorruptRecordException: a batch can't be unpacked.
    """
    if fetched and not isinstance(fetched[0], PackedBatch | RecordBatch):
        yield RecordBatch(fetched, fetched[-1].offset + 1)
        return
    fetched.reverse()
    while fetched:
        one = fetched.pop()
        if isinstance(one, RecordBatch):
            yield one
        else:
            yield from one.pieces(lean=lean)


def unpacked(
    fetched: list[Any], meaning: Callable[[KafkaError], Exception], *, lean: bool = False
) -> Iterator[RecordBatch]:
    """Yield as `batches` does; what can't be unpacked is raised as what `meaning` makes of it."""
    try:
        yield from batches(fetched, lean=lean)
    except KafkaError as error:
        raise meaning(error) from error
