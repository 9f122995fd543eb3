"""Records as they come out of a batch of which nothing is unpacked."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from services.processor.records import LeanRecords, Located, Record


def located(values: Iterable[bytes | None]) -> Located:
    """Return values with something between them that would go on with each."""
    data, starts, lengths = b"", array("q"), array("i")
    for value in values:
        starts.append(len(data))
        lengths.append(-1 if value is None else len(value))
        data += (value or b"") + b'0"}'
    return Located(data, starts, lengths)


def as_located(records: Sequence[Record]) -> LeanRecords:
    """Return records, whose offsets have no gap, as places in one stretch of bytes."""
    offsets = range(records[0].offset, records[-1].offset + 1)
    assert len(offsets) == len(records), "there is no gap"
    values = located(record.value for record in records)
    return LeanRecords(values, offsets, records[0].timestamp, lambda: records)
