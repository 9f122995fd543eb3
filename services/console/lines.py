"""Lines of a file as records to send, and what is wrong with those that are none. Pure."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from shared import events, results, topics
from shared.events import UNDECODABLE, is_iso_8601

Format = Literal["jsonl", "kv", "csv"]
FORMATS: tuple[Format, ...] = ("jsonl", "kv", "csv")
_BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tsv": "kv",
    ".kv": "kv",
    ".csv": "csv",
}
# What each topic holds, by its name without prefix. Dead letters and changelogs hold anything.
SCHEMAS: dict[str, type[Any]] = {
    topics.USER_BEHAVIOR: events.UserEvent,
    topics.SENSOR_DATA: events.SensorReadingCounted,
    topics.PURCHASES: results.Purchase,
    topics.ALERTS: results.Alert,
    topics.BEHAVIOR_STATS: results.BehaviorStats,
    topics.SENSOR_STATS: results.SensorStats,
    topics.PROGRESS: results.Progress,
    topics.GENERATOR_LEDGER: results.LedgerEntry,
}
# The field that is a record's key where none is given.
_KEY_FIELDS = {
    topics.USER_BEHAVIOR: "user_id",
    topics.PURCHASES: "user_id",
    topics.SENSOR_DATA: "sensor_id",
    topics.ALERTS: "sensor_id",
    topics.SENSOR_STATS: "sensor_id",
    topics.BEHAVIOR_STATS: "partition",
}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Outgoing:
    """A record to send. `line` is where it stands in its file, from 1."""

    line: int
    key: bytes | None
    value: bytes


@dataclass(frozen=True)
class Malformed:
    """A line that is no record, and why."""

    line: int
    why: str


def format_of(name: str) -> Format:
    """Return the format that a file's name stands for; JSON lines where it says nothing."""
    return next((found for suffix, found in _BY_SUFFIX.items() if name.lower().endswith(suffix)), "jsonl")


class Keys:
    """Which key a record goes with.

    Args:
        topic: without prefix.
        constant: one for all.
        automatic: key-0, key-1, … for those without.
    """

    def __init__(self, topic: str, *, constant: str | None = None, automatic: bool = False) -> None:
        self._field = _KEY_FIELDS.get(topic)
        self._constant = None if constant is None else constant.encode()
        self._numbers = itertools.count() if automatic else None

    def of(self, own: bytes | None, value: bytes) -> bytes | None:
        """Return the key: the record's own, the constant, the next automatic, or a field of the value's."""
        if own is not None:
            return own
        if self._constant is not None:
            return self._constant
        if self._numbers is not None:
            return f"key-{next(self._numbers)}".encode()
        if self._field is None:
            return None
        try:
            found = _decode(value)[self._field]
        except (KeyError, ValueError, RecursionError, TypeError):
            return None  # Only what is sent raw comes here without its field.
        return str(found).encode()


def records(
    lines: Iterable[bytes], form: Format, topic: str, keys: Keys, *, raw: bool
) -> Iterator[Outgoing | Malformed]:
    """Yield what each line is. Empty lines are left out.

    Args:
        lines: of the file, with or without their ends.
        form: how a line is written; the first line of `csv` names the fields, one of which may be `key`.
        topic: without prefix; what is no record of its schema is malformed.
        keys: for records without one of their own.
        raw: check nothing but the line's form.
    """
    if form == "csv":
        yield from _csv_records(lines, topic, keys, raw=raw)
        return
    for number, line in enumerate(lines, 1):
        content = line.rstrip(b"\r\n")
        if not content.strip():
            continue
        own: bytes | None = None
        if form == "kv":
            own, tab, content = content.partition(b"\t")
            if not tab:
                yield Malformed(number, "no tab between key and value")
                continue
        yield _checked(number, own, content, topic, keys, raw=raw)


def wrong_with(value: bytes, topic: str) -> str:
    """Return what keeps a value from being a record of its topic; empty where nothing does."""
    schema = SCHEMAS.get(topic)
    try:
        if schema is None:
            _decode(value)
            return ""
        found = msgspec.json.decode(value, type=schema)
    except UNDECODABLE as error:
        return str(error)
    if (getattr(found, "source", None) is msgspec.UNSET) != (getattr(found, "seq", None) is msgspec.UNSET):
        return "source and seq go together: one of them is missing"
    timestamp = getattr(found, "timestamp", None)
    if isinstance(timestamp, str) and not is_iso_8601(timestamp):
        return "timestamp is not ISO 8601"
    return ""


def _checked(
    number: int, own: bytes | None, value: bytes, topic: str, keys: Keys, *, raw: bool
) -> Outgoing | Malformed:
    wrong = "" if raw or (topic == topics.DEAD_LETTERS) else wrong_with(value, topic)
    return Malformed(number, wrong) if wrong else Outgoing(number, keys.of(own, value), value)


def _csv_records(
    lines: Iterable[bytes], topic: str, keys: Keys, *, raw: bool
) -> Iterator[Outgoing | Malformed]:
    reader = csv.reader(_text(lines), strict=True)
    schema = SCHEMAS.get(topic)
    try:
        names = next(reader, [])
        for row in reader:
            number = reader.line_num
            if not row:
                continue
            if len(row) != len(names):
                yield Malformed(number, f"{len(row)} fields, and the first line names {len(names)}")
                continue
            fields: dict[str, Any] = dict(zip(names, row, strict=True))
            key = fields.pop("key", None)
            if schema is not None and not raw:
                try:
                    # Text becomes what the schema has there: 7, not "7".
                    fields = msgspec.to_builtins(msgspec.convert(fields, schema, strict=False))
                except ValueError as error:
                    yield Malformed(number, str(error))
                    continue
            yield _checked(number, key.encode() if key else None, _encode(fields), topic, keys, raw=raw)
    except (csv.Error, UnicodeDecodeError) as error:
        # What comes after can't be told apart any more.
        yield Malformed(reader.line_num + 1, f"{error}; the rest of the file is left out")


def _text(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        yield line.decode("utf-8-sig" if line.startswith(b"\xef\xbb\xbf") else "utf-8")
