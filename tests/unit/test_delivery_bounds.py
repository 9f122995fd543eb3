"""How long the generator waits for a delivery, and for a Kafka that is away."""

from __future__ import annotations

import pytest

from services.generator.bounds import DeliveryBounds


@pytest.fixture
def bounds() -> DeliveryBounds:
    return DeliveryBounds(delivery_seconds=120, unavailable_seconds=300, quiet_seconds=13, now=0)


def run(bounds: DeliveryBounds, begin: int, end: int, *, oldest: float | None, answers: bool) -> str | None:
    """Let the seconds pass, and return the first reason to stop."""
    for now in range(begin, end):
        if answers:
            bounds.answered(now)
        reason = bounds.exceeded(now, oldest)
        if reason is not None:
            return reason
    return None


def test_while_kafka_answers_a_batch_has_its_delivery_timeout(bounds: DeliveryBounds) -> None:
    assert run(bounds, 0, 130, oldest=10, answers=True) is None
    reason = run(bounds, 130, 132, oldest=10, answers=True)
    assert reason is not None
    assert "GENERATOR_DELIVERY_TIMEOUT_SECONDS=120" in reason


def test_nothing_under_way_is_never_late(bounds: DeliveryBounds) -> None:
    assert run(bounds, 0, 1_000, oldest=None, answers=True) is None


def test_while_kafka_is_away_its_own_bound_applies(bounds: DeliveryBounds) -> None:
    run(bounds, 0, 10, oldest=9, answers=True)
    assert run(bounds, 10, 310, oldest=9, answers=False) is None
    reason = run(bounds, 310, 312, oldest=9, answers=False)
    assert reason is not None
    assert "KAFKA_UNAVAILABLE_SECONDS=300" in reason


def test_when_kafka_is_back_deliveries_have_their_whole_time_again(bounds: DeliveryBounds) -> None:
    run(bounds, 0, 10, oldest=9, answers=True)
    run(bounds, 10, 210, oldest=9, answers=False)
    assert run(bounds, 210, 330, oldest=9, answers=True) is None
    reason = run(bounds, 330, 332, oldest=9, answers=True)
    assert reason is not None
    assert "GENERATOR_DELIVERY_TIMEOUT_SECONDS=120" in reason


def test_silence_shorter_than_nothing_asked_means_nothing() -> None:
    bounds = DeliveryBounds(delivery_seconds=120, unavailable_seconds=1, quiet_seconds=13, now=0)
    assert run(bounds, 0, 13, oldest=None, answers=False) is None
    assert bounds.silent_seconds(13) == 0
    assert run(bounds, 13, 15, oldest=None, answers=False) is not None
    assert bounds.silent_seconds(14) == 14


def test_a_process_that_was_frozen_does_not_blame_kafka(bounds: DeliveryBounds) -> None:
    run(bounds, 0, 10, oldest=9, answers=True)
    assert bounds.exceeded(5_000, 9) is None
    assert run(bounds, 5_001, 5_100, oldest=9, answers=True) is None
