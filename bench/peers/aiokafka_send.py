"""aiokafka as its documentation shows it: `await producer.send()` in a loop, then `flush`."""

from __future__ import annotations

import uvloop
from aiokafka import AIOKafkaProducer

from bench.peers.job import SERVERS, TOPIC
from bench.peers.produce import BATCH_BYTES, LINGER_MILLISECONDS, Clock, events


async def main() -> None:
    """Send them all."""
    made = events()
    producer = AIOKafkaProducer(
        bootstrap_servers=SERVERS,
        acks="all",
        enable_idempotence=True,
        linger_ms=LINGER_MILLISECONDS,
        max_batch_size=BATCH_BYTES,
    )
    async with producer:
        clock = Clock()
        for key, value in made:
            await producer.send(TOPIC, value, key=key)
        await producer.flush()
        clock.report()


if __name__ == "__main__":
    uvloop.run(main())
