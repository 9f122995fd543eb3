"""One view of everything, from the latest record of each key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.console.latency import RunLatency, WeightedPercentile
from services.console.merge import Ends, Latest, lag, merge, still_firing
from shared.results import (
    Alert,
    AlertState,
    BehaviorStats,
    Bound,
    LatencyMilliseconds,
    Progress,
    SettingSince,
)


def behavior(partition: int, actions: dict[str, int], devices: dict[str, int], users: int) -> BehaviorStats:
    return BehaviorStats(
        partition=partition,
        offset=100,
        total_events=sum(actions.values()),
        actions=actions,
        devices=devices,
        unique_users=users,
        updated_at="2026-01-01T00:00:00+00:00",
    )


def progress(partition: int, offset: int, p50: float = 1, p99: float = 2) -> Progress:
    return Progress(
        topic="user_behavior",
        partition=partition,
        offset=offset,
        first_offset=0,
        events=offset,
        sourced_events=0,
        sourced_dead_letters=0,
        unsourced_events=offset,
        duplicates=0,
        gaps=0,
        late=0,
        dead_letters=0,
        latency_ms=LatencyMilliseconds(p50, p99),
        settings={"window_size": [SettingSince(10, 0)]},
        updated_at=f"2026-01-01T00:00:0{partition}+00:00",
    )


def alert(state: AlertState, offset: int, sensor: str = "temperature", bound: Bound = "max") -> Alert:
    return Alert(
        alert_id=f"{sensor}:{bound}:0:{offset}",
        sensor_id=sensor,
        bound=bound,
        threshold=80,
        value=90,
        state=state,
        location="server1",
        timestamp=1.0,
        partition=0,
        offset=offset,
    )


def test_the_global_view_is_the_sum_over_the_partitions() -> None:
    latest = Latest(
        behavior=[
            behavior(0, {"click": 3, "purchase": 2}, {"mobile": 5}, users=4),
            behavior(1, {"click": 1, "view": 1}, {"mobile": 1, "tablet": 1}, users=2),
        ]
    )
    view = merge(latest, {}).behavior
    assert (view.total_events, view.unique_users, view.purchases) == (7, 6, 2)
    assert view.actions == {"click": 4, "purchase": 2, "view": 1}
    assert view.devices == {"mobile": 6, "tablet": 1}


def test_without_anything_the_view_is_empty_and_not_an_error() -> None:
    view = merge(Latest(), {})
    assert view.behavior.total_events == 0
    assert view.latency_ms is None
    assert view.updated_at is None
    assert view.is_caught_up


def test_the_lag_is_what_lies_between_the_committed_offset_and_the_end() -> None:
    ends = {("user_behavior", 0): Ends(0, 100), ("user_behavior", 1): Ends(0, 50)}
    assert lag([progress(0, 90), progress(1, 50)], ends) == {"user_behavior": 10}


def test_a_partition_without_progress_is_behind_by_what_its_log_holds() -> None:
    assert lag([], {("sensor_data", 0): Ends(20, 100)}) == {"sensor_data": 80}


def test_progress_beyond_an_end_that_was_read_earlier_is_no_lag() -> None:
    assert lag([progress(0, 101)], {("user_behavior", 0): Ends(0, 100)}) == {"user_behavior": 0}


def test_the_latency_is_the_middle_p50_and_the_worst_p99() -> None:
    latest = Latest(progress=[progress(0, 1, 1, 9), progress(1, 1, 3, 4), progress(2, 1, 2, 5)])
    assert merge(latest, {}).latency_ms == LatencyMilliseconds(2, 9)


def test_a_partition_that_has_measured_nothing_yet_does_not_lower_the_latency() -> None:
    latest = Latest(progress=[progress(0, 1, 0, 0), progress(1, 1, 3, 4)])
    assert merge(latest, {}).latency_ms == LatencyMilliseconds(3, 4)


def test_an_alert_fires_until_it_is_resolved() -> None:
    firing = still_firing([alert("firing", 1), alert("firing", 2, "cpu_usage")], {})
    assert {one.sensor_id for one in firing.values()} == {"temperature", "cpu_usage"}
    assert {one.sensor_id for one in still_firing([alert("resolved", 3)], firing).values()} == {"cpu_usage"}


def test_the_two_bounds_of_a_sensor_fire_apart() -> None:
    firing = still_firing([alert("firing", 1, bound="min"), alert("firing", 2), alert("resolved", 3)], {})
    assert [one.bound for one in firing.values()] == ["min"]


@given(st.lists(st.tuples(st.floats(0.05, 60_000), st.integers(1, 1_000)), min_size=1, max_size=50))
def test_a_percentile_out_of_buckets_is_within_five_percent(values: list[tuple[float, int]]) -> None:
    percentile = WeightedPercentile(0.5)
    for value, weight in values:
        percentile.add(value, weight)
    expanded = sorted(value for value, weight in values for _ in range(weight))
    exact = expanded[(len(expanded) + 1) // 2 - 1]
    found = percentile.milliseconds
    assert found is not None
    assert exact * 0.94 - 0.01 <= found <= exact * 1.06 + 0.01


def test_a_run_weighs_its_intervals_with_their_events() -> None:
    run = RunLatency()
    run.add(LatencyMilliseconds(10, 20), events=990)
    run.add(LatencyMilliseconds(1_000, 2_000), events=5)
    summary = run.summary
    assert summary is not None
    assert 9 < summary.p50 < 11
    assert 19 < summary.p99 < 21


def test_a_run_without_events_has_no_latency() -> None:
    run = RunLatency()
    run.add(LatencyMilliseconds(10, 20), events=0)
    assert run.summary is None
