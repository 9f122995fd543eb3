"""Does Kafka answer, and could it do what is asked of it?"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from enum import Enum
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

# Where transactions and group offsets live; not shown to everybody.
_INTERNAL = ("__transaction_state", "__consumer_offsets")


class Answering(Enum):
    """What Kafka says when it is asked.

    Attributes:
        AWAY: no broker answers.
        IMPAIRED: one does; another that it names does not, or a partition that is needed is short of
            replicas: whatever does not move now may wait for those.
        WHOLE: what does not move now is not Kafka's fault.
    """

    AWAY = "away"
    IMPAIRED = "impaired"
    WHOLE = "whole"


async def ask(client: Any, topics: Collection[str], *, deadline_seconds: float) -> Answering:
    """Ask any broker for the topics, and then each broker that it names for a sign of life.

    Args:
        client: the connection of a started consumer or producer.
        topics: full names of what is needed.
        deadline_seconds: for all of it.
    """
    found = Answering.AWAY
    try:
        async with asyncio.timeout(deadline_seconds):
            cluster = await client.fetch_all_metadata()
            found = Answering.IMPAIRED
            if not _has_its_replicas(cluster, topics):
                return found
            brokers = [broker.nodeId for broker in cluster.brokers()]
            await asyncio.gather(*(client.send(broker, MetadataRequest([])) for broker in brokers))
    except (KafkaError, OSError, TimeoutError):
        return found
    return Answering.WHOLE


def _has_its_replicas(cluster: Any, topics: Collection[str]) -> bool:
    """Say whether each partition has a leader and more than half of its replicas in sync.

    A topic that is not there is for others to notice.
    """
    for topic in (*topics, *_INTERNAL):
        # The client has no public way to the replicas of a partition.
        for partition in cluster._partitions.get(topic, {}).values():  # noqa: SLF001
            if partition.leader == -1 or 2 * len(partition.isr) <= len(partition.replicas):
                return False
    return True
