"""Records into the client's record batches, past its own `append`.

That one looks for serializers that nobody has set and counts, as much work as adding the record itself. This
reaches into the client's internals; it was checked with `CHECKED_VERSION`, and of any other version the
public way is taken. `tests/contract/test_sending.py` holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import aiokafka

from shared.header_names import CHECKED_VERSION

# Key, value, and headers as pairs of name and content.
Content = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]

_NO_HEADERS: list[tuple[str, bytes | None]] = []


def add_records(batch: Any, records: Iterable[Content], timestamp_ms: int) -> int:
    """Add records to a batch until it is full, which closes it; return how many were added.

    The first record of a batch is taken whatever its size: the broker has the last word on it.

    Args:
        batch: what the producer's `create_batch` returns.
        records: in order; the first that has no room any more is consumed, and not added.
        timestamp_ms: of all of them, milliseconds since the epoch.
    """
    had = batch.record_count()
    if batch.closed():
        return 0
    if aiokafka.__version__ != CHECKED_VERSION:
        for key, value, headers in records:
            if batch.append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers)) is None:
                break
        return int(batch.record_count()) - int(had)
    append = batch._builder.append  # noqa: SLF001 — see the module's docstring
    count = had
    for key, value, headers in records:
        if append(count, timestamp_ms, key, value, list(headers) if headers else _NO_HEADERS) is None:
            batch.close()
            break
        count += 1
    batch._relative_offset = count  # noqa: SLF001 — see the module's docstring
    return int(count - had)
