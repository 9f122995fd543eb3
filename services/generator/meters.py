"""Shows what is on its way to Kafka. The gauges look when they are asked: nothing is done for an event."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.generator.bounds import DeliveryBounds
from services.generator.publisher import Publisher
from shared.metrics import GeneratorMetrics


def show_deliveries(
    metrics: GeneratorMetrics,
    publishers: Sequence[Publisher],
    bounds: DeliveryBounds,
    clock: Callable[[], float],
) -> None:
    """Let the gauges show what is in flight, against its bound, and whether Kafka answers.

    Args:
        metrics: the generator's.
        publishers: one for each stream.
        bounds: know when Kafka answered last.
        clock: monotonic seconds.
    """
    metrics.in_flight.set_function(lambda: sum(publisher.in_flight_bytes for publisher in publishers))
    metrics.kafka_answers.set_function(lambda: not bounds.silent_seconds(clock()))
    for publisher in publishers:
        _show(metrics, publisher, clock)


def _show(metrics: GeneratorMetrics, publisher: Publisher, clock: Callable[[], float]) -> None:
    def waited() -> float:
        oldest = publisher.oldest_handed_over_at
        return 0.0 if oldest is None else clock() - oldest

    metrics.buffered.labels(publisher.topic).set_function(lambda: publisher.in_flight_bytes)
    metrics.buffer_limit.labels(publisher.topic).set(publisher.buffer_bytes)
    metrics.oldest.labels(publisher.topic).set_function(waited)
