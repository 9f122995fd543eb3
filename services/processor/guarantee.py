"""How a transaction's content reaches Kafka: what a task asks for, and what both answers to it share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NotRequired, Protocol, TypedDict

from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition

from services.processor.partition import Transaction
from services.processor.sending import (
    BATCH_BYTES,
    FAILURES,
    RETRY_MILLISECONDS,
    Routes,
    acknowledged,
    batches_of,
    failure,
)
from services.processor.topology import Outgoing
from shared.connecting import stop_client
from shared.errors import TandemError
from shared.kafka import KafkaClients, Permission
from shared.logs import Logger


class Guarantee(Protocol):
    """What a task needs to make its results durable. One object serves from `open` to `close`."""

    async def open(self) -> None:
        """Connect, and where it can be done, shut out whoever served this partition before."""

    async def claim(self) -> int:
        """Write a mark into the changelog, after `open`, and return its offset.

        A restore that has read its own mark has read all that was there before it: no broker that has
        been replaced, and does not know it yet, can show it an older end.
        """

    async def committed(self) -> int | None:
        """Return the committed input offset; only to be asked after `claim`."""

    async def commit(self, transaction: Transaction) -> None:
        """Make a transaction's content durable, and its offset with it.

        Raises:
            RebuildTaskError: it failed, or it is not known whether it did.
            StopServiceError: Kafka refuses it, and always will.
        """

    async def close(self) -> None:
        """Let go, within seconds. What was not committed is gone."""


class Shared(TypedDict):
    """The arguments that every guarantee takes; see `OneProducer`."""

    group: str
    place: TopicPartition
    routes: Routes
    read_committed_offset: Callable[[TopicPartition], Awaitable[int | None]]
    deadline_seconds: float
    log: Logger
    batch_bytes: NotRequired[int]


class OneProducer:
    """One producer for one input partition: what `ExactlyOnce` and `AtLeastOnce` begin and end alike.

    Args:
        clients: makes the producer.
        group: full name of the consumer group whose offset is committed.
        place: input partition.
        read_committed_offset: asks the group for the partition's committed offset.
        deadline_seconds: of each operation.
        batch_bytes: of one record batch.
    """

    def __init__(
        self,
        clients: KafkaClients,
        *,
        group: str,
        place: TopicPartition,
        routes: Routes,
        read_committed_offset: Callable[[TopicPartition], Awaitable[int | None]],
        deadline_seconds: float,
        log: Logger,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._clients = clients
        self._group = group
        self._place = place
        self._routes = routes
        self._read_committed_offset = read_committed_offset
        self._deadline_seconds = deadline_seconds
        self._batch_bytes = batch_bytes
        self._log = log
        self._producer: AIOKafkaProducer | None = None
        self._needs: list[Permission] = routes.permissions(source=place.topic, group=group)

    async def committed(self) -> int | None:
        """Return the group's committed offset.

        It is asked for only now, when nothing of a predecessor can move it any more.
        """
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await self._read_committed_offset(self._place)
        except FAILURES as error:
            raise self._failure(error, f"read the offsets of group {self._group}") from error

    async def close(self) -> None:
        """Stop the producer. What it left open is settled by whoever opens next."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_client(producer, log=self._log)

    def _make(self, **settings: object) -> AIOKafkaProducer:
        """Return the producer, not started; from here on `close` stops it."""
        self._producer = self._clients.producer(
            max_batch_size=self._batch_bytes, retry_backoff_ms=RETRY_MILLISECONDS, linger_ms=0, **settings
        )
        return self._producer

    async def _start(self, producer: AIOKafkaProducer, *, doing: str) -> None:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await producer.start()
                for topic in self._routes.topics:
                    # Known before the first transaction: asking within one would hold it open.
                    await producer.partitions_for(topic)
        except FAILURES as error:
            raise self._failure(error, doing) from error

    async def _send(
        self, producer: AIOKafkaProducer, outputs: Iterable[tuple[str, int, list[Outgoing]]]
    ) -> None:
        """Send topic, partition and records each, and wait until every batch is acknowledged."""
        futures: list[Any] = []
        for topic, partition, records in outputs:
            for batch in batches_of(producer, records):
                futures.append(await producer.send_batch(batch, topic, partition=partition))  # noqa: PERF401
        await acknowledged(futures)

    def _failure(self, error: BaseException, doing: str) -> TandemError:
        return failure(error, doing, needs=self._needs)
