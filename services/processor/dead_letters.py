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
_LEAST_TEXT_BYTES = 40
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
            64 KiB, or as much as there is room for, with headers for its full length and SHA-256. Where
            room is short, the texts that say why are cut too; the key and the headers it had never are.
    """
    # Names are text in Kafka; of one that is not UTF-8, `shared.header_names` has written the bytes out.
    original: Headers = tuple((name, value) for name, value in record.headers or ())
    value = record.value
    why = _why(error, place, record.offset, text_bytes=_TEXT_BYTES)
    if _size(record.key, value, original + why) <= limit_bytes:
        return OutputRecord(record.key, value, original + why)
    short: Headers = ()
    if value:
        short = (
            (LENGTH_HEADER, str(len(value)).encode()),
            (SHA256_HEADER, hashlib.sha256(value).hexdigest().encode()),
        )
    bare = _why(error, place, record.offset, text_bytes=0)
    room = limit_bytes - _size(record.key, None, original + bare + short)
    # Two texts, which leave half of the room to the value.
    text_bytes = min(max(room // 4, _LEAST_TEXT_BYTES), _TEXT_BYTES)
    why = _why(error, place, record.offset, text_bytes=text_bytes)
    room = limit_bytes - _size(record.key, None, original + why + short)
    kept = value and value[: min(max(room, 0), CUT_VALUE_BYTES)]
    return OutputRecord(record.key, kept, original + why + (short if kept != value else ()))


def _why(error: Exception, place: Place, offset: int, *, text_bytes: int) -> Headers:
    stack = "".join(traceback.format_exception(error))
    fields: dict[str, Any] = {
        "exception": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": _cut(str(error), text_bytes),
        "stacktrace": _cut(stack, text_bytes),
        "topic": place.topic,
        "partition": place.partition,
        "offset": offset,
    }
    return tuple((_PREFIX + name, str(value).encode(errors="replace")) for name, value in fields.items())


def _cut(text: str, most_bytes: int) -> str:
    """Return the beginning of `text`, whole characters only."""
    return text.encode(errors="replace")[:most_bytes].decode(errors="ignore")


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    size = _OVERHEAD_BYTES + len(key or b"") + len(value or b"")
    return size + sum(len(name.encode()) + len(content or b"") + 10 for name, content in headers)
