"""When a transaction is committed: after N records, after a time, or as soon as nothing is left to read."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.commit_policy import CommitPolicy, Pending
from services.processor.settings import ProcessorSettings

MOMENTS = st.floats(0, 1e6)
POLICIES = st.builds(
    CommitPolicy,
    every_events=st.integers(0, 1_000),
    every_seconds=st.sampled_from([0.0, 0.1, 5.0]),
    longest_seconds=st.sampled_from([0.0, 1.0, 600.0]),
    when_caught_up=st.booleans(),
    pause_seconds=st.sampled_from([0.0, 0.01, 1.0]),
    pending_bytes=st.integers(1, 10_000),
)


@st.composite
def pendings(draw: st.DrawFn) -> Pending:
    committed_at = draw(MOMENTS)
    return Pending(
        records=draw(st.integers(0, 1_500)),
        size_bytes=draw(st.integers(0, 20_000)),
        since=committed_at + draw(st.floats(0, 100)),
        committed_at=committed_at,
        commit_seconds=draw(st.floats(0, 10)),
        worked_seconds=draw(st.floats(0, 0.05)),
        caught_up=draw(st.booleans()),
    )


def policy(**changes: Any) -> CommitPolicy:
    return CommitPolicy.of(ProcessorSettings(**changes))


def pending(
    records: int = 1,
    *,
    since: float = 100.0,
    caught_up: bool = False,
    size_bytes: int = 0,
    commit_seconds: float = 0.0,
    worked_seconds: float = 1.0,
) -> Pending:
    return Pending(
        records,
        size_bytes,
        since,
        committed_at=99.0,
        commit_seconds=commit_seconds,
        worked_seconds=worked_seconds,
        caught_up=caught_up,
    )


@given(POLICIES, pendings(), st.floats(0, 200))
def test_a_commit_is_due_at_the_first_moment_that_any_of_the_rules_asks_for(
    rules: CommitPolicy, waiting: Pending, waited: float
) -> None:
    now = waiting.since + waited
    moments = []
    if rules.every_events and waiting.records >= rules.every_events:
        moments.append(-math.inf)
    if waiting.size_bytes >= rules.pending_bytes:
        moments.append(-math.inf)
    if rules.every_seconds:
        stretched = min(2 * waiting.commit_seconds, rules.longest_seconds)
        if not waiting.caught_up and waiting.worked_seconds < 0.015:
            stretched = rules.longest_seconds
        moments.append(waiting.since + max(rules.every_seconds, stretched))
    if rules.when_caught_up and waiting.caught_up:
        moments.append(waiting.committed_at + rules.pause_seconds)
    due_in = rules.due_in(waiting, now)
    assert due_in == (max(min(moments) - now, 0.0) if moments else None)


@given(POLICIES, st.integers(0, 2_000))
def test_what_fits_into_the_room_makes_a_transaction_just_full(rules: CommitPolicy, records: int) -> None:
    room = rules.room(records)
    if room is None:
        assert not rules.every_events
    else:
        assert room >= 0
        assert rules.is_full(records + room, 0)
        assert room == 0 or not rules.is_full(records + room - 1, 0)


def test_every_10_events_and_nothing_else() -> None:
    every_10 = policy(commit_every_events=10, commit_every_milliseconds=0, commit_when_caught_up=False)
    assert every_10.due_in(pending(9, caught_up=True), now=1e9) is None, "neither time nor the end of the log"
    assert every_10.due_in(pending(10), now=100.0) == 0.0
    assert every_10.room(7) == 3
    assert every_10.room(10) == 0


def test_by_default_a_caught_up_partition_commits_after_the_price_of_a_commit() -> None:
    defaults = policy()
    assert defaults.due_in(pending(caught_up=True), now=100.0) == 0.0
    just_committed = Pending(
        1, 0, since=100.001, committed_at=100.0, commit_seconds=0.02, worked_seconds=1.0, caught_up=True
    )
    due_in = defaults.due_in(just_committed, now=100.002)
    assert due_in is not None
    assert 0 < due_in <= 0.023 + 1e-9


def test_a_trickle_commits_at_most_once_in_each_pause() -> None:
    rules = policy(commit_every_milliseconds=0, commit_pause_milliseconds=1_000)
    committed_at, commits = 0.0, 0
    for hundredths in range(1_000):  # A record every 10 ms, and nothing behind it.
        now = hundredths / 100
        if rules.due_in(Pending(1, 0, now, committed_at, 0.02, 1.0, caught_up=True), now) == 0.0:
            committed_at, commits = now, commits + 1
    assert commits == 9


def test_behind_it_commits_by_time() -> None:
    rules = policy(commit_every_milliseconds=100)
    assert rules.due_in(pending(since=100.0), now=100.0) == pytest.approx(0.1)
    assert rules.due_in(pending(since=100.0), now=100.2) == 0.0


@pytest.mark.parametrize(
    ("took_seconds", "due_in"),
    [(0.0, 0.1), (0.05, 0.1), (0.1, 0.2), (0.4, 0.8), (0.6, 1.0), (20.0, 1.0)],
)
def test_behind_commits_that_take_long_are_made_less_often(took_seconds: float, due_in: float) -> None:
    waiting = pending(since=100.0, commit_seconds=took_seconds)
    assert policy().due_in(waiting, now=100.0) == pytest.approx(due_in)


def test_a_caught_up_partition_commits_at_once_however_long_its_commits_take() -> None:
    assert policy().due_in(pending(caught_up=True, commit_seconds=5.0), now=100.0) == 0.0


def test_a_stretch_of_nothing_keeps_to_the_time_that_is_set() -> None:
    rules = policy(commit_stretch_milliseconds=0)
    assert rules.due_in(pending(commit_seconds=5.0), now=100.0) == pytest.approx(0.1)
    switched_off = policy(commit_every_milliseconds=0, commit_stretch_milliseconds=1_000)
    assert switched_off.due_in(pending(commit_seconds=5.0), now=100.0) is None


def test_results_that_take_their_bytes_are_committed_whatever_their_number() -> None:
    rules = policy(commit_every_events=0, commit_every_milliseconds=0, pending_bytes=2**16)
    assert rules.due_in(pending(1, size_bytes=2**16 - 1), now=100.0) is None
    assert rules.due_in(pending(1, size_bytes=2**16), now=100.0) == 0.0


def test_without_a_bound_by_number_there_is_always_room() -> None:
    rules = policy(commit_every_events=0)
    assert rules.room(10**9) is None
    assert not rules.is_full(10**9, 0)


@pytest.mark.parametrize(
    ("worked_seconds", "caught_up", "due_in"),
    [
        (0.001, False, 1.0),  # as long as it is allowed to
        (0.1, False, 0.1),
        (0.001, True, 0.1),  # there may be nothing more to come for a while
    ],
)
def test_behind_a_transaction_is_filled_until_it_is_worth_it(
    worked_seconds: float, caught_up: bool, due_in: float
) -> None:
    rules = policy(commit_every_milliseconds=100, commit_when_caught_up=False)
    waiting = pending(since=100.0, worked_seconds=worked_seconds, caught_up=caught_up)
    assert rules.due_in(waiting, now=100.0) == pytest.approx(due_in)


def test_no_stretch_means_none() -> None:
    rules = policy(commit_every_milliseconds=100, commit_stretch_milliseconds=0)
    waiting = pending(since=100.0, worked_seconds=0.0, commit_seconds=5.0)
    assert rules.due_in(waiting, now=100.0) == pytest.approx(0.1)
