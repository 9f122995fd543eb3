"""When events are due."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.pacing import AsFastAsPossible, FixedRate, Pacer, ReferenceGaps, Rounds

NO_LIMIT = 10**9
RATES = st.floats(0.01, 1_000_000)
STARTS = st.floats(0, 1e7)
MAKERS: dict[str, Callable[[], Pacer]] = {
    "fixed": lambda: FixedRate(1_000, catch_up_seconds=1),
    "reference": lambda: ReferenceGaps(0.001, 0.001, seed=1, catch_up_seconds=1),
    "rounds": lambda: Rounds(5, 0.005, catch_up_seconds=1),
}
PACED = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def times_until(pacer: Pacer, now: float, end: float) -> list[float]:
    """Return when each event is made by a caller who sleeps until the next one is due."""
    times: list[float] = []
    while now < end:
        times += [now] * pacer.take(now, NO_LIMIT)
        assert pacer.next_at > now, "nothing is left that is due"
        now = pacer.next_at
    return times


def test_as_fast_as_possible_is_whatever_the_caller_can_take() -> None:
    pacer = AsFastAsPossible()
    assert pacer.take(0, 2_000) == 2_000
    assert pacer.next_at == -math.inf


@settings(deadline=None)
@given(rate=RATES, start=STARTS, events=st.integers(1, 2_000))
def test_a_fixed_rate_is_kept_and_evenly_spaced(rate: float, start: float, events: int) -> None:
    pacer = FixedRate(rate, catch_up_seconds=1)
    times = times_until(pacer, start, start + events / rate)
    assert abs(len(times) - events) <= 1
    for index, time in enumerate(times):
        assert time == pytest.approx(start + index / rate, abs=1e-6 + start * 1e-12)
    assert pacer.let_go_seconds == 0


@settings(deadline=None)
@given(rate=st.floats(1, 10_000), sleeps=st.lists(st.floats(0.0005, 0.9), min_size=1, max_size=200))
def test_a_fixed_rate_does_not_drift_however_unevenly_it_is_asked(rate: float, sleeps: list[float]) -> None:
    pacer = FixedRate(rate, catch_up_seconds=1)
    now = 100.0
    made = pacer.take(now, NO_LIMIT)
    for sleep in sleeps:
        now += sleep
        made += pacer.take(now, NO_LIMIT)
        assert abs(made - ((now - 100.0) * rate + 1)) <= 1
    assert pacer.let_go_seconds == 0


@PACED
@settings(deadline=None)
@given(stall=st.floats(1.01, 86_400))
def test_after_a_stall_at_most_the_catch_up_comes_at_once(make: Callable[[], Pacer], stall: float) -> None:
    pacer = make()
    times_until(pacer, 50.0, 51.0)
    stalled_until = pacer.next_at + stall
    burst = pacer.take(stalled_until, NO_LIMIT)
    assert 1_000 - 5 <= burst <= 1_000 + 10
    assert pacer.let_go_seconds == pytest.approx(stall - 1, abs=0.02)
    # And then it goes on at its rate.
    assert abs(len(times_until(pacer, stalled_until, stalled_until + 1)) - 1_000) <= 10


@PACED
@settings(deadline=None)
@given(limit=st.integers(1, 50))
def test_never_more_than_the_limit_and_the_rest_stays_due(make: Callable[[], Pacer], limit: int) -> None:
    pacer = make()
    taken = [pacer.take(10.0, limit)]
    while pacer.next_at <= 10.5:
        taken.append(pacer.take(10.5, limit))
    assert all(0 < count <= limit for count in taken)
    assert abs(sum(taken) - 501) <= 5
    assert pacer.take(10.5, limit) == 0


@settings(deadline=None)
@given(seed=st.integers(0, 2**63 - 1))
def test_the_reference_gaps_are_random_within_their_bounds_and_come_from_the_seed(seed: int) -> None:
    times = times_until(ReferenceGaps(0.1, 1.0, seed=seed, catch_up_seconds=1), 0.0, 100.0)
    again = times_until(ReferenceGaps(0.1, 1.0, seed=seed, catch_up_seconds=1), 0.0, 100.0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times == again
    assert all(0.1 - 1e-9 <= gap <= 1.0 + 1e-9 for gap in gaps)
    assert 0.4 < sum(gaps) / len(gaps) < 0.7


def test_other_seeds_have_other_gaps() -> None:
    one = times_until(ReferenceGaps(0.1, 1.0, seed=1, catch_up_seconds=1), 0.0, 20.0)
    assert one != times_until(ReferenceGaps(0.1, 1.0, seed=2, catch_up_seconds=1), 0.0, 20.0)


def test_each_of_five_sensors_is_read_every_half_second() -> None:
    times = times_until(Rounds(5, 0.5, catch_up_seconds=1), 0.0, 10.0)
    assert times == [round_number * 0.5 for round_number in range(20) for _ in range(5)]


@settings(deadline=None)
@given(size=st.integers(1, 20), limit=st.integers(1, 30))
def test_a_round_larger_than_the_limit_comes_in_parts(size: int, limit: int) -> None:
    pacer = Rounds(size, 1.0, catch_up_seconds=1)
    taken = 0
    while taken < size:
        assert pacer.next_at <= 0.0
        taken += pacer.take(0.0, limit)
    assert taken == size
    assert pacer.next_at == 1.0
