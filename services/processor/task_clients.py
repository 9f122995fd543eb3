"""The clients of the tasks. They ask for metadata seldom, and at once when they are told that it has changed.

A task has two of them. If each asked every `KAFKA_METADATA_MAX_AGE_SECONDS`, that would be a third of what a
process does that has nothing to do. So the membership's consumer asks as often, and tells the others.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from shared.kafka import KafkaClients
from shared.settings import KafkaSettings

# Asked for all the same, should nobody tell. A client that can't reach a leader, or is told that it is none
# any more, asks at once by itself.
_SELDOM_SECONDS = 60.0
# Each of them asks some broker, which may not have heard yet: after a change they are told again.
_TOLD_TIMES = 3


class TaskClients(KafkaClients):
    """Makes them, and tells them."""

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings)
        seldom = max(settings.metadata_max_age_seconds, _SELDOM_SECONDS)
        self._common["metadata_max_age_ms"] = int(seldom * 1000)
        self._connections: WeakSet[Any] = WeakSet()
        self._known: object = None
        self._to_tell = 0

    def consumer(self, **options: Any) -> AIOKafkaConsumer:
        """Return a consumer, see `KafkaClients`."""
        made = super().consumer(**options)
        self._connections.add(made._client)  # noqa: SLF001 — the client has no public way to it
        return made

    def producer(self, **options: Any) -> AIOKafkaProducer:
        """Return a producer, see `KafkaClients`."""
        made = super().producer(**options)
        self._connections.add(made.client)
        return made

    def look_at(self, cluster: Any) -> None:
        """Compare metadata that has come with what came before; tell all clients of another broker or leader.

        Args:
            cluster: the client's `ClusterMetadata`. It calls this after each answer; nothing is raised.
        """
        found = _brokers_and_leaders(cluster)
        if self._known not in (None, found):
            self._to_tell = _TOLD_TIMES
        self._known = found
        if self._to_tell:
            self._to_tell -= 1
            for connection in tuple(self._connections):
                connection.force_metadata_update()


def ask_for_topics(consumer: AIOKafkaConsumer) -> None:
    """Have a consumer ask for the topics that it was just assigned.

    It does by itself, unless it was asking already because its metadata had become old: it then waits until
    they are old again, and whoever wants them sooner waits with it (aiokafka 0.14.0).
    """
    waiter = getattr(consumer._client, "_md_update_waiter", None)  # noqa: SLF001
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _brokers_and_leaders(cluster: Any) -> tuple[frozenset[Any], dict[TopicPartition, int | None]]:
    brokers = frozenset((broker.nodeId, broker.host, broker.port) for broker in cluster.brokers())
    places = [
        TopicPartition(topic, partition)
        for topic in cluster.topics(exclude_internal_topics=False)
        for partition in cluster.partitions_for_topic(topic) or ()
    ]
    return brokers, {place: cluster.leader_for_partition(place) for place in places}
