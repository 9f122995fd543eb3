"""The small comparisons that all results share. Pure; each returns the differences it found."""

import itertools
import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from tests.verifier.contract import Record
from tests.verifier.recompute import Fields
from tests.verifier.report import Difference

SHOWN_CHARACTERS: Final = 120


class Published(NamedTuple):
    """A published result: the record, and the JSON object in its value."""

    record: Record
    fields: Fields

    @property
    def input_offset(self) -> int:
        """The input offset that it speaks of; -1 where it names none."""
        found = self.fields.get("offset")
        return found if isinstance(found, int) else -1


@dataclass(frozen=True)
class Slot:
    """Where results of one input partition must stand: topic, and input partition modulo its partitions."""

    topic: str
    input_partition: int
    partitions: int

    def misplaced(self, record: Record) -> list[Difference]:
        """Return a difference where the record stands in another partition."""
        right = self.input_partition % self.partitions
        if record.partition == right:
            return []
        return [Difference("wrong", self.topic, f"{record.where} belongs into partition {right}")]


def decode(topic: str, records: Sequence[Record]) -> tuple[list[Published], list[Difference]]:
    """Return the JSON objects in the records, and a difference for each record that holds none."""
    published = []
    differences = []
    for record in records:
        try:
            fields = json.loads(record.value or b"")
        except ValueError:
            fields = None
        if isinstance(fields, dict):
            published.append(Published(record, fields))
        else:
            differences.append(Difference("wrong", topic, f"{record.where} is not a JSON object"))
    return published, differences


def compare_fields(topic: str, published: Published, expected: Fields) -> list[Difference]:
    """Compare each expected field; fields that nobody expects are borne."""
    return [
        Difference("wrong", topic, f"{published.record.where} {name} {shorten(found)}, not {shorten(value)}")
        for name, value in expected.items()
        if not is_same(found := published.fields.get(name, "missing"), value)
    ]


def compare_key(topic: str, expected: bytes | None, record: Record) -> list[Difference]:
    """Compare the key."""
    if record.key == expected:
        return []
    return [Difference("wrong", topic, f"{record.where} key {shorten(record.key)}, not {shorten(expected)}")]


def once_each(topic: str, due: Sequence[Hashable], found: Sequence[Hashable]) -> list[Difference]:
    """Report what is lost, doubled or invented."""
    often = Counter(found)
    wanted = set(due)
    return [
        *(Difference("lost", topic, f"{name}") for name in due if name not in often),
        *(Difference("doubled", topic, f"{name} is there {n} times") for name, n in often.items() if n > 1),
        *(Difference("invented", topic, f"{name}") for name in often if name not in wanted),
    ]


def in_order(topic: str, published: Sequence[Published]) -> list[Difference]:
    """Report each result that stands after one of a later input offset."""
    return [
        Difference(
            "disordered",
            topic,
            f"{one.record.where} speaks of {one.input_offset} after {before.input_offset}",
        )
        for before, one in itertools.pairwise(published)
        if one.input_offset < before.input_offset
    ]


def rising(topic: str, what: str, offsets: Sequence[int]) -> list[Difference]:
    """Report offsets that come again or go back."""
    differences = []
    for before, offset in itertools.pairwise(offsets):
        kind: Literal["doubled", "disordered"] = "doubled" if offset == before else "disordered"
        if offset <= before:
            differences.append(Difference(kind, topic, f"{what}: offset {offset} after {before}"))
    return differences


def is_same(found: Any, expected: Any) -> bool:
    """Compare as JSON does: true is not 1; a name counted zero times is a name not counted."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return {name: n for name, n in found.items() if n} == {name: n for name, n in expected.items() if n}
    return isinstance(found, bool) == isinstance(expected, bool) and bool(found == expected)


def is_utc(text: object) -> bool:
    """Say whether this is ISO 8601 in UTC."""
    if not isinstance(text, str):
        return False
    try:
        return datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        return False


def is_utf8(value: bytes) -> bool:
    """Say whether the bytes are UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def identity_of(fields: Fields, names: Sequence[str]) -> tuple[Hashable, ...]:
    """Return the values of these fields, as text where they could not tell two results apart."""
    return tuple(value if isinstance(value := fields.get(name), str | int) else repr(value) for name in names)


def shorten(value: object) -> str:
    """Return the value for people, not longer than a line."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS] + "…"


def compare_presence(topic: str, published: Published, names: Sequence[str]) -> list[Difference]:
    """Report fields that must be there and are not, whatever they hold."""
    return [
        Difference("wrong", topic, f"{published.record.where} has no {name}")
        for name in names
        if name not in published.fields
    ]
