"""The processor's way of reading, whole record batches, looking at nothing. No group, no commits."""

from __future__ import annotations

import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from bench.peers.job import SERVERS, TOPIC, Job
from services.processor.record_batches import batches, read_whole_batches
from shared.memory import calm_garbage_collector, keep_freed_memory


async def main() -> None:
    """Read the topic to its end, a partition at a time: no more records live than in the processor."""
    job = Job()
    keep_freed_memory()
    calm_garbage_collector()
    consumer = AIOKafkaConsumer(bootstrap_servers=SERVERS, auto_offset_reset="earliest")
    async with consumer:
        if not read_whole_batches(consumer):
            raise SystemExit("this version of the client is not read in whole batches")
        partitions = await consumer._client._wait_on_metadata(TOPIC)  # noqa: SLF001 — as a subscription does
        places = [TopicPartition(TOPIC, number) for number in partitions]
        consumer.assign(places)
        while not job.is_done:
            for place in places:
                # Never zero: getmany would not let the event loop run.
                fetched = await consumer.getmany(place, timeout_ms=1)
                job.read(sum(len(batch.records) for batch in batches(fetched.get(place, []))))
    job.report()


if __name__ == "__main__":
    uvloop.run(main())
