"""What makes a process alive and what makes it ready, with a clock that is handed in."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from shared.health import Health

STALL_SECONDS = 60.0


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock, stall_seconds=STALL_SECONDS)


def test_a_process_that_starts_is_alive_and_not_ready(health: Health) -> None:
    assert health.why_not_live() == []
    assert health.why_not_ready() == ["service: starting"]


def test_it_is_ready_when_the_last_reason_is_taken_back(health: Health) -> None:
    health.not_ready("user_behavior:0", "restoring")
    health.ready("service")
    assert health.why_not_ready() == ["user_behavior:0: restoring"]
    health.ready("user_behavior:0")
    assert health.why_not_ready() == []


def test_zero_partitions_are_ready(health: Health) -> None:
    health.ready("service")
    assert health.why_not_ready() == []


def test_a_later_reason_takes_the_place_of_an_earlier_one(health: Health) -> None:
    health.not_ready("service", "draining")
    assert health.why_not_ready() == ["service: draining"]


def test_a_loop_that_goes_round_in_time_is_alive(health: Health, clock: Clock) -> None:
    for _ in range(10):
        health.beat("event loop", bound_seconds=5.0)
        clock.now += 5.0
    assert health.why_not_live() == []


def test_a_loop_that_is_stuck_is_named_with_its_time(health: Health, clock: Clock) -> None:
    health.beat("event loop", bound_seconds=5.0)
    clock.now += 5.1
    assert health.why_not_live() == ["event loop has not gone round for 5.1 s"]


def test_a_loop_that_ended_as_it_should_is_not_waited_for(health: Health, clock: Clock) -> None:
    health.beat("sensors", bound_seconds=5.0)
    health.ended("sensors")
    clock.now += 1_000
    assert health.why_not_live() == []


def test_a_partition_that_is_behind_and_does_not_move_is_named(health: Health, clock: Clock) -> None:
    for _ in range(7):
        health.moved("user_behavior:3", 42, behind=True)
        clock.now += 10.0
    assert health.why_not_live() == ["user_behavior:3 is behind and has not moved from 42 for 70.0 s"]


def test_a_partition_that_moves_is_alive_however_far_behind(health: Health, clock: Clock) -> None:
    for position in range(20):
        health.moved("user_behavior:3", position, behind=True)
        clock.now += 50.0
    assert health.why_not_live() == []


def test_a_partition_with_nothing_to_read_may_stand_still(health: Health, clock: Clock) -> None:
    for _ in range(20):
        health.moved("user_behavior:3", 42, behind=False)
        clock.now += 50.0
    assert health.why_not_live() == []


def test_the_time_behind_counts_from_when_it_was_last_caught_up(health: Health, clock: Clock) -> None:
    for behind in [False] * 100 + [True] * (int(STALL_SECONDS) - 1):
        health.moved("user_behavior:3", 42, behind=behind)
        clock.now += 1.0
    assert health.why_not_live() == []
    clock.now += 1.0
    assert health.why_not_live() == ["user_behavior:3 is behind and has not moved from 42 for 61.0 s"]


def test_a_partition_that_is_not_served_just_now_is_not_stuck(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=True)
    clock.now += STALL_SECONDS - 1
    health.forget("user_behavior:3")
    clock.now += 1_000
    assert health.why_not_live() == []


def test_no_partition_is_stuck_while_kafka_does_not_answer(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=True)
    health.kafka_answers(answers=False)
    for _ in range(20):
        health.moved("user_behavior:3", 42, behind=True)
        clock.now += 50.0
    assert health.why_not_live() == []
    health.kafka_answers(answers=True)
    health.moved("user_behavior:3", 42, behind=True)
    clock.now += STALL_SECONDS + 1
    assert len(health.why_not_live()) == 1


def test_a_task_that_says_nothing_any_more_is_stuck(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=False)
    clock.now += STALL_SECONDS + 1
    assert len(health.why_not_live()) == 1
