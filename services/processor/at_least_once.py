"""At least once: nothing is lost, and what was under way when something failed may count twice.

The producer is idempotent and not transactional. A step is written in an order in which a death between
any two writes loses nothing:

1. the results, until each is acknowledged: a state that holds their cause would not publish them again;
2. the changed keys, until each is acknowledged;
3. the offset record, as the last record of the last batch: it makes the step a finished one;
4. the group's offset, through the membership's consumer: Kafka refuses it to a member that was replaced.

What a restore makes of a step that was cut short is in `services.processor.replay`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition

from services.processor.partition import Transaction
from services.processor.replay import WRITER_HEADER, WRITER_KEY, Writer
from services.processor.sending import (
    BATCH_BYTES,
    FAILURES,
    RETRY_MILLISECONDS,
    Routes,
    acknowledged,
    batches_of,
    failure,
    placed,
)
from services.processor.topology import OutputRecord
from shared.connecting import stop_client
from shared.kafka import KafkaClients
from shared.logs import Logger


class CommitOffset(Protocol):
    """Commits one offset as a member of the group; raises RebuildTaskError where that was replaced."""

    def __call__(self, place: TopicPartition, offset: int, *, writer: Writer) -> Awaitable[None]:
        """Commit `offset`, if the member is still the one that `writer` stands for."""


class AtLeastOnce:
    """One idempotent producer for one input partition; the group refuses the offsets of a zombie.

    Args:
        clients: makes the producer.
        group: full name of the consumer group whose offset is committed.
        place: input partition.
        make_writer: returns who writes from now on; raises KafkaUnavailableError where nobody may.
        read_committed_offset: asks the group for the partition's committed offset.
        commit_offset: commits it, as a member of the group.
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
        make_writer: Callable[[TopicPartition], Writer],
        read_committed_offset: Callable[[TopicPartition], Awaitable[int | None]],
        commit_offset: CommitOffset,
        deadline_seconds: float,
        log: Logger,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._clients = clients
        self._group = group
        self._place = place
        self._routes = routes
        self._make_writer = make_writer
        self._read_committed_offset = read_committed_offset
        self._commit_offset = commit_offset
        self._deadline_seconds = deadline_seconds
        self._batch_bytes = batch_bytes
        self._log = log
        self._producer: AIOKafkaProducer | None = None
        self._writer: Writer | None = None
        self._needs = routes.permissions(source=place.topic, group=group)

    async def open(self) -> None:
        """Start the producer.

        Raises:
            RebuildTaskError: it did not work this time.
            StopServiceError: it is not permitted.
        """
        producer = self._clients.producer(
            enable_idempotence=True,
            acks="all",
            max_batch_size=self._batch_bytes,
            retry_backoff_ms=RETRY_MILLISECONDS,
            linger_ms=0,
        )
        self._producer = producer
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await producer.start()
                for topic in self._routes.topics:
                    await producer.partitions_for(topic)
        except FAILURES as error:
            raise failure(error, f"write for {self._group}", needs=self._needs) from error

    async def claim(self) -> int:
        """Claim the changelog: what earlier writers add from now on is left out.

        Raises:
            RebuildTaskError: it did not work this time.
            KafkaUnavailableError: this process has no place in the group just now.
            StopServiceError: it is not permitted.
        """
        assert self._producer is not None, "open comes first"
        self._writer = self._make_writer(self._place)
        claim = OutputRecord(WRITER_KEY, b"", self._headers(0))
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await placed(self._producer, claim, self._routes.changelog, self._place.partition)
        except FAILURES as error:
            doing = f"claim the changelog {self._routes.changelog}"
            raise failure(error, doing, needs=self._needs) from error

    async def committed(self) -> int | None:
        """Return the group's committed offset."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await self._read_committed_offset(self._place)
        except FAILURES as error:
            doing = f"read the offsets of group {self._group}"
            raise failure(error, doing, needs=self._needs) from error

    async def commit(self, transaction: Transaction) -> None:
        """Write outputs, changelog and offset, in this order, each when the one before is in Kafka."""
        assert self._producer is not None, "open comes first"
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self.publish(self._producer, transaction)
                await self.save(self._producer, transaction)
                await self.send_offsets(self._producer, transaction)
        except FAILURES as error:
            raise failure(error, "commit a transaction", needs=self._needs) from error

    async def close(self) -> None:
        """Stop the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_client(producer, log=self._log)

    async def publish(self, producer: AIOKafkaProducer, transaction: Transaction) -> None:
        """Step 1: send the results, and wait until each batch is acknowledged."""
        futures = []
        for topic, partition, records in self._routes.outputs(transaction, self._place.partition):
            for batch in batches_of(producer, records):
                futures.append(await producer.send_batch(batch, topic, partition=partition))  # noqa: PERF401
        await acknowledged(futures)

    async def save(self, producer: AIOKafkaProducer, transaction: Transaction) -> None:
        """Steps 2 and 3: send the changed keys, and then the batch that ends with the offset record."""
        headers = self._headers(transaction.next_offset)
        changes = [OutputRecord(key, value, headers) for key, value in transaction.changelog]
        await self._send(producer, self._routes.changelog, self._place.partition, changes)

    async def send_offsets(self, producer: AIOKafkaProducer, transaction: Transaction) -> None:  # noqa: ARG002
        """Step 4: commit the input offset as a member of the group."""
        assert self._writer is not None, "claim comes first"
        await self._commit_offset(self._place, transaction.next_offset, writer=self._writer)

    async def _send(
        self, producer: AIOKafkaProducer, topic: str, partition: int, records: list[OutputRecord]
    ) -> None:
        """Send records in order; the last batch only after all others are acknowledged.

        Behind a batch that was refused, Kafka may take the next one of a producer it did not know before.
        """
        futures: list[asyncio.Future[object]] = []
        *others, last = batches_of(producer, records)
        for batch in others:
            futures.append(await producer.send_batch(batch, topic, partition=partition))  # noqa: PERF401
        await acknowledged(futures)
        await acknowledged([await producer.send_batch(last, topic, partition=partition)])

    def _headers(self, next_offset: int) -> tuple[tuple[str, bytes | None], ...]:
        assert self._writer is not None, "claim comes first"
        return ((WRITER_HEADER, self._writer.header(next_offset)),)
