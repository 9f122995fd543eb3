"""Results in record batches, on a real Kafka: what is put in comes out, whichever way it was put in."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, TopicPartition

from services.processor.sending import batches_of
from services.processor.topology import OutputRecord
from shared.header_names import CHECKED_VERSION
from tests.conftest import Kafka
from tests.contract.test_record_batches import place

__all__ = ["place"]

pytestmark = pytest.mark.timeout(60)

BATCH_BYTES = 2_000
RECORDS = [
    OutputRecord(b"k", b"v"),
    OutputRecord(None, b"value alone"),
    OutputRecord(b"tombstone", None),
    OutputRecord(b"", b""),
    OutputRecord(b"headers", b"v", (("a", b"1"), ("b", None), ("a", b""))),
    # Larger than a batch, first in its own.
    OutputRecord(b"large", b"x" * 3 * BATCH_BYTES),
    *(OutputRecord(b"%d" % number, b"y" * number) for number in range(300)),
]


def read(kafka: Kafka, topic: str, count: int) -> list[OutputRecord]:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": f"{topic}-unused"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        found = consumer.consume(count, 15)
    finally:
        consumer.close()
    return [
        OutputRecord(one.key(), one.value(), tuple((name, value) for name, value in one.headers() or ()))
        for one in found
    ]


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("version", ["of the client", "another"])
async def test_every_record_arrives_in_order_in_batches_that_are_no_larger(
    kafka: Kafka,
    place: TopicPartition,
    monkeypatch: pytest.MonkeyPatch,
    compression: str | None,
    version: str,
) -> None:
    if version == "another":
        monkeypatch.setattr("shared.batch_filling.CHECKED_VERSION", "0.0.0")
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, max_batch_size=BATCH_BYTES, compression_type=compression
    )
    async with producer:
        made = list(batches_of(producer, RECORDS))
        counts = [batch.record_count() for batch in made]
        for batch in made:
            # Nobody can add to it any more, and all but a record that is too large by itself are in bounds.
            assert batch.append(timestamp=None, key=b"k", value=b"late") is None
            assert batch.size() <= BATCH_BYTES or batch.record_count() == 1
        sent = [await producer.send_batch(batch, place.topic, partition=0) for batch in made]
        offsets = [(await one).offset for one in sent]
    assert sum(counts) == len(RECORDS)
    assert offsets == [sum(counts[:number]) for number in range(len(counts))]
    assert read(kafka, place.topic, len(RECORDS)) == RECORDS


async def test_both_ways_make_the_same_batches(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.5)
    made = []
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, max_batch_size=BATCH_BYTES
    ) as producer:
        for version in (CHECKED_VERSION, "0.0.0"):
            monkeypatch.setattr("shared.batch_filling.CHECKED_VERSION", version)
            made.append([bytes(batch._build()) for batch in batches_of(producer, RECORDS)])
    assert made[0] == made[1]
    assert len(made[0]) > 3


async def test_nothing_makes_no_batch(kafka: Kafka) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        assert list(batches_of(producer, [])) == []
