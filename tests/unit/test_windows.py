"""The last readings of a sensor and what is published of them, against the slow and obvious way."""

from __future__ import annotations

import math
import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.windows import Window, summarize
from shared.events import MAX_SENSOR_VALUE

VALUES = st.floats(-MAX_SENSOR_VALUE, MAX_SENSOR_VALUE)
READINGS = st.lists(st.tuples(VALUES, st.floats(0, 4e9)), min_size=1, max_size=40)


def window_of(readings: list[tuple[float, float]], size: int) -> Window:
    window = Window()
    for value, timestamp in readings:
        window.add(value, timestamp, size=size)
    return window


@given(readings=READINGS, size=st.integers(1, 50))
def test_a_window_holds_the_last_readings_in_the_order_they_were_read(
    readings: list[tuple[float, float]], size: int
) -> None:
    window = window_of(readings, size)
    assert list(zip(window.values, window.timestamps, strict=True)) == readings[-size:]


@given(readings=READINGS, size=st.integers(1, 50))
def test_a_summary_is_what_the_contract_says_of_the_values(
    readings: list[tuple[float, float]], size: int
) -> None:
    values = [value for value, _ in readings[-size:]]
    summary = summarize(window_of(readings, size))
    assert summary.avg == round(statistics.mean(values), 2)
    assert summary.median == round(statistics.median(values), 2)
    assert (summary.min, summary.max) == (min(values), max(values))


# As sensors give them: every tenth mean of ten lies half-way between two hundredths. And what cancels out.
HUNDREDTHS = st.integers(-(10**4), 10**4).map(lambda hundredths: hundredths / 100)
CANCELLING = st.sampled_from([0.0, -0.0, 1e15, -1e15, 0.004, -0.004, 0.005, -0.005, 5e-324])


@given(st.lists(HUNDREDTHS | CANCELLING, min_size=1, max_size=40))
def test_an_average_is_that_of_the_exact_mean_to_the_last_bit_and_the_sign(values: list[float]) -> None:
    avg = summarize(window_of([(value, 0.0) for value in values], len(values))).avg
    exact = round(statistics.mean(values), 2)
    assert (avg, math.copysign(1, avg)) == (exact, math.copysign(1, exact))


@given(first=READINGS, then=READINGS, size=st.integers(1, 50), other=st.integers(1, 50))
def test_a_changed_size_counts_from_the_next_reading_on(
    first: list[tuple[float, float]], then: list[tuple[float, float]], size: int, other: int
) -> None:
    window = window_of(first, size)
    kept = first[-size:]
    for value, timestamp in then:
        window.add(value, timestamp, size=other)
        kept = [*kept, (value, timestamp)][-other:]
        assert list(zip(window.values, window.timestamps, strict=True)) == kept


@given(readings=READINGS, size=st.integers(1, 50), cut=st.integers(0, 40))
def test_a_window_that_was_encoded_and_decoded_goes_on_as_if_it_had_not_been(
    readings: list[tuple[float, float]], size: int, cut: int
) -> None:
    window = window_of(readings[:cut], size)
    restored = msgspec.json.decode(msgspec.json.encode(window), type=Window)
    for value, timestamp in readings[cut:]:
        restored.add(value, timestamp, size=size)
    assert restored == window_of(readings, size)


def test_two_windows_share_nothing() -> None:
    one, other = Window(), Window()
    one.add(1.0, 1.0, size=3)
    assert other.values == []


@pytest.mark.parametrize(
    ("values", "avg", "median"),
    [([1.0], 1.0, 1.0), ([1.0, 2.0], 1.5, 1.5), ([0.005, 0.01], 0.01, 0.01), ([0.1] * 10, 0.1, 0.1)],
)
def test_average_and_median_are_rounded_to_two_places(values: list[float], avg: float, median: float) -> None:
    summary = summarize(window_of([(value, 0.0) for value in values], 10))
    assert (summary.avg, summary.median) == (avg, median)


@given(st.lists(VALUES, min_size=2, max_size=20))
def test_the_order_of_the_values_does_not_change_the_summary(values: list[float]) -> None:
    ascending = sorted(values)
    assert summarize(Window(values, [0.0] * len(values))) == summarize(Window(ascending, [0.0] * len(values)))
