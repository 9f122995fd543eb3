"""What a record that is delivered once more was at first (`tandem dlq retry --delivery`). Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

_ERRORS = "__streams.errors."
_RETRIED = "tandem.retried"


class Original(NamedTuple):
    """A record where it was first read. `topic` is a full name; `timestamp` is that of the retry."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def original(record: Any) -> Original:
    """Return a record of the retries as it was; its own place where its headers do not say another one."""
    about = {name.removeprefix(_ERRORS): value or b"" for name, value in record.headers}
    topic, partition, offset = (
        about.get(name, b"").decode(errors="replace") for name in ("topic", "partition", "offset")
    )
    is_known = topic and partition.isdecimal() and offset.isdecimal()
    return Original(
        topic=topic if is_known else record.topic,
        partition=int(partition) if is_known else record.partition,
        offset=int(offset) if is_known else record.offset,
        timestamp=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(
            (name, value)
            for name, value in record.headers
            if not name.startswith(_ERRORS) and name != _RETRIED
        ),
    )
