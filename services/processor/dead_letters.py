"""Records that are put aside: untouched, with why and from where in headers. Pure.

The names are those of Kafka Streams' dead letter queue,
https://cwiki.apache.org/confluence/display/KAFKA/KIP-1034
"""

from __future__ import annotations

import hashlib
import traceback
from typing import Any

from services.processor.records import Record
from services.processor.topology import Headers, OutputRecord, Place

CUT_VALUE_BYTES = 64 * 1024
_TEXT_BYTES = 4 * 1024
_PREFIX = "__streams.errors."
LENGTH_HEADER = "tandem.value.length"
SHA256_HEADER = "tandem.value.sha256"
# A record batch of one record: its own header (61), and lengths, timestamps and offsets.
_OVERHEAD_BYTES = 200


def dead_letter(record: Record, place: Place, error: Exception, *, limit_bytes: int) -> OutputRecord:
    """Return `record` as it goes to the dead letters.

    Args:
        record: as it was read.
        place: where it was read.
        error: what is wrong with it; its text becomes the message.
        limit_bytes: of a message in the dead letter topic. A value that does not fit goes as its first
            64 KiB, with headers for its full length and SHA-256.
    """
    # Names are text in Kafka; of one that is not UTF-8, `shared.header_names` has written the bytes out.
    original: Headers = tuple((name, value) for name, value in record.headers or ())
    why = _why(error, place, record.offset)
    value = record.value
    size = _size(record.key, value, original + why)
    if value is not None and size > limit_bytes and len(value) > CUT_VALUE_BYTES:
        why += (
            (LENGTH_HEADER, str(len(value)).encode()),
            (SHA256_HEADER, hashlib.sha256(value).hexdigest().encode()),
        )
        value = value[:CUT_VALUE_BYTES]
    return OutputRecord(record.key, value, original + why)


def _why(error: Exception, place: Place, offset: int) -> Headers:
    stack = "".join(traceback.format_exception(error))
    fields: dict[str, Any] = {
        "exception": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": _cut(str(error)),
        "stacktrace": _cut(stack),
        "topic": place.topic,
        "partition": place.partition,
        "offset": offset,
    }
    return tuple((_PREFIX + name, str(value).encode(errors="replace")) for name, value in fields.items())


def _cut(text: str) -> str:
    """Return the first 4 KiB of `text`, whole characters only."""
    return text.encode(errors="replace")[:_TEXT_BYTES].decode(errors="ignore")


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    size = _OVERHEAD_BYTES + len(key or b"") + len(value or b"")
    return size + sum(len(name.encode()) + len(content or b"") + 10 for name, content in headers)
