"""aiokafka as it comes, reading and looking at nothing. No group, no commits: the least it can do."""

from __future__ import annotations

import uvloop
from aiokafka import AIOKafkaConsumer

from bench.peers.job import SERVERS, TOPIC, Job


async def main() -> None:
    """Read the topic to its end."""
    job = Job()
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=SERVERS, auto_offset_reset="earliest")
    async with consumer:
        while not job.is_done:
            fetched = await consumer.getmany(timeout_ms=200)
            if fetched:
                job.read(sum(map(len, fetched.values())))
    job.report()


if __name__ == "__main__":
    uvloop.run(main())
