"""Is this input record an event, or a dead letter? Decided by Python's own JSON reader and the contract.

A used field must be there, of its type, not null and inside its domain. Unknown and unused fields need only
be JSON; bytes that are not UTF-8 are borne there, and nowhere else.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn

ACTIONS: Final = frozenset({"login", "logout", "click", "view", "purchase", "search"})
DEVICES: Final = frozenset({"mobile", "desktop", "tablet"})
LARGEST_USER_ID: Final = 2**63 - 1
LARGEST_VALUE: Final = 1e15
LONGEST_PAGE: Final = 2048
LONGEST_SENSOR_ID: Final = 128
LONGEST_LOCATION: Final = 128
LONGEST_SOURCE: Final = 64

DATE_AND_TIME: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(?:\.\d+)?(?:Z|[+-]([01]\d|2[0-3]):?[0-5]\d)?",
    re.IGNORECASE | re.ASCII,
)


class RefusedError(Exception):
    """This record is a dead letter; the text says why."""


@dataclass(frozen=True)
class UserEvent:
    """What is used of a user event; `page` and `timestamp` only of a purchase."""

    user_id: int
    action: str
    device: str
    page: str = ""
    timestamp: str = ""


@dataclass(frozen=True)
class SensorReading:
    """What is used of a sensor reading."""

    sensor_id: str
    value: float
    timestamp: float
    location: str


SourceSeq = tuple[str, int]


def read_object(value: bytes | None) -> dict[str, Any]:
    """Return the JSON object that the bytes hold; raise RefusedError where there is none."""
    if value is None:
        raise RefusedError("no value")
    try:
        found = DECODER.decode(value.decode("utf-8", "surrogateescape"))
    except RecursionError as error:
        raise RefusedError("nested too deep") from error
    except ValueError as error:
        raise RefusedError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RefusedError(f"not a JSON object: {type(found).__name__}")
    return found


def read_user_event(fields: Mapping[str, Any]) -> UserEvent:
    """Return the event; raise RefusedError where a used field is not as it must be."""
    user_id = whole_number(fields, "user_id", largest=LARGEST_USER_ID)
    action = one_of(fields, "action", ACTIONS)
    device = one_of(fields, "device", DEVICES)
    read_source_seq(fields)
    if action != "purchase":
        return UserEvent(user_id, action, device)
    page = text(fields, "page", longest=LONGEST_PAGE)
    timestamp = text(fields, "timestamp")
    if not is_date_and_time(timestamp):
        raise RefusedError("timestamp: not ISO 8601")
    return UserEvent(user_id, action, device, page, timestamp)


def read_sensor_reading(fields: Mapping[str, Any]) -> SensorReading:
    """Return the reading; raise RefusedError where a used field is not as it must be."""
    sensor_id = text(fields, "sensor_id", shortest=1, longest=LONGEST_SENSOR_ID)
    value = number(fields, "value")
    timestamp = number(fields, "timestamp")
    location = text(fields, "location", longest=LONGEST_LOCATION)
    read_source_seq(fields)
    if abs(value) > LARGEST_VALUE:
        raise RefusedError("value: out of its domain")
    if timestamp < 0:
        raise RefusedError("timestamp: negative")
    return SensorReading(sensor_id, value, timestamp, location)


def read_source_seq(fields: Mapping[str, Any]) -> SourceSeq | None:
    """Return source and number, None where there is neither; raise RefusedError for anything else."""
    if "source" not in fields and "seq" not in fields:
        return None
    return text(fields, "source", shortest=1, longest=LONGEST_SOURCE), whole_number(fields, "seq")


def readable_source_seq(value: bytes | None) -> SourceSeq | None:
    """Return source and number of a dead letter where they can be read, else None."""
    try:
        return read_source_seq(read_object(value))
    except RefusedError:
        return None


def whole_number(fields: Mapping[str, Any], name: str, *, largest: float = math.inf) -> int:
    found = present(fields, name)
    if not isinstance(found, int) or isinstance(found, bool):
        raise RefusedError(f"{name}: {type(found).__name__} is not an integer")
    if not 0 <= found <= largest:
        raise RefusedError(f"{name}: out of its domain")
    return found


def number(fields: Mapping[str, Any], name: str) -> float:
    found = present(fields, name)
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise RefusedError(f"{name}: {type(found).__name__} is not a number")
    try:
        as_float = float(found)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise RefusedError(f"{name}: not finite")
    return as_float


def text(fields: Mapping[str, Any], name: str, *, shortest: int = 0, longest: float = math.inf) -> str:
    found = present(fields, name)
    if not isinstance(found, str):
        raise RefusedError(f"{name}: {type(found).__name__} is not a string")
    if not found.isascii() and any("\ud800" <= character <= "\udfff" for character in found):
        raise RefusedError(f"{name}: not UTF-8")
    if not shortest <= len(found) <= longest:
        raise RefusedError(f"{name}: {len(found)} characters")
    return found


def one_of(fields: Mapping[str, Any], name: str, allowed: frozenset[str]) -> str:
    found = text(fields, name)
    if found not in allowed:
        raise RefusedError(f"{name}: unknown")
    return found


def present(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise RefusedError(f"{name}: missing")
    return fields[name]


def is_date_and_time(candidate: str) -> bool:
    """Say whether this is a date and a time in ISO 8601, with or without an offset."""
    match = DATE_AND_TIME.fullmatch(candidate)
    if match is None:
        return False
    try:
        datetime.fromisoformat(f"{match[1]}T{match[2]}")
    except ValueError:
        return False
    return True


def refuse_token(token: str) -> NoReturn:
    raise ValueError(f"{token} is not JSON")


def integer(digits: str) -> int | float:
    """Return the number; beyond 400 digits infinity stands for it, which no field's domain holds.

    Python refuses to convert more than 4,300 digits, and an unused field may have them.
    """
    return int(digits) if len(digits) <= 400 else math.inf


DECODER: Final = json.JSONDecoder(parse_constant=refuse_token, parse_int=integer)
