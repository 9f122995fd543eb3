"""Follows the result topics and keeps what a global view is made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from aiokafka.structs import TopicPartition

from services.console.connection import Connection, Log
from services.console.merge import Ends, GlobalView, Latest, Place, merge, still_firing
from shared import topics
from shared.errors import TandemError
from shared.results import Alert, BehaviorStats, LedgerEntry, Progress, Purchase, SensorStats

ResultT = TypeVar("ResultT")

RECENT = 5
# Alerts and purchases tell of moments: of purchases only the last few are wanted.
_TAIL_RECORDS = 4 * RECENT


class Sink(Protocol):
    """Takes the records of one topic in."""

    def take(self, record: Any) -> None:
        """Take in one record.

        Raises:
            ValueError: it is not as the contract says.
        """


class LatestByKey(Generic[ResultT]):
    """The latest value of each key; decoded when asked for, because most are superseded before."""

    def __init__(self, result: type[ResultT]) -> None:
        self._decode = msgspec.json.Decoder(result).decode
        self._values: dict[tuple[int, bytes | None], bytes] = {}

    def take(self, record: Any) -> None:
        """See `Sink`. A tombstone takes its key away."""
        if record.value is None:
            self._values.pop((record.partition, record.key), None)
        else:
            self._values[record.partition, record.key] = record.value

    def results(self) -> tuple[list[ResultT], int]:
        """Return the latest of each key, and how many could not be decoded."""
        decoded: list[ResultT] = []
        unreadable = 0
        for value in self._values.values():
            try:
                decoded.append(self._decode(value))
            except ValueError:
                unreadable += 1
        return decoded, unreadable


class RecentAlerts:
    """The latest alerts, and those that fire now."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(Alert).decode
        self.recent: deque[Alert] = deque(maxlen=RECENT)
        self.firing: dict[tuple[str, str, int], Alert] = {}

    def take(self, record: Any) -> None:
        """See `Sink`."""
        alert = self._decode(record.value or b"")
        self.recent.append(alert)
        self.firing = still_firing([alert], self.firing)


class RecentPurchases:
    """The latest purchases."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(Purchase).decode
        self.recent: deque[Purchase] = deque(maxlen=RECENT)

    def take(self, record: Any) -> None:
        """See `Sink`."""
        self.recent.append(self._decode(record.value or b""))


class Follower:
    """Reads topics from their start, and on from there each time it is asked to.

    Args:
        sinks: by full topic name.
        tail_only: names of topics of which only the last few records are wanted.
    """

    def __init__(
        self, connection: Connection, sinks: dict[str, Sink], *, tail_only: Iterable[str] = ()
    ) -> None:
        self._connection = connection
        self._sinks = sinks
        self._tail_only = frozenset(tail_only)
        self._places: list[TopicPartition] = []
        self._log: Log | None = None
        self.unreadable = 0

    async def refresh(self, on_progress: Callable[[int, int], None] = lambda _done, _all: None) -> None:
        """Read on to where the topics end now.

        Args:
            on_progress: told how many offsets are read and how many there are to read.

        Raises:
            TandemError: Kafka does not answer or refuses, or a topic is missing.
        """
        if not self._places:
            self._places = await places_of(self._connection, self._sinks)
        ends = await self._connection.ends(self._places)
        if self._log is None:
            starts = {
                place: max(where.start, where.end - _TAIL_RECORDS)
                if place.topic in self._tail_only
                else where.start
                for place, where in ends.items()
            }
            self._log = await self._connection.read(starts)
        until = {place: where.end for place, where in ends.items()}
        began = {place: await self._log.position(place) for place in self._places}
        to_read = sum(max(0, until[place] - began[place]) for place in self._places)
        while portions := await self._log.next(until):
            for place, records in portions.items():
                self._take(self._sinks[place.topic], records)
            done = sum([await self._log.position(place) - began[place] for place in self._places])
            on_progress(min(done, to_read), to_read)

    def _take(self, sink: Sink, records: Iterable[Any]) -> None:
        for record in records:
            try:
                sink.take(record)
            except ValueError:
                self.unreadable += 1  # Shown beside the figures: one bad record must not hide them all.


class GlobalFollower:
    """Keeps the global view up to date."""

    def __init__(self, connection: Connection) -> None:
        named = connection.kafka.named
        self._connection = connection
        self._behavior = LatestByKey(BehaviorStats)
        self._sensors = LatestByKey(SensorStats)
        self._ledger = LatestByKey(LedgerEntry)
        self._progress = LatestByKey(Progress)
        self._alerts = RecentAlerts()
        self._purchases = RecentPurchases()
        sinks: dict[str, Sink] = {
            named(topics.BEHAVIOR_STATS): self._behavior,
            named(topics.SENSOR_STATS): self._sensors,
            named(topics.GENERATOR_LEDGER): self._ledger,
            named(topics.PROGRESS): self._progress,
            named(topics.ALERTS): self._alerts,
            named(topics.PURCHASES): self._purchases,
        }
        self._follower = Follower(connection, sinks, tail_only=[named(topics.PURCHASES)])
        self._inputs: list[TopicPartition] = []

    async def view(self, on_progress: Callable[[int, int], None] = lambda _done, _all: None) -> GlobalView:
        """Return everything as it is now.

        Raises:
            TandemError: Kafka does not answer or refuses, or a topic is missing.
        """
        if not self._inputs:
            self._inputs = await places_of(self._connection, map(self._connection.kafka.named, topics.INPUTS))
        await self._follower.refresh(on_progress)
        ends = await self._connection.ends(self._inputs)
        return merge(self._latest(), ends_by_place(ends))

    def progress(self) -> list[Progress]:
        """Return the latest progress of each input partition, as of the last `view`."""
        return self._progress.results()[0]

    def _latest(self) -> Latest:
        behavior, bad_behavior = self._behavior.results()
        sensors, bad_sensors = self._sensors.results()
        ledger, bad_ledger = self._ledger.results()
        progress, bad_progress = self._progress.results()
        # Where each breach fires and nothing resolves, nothing can be said to fire now.
        each_breach = any(
            history[-1].value == "every_breach"
            for one in progress
            if (history := one.settings.get("alert_mode"))
        )
        return Latest(
            behavior=behavior,
            sensors=sensors,
            ledger=ledger,
            progress=progress,
            firing=[] if each_breach else list(self._alerts.firing.values()),
            recent_alerts=list(self._alerts.recent),
            recent_purchases=list(self._purchases.recent),
            unreadable=self._follower.unreadable + bad_behavior + bad_sensors + bad_ledger + bad_progress,
        )


async def places_of(connection: Connection, names: Iterable[str]) -> list[TopicPartition]:
    """Return every partition of the topics with these full names.

    Raises:
        TandemError: one does not exist, or Kafka does not answer.
    """
    wanted = list(names)
    existing = await connection.topics()
    missing = [name for name in wanted if name not in existing]
    if missing:
        prefix = connection.kafka.topic_prefix
        set_to = f"KAFKA_TOPIC_PREFIX is {prefix!r}" if prefix else "KAFKA_TOPIC_PREFIX is not set"
        raise TandemError(
            f"no topic {', '.join(sorted(missing))} ({set_to}): `tandem topics create` makes them"
        )
    return [TopicPartition(name, number) for name in wanted for number in range(existing[name].partitions)]


def ends_by_place(ends: dict[TopicPartition, Ends]) -> dict[Place, Ends]:
    """Return the same by topic and partition as plain values."""
    return {(place.topic, place.partition): where for place, where in ends.items()}
