"""The sensors' topology: both ways come to the same, also where settings change; what is stored counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.processor.columns import Columns, reader_of
from services.processor.settings import ProcessorSettings
from services.processor.state import State
from services.processor.topologies.sensors import SensorPartition
from services.processor.topology import Batch, Outgoing, Outputs, Place
from shared.events import SensorReading
from tests.located import located

Reading = tuple[str, float]
Changes = list[tuple[bytes, bytes | None]]

REPEATABLE = settings(deadline=None, derandomize=True, max_examples=80)
LIVES = [
    {"thresholds": "a:10:20,b::15", "window_size": 3},
    {"thresholds": "a:10:20,b::15", "window_size": 3, "alert_hysteresis": 2},
    {"thresholds": "b:5:", "window_size": 2},
    {"thresholds": "", "window_size": 5},
    {"thresholds": "a:10:20", "window_size": 4, "alert_mode": "every_breach"},
]


class Life:
    """A partition's sensors between two starts."""

    def __init__(self, changes: dict[str, Any], stored: Changes) -> None:
        self.state = State(max_keys=1_000)
        self.sensors = SensorPartition(Place("sensor_data", 3), self.state, ProcessorSettings(**changes))
        for key, value in stored:
            self.state.restore(key, value)
        self.outputs = Outputs()

    def by_event(self, readings: Sequence[Reading], offset: int) -> None:
        events = [SensorReading(name, value, 1.5, "here") for name, value in readings]
        records: Any = [Offset(offset + number) for number in range(len(events))]
        self.sensors.process(Batch(events, records), self.outputs)

    def by_columns(self, readings: Sequence[Reading], offset: int) -> None:
        self.sensors.process_columns(columns_of(readings, offset), self.outputs)

    def seal(self) -> tuple[dict[str, list[Outgoing]], Changes]:
        self.sensors.seal(0, "", self.outputs)
        outputs, self.outputs = self.outputs, Outputs()
        return outputs.by_topic, self.state.take_changes()


class Offset:
    """All that is used of a record."""

    def __init__(self, offset: int) -> None:
        self.offset = offset


def columns_of(readings: Sequence[Reading], offset: int) -> Columns:
    values = [
        json.dumps({"sensor_id": name, "value": value, "timestamp": 1.5, "location": "here"}).encode()
        for name, value in readings
    ]
    reader = reader_of(SensorReading, ())
    assert reader is not None
    columns = reader.read(located(values), range(offset, offset + len(values)))
    assert columns is not None
    return columns


@REPEATABLE
@given(seed=st.integers(0, 2**32))
def test_both_ways_publish_and_store_the_same_also_where_settings_change(seed: int) -> None:
    random = Random(seed)
    offset = 0
    stored: dict[bytes, bytes | None] = {}
    for _ in range(4):
        changes = random.choice(LIVES)
        lives = [Life(changes, list(stored.items())) for _ in range(3)]
        for _ in range(6):
            readings = [
                (random.choice("abcd"), float(random.choice([4, 9, 10, 12, 13, 15, 16, 18, 20, 21, 23])))
                for _ in range(random.choice([1, 3, 20]))
            ]
            lives[0].by_event(readings, offset)
            lives[1].by_columns(readings, offset)
            # And sometimes one way, sometimes the other, on one state.
            random.choice([lives[2].by_event, lives[2].by_columns])(readings, offset)
            offset += len(readings)
            sealed = [life.seal() for life in lives]
            assert sealed[1] == sealed[0]
            assert sealed[2] == sealed[0]
            assert lives[1].sensors.figures() == lives[2].sensors.figures() == lives[0].sensors.figures()
            stored |= dict(sealed[0][1])


def stored_of(*readings: Reading, **changes: Any) -> Changes:
    life = Life(LIVES[0] | changes, [])
    life.by_columns(readings, 0)
    return life.seal()[1]


def test_a_later_record_of_a_changelog_takes_alerts_and_breaches_back_too() -> None:
    fired, calm = stored_of(("a", 25.0)), stored_of(("a", 15.0))
    assert Life(LIVES[0], fired).sensors.figures() == {"sensors": 1, "breaches": 1, "firing": 1}
    assert Life(LIVES[0], fired + calm).sensors.figures() == {"sensors": 1, "breaches": 0, "firing": 0}
    [(key, _)] = fired
    assert Life(LIVES[0], [*fired, (key, None)]).sensors.figures() == {
        "sensors": 0,
        "breaches": 0,
        "firing": 0,
    }


@pytest.mark.parametrize("way", ["by_event", "by_columns"])
def test_an_alert_whose_thresholds_are_gone_resolves_with_the_next_reading(way: str) -> None:
    life = Life(LIVES[3], stored_of(("a", 25.0), ("b", 1.0)))
    getattr(life, way)([("b", 30.0), ("a", 25.0), ("a", 26.0)], 7)
    outputs, _ = life.seal()
    [(_, value, _)] = outputs["alerts"]
    alert = json.loads(value or b"")
    assert (alert["sensor_id"], alert["state"], alert["offset"]) == ("a", "resolved", 8)
    assert life.sensors.figures() == {"sensors": 2, "breaches": 1, "firing": 0}
