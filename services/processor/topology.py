"""What a topology is: the only file one writes to process another stream. Pure.

A topology declares its input, its consumer group, the topics it publishes to and the fields it decodes;
for each partition it makes a `PartitionTopology` that holds the state and does the work. It knows no
Kafka, no event loop and no clock: whether events reach it once, after a crash or after a rebalance is not
its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from services.processor.records import Record, offsets_of, only, values_of
from services.processor.state import State

EventT = TypeVar("EventT")

Headers = tuple[tuple[str, bytes | None], ...]


class OutputRecord(NamedTuple):
    """A record to be published."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


# What stands for one where they are many.
Outgoing = tuple[bytes | None, bytes | None, Headers]


@dataclass
class Outputs:
    """What a transaction will publish, by topic name (without prefix), in order."""

    by_topic: dict[str, list[Outgoing]] = field(default_factory=dict)
    size_bytes: int = 0

    def publish(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Add a record to the transaction."""
        record = (key, value, headers)
        try:
            self.by_topic[topic].append(record)
        except KeyError:
            self.by_topic[topic] = [record]
        self.size_bytes += (len(key) if key else 0) + (len(value) if value else 0)
        if headers:
            self.size_bytes += sum(len(name) + len(content or b"") for name, content in headers)

    def publish_all(self, topic: str, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Add records without headers, `keys[i]` with `values[i]`: what `publish` does in half the time.

        Raises:
            ValueError: there are not as many values as keys; none is added.
        """
        if len(keys) != len(values):
            raise ValueError(f"{topic}: {len(keys)} keys and {len(values)} values")
        if keys:
            self.by_topic.setdefault(topic, []).extend(zip(keys, values, repeat(()), strict=False))
            self.size_bytes += sum(map(len, keys)) + sum(map(len, values))


@dataclass(frozen=True)
class Place:
    """One partition of the input. `topic` is the full name, prefix and all."""

    topic: str
    partition: int


@dataclass(frozen=True)
class Batch(Generic[EventT]):
    """Decoded events with the records they came in: `events[i]` is `records[i]`'s.

    `values` and `offsets` are at hand; the first look at `records` has the whole batch unpacked.
    """

    events: Sequence[EventT]
    records: Sequence[Record]

    @property
    def values(self) -> Sequence[bytes | None]:
        """The value of each record."""
        return values_of(self.records)

    @property
    def offsets(self) -> Sequence[int]:
        """The offset of each record."""
        return offsets_of(self.records)

    def only(self, indexes: list[int]) -> Batch[EventT]:
        """Return the events at `indexes`."""
        return Batch([self.events[i] for i in indexes], only(self.records, indexes))

    def part(self, start: int, end: int) -> Batch[EventT]:
        """Return the events from `start` up to, not including, `end`."""
        return Batch(self.events[start:end], self.records[start:end])


class PartitionTopology(Protocol[EventT]):
    """The work on one partition.

    `examine` comes first and changes nothing. `process` is called for what is counted: no duplicates,
    no dead letters. When the state is nearly full it is called event by event; it may then meet
    `StateFullError`, and has to take its keys before it changes or publishes anything. An event takes two
    new keys at most.
    """

    def examine(self, batch: Batch[EventT]) -> None:
        """Look closer at what decoding alone does not check.

        Raises:
            RejectedError: with the index of the first event that is to become a dead letter.
        """

    def process(self, batch: Batch[EventT], outputs: Outputs) -> None:
        """Count a batch, in order."""

    def seal(self, next_offset: int, updated_at: str, outputs: Outputs) -> None:
        """Publish what is published once per transaction; it is about to be committed."""

    def figures(self) -> dict[str, Any]:
        """Return what `/stats` and the log show of this partition, as a new object of JSON types."""


class Topology(Protocol):
    """A stream's processing. An instance is made with the processor's settings as its only argument.

    Attributes:
        name: for logs and settings.
        input: topic that is read, without prefix.
        group: consumer group, without prefix; part of the transactional ids.
        results: topics that are published to, beside what the processor itself writes. Each has the
            input's number of partitions.
        notices: of these, the ones that the log shows record by record (at most ten a second).
        event: struct with the fields that are counted, a subclass of `shared.events.Sourced`.
        full_event: struct that `PROCESSOR_VALIDATION=full` decodes instead.
    """

    name: ClassVar[str]
    input: ClassVar[str]
    group: ClassVar[str]
    results: ClassVar[tuple[str, ...]]
    notices: ClassVar[tuple[str, ...]]
    event: ClassVar[type[Any]]
    full_event: ClassVar[type[Any]]

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that the results depend on, as JSON types; published in the progress."""

    def open(self, place: Place, state: State) -> PartitionTopology[Any]:
        """Return the work on one partition, with stores made in `state`. Restoring fills them afterwards."""

    def summarize(self, figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge the figures of this process's partitions for `/stats` and the log."""
