"""Exactly once: a transaction for each step, through a producer that fences its predecessors.

Three things of the client are not taken as they are, for this producer alone (checked with the version that
`record_batches` names):

- A transactional request that was retried after a connection failed can arrive late and hit the *next*
  transaction, because this client speaks version 0 of these requests, which bump no epoch. `_WatchedClient`
  notices; the transaction is finished, and the task is built again with a new epoch.
- When Kafka refuses to add a partition to a transaction, the client forgets which others were still to be
  added, and sends their batches all the same. While the markers of the last transaction are on their way,
  Kafka takes such a batch for a part of that one, and they commit it. `_QuickSender` sends nothing for a
  partition that was not added.
- Between two transactions the client sleeps 20 ms where the broker is still writing markers. `_QuickSender`
  asks again after 2 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Unpack

from aiokafka import AIOKafkaProducer
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import IllegalOperation, KafkaError
from aiokafka.producer.sender import BACKOFF_OVERRIDE, AddPartitionsToTxnHandler, Sender
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from services.processor.guarantee import OneProducer, Shared
from services.processor.partition import Transaction
from services.processor.replay import WRITER_KEY
from services.processor.sending import FAILURES, RETRY_MILLISECONDS, placed
from services.processor.topology import OutputRecord
from shared.errors import RebuildTaskError, StopServiceError, TandemError, TaskFencedError
from shared.kafka import FENCED, KafkaClients, Permission

_BETWEEN_TRANSACTIONS_SECONDS = 0.002


class ExactlyOnce(OneProducer):
    """One transactional producer for one input partition; its id is what fences a zombie.

    Args:
        transactional_id: full, the same for whoever serves this partition.
        shared: what every guarantee is given, see `OneProducer`.
    """

    def __init__(
        self,
        clients: KafkaClients,
        *,
        transactional_id: str,
        transaction_timeout_seconds: float,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(clients, **shared)
        self._transactional_id = transactional_id
        self._transaction_timeout_seconds = transaction_timeout_seconds
        self._watched: _WatchedClient | None = None
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
        self._watched = _WatchedClient(producer.client)
        _replace_sender(producer, self._watched)
        await self._start(producer, doing=f"use the transactional id {self._transactional_id}")

    async def claim(self) -> int:
        """Write the mark, in a transaction of its own.

        Raises:
            RebuildTaskError: it did not work this time.
            StopServiceError: it is not permitted.
        """
        assert self._producer is not None, "open comes first"
        producer, changelog = self._producer, self._routes.changelog
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
        assert self._producer is not None, "open comes first"
        async with self._transacting("commit a transaction"), asyncio.timeout(self._deadline_seconds):
            await self.begin(self._producer)
            await self.publish(self._producer, transaction)
            await self.send_offsets(self._producer, transaction)
            await self.end(self._producer)

    async def close(self) -> None:
        """Stop the producer. An open transaction is settled by whoever opens next."""
        producer = self._producer
        await super().close()
        if producer is not None:
            _error_of_transaction(producer)  # Seen: asyncio would complain about it after our last line.

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

    @asynccontextmanager
    async def _transacting(self, doing: str) -> AsyncIterator[None]:
        """Say of a failure in a transaction what it means."""
        assert self._producer is not None and self._watched is not None, "open comes first"  # noqa: PT018
        try:
            yield
        except FAILURES as error:
            # The first error to come out need not be the first that happened: a topic that may not be
            # written to shows as an invalid state, and the reason stays with the transaction.
            cause = _error_of_transaction(self._producer)
            raise self._failure(cause or error, doing) from error
        if self._watched.retried:
            raise RebuildTaskError(
                "committed, but a transactional request was repeated after a connection failed: a late "
                "copy of it must not meet the next transaction of this epoch"
            )

    def _failure(self, error: BaseException, doing: str) -> TandemError:
        found = super()._failure(error, doing)
        if isinstance(error, FENCED) and not isinstance(found, StopServiceError):
            return TaskFencedError(f"another producer took {self._transactional_id}")
        return found


def _error_of_transaction(producer: AIOKafkaProducer) -> BaseException | None:
    """Return what the client holds against the current transaction, if anything."""
    outcome: asyncio.Future[None] | None = producer._txn_manager._transaction_waiter  # noqa: SLF001
    if outcome is None or not outcome.done() or outcome.cancelled():
        return None
    return outcome.exception()


class _WatchedClient:
    """Stands before the producer's connection and remembers whether a transactional request failed on it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.retried = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        """Send as the client does."""
        try:
            return await self._client.send(node_id, request, group=group)
        except KafkaError:
            # A new producer id request is safe: its epoch is what makes late copies harmless.
            if group == ConnectionGroup.COORDINATION and not isinstance(request, InitProducerIdRequest):
                self.retried = True
            raise


class _QuickAddPartitions(AddPartitionsToTxnHandler):  # type: ignore[misc]  # the client has no types
    def handle_response(self, response: Any) -> float | None:
        """Answer as the client does, but ask again sooner while the last markers are written."""
        seconds: float | None = super().handle_response(response)
        return _BETWEEN_TRANSACTIONS_SECONDS if seconds == BACKOFF_OVERRIDE else seconds


class _QuickSender(Sender):  # type: ignore[misc]
    async def _do_add_partitions_to_txn(self, partitions: Any) -> Any:
        node_id = await self._find_coordinator(
            CoordinationType.TRANSACTION, self._txn_manager.transactional_id
        )
        return await _QuickAddPartitions(self, partitions).do(node_id)

    async def _send_produce_req(self, node_id: Any, batches: dict[TopicPartition, Any]) -> None:
        """Send what belongs to the transaction; what does not fails."""
        # No await between this look and the client's own: it makes its request before it waits. They are in
        # it all or none: until they are added the client holds them back, and a failure forgets all at once.
        if batches.keys() <= self._txn_manager.txn_partitions:
            await super()._send_produce_req(node_id, batches)
            return
        for place, batch in batches.items():
            batch.failure(exception=IllegalOperation(f"{place} is in no transaction"))
        self._in_flight.remove(node_id)
        self._muted_partitions.difference_update(batches)


def _replace_sender(producer: AIOKafkaProducer, client: _WatchedClient) -> None:
    """Give a producer that is not started yet a sender of our own, made like the one it has."""
    stock = producer._sender  # noqa: SLF001
    producer._sender = _QuickSender(  # noqa: SLF001
        client,
        acks=stock._acks,  # noqa: SLF001
        txn_manager=stock._txn_manager,  # noqa: SLF001
        message_accumulator=stock._message_accumulator,  # noqa: SLF001
        retry_backoff_ms=RETRY_MILLISECONDS,
        request_timeout_ms=stock._request_timeout_ms,  # noqa: SLF001
    )
