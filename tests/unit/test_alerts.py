"""When an alert fires and when it resolves: on the threshold, around it, and after settings changed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.alerts import (
    BOUNDS,
    Firing,
    Thresholds,
    Transition,
    breaches,
    each_breach,
    is_back_inside,
    is_beyond,
    transitions,
)
from shared.results import Bound

TEMPERATURE = Thresholds(10.0, 80.0)
BELOW_10 = math.nextafter(10.0, 0.0)
ABOVE_80 = math.nextafter(80.0, 100.0)
# Few values, so that readings lie exactly on thresholds often.
VALUES = st.one_of(
    st.sampled_from([8.0, 9.0, 10.0, 11.0, 12.0, 18.0, 19.0, 20.0, 21.0, 22.0]), st.floats(0, 30)
)
HYSTERESES = st.sampled_from([0.0, 1.0, 2.0, 15.0])


def ids(offset: int) -> dict[Bound, str]:
    return {bound: f"s:{bound}:0:{offset}" for bound in BOUNDS}


class Sensor:
    """One sensor's alerts, reading by reading; the offset is the reading's number."""

    def __init__(self, thresholds: Thresholds = TEMPERATURE, hysteresis: float = 0.0) -> None:
        self.thresholds = thresholds
        self.hysteresis = hysteresis
        self.firing: dict[str, Firing] = {}
        self._offset = -1

    def read(self, value: float) -> list[tuple[str, str, str]]:
        return [(one.bound, one.state, one.alert_id) for one in self.transitions(value)]

    def transitions(self, value: float) -> Iterator[Transition]:
        self._offset += 1
        return transitions(value, ids(self._offset), self.firing, self.thresholds, self.hysteresis)


def test_a_reading_on_the_threshold_does_not_fire() -> None:
    sensor = Sensor()
    assert sensor.read(80.0) == sensor.read(10.0) == []


@pytest.mark.parametrize(("value", "bound"), [(ABOVE_80, "max"), (BELOW_10, "min")])
def test_the_least_beyond_the_threshold_fires(value: float, bound: str) -> None:
    assert Sensor().read(value) == [(bound, "firing", f"s:{bound}:0:0")]


def test_what_fires_is_told_once() -> None:
    sensor = Sensor()
    assert len(sensor.read(81.0)) == 1
    assert sensor.read(99.0) == sensor.read(81.0) == []


@pytest.mark.parametrize("value", [80.0, 79.0, 45.0])
def test_back_on_the_threshold_or_inside_resolves_with_the_id_that_fired(value: float) -> None:
    sensor = Sensor()
    sensor.read(81.0)
    sensor.read(90.0)
    assert sensor.read(value) == [("max", "resolved", "s:max:0:0")]
    assert sensor.firing == {}


def test_what_resolved_fires_again_with_a_new_id() -> None:
    sensor = Sensor()
    sensor.read(81.0)
    sensor.read(50.0)
    assert sensor.read(82.0) == [("max", "firing", "s:max:0:2")]


def test_a_jump_from_one_side_to_the_other_resolves_one_bound_and_fires_the_other() -> None:
    sensor = Sensor()
    sensor.read(5.0)
    assert sensor.read(90.0) == [("min", "resolved", "s:min:0:0"), ("max", "firing", "s:max:0:1")]


def test_with_a_hysteresis_a_reading_just_inside_does_not_resolve() -> None:
    sensor = Sensor(hysteresis=5.0)
    sensor.read(81.0)
    assert sensor.read(80.0) == sensor.read(75.1) == []
    assert sensor.read(75.0) == [("max", "resolved", "s:max:0:0")]


def test_with_a_hysteresis_a_low_alert_resolves_above_its_threshold_by_as_much() -> None:
    sensor = Sensor(hysteresis=5.0)
    sensor.read(9.0)
    assert sensor.read(14.9) == []
    assert sensor.read(15.0) == [("min", "resolved", "s:min:0:0")]


def test_a_firing_alert_whose_bound_is_gone_resolves_with_the_threshold_it_had() -> None:
    sensor = Sensor()
    sensor.read(81.0)
    sensor.thresholds = Thresholds(10.0, None)
    (resolved,) = sensor.transitions(99.0)
    assert resolved == Transition("max", "s:max:0:0", "resolved", 80.0)


def test_the_next_reading_decides_by_a_changed_threshold() -> None:
    sensor = Sensor()
    sensor.read(81.0)
    sensor.thresholds = Thresholds(10.0, 95.0)
    (resolved,) = sensor.transitions(90.0)
    assert resolved == Transition("max", "s:max:0:0", "resolved", 95.0)


def test_a_sensor_without_thresholds_never_fires() -> None:
    sensor = Sensor(Thresholds())
    assert sensor.read(1e15) == sensor.read(-1e15) == []
    assert not breaches(1e15, Thresholds())


@given(st.lists(VALUES, max_size=30), HYSTERESES)
def test_firing_and_resolved_take_turns_as_the_contract_says(values: list[float], hysteresis: float) -> None:
    thresholds = Thresholds(10.0, 20.0)
    sensor = Sensor(thresholds, hysteresis)
    fired_at: dict[Bound, int] = {}
    for offset, value in enumerate(values):
        wanted = []
        beyond: dict[Bound, bool] = {"min": value < 10.0, "max": value > 20.0}
        inside: dict[Bound, bool] = {"min": value >= 10.0 + hysteresis, "max": value <= 20.0 - hysteresis}
        for bound in BOUNDS:
            if bound in fired_at and inside[bound]:
                wanted.append((bound, "resolved", f"s:{bound}:0:{fired_at.pop(bound)}"))
            elif bound not in fired_at and beyond[bound]:
                fired_at[bound] = offset
                wanted.append((bound, "firing", f"s:{bound}:0:{offset}"))
        assert sensor.read(value) == wanted
        assert breaches(value, thresholds) == any(beyond.values())


@given(VALUES, st.floats(0, 30), st.sampled_from(BOUNDS), HYSTERESES)
def test_no_value_is_beyond_and_back_inside_at_once(
    value: float, threshold: float, bound: Bound, hysteresis: float
) -> None:
    assert not (is_beyond(value, bound, threshold) and is_back_inside(value, bound, threshold, hysteresis))
    assert is_beyond(value, bound, threshold) or is_back_inside(value, bound, threshold, 0.0)


@given(st.lists(VALUES, max_size=30))
def test_every_breach_fires_for_each_reading_beyond_and_never_resolves(values: list[float]) -> None:
    for offset, value in enumerate(values):
        found = list(each_breach(value, ids(offset), Thresholds(10.0, 20.0)))
        wanted = [("min", 10.0)] * (value < 10.0) + [("max", 20.0)] * (value > 20.0)
        assert [(one.bound, one.threshold) for one in found] == wanted
        assert all(one.state == "firing" and one.alert_id == ids(offset)[one.bound] for one in found)
