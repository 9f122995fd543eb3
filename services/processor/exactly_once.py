"""Exactly once: a transaction for each step, through a producer that fences its predecessors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack

from aiokafka import AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata

from services.processor.guarantee import OneProducer, Shared
from services.processor.partition import Transaction
from services.processor.sending import FAILURES, placed
from services.processor.topology import OutputRecord
from services.processor.transactional_sender import Ending, TransactionalSender
from shared.changelog import WRITER_KEY
from shared.errors import RebuildTaskError, StopServiceError, TandemError, TaskFencedError
from shared.kafka import FENCED, KafkaClients, Permission


class ExactlyOnce(OneProducer):
    """One transactional producer for one input partition; its id is what fences a zombie.

    Args:
        transactional_id: full, the same for whoever serves this partition.
        unsettled: by transactional id, how a transaction ended that may be open in some partitions; goes from
            one of these to the next, because Kafka forgets it with the first new producer id.
        shared: what every guarantee is given, see `OneProducer`.
    """

    def __init__(
        self,
        clients: KafkaClients,
        *,
        transactional_id: str,
        transaction_timeout_seconds: float,
        unsettled: dict[str, Ending] | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(clients, **shared)
        self._transactional_id = transactional_id
        self._transaction_timeout_seconds = transaction_timeout_seconds
        self._unsettled = {} if unsettled is None else unsettled
        self._sender: TransactionalSender | None = None
        self._needs.append(Permission("Write", "transactional id", transactional_id))

    async def open(self) -> None:
        """Start the producer: this fences its predecessor and settles a transaction it left open.

        Raises:
            RebuildTaskError: it did not work this time.
            StopServiceError: it is not permitted.
        """
        producer = self._make(
            transactional_id=self._transactional_id,
            transaction_timeout_ms=int(self._transaction_timeout_seconds * 1000),
        )
        known = self._unsettled.get(self._transactional_id, Ending.UNKNOWN)
        self._sender = TransactionalSender.put_into(producer, last_ending=known)
        try:
            await self._start(producer, doing=f"use the transactional id {self._transactional_id}")
        finally:
            self._unsettled[self._transactional_id] = self._sender.last_ending

    async def claim(self) -> int:
        """Write the mark, in a transaction of its own, after what the last transaction may have left behind.

        Raises:
            RebuildTaskError: it did not work this time.
            StopServiceError: it is not permitted.
        """
        assert self._producer is not None and self._sender is not None, "open comes first"  # noqa: PT018
        producer, changelog = self._producer, self._routes.changelog
        if self._sender.last_ending is not Ending.UNKNOWN:
            await self._settle(producer, committed=self._sender.last_ending is Ending.COMMITTED)
        async with (
            self._transacting(f"claim the changelog {changelog}"),
            asyncio.timeout(self._deadline_seconds),
        ):
            await producer.begin_transaction()
            mark = OutputRecord(WRITER_KEY, b"", ())
            offset = await placed(producer, mark, changelog, self._place.partition)
            await producer.commit_transaction()
        return offset

    async def commit(self, transaction: Transaction) -> None:
        """Commit outputs, changelog, dead letters and offset in one transaction."""
        assert self._producer is not None and self._sender is not None, "open comes first"  # noqa: PT018
        if self._sender.coordinator_was_lost:
            await self._settle(self._producer, committed=True)
        async with self._transacting("commit a transaction"), asyncio.timeout(self._deadline_seconds):
            await self.begin(self._producer)
            await self.publish(self._producer, transaction)
            await self.send_offsets(self._producer, transaction)
            await self.end(self._producer)

    async def close(self) -> None:
        """Stop the producer. An open transaction is settled by whoever opens next."""
        await super().close()
        if self._sender is not None:
            _ = self._sender.transaction_error  # Seen: asyncio would complain about it after our last line.

    async def begin(self, producer: AIOKafkaProducer) -> None:
        """Step 1: open the transaction."""
        await producer.begin_transaction()

    async def publish(self, producer: AIOKafkaProducer, transaction: Transaction) -> None:
        """Step 2: send everything, and wait until each batch is acknowledged: a commit would go without."""
        await self._send(producer, self._routes.of(transaction, self._place.partition))

    async def send_offsets(self, producer: AIOKafkaProducer, transaction: Transaction) -> None:
        """Step 3: the input offset joins the transaction."""
        offsets = {self._place: OffsetAndMetadata(transaction.next_offset, "")}
        await producer.send_offsets_to_transaction(offsets, self._group)

    async def end(self, producer: AIOKafkaProducer) -> None:
        """Step 4: all of it becomes visible."""
        await producer.commit_transaction()

    async def _settle(self, producer: AIOKafkaProducer, *, committed: bool) -> None:
        """End in all partitions what the last transaction may have left open in some.

        Kafka can call it complete without markers in every partition (see `TransactionalSender.join`). They
        are written now, of the same kind; else the next transaction in each partition writes its own kind.
        """
        assert self._sender is not None, "open comes first"
        places = self._routes.places(self._place.partition)
        async with (
            self._transacting("end what the last transaction may have left open"),
            asyncio.timeout(self._deadline_seconds),
        ):
            await producer.begin_transaction()
            await self._sender.join(places, self._group)
            await (producer.commit_transaction() if committed else producer.abort_transaction())
            self._unsettled.pop(self._transactional_id, None)

    @asynccontextmanager
    async def _transacting(self, doing: str) -> AsyncIterator[None]:
        """Say of a failure in a transaction what it means."""
        assert self._sender is not None, "open comes first"
        try:
            yield
        except FAILURES as error:
            # The first error to come out need not be the first that happened: a topic that may not be
            # written to shows as an invalid state, and the reason stays with the transaction.
            cause = self._sender.transaction_error
            raise self._failure(cause or error, doing) from error
        if self._sender.retried:
            raise RebuildTaskError(
                "committed, but a transactional request was repeated after a connection failed: a late "
                "copy of it must not meet the next transaction of this epoch"
            )

    def _failure(self, error: BaseException, doing: str) -> TandemError:
        found = super()._failure(error, doing)
        if isinstance(error, FENCED) and not isinstance(found, StopServiceError):
            return TaskFencedError(f"another producer took {self._transactional_id}")
        return found
