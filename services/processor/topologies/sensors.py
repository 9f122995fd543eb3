"""Sensor readings: a window of the last N per sensor, and alerts that fire and resolve. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from services.processor import alerts
from services.processor.columns import Columns
from services.processor.rows import row_table
from services.processor.settings import ProcessorSettings
from services.processor.state import State
from services.processor.topology import Batch, Outputs, Place
from services.processor.windows import Window, Windows, summarize
from shared import topics
from shared.events import SensorReading
from shared.results import Alert, Bound, SensorStats, encode

_NO_THRESHOLDS = alerts.Thresholds()


class SensorState(msgspec.Struct):
    """What is stored of one sensor. `firing` is by bound."""

    window: Window
    offset: int = -1
    breaches: int = 0
    firing: dict[str, alerts.Firing] = {}


class Alarms(msgspec.Struct):
    """What is known of a sensor that has bounds, or had some. `firing` is by bound."""

    breaches: int = 0
    firing: dict[str, alerts.Firing] = msgspec.field(default_factory=dict)


_NO_ALARMS = Alarms()


class Sensors:
    """What is known of the sensors of one partition, by row: see `rows.Rows`.

    Attributes:
        windows: of each.
        offsets: of the last reading of each.
        alarms: of those that have any.
        watched: 1 for those that may have to be looked at, reading by reading.
    """

    def __init__(self, window_size: int, thresholds: Mapping[str, alerts.Thresholds]) -> None:
        self.windows = Windows(window_size)
        self.offsets = array("q")
        self.alarms: dict[int, Alarms] = {}
        self.watched = array("B")
        self._thresholds = thresholds

    def add(self, row: int, key: str) -> None:
        """Make a row of a sensor without a reading."""
        self.windows.add(row)
        if row == len(self.offsets):
            self.offsets.append(-1)
            self.watched.append(0)
        self.offsets[row], self.watched[row] = -1, key in self._thresholds

    def remove(self, row: int) -> None:
        """Forget what is known of a sensor."""
        self.alarms.pop(row, None)

    def value(self, row: int) -> SensorState:
        """Return what is stored of a sensor."""
        alarms = self.alarms.get(row, _NO_ALARMS)
        return SensorState(self.windows.window(row), self.offsets[row], alarms.breaches, alarms.firing)

    def put(self, row: int, value: SensorState) -> None:
        """Take back what was stored."""
        self.windows.put(row, value.window)
        self.offsets[row] = value.offset
        self.alarms.pop(row, None)
        if value.breaches or value.firing:
            self.alarms[row] = Alarms(value.breaches, value.firing)
        if value.firing:
            self.watched[row] = 1  # Also without bounds: it is to resolve.


class SensorPartition:
    """The sensors of one partition."""

    tokens = ()

    def __init__(self, place: Place, state: State, settings: ProcessorSettings) -> None:
        self._place = place
        self._thresholds = settings.thresholds
        self._hysteresis = settings.alert_hysteresis
        self._each_breach = settings.alert_mode == "every_breach"
        self._sensors = Sensors(settings.window_size, settings.thresholds)
        self._table = row_table(state, "sensors", SensorState, self._sensors)

    def examine(self, batch: Batch[SensorReading]) -> None:
        """Decoding has checked everything: all fields are used."""

    def process(self, batch: Batch[SensorReading], outputs: Outputs) -> None:
        """Move the windows on and publish the alerts that change."""
        sensors = self._sensors
        for reading, offset in zip(batch.events, batch.offsets, strict=True):
            row = self._table.row(reading.sensor_id)
            self._table.touch(row)
            sensors.windows.push(row, reading.value, reading.timestamp)
            sensors.offsets[row] = offset
            for transition in self._watch(row, reading.sensor_id, reading.value, offset):
                self._publish(reading, offset, transition, outputs)

    def examine_columns(self, columns: Columns) -> bool:  # noqa: ARG002 — the contract's
        """Reading has checked everything: all fields are used."""
        return True

    def process_columns(self, columns: Columns, outputs: Outputs) -> None:
        """Move the windows on, all at once, and publish the alerts that change."""
        sensors = self._sensors
        rows = self._table.rows(columns, "sensor_id")
        values, timestamps = columns.numbers("value"), columns.numbers("timestamp")
        sensors.windows.push_all(columns, rows, values, timestamps)
        columns.last(rows, sensors.offsets)
        for index in columns.marked(rows, sensors.watched):
            row, offset, value = rows[index], columns.offsets[index], values[index]
            sensor_id = self._table.key(row)
            for transition in self._watch(row, sensor_id, value, offset):
                location = columns.text("location", index)
                reading = SensorReading(sensor_id, value, timestamps[index], location)
                self._publish(reading, offset, transition, outputs)

    def seal(self, next_offset: int, updated_at: str, outputs: Outputs) -> None:  # noqa: ARG002 — the contract's
        """Publish the window of every sensor that was read in this transaction, once it is full."""
        for row in self._table.touched:
            if self._sensors.windows.is_full(row):
                sensor_id = self._table.key(row)
                outputs.publish(topics.SENSOR_STATS, sensor_id.encode(), self._stats(sensor_id, row))

    def figures(self) -> dict[str, Any]:
        """Return what is known of the sensors, in numbers."""
        alarms = self._sensors.alarms.values()
        return {
            "sensors": len(self._table),
            "breaches": sum(one.breaches for one in alarms),
            "firing": sum(len(one.firing) for one in alarms),
        }

    def _watch(self, row: int, sensor_id: str, value: float, offset: int) -> Iterator[alerts.Transition]:
        sensors = self._sensors
        if not sensors.watched[row]:
            return iter(())
        thresholds = self._thresholds.get(sensor_id, _NO_THRESHOLDS)
        alarms = sensors.alarms.get(row) or sensors.alarms.setdefault(row, Alarms())
        if thresholds is _NO_THRESHOLDS and not alarms.firing:
            sensors.watched[row] = 0
            return iter(())
        alarms.breaches += alerts.breaches(value, thresholds)
        new_id: dict[Bound, str] = {
            bound: f"{sensor_id}:{bound}:{self._place.partition}:{offset}" for bound in alerts.BOUNDS
        }
        if self._each_breach:
            alarms.firing.clear()  # This mode has no state: what fired under the other one is forgotten.
            return alerts.each_breach(value, new_id, thresholds)
        return alerts.transitions(value, new_id, alarms.firing, thresholds, self._hysteresis)

    def _publish(
        self, reading: SensorReading, offset: int, transition: alerts.Transition, outputs: Outputs
    ) -> None:
        outputs.publish(topics.ALERTS, reading.sensor_id.encode(), self._alert(reading, offset, transition))

    def _alert(self, reading: SensorReading, offset: int, transition: alerts.Transition) -> bytes:
        return encode(
            Alert(
                alert_id=transition.alert_id,
                sensor_id=reading.sensor_id,
                bound=transition.bound,
                threshold=transition.threshold,
                value=reading.value,
                state=transition.state,
                location=reading.location,
                timestamp=reading.timestamp,
                partition=self._place.partition,
                offset=offset,
            )
        )

    def _stats(self, sensor_id: str, row: int) -> bytes:
        windows, alarms = self._sensors.windows, self._sensors.alarms.get(row, _NO_ALARMS)
        values = windows.values(row)
        first, last = windows.span(row)
        summary = summarize(values)
        return encode(
            SensorStats(
                sensor_id=sensor_id,
                count=len(values),
                avg=summary.avg,
                min=summary.min,
                max=summary.max,
                median=summary.median,
                window_start=first,
                window_end=last,
                breaches=alarms.breaches,
                partition=self._place.partition,
                offset=self._sensors.offsets[row],
            )
        )


class SensorTopology:
    """See the module's docstring and `services.processor.topology.Topology`."""

    name: ClassVar[str] = "sensors"
    input: ClassVar[str] = topics.SENSOR_DATA
    group: ClassVar[str] = topics.SENSOR_GROUP
    results: ClassVar[tuple[str, ...]] = (topics.SENSOR_STATS, topics.ALERTS)
    notices: ClassVar[tuple[str, ...]] = (topics.ALERTS,)
    event: ClassVar[type[Any]] = SensorReading
    full_event: ClassVar[type[Any]] = SensorReading

    def __init__(self, settings: ProcessorSettings) -> None:
        self._settings = settings

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that the results depend on."""
        settings = self._settings
        return {
            "window_size": settings.window_size,
            "alert_mode": settings.alert_mode,
            "hysteresis": settings.alert_hysteresis,
            "thresholds": msgspec.to_builtins(settings.thresholds),
            "validation": settings.validation,
            "state_max_keys": settings.state_max_keys,
        }

    def open(self, place: Place, state: State) -> SensorPartition:
        """Return the work on one partition."""
        return SensorPartition(place, state, self._settings)

    def summarize(self, figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Add the partitions up. A sensor seen on two partitions counts as two: it has two windows."""
        return {name: sum(one[name] for one in figures) for name in ("sensors", "breaches", "firing")}
