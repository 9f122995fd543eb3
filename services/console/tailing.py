"""Which records `tandem tail` shows, from where on, and how it writes them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from services.console.merge import Ends

# Of transactions that were aborted, or have nothing in this partition but their marker.
_MORE_MARKERS = 20

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Start:
    """Where to begin in each partition.

    Attributes:
        kind: `number` counts offsets from the log's beginning, `last` records back from its end.
        value: the number, or milliseconds since the epoch for `time`.
    """

    kind: Literal["beginning", "end", "number", "last", "time"]
    value: int = 0

    def offset(self, ends: Ends, at_time: int | None = None) -> int:
        """Return the offset to begin at, within what the partition holds.

        Args:
            ends: of the partition.
            at_time: of the first record that is not older than `value`; None where there is none.
        """
        wanted = {
            "beginning": ends.start,
            "end": ends.end,
            "number": self.value,
            # Every other offset may be the marker of a transaction; who reads keeps the last ones.
            "last": ends.end - 2 * self.value - _MORE_MARKERS,
            "time": ends.end if at_time is None else at_time,
        }[self.kind]
        return min(max(wanted, ends.start), ends.end)


def parse_start(text: str) -> Start:
    """Return where to begin.

    Args:
        text: `beginning`, `end`, an offset, `-N` for the last N of each partition, or a time in ISO 8601;
            one without an offset is in UTC.

    Raises:
        ValueError: it is none of these.
    """
    if text in {"beginning", "end"}:
        return Start("beginning" if text == "beginning" else "end")
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit():
        return Start("last" if text.startswith("-") else "number", int(digits))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not beginning, end, an offset, -N, or a time like 2026-11-23T12:00:00Z"
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return Start("time", int(moment.timestamp() * 1_000))


def parse_condition(text: str) -> tuple[str, str]:
    """Return field and wanted value of `FIELD=VALUE`.

    Raises:
        ValueError: there is no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{text!r} is not FIELD=VALUE")
    return name, value


@dataclass(frozen=True)
class Wanted:
    """What a record has to be to be shown.

    Attributes:
        keys: any of these; empty: whatever the key.
        fields: each of these, on the top level of a JSON object; a value that is no text is compared as JSON.
    """

    keys: frozenset[bytes] = frozenset()
    fields: Sequence[tuple[str, str]] = ()

    def has(self, record: Any) -> bool:
        """Say whether a record is to be shown."""
        if self.keys and record.key not in self.keys:
            return False
        if not self.fields:
            return True
        found = as_json(record.value)
        return isinstance(found, dict) and all(
            name in found and _text(found[name]) == value for name, value in self.fields
        )


def last_of(records: Sequence[Any], count: int) -> list[Any]:
    """Return the last `count` records of each partition, of records that are in order there."""
    by_place: dict[tuple[str, int], deque[Any]] = {}
    for record in records:
        by_place.setdefault((record.topic, record.partition), deque(maxlen=count)).append(record)
    return [record for kept in by_place.values() for record in kept]


def as_json(value: bytes | None) -> Any:
    """Return a value decoded; text where it is no JSON, hexadecimal digits where it is no text either."""
    if value is None:
        return None
    try:
        return _decode(value)
    except (ValueError, RecursionError):
        return readable(value)


def readable(value: bytes | None) -> str | None:
    """Return bytes as text; as `0x…` where they are not UTF-8."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"


def as_fields(record: Any, *, headers: bool) -> dict[str, Any]:
    """Return a record as JSON types."""
    fields = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": _moment(record.timestamp),
        "key": readable(record.key),
        "value": as_json(record.value),
    }
    if headers:
        fields["headers"] = [[name, readable(value)] for name, value in record.headers]
    return fields


def as_line(record: Any, *, headers: bool) -> str:
    """Return a record as a line: where, when, key, value; headers in lines of their own."""
    key, value = readable(record.key), readable(record.value)
    parts = [
        f"{record.topic}:{record.partition}:{record.offset}",
        _moment(record.timestamp),
        "-" if key is None else one_line(key),
        "-" if value is None else one_line(value),
    ]
    lines = ["  ".join(parts)]
    if headers:
        lines += [f"    {name}: {one_line(readable(found) or '')}" for name, found in record.headers]
    return "\n".join(lines)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1_000, UTC).isoformat(timespec="milliseconds")


def one_line(text: str) -> str:
    """Return text without line ends and control characters: what is shown must not steer a terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
