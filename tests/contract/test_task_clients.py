"""Clients that ask for metadata seldom and are told when it has changed, on a real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.protocol.metadata import MetadataResponse_v1
from aiokafka.structs import TopicPartition
from confluent_kafka.admin import NewTopic

from services.processor.task_clients import TaskClients, ask_for_topics
from shared.kafka import KafkaClients
from shared.settings import KafkaSettings, load
from tests.conftest import Kafka, create

pytestmark = pytest.mark.timeout(60)

HEARD_SECONDS = 10.0
QUIET_SECONDS = 2.0
OLD_SECONDS = 4.0
SLOW_SECONDS = 0.3

Broker = tuple[int, str, int]


def settings(servers: str, old_seconds: float = 0.5) -> KafkaSettings:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": servers, "KAFKA_METADATA_MAX_AGE_SECONDS": str(old_seconds)}
    return load(KafkaSettings, environ=environ, dotenv=None)[KafkaSettings]


async def test_they_hear_of_a_leader_from_the_one_that_asks(kafka: Kafka, prefix: str) -> None:
    topic = f"{prefix}late"
    kafka_settings = settings(kafka.bootstrap_servers)
    told, not_told = TaskClients(kafka_settings), TaskClients(kafka_settings)
    async with AsyncExitStack() as stack:

        async def connection(client: Any) -> Any:
            await stack.enter_async_context(client)
            found = getattr(client, "_client", None) or client.client
            await found.set_topics([topic])
            return found

        asking = await connection(KafkaClients(kafka_settings).consumer(group_id=None))
        asking.cluster.add_listener(told.look_at)
        hearing = [await connection(told.consumer(group_id=None)), await connection(told.producer())]
        deaf = await connection(not_told.consumer(group_id=None))
        # Until the one that asks has asked, and what it saw is no news any more.
        await asyncio.sleep(QUIET_SECONDS)
        await asyncio.to_thread(create, kafka.admin, [NewTopic(topic, 1, 1)])
        async with asyncio.timeout(HEARD_SECONDS):
            await asyncio.gather(*(hears_of(one.cluster, topic) for one in hearing))
        assert deaf.cluster.partitions_for_topic(topic) is None


async def hears_of(cluster: ClusterMetadata, topic: str) -> None:
    heard = asyncio.Event()

    def look(cluster: ClusterMetadata) -> None:
        if cluster.partitions_for_topic(topic):
            heard.set()

    cluster.add_listener(look)
    look(cluster)
    await heard.wait()


class Telling:
    """Counts how often it is told."""

    def __init__(self, clients: TaskClients) -> None:
        self.times = 0
        self._made = clients.producer()
        self._made.client.force_metadata_update = self.tell

    def tell(self) -> None:
        self.times += 1


@pytest.fixture
async def heard() -> AsyncIterator[Callable[..., int]]:
    clients = TaskClients(settings("127.0.0.1:1"))
    telling = Telling(clients)
    cluster = ClusterMetadata()
    cluster.add_listener(clients.look_at)

    def answer(brokers: list[Broker], leaders: dict[str, list[int]]) -> int:
        """Let this be what Kafka answers; return how often clients have been told so far."""
        topics = [
            (0, topic, False, [(0, number, leader, [1], [1]) for number, leader in enumerate(of_topic)])
            for topic, of_topic in leaders.items()
        ]
        cluster.update_metadata(MetadataResponse_v1([(*broker, None) for broker in brokers], 1, topics))
        return telling.times

    yield answer
    await telling._made.stop()


A, B = (1, "a", 9092), (2, "b", 9092)


async def test_another_broker_address_or_leader_is_news_and_is_told_three_times(
    heard: Callable[..., int],
) -> None:
    assert [heard([A], {"t": [1, 1]}) for _ in range(3)] == [0, 0, 0]
    assert [heard([A, B], {"t": [1, 1]}) for _ in range(5)] == [1, 2, 3, 3, 3]
    assert heard([B, A], {"t": [1, 1]}) == 3
    assert heard([A, B], {"t": [1, 2]}) == 4
    # What comes in between is told as often again.
    assert [heard([A, B], {"t": [1, -1]}) for _ in range(5)] == [5, 6, 7, 7, 7]
    assert [heard([A, (2, "c", 9092)], {"t": [1, -1]}) for _ in range(4)] == [8, 9, 10, 10]
    assert [heard([A, (2, "c", 9093)], {"t": [1, -1]}) for _ in range(4)] == [11, 12, 13, 13]
    assert [heard([A], {"t": [1, 1]}) for _ in range(4)] == [14, 15, 16, 16]
    assert [heard([A], {"t": [1, 1, 1]}) for _ in range(4)] == [17, 18, 19, 19]


async def test_a_consumer_hears_of_its_topic_also_if_it_was_asking_for_another(
    kafka: Kafka, prefix: str
) -> None:
    first, then = TopicPartition(f"{prefix}first", 0), TopicPartition(f"{prefix}then", 0)
    await asyncio.to_thread(create, kafka.admin, [NewTopic(place.topic, 1, 1) for place in (first, then)])
    clients = KafkaClients(settings(kafka.bootstrap_servers, OLD_SECONDS))
    async with clients.consumer(group_id=None) as consumer:
        consumer.assign([first])
        assert await consumer.end_offsets([first]) == {first: 0}
        asks, under_way = consumer._client._metadata_update, asyncio.Event()

        async def ask_slowly(*what: Any) -> bool:
            under_way.set()
            await asyncio.sleep(SLOW_SECONDS)
            return bool(await asks(*what))

        consumer._client._metadata_update = ask_slowly
        await under_way.wait()  # Nobody has told it to: what it knows has become old.
        consumer.assign([then])
        ask_for_topics(consumer)
        consumer._client._metadata_update = asks
        async with asyncio.timeout(OLD_SECONDS / 2):
            await consumer._client.force_metadata_update()
        assert consumer.partitions_for_topic(then.topic) == {0}


async def test_clients_that_are_gone_are_not_kept(heard: Callable[..., int]) -> None:
    assert heard([A], {}) == 0
    clients = TaskClients(settings("127.0.0.1:1"))
    made = clients.consumer(group_id=None)
    await made.stop()
    del made
    assert len(clients._connections) == 0
