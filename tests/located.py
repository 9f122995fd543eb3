"""Records as they come out of a batch of which nothing is unpacked."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from services.processor.records import LeanRecords, Located, Record


def as_located(records: Sequence[Record]) -> LeanRecords:
    """Return records, whose offsets have no gap, as places in one stretch of bytes."""
    values = [record.value for record in records]
    data, starts = b"", array("q")
    for value in values:
        data += b"\x02"  # Between values there is what is not theirs.
        starts.append(len(data))
        data += value or b""
    lengths = array("i", [-1 if value is None else len(value) for value in values])
    offsets = range(records[0].offset, records[-1].offset + 1)
    assert len(offsets) == len(records), "there is no gap"
    return LeanRecords(Located(data, starts, lengths), offsets, records[0].timestamp, lambda: records)
