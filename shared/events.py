"""The schema of the input topics, `user_behavior` and `sensor_data`.

The full structs are what the generator publishes and what `PROCESSOR_VALIDATION=full` checks.
The `…Counted` structs name the fields that the processor's statistics use, with their domains:
decoding only these is the hot path, everything else in a record is skipped by the JSON scanner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_INT64 = 2**63 - 1
MAX_PAGE_CHARACTERS = 2048
MAX_SENSOR_VALUE = 1e15
# As in a dotted quad: ASCII digits, and no leading zeros, which some read as octal.
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

Action: TypeAlias = Literal["login", "logout", "click", "view", "purchase", "search"]
Device: TypeAlias = Literal["mobile", "desktop", "tablet"]
UserId: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_INT64)]
Page: TypeAlias = Annotated[str, Meta(max_length=MAX_PAGE_CHARACTERS)]
SensorId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
SensorValue: TypeAlias = Annotated[float, Meta(ge=-MAX_SENSOR_VALUE, le=MAX_SENSOR_VALUE)]
EpochSeconds: TypeAlias = Annotated[float, Meta(ge=0)]
Location: TypeAlias = Annotated[str, Meta(max_length=128)]
Source: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Seq: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_INT64)]


class Sourced(msgspec.Struct, gc=False, kw_only=True):
    """The fields of the accounts: one generator incarnation and its consecutive number.

    Both or neither; see `check_sourced`.
    """

    source: Source | UnsetType = UNSET
    seq: Seq | UnsetType = UNSET


class UserEventCounted(Sourced, gc=False):
    """What the behaviour statistics use of a user event."""

    user_id: UserId
    action: Action
    device: Device


class UserEvent(Sourced, gc=False):
    """One step of a user: the whole record."""

    user_id: UserId
    action: Action
    page: Page
    timestamp: str
    ip: Annotated[str, Meta(pattern=rf"^{_OCTET}(\.{_OCTET}){{3}}\Z")]
    device: Device


class SensorReadingCounted(Sourced, gc=False):
    """What windows and alerts use of a reading: all of it. `timestamp` is seconds since the epoch."""

    sensor_id: SensorId
    value: SensorValue
    timestamp: EpochSeconds
    location: Location


SensorReading: TypeAlias = SensorReadingCounted

# What msgspec raises for bytes that are not the struct asked for: ValidationError and DecodeError
# are ValueErrors, and so is UnicodeDecodeError, which is not a MsgspecError; nesting too deep for
# the scanner is a RecursionError; a null value is a TypeError.
UNDECODABLE: tuple[type[Exception], ...] = (ValueError, RecursionError, TypeError)


class _SourcedLoosely(msgspec.Struct, gc=False):
    source: Any = UNSET
    seq: Any = UNSET


_decode_sourced_loosely = msgspec.json.Decoder(_SourcedLoosely).decode


def decoder(struct: type[Any]) -> Callable[[bytes], Any]:
    """Return the function that decodes one value (bytes, JSON in UTF-8) to `struct`.

    The function raises one of `UNDECODABLE`.
    """
    return msgspec.json.Decoder(struct).decode


def readable_source(value: bytes | None) -> tuple[str, int] | None:
    """Return source and seq of a record that is a dead letter, where both can be read, else None."""
    if value is None:
        return None
    try:
        found = _decode_sourced_loosely(value)
    except UNDECODABLE:
        return None
    source, seq = found.source, found.seq
    if isinstance(source, str) and 1 <= len(source) <= 64 and type(seq) is int and 0 <= seq <= MAX_INT64:
        return source, seq
    return None


def is_iso_8601(text: str) -> bool:
    """Say whether `text` is ISO 8601 as `datetime.fromisoformat` reads it, with or without an offset."""
    return are_iso_8601((text,))


def are_iso_8601(texts: Iterable[str]) -> bool:
    """Say whether all of them are; a call for each would take as long as the reading."""
    try:
        for _ in map(datetime.fromisoformat, texts):
            pass
    except ValueError:
        return False
    return True
