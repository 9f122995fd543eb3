"""The client's sender of transactions, where it is not taken as it is (checked with aiokafka 0.14.0).

- A transactional request that was retried after a connection failed can arrive late and hit the *next*
  transaction, because this client speaks version 0 of these requests, which bump no epoch. `retried` says
  that it happened; the transaction is finished, and the task is built again with a new epoch.
- When Kafka refuses to add a partition to a transaction, the client forgets which others were still to be
  added, and sends their batches all the same. While the markers of the last transaction are on their way,
  Kafka takes such a batch for a part of that one, and they commit it. This sender sends nothing for a
  partition that was not added.
- Between two transactions the client sleeps 20 ms where the broker is still writing markers. This sender asks
  again after 2 ms, and then more and more seldom: with many partitions that all ask every 2 ms, a busy broker
  has no time left to write the markers that they wait for.
- A new producer id settles a transaction that was left open; the client does not ask how the last one ended.
  This sender does, because Kafka can call a transaction complete that has no markers: see `join`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import Enum
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    IllegalOperation,
    IncompatibleBrokerVersion,
    KafkaError,
    NotCoordinatorError,
)
from aiokafka.producer.sender import BACKOFF_OVERRIDE, AddPartitionsToTxnHandler, BaseHandler, Sender
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import EndTxnRequest, InitProducerIdRequest
from aiokafka.protocol.types import (
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)
from aiokafka.structs import TopicPartition

from services.processor.sending import RETRY_MILLISECONDS

_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.25
_GROWTH = 1.5
_COORDINATOR_MOVED = (CoordinatorNotAvailableError.errno, NotCoordinatorError.errno)


class Ending(Enum):
    """How the last transaction of a transactional id ended before this producer came."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


# The states of a transaction, by the names that Kafka gives them in an answer to DescribeTransactions.
_ENDINGS = {
    "PrepareCommit": Ending.COMMITTED,
    "CompleteCommit": Ending.COMMITTED,
    "PrepareAbort": Ending.ABORTED,
    "PrepareEpochFence": Ending.ABORTED,
    "CompleteAbort": Ending.ABORTED,
}
_FORGOTTEN = "Empty"


class Pauses:
    """How long to wait before asking again: longer each time, until what was asked for is done."""

    def __init__(self) -> None:
        self._next = _FIRST_PAUSE_SECONDS

    def longer(self) -> float:
        """Return how long to wait now, in seconds."""
        seconds = self._next
        self._next = min(self._next * _GROWTH, _LONGEST_PAUSE_SECONDS)
        return seconds

    def done(self) -> None:
        """Begin anew."""
        self._next = _FIRST_PAUSE_SECONDS


class TransactionalSender(Sender):  # type: ignore[misc]  # the client has no types
    """Stands in for the client's sender in a producer that has not been started.

    Attributes:
        last_ending: known when the producer has started.
    """

    last_ending = Ending.UNKNOWN

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.pauses = Pauses()

    @classmethod
    def put_into(cls, producer: AIOKafkaProducer, *, last_ending: Ending) -> TransactionalSender:
        """Replace a producer's sender by one of these, made like the one it has.

        Args:
            producer: not started.
            last_ending: what holds if Kafka has forgotten.
        """
        stock = producer._sender
        sender = producer._sender = cls(
            _WatchedClient(producer.client),
            acks=stock._acks,
            txn_manager=stock._txn_manager,
            message_accumulator=stock._message_accumulator,
            retry_backoff_ms=RETRY_MILLISECONDS,
            request_timeout_ms=stock._request_timeout_ms,
        )
        sender.last_ending = last_ending
        return sender

    @property
    def retried(self) -> bool:
        """Whether a transactional request had to be repeated after a connection failed."""
        retried: bool = self.client.retried
        return retried

    @property
    def coordinator_was_lost(self) -> bool:
        """Whether the connection on which the last transaction was ended has been closed since."""
        connection = self.client.ended_on
        return connection is not None and not connection.connected()

    @property
    def transaction_error(self) -> BaseException | None:
        """What the client holds against the current transaction, if anything."""
        outcome = self._txn_manager._transaction_waiter
        if outcome is None or not outcome.done() or outcome.cancelled():
            return None
        error: BaseException | None = outcome.exception()
        return error

    async def join(self, places: Iterable[TopicPartition], group: str) -> None:
        """Make partitions and a group's offsets part of the open transaction, with nothing to write.

        Its markers then end whatever this transactional id still has open there. A broker that starts again
        leads its partitions in its own eyes until it is registered, and goes on with the transactions that
        were being ended when it died. If the partitions have no leader at the moment when it looks for one,
        it takes them for deleted, and calls the transaction complete without a marker in them (seen on Kafka
        4.4.0 after kill -9 of a broker that holds the only replicas): committed, and never visible.
        """
        while self._txn_manager.is_in_transaction() and self._txn_manager._txn_consumer_group is None:
            await self._do_add_offsets_to_txn(group)
        for place in places:
            self._txn_manager.maybe_add_partition_to_txn(place)

    async def _do_init_pid(self, node_id: Any) -> Any:
        """Ask how the last transaction ended, every time before a new producer id takes the answer away."""
        try:
            if not await _DescribeHandler(self).do(node_id):
                return False
        except IncompatibleBrokerVersion:
            self.last_ending = Ending.UNKNOWN  # Kafka before 3.0.
        done = await super()._do_init_pid(node_id)
        if done:
            self.pauses.done()
        else:
            # Beside the client's own pause, which stays the same however often it is.
            await asyncio.sleep(self.pauses.longer())
        return done

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


class _WatchedClient:
    """Stands before the producer's connections.

    Attributes:
        retried: whether a transactional request failed on its connection.
        ended_on: the connection on which the last transaction was ended.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.retried = False
        self.ended_on: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        """Send as the client does."""
        try:
            answer = await self._client.send(node_id, request, group=group)
        except KafkaError:
            # A new producer id request is safe: its epoch is what makes late copies harmless.
            if group == ConnectionGroup.COORDINATION and not isinstance(request, InitProducerIdRequest):
                self.retried = True
            raise
        if isinstance(request, EndTxnRequest):
            self.ended_on = self._client._conns.get((node_id, group))
        return answer


class _QuickAddPartitions(AddPartitionsToTxnHandler):  # type: ignore[misc]
    def handle_response(self, response: Any) -> float | None:
        """Answer as the client does, but ask again sooner while the last markers are written."""
        seconds: float | None = super().handle_response(response)
        if seconds is None:
            self._sender.pauses.done()
            return None
        longer = float(self._sender.pauses.longer())
        return longer if seconds == BACKOFF_OVERRIDE else max(seconds, longer)


class _DescribeTransactionsResponse(Response):  # type: ignore[misc]
    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("state", CompactString("utf-8")),
                ("timeout_ms", Int32),
                ("start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(
                        ("topic", CompactString("utf-8")),
                        ("partitions", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _DescribeTransactionsRequestV0(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 65
    API_VERSION = 0
    RESPONSE_TYPE = _DescribeTransactionsResponse
    SCHEMA = Schema(("transactional_ids", CompactArray(CompactString("utf-8"))), ("tags", TaggedFields))


class _DescribeTransactionsRequest(Request[_DescribeTransactionsRequestV0]):  # type: ignore[misc]
    API_KEY = 65

    def __init__(self, transactional_id: str) -> None:
        self._transactional_id = transactional_id

    def build(self, request_struct_class: Any) -> Any:
        """Return the request in the version that both sides know."""
        return request_struct_class([self._transactional_id], {})


class _DescribeHandler(BaseHandler):  # type: ignore[misc]
    """Asks the coordinator how the last transaction ended; a refusal is left to the request that follows."""

    def create_request(self) -> _DescribeTransactionsRequest:
        """Return the request."""
        return _DescribeTransactionsRequest(self._sender._txn_manager.transactional_id)

    def handle_response(self, response: Any) -> float | None:
        """Note the ending; return how long to wait before asking again, None when there is an answer."""
        [(error_code, _, state, *_)] = response.transactions
        if error_code in _COORDINATOR_MOVED:
            return self.handle_error()
        if error_code == CoordinatorLoadInProgressError.errno:
            return float(self._default_backoff)
        if error_code == 0 and state == _FORGOTTEN:
            # By a new producer id, maybe one of ours whose answer was lost: what was heard before it holds.
            return None
        self._sender.last_ending = _ENDINGS.get(state, Ending.UNKNOWN) if error_code == 0 else Ending.UNKNOWN
        return None

    def handle_error(self) -> float:
        """Look for the coordinator again."""
        self._sender._coordinator_dead(CoordinationType.TRANSACTION)
        return float(self._default_backoff)
