"""A transaction that Kafka calls complete, and whose markers it never wrote, is ended as it was to end.

Seen on Kafka 4.4.0 after kill -9 of a single broker (docs/reliability.md tells how). It takes some seventy
kills to meet one, so here a producer leaves partitions out of its transaction: what the broker then holds is
the same. It has to be told not to look for that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from confluent_kafka.admin import AdminClient

from sandbox import Sandbox
from services.processor.exactly_once import ExactlyOnce
from services.processor.partition import Transaction
from services.processor.sending import Routes
from services.processor.topology import Outputs
from services.processor.transactional_sender import Ending
from shared import logs, topics
from shared.kafka import KafkaClients
from shared.settings import KafkaSettings, load
from tests.integration.conftest import create_topics
from tests.verifier.broker import Broker
from tests.verifier.contract import PartitionId

pytestmark = pytest.mark.timeout(120)

PLACE = TopicPartition(topics.USER_BEHAVIOR, 1)
CHANGELOG = topics.changelog_of(topics.USER_BEHAVIOR)
WRITTEN = (topics.BEHAVIOR_STATS, topics.PURCHASES, CHANGELOG)


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    with Sandbox(properties={"transaction.partition.verification.enable": "false"}) as sandbox:
        create_topics(AdminClient({"bootstrap.servers": sandbox.bootstrap_servers}), "")
        yield sandbox.bootstrap_servers


async def leave_hanging(producer: AIOKafkaProducer, group: str, *, committed: bool) -> None:
    """End a transaction of which Kafka knows one partition, and which wrote to others besides."""
    await producer.begin_transaction()
    manager: Any = producer._txn_manager
    manager.maybe_add_partition_to_txn(TopicPartition(topics.GENERATOR_LEDGER, 0))
    for topic in WRITTEN:
        manager._txn_partitions.add(TopicPartition(topic, PLACE.partition))
    for topic in WRITTEN:
        await producer.send_and_wait(topic, key=group.encode(), value=b"{}", partition=PLACE.partition)
    manager._txn_consumer_group = group
    await producer.send_offsets_to_transaction({PLACE: OffsetAndMetadata(7, "")}, group)
    await (producer.commit_transaction() if committed else producer.abort_transaction())


async def predecessor_leaves_hanging(servers: str, group: str, *, committed: bool) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=f"{group}-1")
    await producer.start()
    await leave_hanging(producer, group, committed=committed)
    await producer.stop()


def guarantee_of(servers: str, group: str, unsettled: dict[str, Ending]) -> ExactlyOnce:
    async def no_offset(_place: TopicPartition) -> None:
        return None

    settings = load(KafkaSettings, environ={"KAFKA_BOOTSTRAP_SERVERS": servers}, dotenv=None)[KafkaSettings]
    names = {name: name for name in WRITTEN[:2]}
    return ExactlyOnce(
        KafkaClients(settings),
        transactional_id=f"{group}-1",
        transaction_timeout_seconds=30,
        unsettled=unsettled,
        group=group,
        place=PLACE,
        routes=Routes(names, dict.fromkeys(names, 4), changelog=CHANGELOG),
        read_committed_offset=no_offset,
        deadline_seconds=10,
        log=logs.get("test"),
    )


@asynccontextmanager
async def claimed(
    servers: str, group: str, unsettled: dict[str, Ending] | None = None
) -> AsyncIterator[ExactlyOnce]:
    guarantee = guarantee_of(servers, group, {} if unsettled is None else unsettled)
    try:
        await guarantee.open()
        await guarantee.claim()
        yield guarantee
    finally:
        await guarantee.close()


def transaction(published: Iterable[str], key: bytes, next_offset: int) -> Transaction:
    outputs = Outputs()
    for topic in published:
        outputs.publish(topic, key, b"{}")
    return Transaction(outputs, [(key, b"{}")], next_offset, 1, [])


def seen(servers: str, key: bytes) -> list[str]:
    """Return the topics in which readers of committed records see this key."""
    return [topic for topic in WRITTEN for one in Broker(servers).read_topic(topic, 20) if one.key == key]


def committed_offset(servers: str, group: str) -> int | None:
    place = PartitionId(*PLACE)
    return Broker(servers).committed(group, [place])[place]


async def test_what_was_committed_is_seen_whole_after_a_claim(servers: str) -> None:
    await predecessor_leaves_hanging(servers, "committed", committed=True)
    assert seen(servers, b"committed") == []
    assert committed_offset(servers, "committed") is None
    async with claimed(servers, "committed"):
        pass
    assert seen(servers, b"committed") == list(WRITTEN)
    assert committed_offset(servers, "committed") == 7


async def test_it_is_not_forgotten_when_the_claim_does_not_work_at_once(servers: str) -> None:
    """A new producer id makes Kafka forget how the last transaction ended; what we heard stays with us."""
    await predecessor_leaves_hanging(servers, "kept", committed=True)
    unsettled: dict[str, Ending] = {}
    for _ in range(2):
        broken_off = guarantee_of(servers, "kept", unsettled)
        await broken_off.open()
        await broken_off.close()
    async with claimed(servers, "kept", unsettled):
        pass
    assert seen(servers, b"kept") == list(WRITTEN)
    assert unsettled == {}


async def test_what_was_aborted_is_never_seen_though_what_follows_is(servers: str) -> None:
    await predecessor_leaves_hanging(servers, "aborted", committed=False)
    async with claimed(servers, "aborted") as guarantee:
        await guarantee.commit(transaction(WRITTEN[:2], b"next", next_offset=3))
    assert seen(servers, b"aborted") == []
    assert seen(servers, b"next") == list(WRITTEN)
    assert committed_offset(servers, "aborted") == 3


async def test_what_hangs_when_the_coordinator_was_lost_is_seen_with_the_next(
    servers: str,
) -> None:
    async with claimed(servers, "lost") as guarantee:
        assert guarantee._producer is not None
        assert guarantee._sender is not None
        await leave_hanging(guarantee._producer, "lost", committed=True)
        guarantee._sender.client.ended_on.close()
        await guarantee.commit(transaction([], b"next of lost", next_offset=8))
    assert seen(servers, b"lost") == list(WRITTEN)
    assert seen(servers, b"next of lost") == [CHANGELOG]
    assert committed_offset(servers, "lost") == 8


async def test_nothing_is_asked_of_a_transactional_id_that_is_new(servers: str) -> None:
    async with claimed(servers, "new"):
        pass
    assert committed_offset(servers, "new") is None
