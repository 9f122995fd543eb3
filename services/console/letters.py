"""Dead letters as operators look at them: why, from where, and which of them are meant. Pure.

The headers are those that `services.processor` writes, named as in Kafka Streams (KIP-1034).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from services.console.tailing import as_json, readable

# Before the names of the headers that say why and from where.
ERRORS = "__streams.errors."
_LENGTH = "tandem.value.length"
# Of a value that was cut: its length and its SHA-256 as a whole.
OWN_HEADERS = (_LENGTH, "tandem.value.sha256")
# Says of a record that was sent again which letter it was.
RETRIED_HEADER = "tandem.retried"
# What messages of one kind differ in: numbers, and what is quoted of a record.
_DIFFERS = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")
_STOPPED_AT = re.compile(r"\(byte (\d+)\)")
_REASON_CHARACTERS = 100
_AROUND_BYTES = 40

Headers = tuple[tuple[str, bytes | None], ...]
Action = Literal["retried", "edited", "dropped"]


class Mark(msgspec.Struct):
    """What became of a letter: the value of its record in the topic of handled ones.

    `at` is ISO 8601 in UTC; `topic` and `partition` are where it was sent, None for one that was dropped.
    `letter_at` is the letter's timestamp: a topic that was made anew has other letters at the same offsets.
    """

    action: Action
    at: str
    letter_at: int
    topic: str | None = None
    partition: int | None = None


encode_mark = msgspec.json.Encoder().encode
decode_mark = msgspec.json.Decoder(Mark).decode


@dataclass(frozen=True)
class Letter:
    """One dead letter.

    Attributes:
        partition: of the dead letter topic; with `offset` it is the letter's name.
        timestamp: of the letter, milliseconds since the epoch.
        headers: those that the record had before it was put aside.
        message: why it was; `exception` and `stacktrace` go with it. Empty where nothing says so.
        topic: full name of the topic that it comes from, None where nothing says so, and below the place.
        full_bytes: the length of the whole value where only its beginning is here.
    """

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    exception: str
    message: str
    stacktrace: str
    topic: str | None
    source_partition: int | None
    source_offset: int | None
    full_bytes: int | None

    @property
    def name(self) -> str:
        """How it is named on the command line, and the key of its mark."""
        return f"{self.partition}:{self.offset}"

    @property
    def source(self) -> str:
        """Where it comes from."""
        return f"{self.topic or '?'}:{_shown(self.source_partition)}:{_shown(self.source_offset)}"

    @property
    def reason(self) -> str:
        """Its message without what differs from record to record, in one line."""
        general = _DIFFERS.sub("…", " ".join(self.message.split()))
        short = general if len(general) <= _REASON_CHARACTERS else f"{general[: _REASON_CHARACTERS - 1]}…"
        return short or self.exception.rpartition(".")[2] or "unknown"

    @property
    def origin_headers(self) -> Headers:
        """Where it comes from, as headers of a record that goes somewhere else."""
        parts = (("topic", self.topic), ("partition", self.source_partition), ("offset", self.source_offset))
        return tuple((ERRORS + name, str(part).encode()) for name, part in parts if part is not None)

    @property
    def moment(self) -> str:
        """When it was put aside, ISO 8601 in UTC."""
        return moment(self.timestamp)


def letter_of(record: Any) -> Letter:
    """Return a record of a dead letter topic as a letter; what its headers do not say is None or empty."""
    found = {name: value or b"" for name, value in record.headers if name.startswith(ERRORS)}
    about = {name.removeprefix(ERRORS): value.decode(errors="replace") for name, value in found.items()}
    lengths = [value for name, value in record.headers if name == _LENGTH]
    return Letter(
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(
            (name, value)
            for name, value in record.headers
            if not name.startswith(ERRORS) and name not in OWN_HEADERS
        ),
        exception=about.get("exception", ""),
        message=about.get("message", ""),
        stacktrace=about.get("stacktrace", ""),
        topic=about.get("topic") or None,
        source_partition=_number(about.get("partition")),
        source_offset=_number(about.get("offset")),
        full_bytes=_number((lengths[0] or b"").decode(errors="replace")) if lengths else None,
    )


@dataclass(frozen=True)
class Selection:
    """Which letters are meant: those that meet every condition.

    Attributes:
        names: any of these; empty: all.
        reason: stands in the message or the exception, in whatever case.
        topic: full name of the topic that they come from.
        since: not older, milliseconds since the epoch; and `until`: older.
    """

    names: frozenset[tuple[int, int]] = frozenset()
    reason: str | None = None
    topic: str | None = None
    since: int | None = None
    until: int | None = None

    def has(self, letter: Letter) -> bool:
        """Say whether a letter is meant."""
        wanted = not self.names or (letter.partition, letter.offset) in self.names
        if wanted and self.reason is not None:
            wanted = self.reason.lower() in f"{letter.exception} {letter.message}".lower()
        if wanted and self.topic is not None:
            wanted = letter.topic == self.topic
        if wanted and self.since is not None:
            wanted = letter.timestamp >= self.since
        return wanted and (self.until is None or letter.timestamp < self.until)


def parse_name(text: str) -> tuple[int, int]:
    """Return partition and offset of `PARTITION:OFFSET`.

    Raises:
        ValueError: it is something else.
    """
    partition, colon, offset = text.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise ValueError(f"{text!r} is not PARTITION:OFFSET, as `tandem dlq list --each` shows them")
    return int(partition), int(offset)


@dataclass
class Group:
    """Letters of one reason and topic. `first` and `last` are milliseconds since the epoch."""

    reason: str
    topic: str
    count: int = 0
    handled: dict[str, int] = field(default_factory=dict)
    first: int = 0
    last: int = 0
    example: str = ""

    @property
    def open(self) -> int:
        """How many nothing was done about."""
        return self.count - sum(self.handled.values())


class Groups:
    """Letters by reason and topic."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], Group] = {}

    def add(self, letter: Letter, mark: Mark | None) -> None:
        """Take one in."""
        key = (letter.reason, letter.topic or "?")
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(*key, first=letter.timestamp, last=letter.timestamp)
        group.count += 1
        if mark is not None:
            group.handled[mark.action] = group.handled.get(mark.action, 0) + 1
        group.first = min(group.first, letter.timestamp)
        group.last = max(group.last, letter.timestamp)
        group.example = group.example or letter.name

    def ordered(self) -> list[Group]:
        """Return them, the most frequent first."""
        return sorted(self._groups.values(), key=lambda one: (-one.open, -one.count, one.reason, one.topic))


def as_fields(letter: Letter, mark: Mark | None, *, whole: bool) -> dict[str, Any]:
    """Return a letter as JSON types; `whole` with value, headers and stack trace."""
    fields: dict[str, Any] = {
        "letter": letter.name,
        "timestamp": letter.moment,
        "from": letter.source,
        "reason": letter.message or letter.reason,
        "status": status(mark),
        "key": readable(letter.key),
    }
    if whole:
        fields |= {
            "exception": letter.exception,
            "value": as_json(letter.value),
            "value_bytes": len(letter.value or b""),
            "full_value_bytes": letter.full_bytes,
            "headers": [[name, readable(value)] for name, value in letter.headers],
            "stacktrace": letter.stacktrace,
            "stopped_at": stopped_at(letter),
        }
        if mark is not None:
            fields["handled"] = msgspec.to_builtins(mark)
    return fields


def status(mark: Mark | None) -> str:
    """Return what became of a letter, in a word."""
    return "open" if mark is None else mark.action


def stopped_at(letter: Letter) -> str | None:
    """Return the bytes around the place where the decoder stopped, that place marked; None if unknown."""
    found = _STOPPED_AT.search(letter.message)
    if found is None or letter.value is None:
        return None
    at = int(found[1])
    if at > len(letter.value):
        return None
    before, after = letter.value[max(at - _AROUND_BYTES, 0) : at], letter.value[at : at + _AROUND_BYTES]
    return f"{_printable(before)} ▶ {_printable(after)}"


def moment(milliseconds: int) -> str:
    """Return a time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(milliseconds / 1_000, UTC).isoformat(timespec="milliseconds")


def hexdump(value: bytes) -> Iterable[str]:
    """Yield lines of offset, sixteen bytes in hexadecimal digits, and what of them is printable ASCII."""
    for start in range(0, len(value), 16):
        part = value[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{start:08x}  {part.hex(' '):<47}  {text}"


def _printable(value: bytes) -> str:
    text = value.decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _shown(number: int | None) -> str:
    return "?" if number is None else str(number)
