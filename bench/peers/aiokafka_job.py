"""A plain aiokafka loop with msgspec: at least once, offsets committed every tenth of a second."""

from __future__ import annotations

import uvloop
from aiokafka import AIOKafkaConsumer

from bench.peers.job import GROUP, SERVERS, TOPIC, Job


async def main() -> None:
    """Read the topic to its end."""
    job = Job()
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=SERVERS,
        group_id=GROUP,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with consumer:
        while not job.is_done:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                job.count([record.value for record in records])
            if job.commit_is_due():
                await consumer.commit()
        await consumer.commit()
    job.report()


if __name__ == "__main__":
    uvloop.run(main())
