"""Every result of one input partition, from its records, the plain way. Pure.

`take` is given the records in order, in any portions; what they lead to is read off in between.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from services.console.verification.admission import (
    Admission,
    Admitted,
    InputRecord,
    read_sensor_reading,
    read_user_event,
)
from services.console.verification.rules import BOUNDS, Rules, RulesHistory
from shared.events import SensorReading
from shared.results import Alert, AlertState, Bound, Purchase, SensorStats

AlertPlace = tuple[int, Bound]


@dataclass(frozen=True)
class Origin:
    """The input partition, and where recomputing begins.

    Attributes:
        topic: full name.
        first_offset: where the processor began to count.
        start: where we begin; beyond `first_offset` where retention took what lies before.
    """

    topic: str
    partition: int
    first_offset: int
    start: int

    @property
    def is_partial(self) -> bool:
        """Whether something that was counted can't be read any more."""
        return self.start > self.first_offset


class BehaviorRecomputation:
    """The behaviour statistics and purchases of one partition."""

    def __init__(self, origin: Origin, history: RulesHistory) -> None:
        self._origin = origin
        self.admission = Admission(
            read_user_event,
            self._fits,
            history,
            beginning_seen=origin.first_offset == 0 and not origin.is_partial,
            partial=origin.is_partial,
        )
        self.actions: Counter[str] = Counter()
        self.devices: Counter[str] = Counter()
        self.users: set[int] = set()
        self.purchases: list[Purchase] = []
        self.unsure: set[int] = set()

    @property
    def total_events(self) -> int:
        """How many events were counted."""
        return self.admission.tally.events

    def take(self, records: Iterable[InputRecord]) -> None:
        """Count the next records. Purchases, and offsets of unsure ones, are added to the lists."""
        for record, event, sure in self.admission.events(records):
            self.actions[event.action] += 1
            self.devices[event.device] += 1
            self.users.add(event.user_id)
            if event.action == "purchase":
                if sure:
                    self.purchases.append(self._purchase(record, event))
                else:
                    self.unsure.add(record.offset)

    def _fits(self, event: Any, rules: Rules) -> bool | None:
        """Say whether there is room: the state has a key for each user."""
        if event.user_id in self.users:
            return True
        return None if self._origin.is_partial else len(self.users) < rules.state_max_keys

    def _purchase(self, record: InputRecord, event: Any) -> Purchase:
        return Purchase(
            user_id=event.user_id,
            page=event.page,
            timestamp=event.timestamp,
            device=event.device,
            topic=self._origin.topic,
            partition=self._origin.partition,
            offset=record.offset,
        )


class Fired(NamedTuple):
    """An alert that fired."""

    alert_id: str
    threshold: float


@dataclass
class Sensor:
    """One sensor. `unsure_bounds` are those of which nobody knows whether an alert fires.

    Attributes:
        readings: value and timestamp of the last ones, as many as the window holds.
        is_full: whether the window was full at the last reading.
        firing: the alert that fires, by bound.
    """

    readings: list[tuple[float, float]] = field(default_factory=list)
    offset: int = -1
    is_full: bool = False
    breaches: int = 0
    firing: dict[Bound, Fired] = field(default_factory=dict)
    unsure_bounds: set[Bound] = field(default_factory=set)


class SensorRecomputation:
    """The windows and alerts of one partition."""

    def __init__(self, origin: Origin, history: RulesHistory) -> None:
        self._origin = origin
        self.admission = Admission(
            read_sensor_reading,
            self._fits,
            history,
            beginning_seen=origin.first_offset == 0 and not origin.is_partial,
            partial=origin.is_partial,
        )
        self.sensors: dict[str, Sensor] = {}
        self.alerts: list[Alert] = []
        self.unsure: set[AlertPlace] = set()

    def take(self, records: Iterable[InputRecord]) -> None:
        """Count the next records. Alerts, and places of unsure ones, are added to the lists."""
        for one in self.admission.events(records):
            self._read(one, self.admission.rules)

    def window(self, sensor_id: str) -> SensorStats | None:
        """Return the statistics of the sensor's window as it is now, or None for an unknown sensor."""
        sensor = self.sensors.get(sensor_id)
        if sensor is None or not sensor.readings:
            return None
        values = [value for value, _ in sensor.readings]
        return SensorStats(
            sensor_id=sensor_id,
            count=len(values),
            avg=round(statistics.mean(values), 2),
            min=min(values),
            max=max(values),
            median=round(statistics.median(values), 2),
            window_start=sensor.readings[0][1],
            window_end=sensor.readings[-1][1],
            breaches=sensor.breaches,
            partition=self._origin.partition,
            offset=sensor.offset,
        )

    def _fits(self, event: SensorReading, rules: Rules) -> bool | None:
        """Say whether there is room: the state has a key for each sensor."""
        if event.sensor_id in self.sensors:
            return True
        return None if self._origin.is_partial else len(self.sensors) < rules.state_max_keys

    def _read(self, admitted: Admitted[SensorReading], rules: Rules) -> None:
        record, reading, sure = admitted
        sensor = self.sensors.get(reading.sensor_id)
        if sensor is None:
            sensor = self.sensors[reading.sensor_id] = Sensor()
            if self._origin.is_partial:
                sensor.unsure_bounds = set(BOUNDS)
        if not sure:
            # With or without this one: the window is known again once it is full of others.
            sensor.readings.clear()
            sensor.is_full = False
            sensor.unsure_bounds = set(BOUNDS)
            self.unsure |= {(record.offset, bound) for bound in BOUNDS}
            return
        sensor.readings = [*sensor.readings, (reading.value, reading.timestamp)][-rules.window_size :]
        sensor.offset = record.offset
        sensor.is_full = len(sensor.readings) >= rules.window_size
        beyond = {
            bound: is_beyond(reading.value, bound, rules.threshold(reading.sensor_id, bound))
            for bound in BOUNDS
        }
        sensor.breaches += any(beyond.values())
        for bound in BOUNDS:
            self._decide(sensor, record.offset, reading, bound, rules, beyond=beyond[bound])

    def _decide(
        self, sensor: Sensor, offset: int, reading: SensorReading, bound: Bound, rules: Rules, *, beyond: bool
    ) -> None:
        """Fire or resolve the alert of one bound."""
        threshold = rules.threshold(reading.sensor_id, bound)
        fired = Fired(f"{reading.sensor_id}:{bound}:{self._origin.partition}:{offset}", threshold or 0.0)
        if rules.alert_mode == "every_breach":
            # This mode keeps nothing in mind, and forgets what fired under the other one.
            sensor.firing.clear()
            sensor.unsure_bounds.clear()
            if beyond:
                self._alert(offset, reading, bound, fired, "firing")
            return
        inside = threshold is None or is_back_inside(reading.value, bound, threshold, rules.hysteresis)
        if bound in sensor.unsure_bounds:
            # Whether this fires or resolves hangs on what is gone; once inside, nothing fires for sure.
            self.unsure.add((offset, bound))
            if inside:
                sensor.unsure_bounds.discard(bound)
        elif bound in sensor.firing:
            if inside:
                before = sensor.firing.pop(bound)
                # By the bound of now; by the one of then where there is none any more.
                now = before if threshold is None else before._replace(threshold=threshold)
                self._alert(offset, reading, bound, now, "resolved")
        elif beyond:
            sensor.firing[bound] = fired
            self._alert(offset, reading, bound, fired, "firing")

    def _alert(
        self, offset: int, reading: SensorReading, bound: Bound, fired: Fired, state: AlertState
    ) -> None:
        self.alerts.append(
            Alert(
                alert_id=fired.alert_id,
                sensor_id=reading.sensor_id,
                bound=bound,
                threshold=fired.threshold,
                value=reading.value,
                state=state,
                location=reading.location,
                timestamp=reading.timestamp,
                partition=self._origin.partition,
                offset=offset,
            )
        )


def is_beyond(value: float, bound: Bound, threshold: float | None) -> bool:
    """Say whether a value is strictly beyond a threshold, if there is one."""
    if threshold is None:
        return False
    return value < threshold if bound == "min" else value > threshold


def is_back_inside(value: float, bound: Bound, threshold: float, hysteresis: float) -> bool:
    """Say whether a value is on the threshold, shifted inwards by the hysteresis, or inside."""
    return value >= threshold + hysteresis if bound == "min" else value <= threshold - hysteresis
