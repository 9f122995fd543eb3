"""Sensor readings: a window of the last N per sensor, and alerts that fire and resolve. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, ClassVar

import msgspec

from services.processor import alerts
from services.processor.columns import Columns
from services.processor.settings import ProcessorSettings
from services.processor.state import State
from services.processor.topology import Batch, Outputs, Place
from services.processor.windows import Window, summarize
from shared import topics
from shared.events import SensorReading
from shared.results import Alert, Bound, SensorStats, encode

_NO_THRESHOLDS = alerts.Thresholds()


class SensorState(msgspec.Struct):
    """What is known of one sensor. `firing` is by bound."""

    window: Window
    offset: int = -1
    breaches: int = 0
    firing: dict[str, alerts.Firing] = {}


class SensorPartition:
    """The sensors of one partition."""

    tokens = ()

    def __init__(self, place: Place, state: State, settings: ProcessorSettings) -> None:
        self._place = place
        self._window_size = settings.window_size
        self._thresholds = settings.thresholds
        self._hysteresis = settings.alert_hysteresis
        self._each_breach = settings.alert_mode == "every_breach"
        self._sensors = state.table("sensors", SensorState)
        self._touched: set[str] = set()

    def examine(self, batch: Batch[SensorReading]) -> None:
        """Decoding has checked everything: all fields are used."""

    def process(self, batch: Batch[SensorReading], outputs: Outputs) -> None:
        """Move the windows on and publish the alerts that change."""
        for reading, offset in zip(batch.events, batch.offsets, strict=True):
            sensor = self._sensor(reading.sensor_id)
            sensor.window.add(reading.value, reading.timestamp, size=self._window_size)
            sensor.offset = offset
            for transition in self._watch(reading.sensor_id, reading.value, offset, sensor):
                self._publish(reading, offset, transition, outputs)

    def examine_columns(self, columns: Columns) -> bool:  # noqa: ARG002 — the contract's
        """Reading has checked everything: all fields are used."""
        return True

    def process_columns(self, columns: Columns, outputs: Outputs) -> None:
        """Move the windows on, sensor by sensor, and publish the alerts that change."""
        groups = columns.groups("sensor_id")
        order, first_offset = groups.order, columns.offsets[0]
        values, timestamps = columns.number("value", groups), columns.number("timestamp", groups)
        size = self._window_size
        watched: list[tuple[int, float, float, str, SensorState]] = []
        start = 0
        for sensor_id, end in zip(columns.texts("sensor_id", groups), groups.ends, strict=True):
            sensor = self._sensor(sensor_id)
            sensor.window.extend(values[start:end], timestamps[start:end], size=size)
            sensor.offset = first_offset + order[end - 1]
            if self._is_watched(sensor_id, sensor):
                watched += [
                    (order[place], values[place], timestamps[place], sensor_id, sensor)
                    for place in range(start, end)
                ]
            start = end
        # In the order of the readings, whoever's they are.
        watched.sort(key=itemgetter(0))
        for index, value, timestamp, sensor_id, sensor in watched:
            offset = first_offset + index
            for transition in self._watch(sensor_id, value, offset, sensor):
                location = columns.text("location", index)
                reading = SensorReading(sensor_id, value, timestamp, location)
                self._publish(reading, offset, transition, outputs)

    def seal(self, next_offset: int, updated_at: str, outputs: Outputs) -> None:  # noqa: ARG002 — the contract's
        """Publish the window of every sensor that was read in this transaction, once it is full."""
        for sensor_id in self._touched:
            sensor = self._sensors.get(sensor_id)
            assert sensor is not None, "sensors are never removed"
            if len(sensor.window.values) >= self._window_size:
                outputs.publish(topics.SENSOR_STATS, sensor_id.encode(), self._stats(sensor_id, sensor))
        self._touched.clear()

    def figures(self) -> dict[str, Any]:
        """Return what is known of the sensors, in numbers."""
        sensors = list(self._sensors.values())
        return {
            "sensors": len(sensors),
            "breaches": sum(sensor.breaches for sensor in sensors),
            "firing": sum(len(sensor.firing) for sensor in sensors),
        }

    def _sensor(self, sensor_id: str) -> SensorState:
        """Return a sensor that has a reading.

        Raises:
            StateFullError: it is a new one, and there is no room for it.
        """
        sensor = self._sensors.get(sensor_id) or SensorState(Window())
        self._sensors.put(sensor_id, sensor)
        self._touched.add(sensor_id)
        return sensor

    def _is_watched(self, sensor_id: str, sensor: SensorState) -> bool:
        return sensor_id in self._thresholds or bool(sensor.firing)

    def _watch(
        self, sensor_id: str, value: float, offset: int, sensor: SensorState
    ) -> Iterator[alerts.Transition]:
        if not self._is_watched(sensor_id, sensor):
            return iter(())
        thresholds = self._thresholds.get(sensor_id, _NO_THRESHOLDS)
        sensor.breaches += alerts.breaches(value, thresholds)
        new_id: dict[Bound, str] = {
            bound: f"{sensor_id}:{bound}:{self._place.partition}:{offset}" for bound in alerts.BOUNDS
        }
        if self._each_breach:
            sensor.firing.clear()  # This mode has no state: what fired under the other one is forgotten.
            return alerts.each_breach(value, new_id, thresholds)
        return alerts.transitions(value, new_id, sensor.firing, thresholds, self._hysteresis)

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

    def _stats(self, sensor_id: str, sensor: SensorState) -> bytes:
        summary = summarize(sensor.window)
        return encode(
            SensorStats(
                sensor_id=sensor_id,
                count=len(sensor.window.values),
                avg=summary.avg,
                min=summary.min,
                max=summary.max,
                median=summary.median,
                window_start=sensor.window.timestamps[0],
                window_end=sensor.window.timestamps[-1],
                breaches=sensor.breaches,
                partition=self._place.partition,
                offset=sensor.offset,
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
