"""What is used of the Kafka client, and what its errors mean here."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from aiokafka.errors import (
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)

from shared.errors import StopServiceError
from shared.kafka import Permission, refusal

_RETRY_SECONDS = 0.1
# The client did not take a batch, and nothing of it has left: the batch before it is still in the queue, or
# the topic's metadata is not known, or (an assertion) the partition is not in it.
_NOT_TAKEN = (KafkaTimeoutError, TimeoutError, UnknownTopicOrPartitionError, AssertionError)


class BatchBuilder(Protocol):
    """A record batch in the making, as the client has it."""

    def append(self, *, timestamp: int, key: bytes, value: bytes) -> object | None:
        """Add a record; None says that the batch is full."""

    def close(self) -> None:
        """Take no more."""

    def size(self) -> int:
        """Return its bytes so far."""

    def record_count(self) -> int:
        """Return its records so far."""


class Producer(Protocol):
    """What is used of the client's producer."""

    def create_batch(self) -> BatchBuilder:
        """Return an empty batch."""

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Queue a batch, as soon as none waits in its partition, and return its acknowledgement to come."""


async def hand_over(
    producer: Producer, batch: BatchBuilder, *, topic: str, partition: int, attempt_seconds: float
) -> asyncio.Future[Any]:
    """Hand a batch to the client, however long that takes, and return its acknowledgement to come.

    It waits while the batch before it is in the client's queue. `DeliveryBounds` ends the wait.

    Args:
        producer: started.
        batch: closed.
        topic: its name in Kafka.
        partition: its number.
        attempt_seconds: bounds one try; the client has no bound of its own for some of its waits.

    Raises:
        KafkaError: the client will never take it; see `failed_for_good`.
    """
    while True:
        try:
            async with asyncio.timeout(attempt_seconds):
                return await producer.send_batch(batch, topic, partition=partition)
        except _NOT_TAKEN:
            await asyncio.sleep(_RETRY_SECONDS)


def failed_for_good(error: BaseException, *, topic: str, partition: int, what: str) -> StopServiceError:
    """Return a failed delivery as the error that ends the service, in the operator's words.

    Args:
        error: as the client raised it.
        topic: where it was to go.
        partition: where it was to go.
        what: what it was.
    """
    refused = refusal(error, doing=f"write to topic {topic}", needs=[Permission("Write", "topic", topic)])
    if refused is not None:
        return refused
    reason = str(error) or type(error).__name__
    if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
        reason = "larger than the topic's max.message.bytes allows; lower GENERATOR_BATCH_BYTES"
    return StopServiceError(f"Kafka did not take a batch of {what} for {topic}-{partition}: {reason}")
