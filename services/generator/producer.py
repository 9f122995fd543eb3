"""The generator's one producer, and what has to be known before the first event.

An idempotent producer (KIP-98) unless `acks` is 1: a batch that the client sends again is in the log once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from services.generator.settings import GeneratorSettings
from shared.connecting import Patience, connect
from shared.errors import StopServiceError
from shared.kafka import KafkaClients, Permission, refusal
from shared.logs import Logger

# Longer than any bound of ours.
_FOR_EVER_SECONDS = 10 * 365 * 86_400.0
# Each is the client's own wait of a request timeout: 4 seconds where nothing else is set.
_MISSING_ANSWERS = 2


async def open_producer(
    clients: KafkaClients,
    settings: GeneratorSettings,
    *,
    topics: Sequence[str],
    patience: Patience,
    stopping: asyncio.Event,
    log: Logger,
) -> AIOKafkaProducer | None:
    """Return a started producer, or None if `stopping` was set first.

    Args:
        clients: makes it.
        settings: how it delivers.
        topics: what it will write to, for messages.
        patience: bounds the wait for an absent Kafka.
        stopping: ends the wait.
        log: the service's.

    Raises:
        AccessRefusedError: wrong login, protocol or permission; at once.
        StopServiceError: Kafka stayed away too long.
    """

    def make() -> AIOKafkaProducer:
        producer = clients.producer(
            acks="all" if settings.acks == "all" else 1,
            enable_idempotence=settings.acks == "all",
            compression_type=None if settings.compression == "none" else settings.compression,
            max_batch_size=settings.batch_bytes,
        )
        _never_give_up(producer)
        return producer

    return await connect(
        make,
        clients.settings,
        patience=patience,
        stopping=stopping,
        log=log,
        doing=f"write to topics {', '.join(topics)}",
        needs=[Permission("Write", "topic", topic) for topic in topics],
    )


def _never_give_up(producer: AIOKafkaProducer) -> None:
    """Leave the bound of deliveries to us.

    The client fails a batch whose partition has no leader once it is older than one request timeout,
    idempotent or not; a broker that restarts has no leaders for a moment. There is no public setting.
    """
    accumulator: Any = producer._message_accumulator  # noqa: SLF001
    assert isinstance(accumulator._batch_ttl, float), "the client is another version"  # noqa: SLF001
    accumulator._batch_ttl = _FOR_EVER_SECONDS  # noqa: SLF001


async def partitions_of(
    producer: AIOKafkaProducer,
    topics: Sequence[str],
    *,
    deadline_seconds: float,
    patience: Patience,
    stopping: asyncio.Event,
    log: Logger,
) -> dict[str, int] | None:
    """Return how many partitions each topic has, or None if `stopping` was set first.

    Args:
        producer: started.
        topics: their names in Kafka.
        deadline_seconds: of one question to Kafka.
        patience: bounds the wait for an absent Kafka.
        stopping: ends the wait.
        log: the service's.

    Raises:
        AccessRefusedError: we may not see a topic.
        StopServiceError: a topic does not exist, or Kafka stayed away too long.
    """
    counts: dict[str, int] = {}
    missing = 0
    while not stopping.is_set():
        topic = next((topic for topic in topics if topic not in counts), None)
        if topic is None:
            return counts
        count = await _ask(producer, topic, patience.a_try(deadline_seconds))
        if count:
            counts[topic], missing = count, 0
            patience.worked()
        elif count is None:
            pause = patience.failed(f"asking for topic {topic}")
            log.warning("kafka_unavailable", doing=f"asking for topic {topic}", retry_seconds=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), pause)
        else:
            missing += 1
            if missing == _MISSING_ANSWERS:
                raise StopServiceError(
                    f"topic {topic} does not exist; `tandem topics create` creates what the services need"
                )
    return None


async def _ask(producer: AIOKafkaProducer, topic: str, deadline_seconds: float) -> int | None:
    """Return a topic's partition count, 0 where Kafka says there is none, None where it does not answer.

    The client itself asks for a request timeout before it says that there is none.
    """
    try:
        async with asyncio.timeout(deadline_seconds):
            return len(await producer.partitions_for(topic))
    except UnknownTopicOrPartitionError:
        try:
            async with asyncio.timeout(deadline_seconds):
                return 0 if await producer.client.force_metadata_update() else None
        except TimeoutError:
            return None
    except TimeoutError:
        return None
    except TopicAuthorizationFailedError as error:
        needs = [Permission("Write", "topic", topic)]
        raise refusal(error, doing=f"write to topic {topic}", needs=needs) or error from error
