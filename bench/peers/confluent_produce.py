"""confluent-kafka: `produce` in a loop; librdkafka makes and sends the batches in threads of its own."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Producer

from bench.peers.job import SERVERS, TOPIC
from bench.peers.produce import BATCH_BYTES, LINGER_MILLISECONDS, Clock, events

SERVED_EVERY = 1_000


def main() -> None:
    """Send them all."""
    made = events()
    producer = Producer(
        {
            "bootstrap.servers": SERVERS,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": LINGER_MILLISECONDS,
            "batch.size": BATCH_BYTES,
            "batch.num.messages": 100_000,
            "queue.buffering.max.messages": 1_000_000,
            "partitioner": "murmur2_random",
            "log_level": 2,
        }
    )
    failed: list[str] = []

    def told(error: Any, _message: Any) -> None:
        if error is not None:
            failed.append(str(error))

    clock = Clock()
    for number, (key, value) in enumerate(made):
        while True:
            try:
                producer.produce(TOPIC, value, key, on_delivery=told if number % SERVED_EVERY == 0 else None)
                break
            except BufferError:
                producer.poll(0.1)
        if number % SERVED_EVERY == 0:
            producer.poll(0)
    left = producer.flush(300)
    if left or failed:
        raise SystemExit(f"{left} left, failed: {failed[:1]}")
    clock.report()


if __name__ == "__main__":
    main()
