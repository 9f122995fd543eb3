"""The percentiles from record timestamp to commit, against a sorted list of every record."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from services.processor.latency import summarize
from shared.results import LatencyMilliseconds

COMMITTED_AT_MS = 1_700_000_000_000
BATCHES = st.lists(
    st.tuples(st.integers(COMMITTED_AT_MS - 100_000, COMMITTED_AT_MS + 100), st.integers(1, 200)),
    min_size=1,
    max_size=20,
)


@given(BATCHES)
def test_percentiles_are_those_of_all_records_each_as_old_as_the_oldest_of_its_batch(
    oldest: list[tuple[int, int]],
) -> None:
    every = sorted(max(COMMITTED_AT_MS - timestamp, 0) for timestamp, count in oldest for _ in range(count))
    expected = LatencyMilliseconds(
        p50=every[math.ceil(len(every) * 50 / 100) - 1], p99=every[math.ceil(len(every) * 99 / 100) - 1]
    )
    assert summarize(oldest, COMMITTED_AT_MS) == expected


def test_one_slow_batch_in_a_hundred_records_shows_in_p99_only_when_it_is_more_than_a_hundredth() -> None:
    fast, slow = COMMITTED_AT_MS - 10, COMMITTED_AT_MS - 5_000
    assert summarize([(slow, 1), (fast, 99)], COMMITTED_AT_MS) == LatencyMilliseconds(10.0, 10.0)
    assert summarize([(slow, 2), (fast, 98)], COMMITTED_AT_MS) == LatencyMilliseconds(10.0, 5_000.0)


def test_a_clock_that_is_ahead_of_ours_makes_no_negative_latency() -> None:
    assert summarize([(COMMITTED_AT_MS + 50, 1)], COMMITTED_AT_MS) == LatencyMilliseconds(0.0, 0.0)


def test_a_transaction_without_records_has_no_latency() -> None:
    assert summarize([], COMMITTED_AT_MS) == LatencyMilliseconds(0.0, 0.0)
