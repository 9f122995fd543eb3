"""FastStream's batch subscriber: at least once, offsets committed after each batch.

Types and logging of FastStream are off, and the values go to msgspec as they are: that is its fastest way.
"""

from __future__ import annotations

import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from faststream.kafka.message import KafkaMessage

from bench.peers.job import GROUP, SERVERS, TOPIC, Job

job = Job()
broker = KafkaBroker(SERVERS, apply_types=False, logger=None)
app = FastStream(broker, logger=None)


async def as_it_is(message: KafkaMessage) -> object:
    """Return the value of a message: bytes."""
    return message.body


@broker.subscriber(  # type: ignore[untyped-decorator]  # its packages are elsewhere
    TOPIC,
    batch=True,
    group_id=GROUP,
    auto_offset_reset="earliest",
    ack_policy=AckPolicy.ACK,
    decoder=as_it_is,
)
async def count(values: list[bytes]) -> None:
    """Count a batch."""
    job.count(values)
    if job.is_done:
        app.exit()


if __name__ == "__main__":
    uvloop.run(app.run())
    job.report()
