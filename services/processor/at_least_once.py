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
from typing import Protocol, Unpack

from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition

from services.processor.guarantee import OneProducer, Shared
from services.processor.partition import Transaction
from services.processor.replay import WRITER_HEADER, Writer
from services.processor.sending import FAILURES, acknowledged, batches_of, placed
from services.processor.topology import Outgoing, OutputRecord
from shared.changelog import WRITER_KEY
from shared.kafka import KafkaClients


class CommitOffset(Protocol):
    """Commits one offset as a member of the group; raises RebuildTaskError where that was replaced."""

    def __call__(self, place: TopicPartition, offset: int, *, writer: Writer) -> Awaitable[None]:
        """Commit `offset`, if the member is still the one that `writer` stands for."""


class AtLeastOnce(OneProducer):
    """One idempotent producer for one input partition; the group refuses the offsets of a zombie.

    Args:
        make_writer: returns who writes from now on; raises KafkaUnavailableError where nobody may.
        commit_offset: commits the partition's offset, as a member of the group.
        shared: what every guarantee is given, see `OneProducer`.
    """

    def __init__(
        self,
        clients: KafkaClients,
        *,
        make_writer: Callable[[TopicPartition], Writer],
        commit_offset: CommitOffset,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(clients, **shared)
        self._make_writer = make_writer
        self._commit_offset = commit_offset
        self._writer: Writer | None = None

    async def open(self) -> None:
        """Start the producer.

        Raises:
            RebuildTaskError: it did not work this time.
            StopServiceError: it is not permitted.
        """
        await self._start(self._make(enable_idempotence=True, acks="all"), doing=f"write for {self._group}")

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
            raise self._failure(error, doing) from error

    async def commit(self, transaction: Transaction) -> None:
        """Write outputs, changelog and offset, in this order, each when the one before is in Kafka."""
        assert self._producer is not None, "open comes first"
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self.publish(self._producer, transaction)
                await self.save(self._producer, transaction)
                await self.send_offsets(self._producer, transaction)
        except FAILURES as error:
            raise self._failure(error, "commit a transaction") from error

    async def publish(self, producer: AIOKafkaProducer, transaction: Transaction) -> None:
        """Step 1: send the results, and wait until each batch is acknowledged."""
        await self._send(producer, self._routes.outputs(transaction, self._place.partition))

    async def save(self, producer: AIOKafkaProducer, transaction: Transaction) -> None:
        """Steps 2 and 3: send the changed keys, and then the batch that ends with the offset record."""
        headers = self._headers(transaction.next_offset)
        changes: list[Outgoing] = [(key, value, headers) for key, value in transaction.changelog]
        await self._send_in_order(producer, changes)

    async def send_offsets(self, producer: AIOKafkaProducer, transaction: Transaction) -> None:  # noqa: ARG002
        """Step 4: commit the input offset as a member of the group."""
        assert self._writer is not None, "claim comes first"
        await self._commit_offset(self._place, transaction.next_offset, writer=self._writer)

    async def _send_in_order(self, producer: AIOKafkaProducer, changes: list[Outgoing]) -> None:
        """Send to the changelog; the last batch only after all others are acknowledged.

        Behind a batch that was refused, Kafka may take the next one of a producer it did not know before.
        """
        changelog, partition = self._routes.changelog, self._place.partition
        *others, last = batches_of(producer, changes)
        await acknowledged([await producer.send_batch(one, changelog, partition=partition) for one in others])
        await acknowledged([await producer.send_batch(last, changelog, partition=partition)])

    def _headers(self, next_offset: int) -> tuple[tuple[str, bytes | None], ...]:
        assert self._writer is not None, "claim comes first"
        return ((WRITER_HEADER, self._writer.header(next_offset)),)
