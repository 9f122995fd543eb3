"""Whole record batches out of the client, instead of one Python object per record.

This and `shared.header_names` are the modules that reach into the client's internals for reading. It
replaces, for a single consumer, the classes that unpack a fetch response; everything else (positions,
assignment, errors) stays the client's own. It was checked with one client version; on any other,
`read_whole_batches` says so and leaves the public path in place, which `batches` turns into the same shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiokafka
from aiokafka.consumer import fetcher

from services.processor.records import RecordBatch
from shared.header_names import CHECKED_VERSION, RawRecords, replace_in_fetcher

__all__ = ["CHECKED_VERSION", "batches", "read_whole_batches"]

_READ_COMMITTED = fetcher.READ_COMMITTED


class _WholeBatches(fetcher.PartitionRecords):  # type: ignore[misc]  # the client has no types
    """Yields a `RecordBatch` where the client's own class yields a record."""

    def _unpack_records(self) -> Iterator[RecordBatch]:
        records = self._records
        # One count for the answer: batches do not tell their size.
        size_bytes = records.size_in_bytes()
        while records.has_next():
            batch = records.next_checked(self._tp) if self._check_crcs else records.next_batch()
            if self._skips(batch):
                self.next_fetch_offset = batch.next_offset
                yield RecordBatch([], batch.next_offset, size_bytes)
                size_bytes = 0
                continue
            try:
                unpacked = list(batch)
            except UnicodeDecodeError:
                unpacked = records.reread(batch)
            if unpacked and unpacked[0].offset < self.next_fetch_offset:
                # The position lies inside this batch: brokers answer with whole batches.
                unpacked = [record for record in unpacked if record.offset >= self.next_fetch_offset]
            # From the batch, not from its last record: compaction may have removed that one.
            self.next_fetch_offset = batch.next_offset
            yield RecordBatch(unpacked, batch.next_offset, size_bytes)
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
    """Make `consumer` (started, nothing assigned yet) yield `RecordBatch` objects from `getmany`.

    Returns:
        False where this client version was not checked: the consumer is left as it is.
    """
    return replace_in_fetcher(consumer, PartitionRecords=_WholeBatches, MemoryRecords=RawRecords)


def batches(fetched: list[Any]) -> list[RecordBatch]:
    """Return what `getmany` gave for one partition as batches, also where it gave single records."""
    if not fetched or isinstance(fetched[0], RecordBatch):
        return fetched
    return [RecordBatch(fetched, fetched[-1].offset + 1)]
