"""The last readings of a sensor and what is published of them, against the slow and obvious way."""

from __future__ import annotations

import math
import statistics
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.windows import Window, Windows, summarize
from shared.events import MAX_SENSOR_VALUE

Reading = tuple[float, float]

VALUES = st.floats(-MAX_SENSOR_VALUE, MAX_SENSOR_VALUE)
READINGS = st.lists(st.tuples(VALUES, st.floats(0, 4e9)), min_size=1, max_size=80)
# Also such as do not have all their room from the start, and get it in one or several steps.
SIZES = st.integers(1, 50) | st.sampled_from([64, 65, 300])


def windows_of(readings: list[Reading], size: int) -> Windows:
    windows = Windows(size)
    windows.add(0)
    for value, timestamp in readings:
        windows.push(0, value, timestamp)
    return windows


def held(windows: Windows, row: int = 0) -> list[Reading]:
    window = windows.window(row)
    assert windows.values(row) == window.values
    if window.timestamps:
        assert windows.span(row) == (window.timestamps[0], window.timestamps[-1])
    return list(zip(window.values, window.timestamps, strict=True))


@given(readings=READINGS, size=SIZES)
def test_a_window_holds_the_last_readings_in_the_order_they_were_read(
    readings: list[Reading], size: int
) -> None:
    windows = windows_of(readings, size)
    assert held(windows) == readings[-size:]
    assert windows.is_full(0) == (len(readings) >= size)


@given(size=SIZES, seed=st.integers(0, 2**32))
def test_windows_share_nothing_whatever_room_they_are_given(size: int, seed: int) -> None:
    random = Random(seed)
    windows, due = Windows(size), dict[int, list[Reading]]()
    for step in range(400):
        row = random.randrange(min(len(due) + 1, 5))
        # Rows are emptied too: a sensor that is gone gives its place to another one.
        if row == len(due) or random.random() < 0.01:
            windows.add(row)
            due[row] = []
        windows.push(row, float(step), step / 2)
        due[row] = [*due[row], (float(step), step / 2)][-size:]
    assert {row: held(windows, row) for row in due} == due


def test_a_large_window_takes_no_more_room_than_what_it_holds_asks_for() -> None:
    windows = Windows(10_000)
    for row in range(1_000):
        windows.add(row)
        windows.push(row, 1.0, 1.0)
    assert len(windows._values) < 100 * 1_000


@given(readings=READINGS, size=SIZES)
def test_a_summary_is_what_the_contract_says_of_the_values(readings: list[Reading], size: int) -> None:
    values = [value for value, _ in readings[-size:]]
    summary = summarize(windows_of(readings, size).values(0))
    assert summary.avg == round(statistics.mean(values), 2)
    assert summary.median == round(statistics.median(values), 2)
    assert (summary.min, summary.max) == (min(values), max(values))


# As sensors give them: every tenth mean of ten lies half-way between two hundredths. And what cancels out.
HUNDREDTHS = st.integers(-(10**4), 10**4).map(lambda hundredths: hundredths / 100)
CANCELLING = st.sampled_from([0.0, -0.0, 1e15, -1e15, 0.004, -0.004, 0.005, -0.005, 5e-324])


@given(st.lists(HUNDREDTHS | CANCELLING, min_size=1, max_size=40))
def test_an_average_is_that_of_the_exact_mean_to_the_last_bit_and_the_sign(values: list[float]) -> None:
    avg = summarize(values).avg
    exact = round(statistics.mean(values), 2)
    assert (avg, math.copysign(1, avg)) == (exact, math.copysign(1, exact))


@given(first=READINGS, then=READINGS, size=SIZES, other=SIZES)
def test_what_was_stored_goes_on_as_a_window_of_another_size_as_if_it_had_been_one(
    first: list[Reading], then: list[Reading], size: int, other: int
) -> None:
    stored = msgspec.json.encode(windows_of(first, size).window(0))
    windows = Windows(other)
    windows.add(0)
    windows.push(0, -1.0, 1.0)  # An older record of the changelog: the later one counts.
    windows.put(0, msgspec.json.decode(stored, type=Window))
    due = first[-size:][-other:]
    assert held(windows) == due
    for reading in then:
        windows.push(0, *reading)
        due = [*due, reading][-other:]
    assert held(windows) == due


def test_what_is_no_window_is_refused_and_changes_nothing() -> None:
    windows = windows_of([(1.0, 2.0)], 3)
    with pytest.raises(ValueError, match="2 values, 1 timestamps"):
        windows.put(0, Window([1.0, 2.0], [1.0]))
    assert held(windows) == [(1.0, 2.0)]


@pytest.mark.parametrize(
    ("values", "avg", "median"),
    [([1.0], 1.0, 1.0), ([1.0, 2.0], 1.5, 1.5), ([0.005, 0.01], 0.01, 0.01), ([0.1] * 10, 0.1, 0.1)],
)
def test_average_and_median_are_rounded_to_two_places(values: list[float], avg: float, median: float) -> None:
    summary = summarize(values)
    assert (summary.avg, summary.median) == (avg, median)


@given(st.lists(VALUES, min_size=2, max_size=20))
def test_the_order_of_the_values_does_not_change_the_summary(values: list[float]) -> None:
    assert summarize(values) == summarize(sorted(values))
