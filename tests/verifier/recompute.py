"""All results of one input partition, from scratch, the slow and obvious way.

In: the partition's records in the order of their offsets, up to the committed one. Out: what the processor
must have published by then. Where it publishes only now and then (statistics, progress), the published
records themselves say for which offsets the result is wanted: those are the checkpoints.
"""

import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeVar

from tests.verifier.continuity import Continuity
from tests.verifier.contract import Record
from tests.verifier.events import (
    RefusedError,
    SensorReading,
    UserEvent,
    read_object,
    read_sensor_reading,
    read_source_seq,
    read_user_event,
    readable_source_seq,
)

Bound = Literal["min", "max"]
Fields = dict[str, Any]
Event = TypeVar("Event")

DEFAULT_THRESHOLDS: Final[Mapping[str, Mapping[Bound, float]]] = {
    "temperature": {"min": 10, "max": 80},
    "cpu_usage": {"max": 90},
    "memory_usage": {"max": 85},
}


@dataclass(frozen=True)
class SensorRules:
    """The settings that sensor results depend on."""

    window_size: int = 10
    thresholds: Mapping[str, Mapping[Bound, float]] = field(default_factory=lambda: DEFAULT_THRESHOLDS)
    hysteresis: float = 0
    alert_mode: Literal["transitions", "every_breach"] = "transitions"


class Output(NamedTuple):
    """One record that must have been published: its key and the fields of its value."""

    key: bytes
    fields: Fields


@dataclass
class Results:
    """What every topology leaves for one input partition.

    Attributes:
        progress: the accounts as they stand before each checkpoint's offset.
        dead_letters: the refused records themselves, in order.
        numbers: the readable numbers of each source, in order, doubles included.
        read: how many records went in.
    """

    progress: dict[int, Fields] = field(default_factory=dict)
    dead_letters: list[Record] = field(default_factory=list)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    read: int = 0


@dataclass
class BehaviorResults(Results):
    """The results of one partition of user events; `stats` by checkpoint."""

    stats: dict[int, Fields] = field(default_factory=dict)
    purchases: list[Output] = field(default_factory=list)


class Seen(NamedTuple):
    """A reading, its offset, and how many of its sensor were out of bounds so far, itself included."""

    offset: int
    reading: SensorReading
    breaches: int


@dataclass
class SensorResults(Results):
    """The results of one partition of sensor readings."""

    rules: SensorRules = field(default_factory=SensorRules)
    readings: dict[str, list[Seen]] = field(default_factory=dict)
    alerts: list[Output] = field(default_factory=list)

    def stats_at(self, sensor_id: str, offset: int) -> Fields | None:
        """Return the window as of the reading at this offset; None if there is none, or it is not full."""
        seen = self.readings.get(sensor_id, [])
        index = bisect_left(seen, offset, key=lambda one: one.offset)
        if index == len(seen) or seen[index].offset != offset or index + 1 < self.rules.window_size:
            return None
        window = seen[index + 1 - self.rules.window_size : index + 1]
        values = [one.reading.value for one in window]
        return {
            "sensor_id": sensor_id,
            "count": len(values),
            "avg": round(statistics.mean(values), 2),
            "min": min(values),
            "max": max(values),
            "median": round(statistics.median(values), 2),
            "window_start": window[0].reading.timestamp,
            "window_end": window[-1].reading.timestamp,
            "breaches": window[-1].breaches,
            "offset": offset,
        }

    def latest_offsets(self) -> dict[str, int]:
        """Return, for every sensor whose window is full, the offset of its last reading."""
        size = self.rules.window_size
        return {sensor: seen[-1].offset for sensor, seen in self.readings.items() if len(seen) >= size}


def recompute_behavior(
    records: Sequence[Record], checkpoints: Iterable[int] = (), *, log_start: int = 0
) -> BehaviorResults:
    """Return the results of one partition of user events.

    Args:
        records: the partition from its start to the committed offset, in order.
        checkpoints: offsets (next to read) for which statistics and progress are wanted.
        log_start: the first offset that the partition still holds.
    """
    results = BehaviorResults(read=len(records))
    continuity = Continuity(log_start, numbers=results.numbers)
    actions: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    users: set[int] = set()
    for checkpoint, below in up_to_each(records, checkpoints):
        for record, event in events_of(below, read_user_event, continuity, results):
            actions[event.action] += 1
            devices[event.device] += 1
            users.add(event.user_id)
            if event.action == "purchase":
                results.purchases.append(purchase(record, event))
        results.progress[checkpoint] = continuity.as_progress()
        results.stats[checkpoint] = {
            "total_events": actions.total(),
            "actions": dict(actions),
            "devices": dict(devices),
            "unique_users": len(users),
        }
    return results


def recompute_sensors(
    records: Sequence[Record],
    checkpoints: Iterable[int] = (),
    *,
    rules: SensorRules | None = None,
    log_start: int = 0,
) -> SensorResults:
    """Return the results of one partition of sensor readings.

    Args:
        records: the partition from its start to the committed offset, in order.
        checkpoints: offsets (next to read) for which progress is wanted.
        rules: window, thresholds and alert mode; the contract's defaults when left out.
        log_start: the first offset that the partition still holds.
    """
    rules = rules or SensorRules()
    results = SensorResults(read=len(records), rules=rules)
    continuity = Continuity(log_start, numbers=results.numbers)
    firing: dict[tuple[str, Bound], str] = {}
    for checkpoint, below in up_to_each(records, checkpoints):
        for record, reading in events_of(below, read_sensor_reading, continuity, results):
            seen = results.readings.setdefault(reading.sensor_id, [])
            breaches = seen[-1].breaches if seen else 0
            bounds = rules.thresholds.get(reading.sensor_id, {})
            if any(is_beyond(reading.value, bound, limit) for bound, limit in bounds.items()):
                breaches += 1
            seen.append(Seen(record.offset, reading, breaches))
            results.alerts += alerts_of(record, reading, rules, firing)
        results.progress[checkpoint] = continuity.as_progress()
    return results


def up_to_each(
    records: Sequence[Record], checkpoints: Iterable[int]
) -> Iterator[tuple[int, Sequence[Record]]]:
    """Yield each checkpoint with the records below it that no earlier one took, all records in the end."""
    end = records[-1].offset + 1 if records else 0
    start = 0
    for checkpoint in sorted({*checkpoints, end}):
        stop = bisect_left(records, checkpoint, lo=start, key=lambda record: record.offset)
        yield checkpoint, records[start:stop]
        start = stop


def events_of(
    records: Sequence[Record],
    read: Callable[[Fields], Event],
    continuity: Continuity,
    results: Results,
) -> Iterator[tuple[Record, Event]]:
    """Yield the events that count; dead letters and duplicates go into the accounts on the way."""
    for record in records:
        try:
            fields = read_object(record.value)
            event = read(fields)
            source_seq = read_source_seq(fields)
        except RefusedError:
            continuity.bury(readable_source_seq(record.value))
            results.dead_letters.append(record)
            continue
        if continuity.count(source_seq):
            yield record, event


def purchase(record: Record, event: UserEvent) -> Output:
    """Return the Purchase of a purchase event."""
    return Output(
        str(event.user_id).encode(),
        {
            "user_id": event.user_id,
            "page": event.page,
            "timestamp": event.timestamp,
            "device": event.device,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
        },
    )


def alerts_of(
    record: Record,
    reading: SensorReading,
    rules: SensorRules,
    firing: dict[tuple[str, Bound], str],
) -> list[Output]:
    """Return the alerts of one reading.

    Args:
        record: where the reading stands.
        reading: what it says.
        rules: thresholds and alert mode.
        firing: the id of the alert that fires, by sensor and bound; changed here.
    """
    alerts = []
    for bound, threshold in sorted(rules.thresholds.get(reading.sensor_id, {}).items()):
        place = reading.sensor_id, bound
        beyond = is_beyond(reading.value, bound, threshold)
        state = None
        alert_id = f"{reading.sensor_id}:{bound}:{record.partition}:{record.offset}"
        if rules.alert_mode == "every_breach":
            state = "firing" if beyond else None
        elif place not in firing and beyond:
            state = "firing"
            firing[place] = alert_id
        elif place in firing and is_back_inside(reading.value, bound, threshold, rules.hysteresis):
            state = "resolved"
            alert_id = firing.pop(place)
        if state is not None:
            decided = {"alert_id": alert_id, "bound": bound, "threshold": threshold, "state": state}
            alerts.append(alert(record, reading, decided))
    return alerts


def alert(record: Record, reading: SensorReading, decided: Fields) -> Output:
    """Return the Alert that this reading fires or resolves."""
    told = {
        "sensor_id": reading.sensor_id,
        "value": reading.value,
        "location": reading.location,
        "timestamp": reading.timestamp,
        "partition": record.partition,
        "offset": record.offset,
    }
    return Output(reading.sensor_id.encode(), told | decided)


def is_beyond(value: float, bound: Bound, threshold: float) -> bool:
    """Say whether the value is strictly beyond the bound."""
    return value < threshold if bound == "min" else value > threshold


def is_back_inside(value: float, bound: Bound, threshold: float, hysteresis: float) -> bool:
    """Say whether the value is back inside by at least the hysteresis."""
    return value >= threshold + hysteresis if bound == "min" else value <= threshold - hysteresis
