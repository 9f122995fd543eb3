"""What makes a process alive and what makes it ready, with a clock that is handed in."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from shared import logs
from shared.health import EVENT_LOOP, Health
from shared.loop_watch import TICK_SECONDS, LoopWatch

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


def pass_time(health: Health, clock: Clock, seconds: float, *, answers: bool = True) -> None:
    """Let time pass, and Kafka be asked as often as it has to be."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now = min(clock.now + health.round_seconds, end)
        health.kafka_answers("test", answers=answers)


# --- Ready -------------------------------------------------------------------------------------------


def test_a_process_that_starts_is_alive_and_not_ready(health: Health) -> None:
    assert health.why_not_live() == []
    assert health.why_not_ready() == ["service: starting"]


def test_it_is_ready_when_the_last_reason_is_taken_back(health: Health) -> None:
    health.not_ready("user_behavior:0", "restoring")
    health.ready("service")
    assert health.why_not_ready() == ["user_behavior:0: restoring"]
    health.ready("user_behavior:0")
    assert health.why_not_ready() == []


def test_a_later_reason_takes_the_place_of_an_earlier_one(health: Health) -> None:
    health.not_ready("service", "draining")
    assert health.why_not_ready() == ["service: draining"]


# --- Loops -------------------------------------------------------------------------------------------


def test_a_loop_that_goes_round_in_time_is_alive(health: Health, clock: Clock) -> None:
    for _ in range(10):
        health.beat("a loop", bound_seconds=5.0)
        clock.now += 5.0
    assert health.why_not_live() == []


def test_a_loop_that_is_stuck_is_named_with_its_time(health: Health, clock: Clock) -> None:
    health.beat("a loop", bound_seconds=5.0)
    clock.now += 5.1
    assert health.why_not_live() == ["a loop has not gone round for 5.1 s"]


def test_a_loop_is_given_no_longer_than_any_stall(health: Health, clock: Clock) -> None:
    health.beat("a loop", bound_seconds=2 * STALL_SECONDS)
    clock.now += STALL_SECONDS + 1
    assert len(health.why_not_live()) == 1


def test_a_loop_that_ended_as_it_should_is_not_waited_for(health: Health, clock: Clock) -> None:
    health.beat("a loop", bound_seconds=5.0)
    health.ended("a loop")
    clock.now += 1_000
    assert health.why_not_live() == []


def test_time_in_which_the_whole_process_was_frozen_is_no_fault_of_a_loop(
    health: Health, clock: Clock
) -> None:
    health.beat("a loop", bound_seconds=5.0)
    clock.now += 1_000
    health.thawed(1_000)
    assert health.why_not_live() == []
    clock.now += 5.1
    assert health.why_not_live() == ["a loop has not gone round for 5.1 s"]


# --- Partitions --------------------------------------------------------------------------------------


def test_a_partition_that_is_behind_and_does_not_move_is_named(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=True)
    pass_time(health, clock, STALL_SECONDS)
    assert health.why_not_live() == []
    pass_time(health, clock, 5)
    assert health.why_not_live() == [
        "user_behavior:3 is behind and has not moved from 42 for 65.0 s in which Kafka answered"
    ]


def test_a_partition_that_moves_is_alive_however_far_behind(health: Health, clock: Clock) -> None:
    for position in range(20):
        health.moved("user_behavior:3", position, behind=True)
        pass_time(health, clock, 50)
    assert health.why_not_live() == []


def test_a_partition_with_nothing_to_read_may_stand_still(health: Health, clock: Clock) -> None:
    for _ in range(20):
        health.moved("user_behavior:3", 42, behind=False)
        pass_time(health, clock, 50)
    assert health.why_not_live() == []


def test_the_time_behind_counts_from_when_it_was_last_caught_up(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=False)
    pass_time(health, clock, 40)
    health.moved("user_behavior:3", 42, behind=False)
    pass_time(health, clock, 50)
    assert health.why_not_live() == []
    pass_time(health, clock, 15)
    assert len(health.why_not_live()) == 1


def test_a_partition_that_is_no_longer_ours_is_not_stuck(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=True)
    health.forget("user_behavior:3")
    pass_time(health, clock, 1_000)
    assert health.why_not_live() == []


def test_a_partition_that_was_begun_and_says_nothing_is_stuck(health: Health, clock: Clock) -> None:
    health.begin("user_behavior:3")
    pass_time(health, clock, STALL_SECONDS + 5)
    assert len(health.why_not_live()) == 1


def test_beginning_again_is_no_movement(health: Health, clock: Clock) -> None:
    health.begin("user_behavior:3")
    for _ in range(7):
        pass_time(health, clock, 10)
        health.begin("user_behavior:3")
    assert len(health.why_not_live()) == 1


# --- Kafka being away --------------------------------------------------------------------------------


def test_nothing_is_stuck_while_kafka_does_not_answer(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=True)
    health.expects("an assignment", bound_seconds=20)
    pass_time(health, clock, 1_000, answers=False)
    assert health.why_not_live() == []


def test_everything_has_its_whole_time_again_when_kafka_is_back(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=True)
    pass_time(health, clock, STALL_SECONDS - 5)
    pass_time(health, clock, 10, answers=False)
    pass_time(health, clock, STALL_SECONDS)
    assert health.why_not_live() == []
    pass_time(health, clock, 10)
    assert len(health.why_not_live()) == 1


def test_an_answer_that_came_late_says_nothing_of_the_time_before_it(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=True)
    clock.now += 1_000  # The question hung, or Kafka was frozen.
    health.kafka_answers("test", answers=True)
    assert health.why_not_live() == []


def test_kafka_has_to_answer_everybody(health: Health, clock: Clock) -> None:
    health.moved("user_behavior:3", 42, behind=True)
    health.kafka_answers("another", answers=False)
    pass_time(health, clock, 1_000)
    assert health.why_not_live() == []


def test_a_loop_is_stuck_whether_kafka_answers_or_not(health: Health, clock: Clock) -> None:
    health.beat("a loop", bound_seconds=5)
    pass_time(health, clock, 10, answers=False)
    assert len(health.why_not_live()) == 1


# --- What is waited for ------------------------------------------------------------------------------


def test_what_does_not_come_in_its_time_is_named(health: Health, clock: Clock) -> None:
    health.expects("an assignment", bound_seconds=20)
    pass_time(health, clock, 20)
    health.expects("an assignment", bound_seconds=20)  # Asking again is no progress.
    assert health.why_not_live() == []
    pass_time(health, clock, 5)
    assert health.why_not_live() == ["an assignment has not come for 25.0 s in which Kafka answered"]
    health.came("an assignment")
    assert health.why_not_live() == []


# --- The event loop, watched from outside ------------------------------------------------------------


class Lines:
    """Takes what would be logged."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **fields: Any) -> None:
        self.said.append((event, fields))


class Watched:
    """A loop's heartbeat, the watch over it, and what came of it."""

    def __init__(self, health: Health, clock: Clock) -> None:
        self.lines = Lines()
        self.codes: list[int] = []
        self._clock = clock
        health.beat(EVENT_LOOP, bound_seconds=10)
        log: Any = self.lines
        self.watch = LoopWatch(health, clock=clock, log=log, end=self.codes.append)

    def look_for(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK_SECONDS)):
            self._clock.now += TICK_SECONDS
            self.watch.look()

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines.said]


def test_a_blocked_event_loop_is_said_once_with_where_it_is(health: Health, clock: Clock) -> None:
    watched = Watched(health, clock)
    watched.look_for(30)
    assert watched.events == ["event_loop_blocked"]
    stack = watched.lines.said[0][1]["stack"]
    assert any("test_a_blocked_event_loop_is_said_once_with_where_it_is" in line for line in stack)
    assert health.why_not_live() == ["event loop has not gone round for 30.0 s"]


def test_other_loops_are_not_blamed_for_a_blocked_event_loop(health: Health, clock: Clock) -> None:
    health.beat("a loop", bound_seconds=5)
    clock.now += 4
    health.beat(EVENT_LOOP, bound_seconds=10)
    clock.now += 8
    assert health.why_not_live() == []
    clock.now += 2.5
    assert health.why_not_live() == ["event loop has not gone round for 10.5 s"]
    health.beat(EVENT_LOOP, bound_seconds=10)
    assert health.why_not_live() == ["a loop has not gone round for 14.5 s"]


def test_a_process_whose_event_loop_stays_blocked_is_ended(health: Health, clock: Clock) -> None:
    watched = Watched(health, clock)
    watched.look_for(2 * STALL_SECONDS)
    assert watched.codes == []
    watched.look_for(2 * TICK_SECONDS)
    assert watched.codes[0] == 1
    assert "stopped" in watched.events


def test_a_loop_that_came_round_again_is_said_anew_the_next_time(health: Health, clock: Clock) -> None:
    watched = Watched(health, clock)
    for _ in range(2):
        watched.look_for(11)
        health.beat(EVENT_LOOP, bound_seconds=10)
        watched.look_for(1)
    assert watched.events == ["event_loop_blocked"] * 2


def test_a_process_that_was_frozen_and_wakes_up_is_not_blocked(health: Health, clock: Clock) -> None:
    watched = Watched(health, clock)
    clock.now += 1_000  # SIGSTOP: the watch stood still as well.
    watched.watch.look()
    assert (watched.events, watched.codes, health.why_not_live()) == ([], [], [])


def test_a_log_that_can_not_be_written_does_not_keep_the_process_alive(
    health: Health, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.loop_watch._LAST_LINE_SECONDS", 0.01)
    watched = Watched(health, clock)
    gate = threading.Event()
    watched.lines.error = lambda *_, **__: gate.wait(10)  # type: ignore[method-assign,assignment]
    watched.look_for(2 * STALL_SECONDS + 1)
    gate.set()
    assert watched.codes[0] == 1


def test_the_logger_of_the_services_can_be_handed_in(health: Health, clock: Clock) -> None:
    LoopWatch(health, clock=clock, log=logs.get("test")).look()
