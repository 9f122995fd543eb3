"""Sends one stream's events to its topic: whole batches, every acknowledgement awaited, bounded memory.

```
add ─▶ open batch of the partition ─▶ closed (full, lingered, or the end) ─▶ handed over ─▶ acknowledged
       └──────────────── counted in in_flight_bytes, bounded by the buffer ──────────────────┘
```
Each partition is a lane with a task of its own, because handing a batch over waits until the one before it
has left the client's queue. An idempotent producer is of no use after a batch that failed for good: the
numbers behind it would leave a hole (aiokafka's next send gets OutOfOrderSequenceNumber). So the first
such failure ends the service.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, repeat
from typing import Any

from aiokafka.errors import KafkaError

from services.generator.client import BatchBuilder, Producer, failed_for_good, hand_over
from services.generator.ledger import Account
from services.generator.workloads.pieces import Endings
from shared.batch_filling import add_records
from shared.errors import StopServiceError
from shared.metrics import GeneratorMetrics

# Timers of the event loop are exact to a millisecond.
_TIMER_SECONDS = 0.001


@dataclass(slots=True, eq=False)
class _Batch:
    builder: BatchBuilder
    first_seq: int
    opened_at: float
    counted_bytes: int = 0
    handed_over_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Lane:
    account: Account
    open: _Batch | None = None
    closed: asyncio.Queue[_Batch] = field(default_factory=asyncio.Queue)
    under_way: deque[_Batch] = field(default_factory=deque)
    # The open batch has lingered long enough, and goes when those before it have gone: until then it
    # may as well fill up.
    lingered: bool = False


class Publisher:
    """Publishes one stream to one topic.

    Args:
        producer: started; not closed here.
        accounts: one for each partition of the topic, in their order.
        partition_of: names the partition of a key.
        linger_seconds: how long a batch may wait to be filled.
        buffer_bytes: the bound of `in_flight_bytes`; one call of `add` may go beyond it.
        attempt_seconds: bounds one try to hand a batch over.
        answered: called with the time at each acknowledgement.
        clock: monotonic seconds.
        metrics: the generator's.
    """

    def __init__(
        self,
        producer: Producer,
        accounts: Sequence[Account],
        *,
        partition_of: Callable[[bytes], int],
        linger_seconds: float,
        buffer_bytes: int,
        attempt_seconds: float,
        answered: Callable[[float], None],
        clock: Callable[[], float],
        metrics: GeneratorMetrics,
    ) -> None:
        self.topic = accounts[0].topic
        self.accounts = tuple(accounts)
        self.buffer_bytes = buffer_bytes
        self.in_flight_bytes = 0
        self.throttled_seconds = 0.0
        self.failure: StopServiceError | None = None
        self._producer = producer
        self._partition_of = partition_of
        self._linger_seconds = linger_seconds
        self._attempt_seconds = attempt_seconds
        self._answered = answered
        self._clock = clock
        self._endings = Endings()
        self._lanes = [_Lane(account) for account in accounts]
        self._filling: dict[int, _Lane] = {}  # by partition; the batch that was opened first comes first
        self._timer: asyncio.TimerHandle | None = None
        self._unsettled = 0  # batches that are closed, and neither acknowledged nor failed
        self._settled = asyncio.Event()
        self._throttled_metric = metrics.throttled
        self._delivery_metric = metrics.delivery.labels(self.topic)
        labels = [(self.topic, str(account.partition)) for account in accounts]
        self._acknowledged_metrics = [metrics.acknowledged.labels(*label) for label in labels]
        self._acknowledged_bytes_metrics = [metrics.acknowledged_bytes.labels(*label) for label in labels]
        self._failed_metrics = [metrics.failed.labels(*label) for label in labels]

    def add(self, keys: Sequence[bytes], bodies: Sequence[bytes], stamp: bytes, timestamp_ms: int) -> None:
        """Number events and put them into their partitions' batches. Does not block.

        Args:
            keys: one for each event.
            bodies: the events up to their stamp.
            stamp: when and by whom.
            timestamp_ms: of the records, milliseconds since the epoch.
        """
        by_partition: dict[int, tuple[list[bytes], list[bytes]]] = {}
        for partition, key, body in zip(map(self._partition_of, keys), keys, bodies, strict=True):
            if partition in by_partition:
                of_keys, of_bodies = by_partition[partition]
                of_keys.append(key)
                of_bodies.append(body)
            else:
                by_partition[partition] = [key], [body]
        for partition, (of_keys, of_bodies) in by_partition.items():
            lane = self._lanes[partition]
            first_seq = lane.account.number(len(of_keys))
            values = self._endings.finish(of_bodies, stamp, first_seq)
            self._fill(lane, of_keys, values, first_seq, timestamp_ms)
        if not self._linger_seconds:
            self._close(by_partition)
        elif self._timer is None:
            self._set_timer()

    @property
    def has_room(self) -> bool:
        """Whether the buffer takes more."""
        return self.in_flight_bytes < self.buffer_bytes

    async def wait_for_room(self, seconds: float) -> None:
        """Wait until the buffer takes more, at most so many seconds."""
        began_at = self._clock()
        try:
            async with asyncio.timeout(seconds):
                while not self.has_room:
                    if not self._unsettled:
                        # All of it is in open batches: none of them will be filled any more.
                        self._close(list(self._filling))
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return  # The caller looks at has_room, and asks again.
        finally:
            waited = self._clock() - began_at
            self.throttled_seconds += waited
            self._throttled_metric.inc(waited)

    async def flush(self) -> None:
        """Wait until everything that was added is acknowledged. The caller sets the deadline."""
        self._close([lane.account.partition for lane in self._lanes if lane.open is not None])
        while self.in_flight_bytes:
            self._settled.clear()
            await self._settled.wait()

    async def deliver(self) -> None:
        """Hand batches over as they are closed, until cancelled.

        Raises:
            StopServiceError: a batch failed for good.
        """
        async with asyncio.TaskGroup() as lanes:
            for lane in self._lanes:
                lanes.create_task(self._deliver(lane), name=f"{self.topic}-{lane.account.partition}")

    @property
    def oldest_handed_over_at(self) -> float | None:
        """When the oldest batch that is not acknowledged was handed over; None where there is none."""
        return min((lane.under_way[0].handed_over_at for lane in self._lanes if lane.under_way), default=None)

    def _fill(
        self, lane: _Lane, keys: Sequence[bytes], values: Sequence[bytes], first_seq: int, timestamp_ms: int
    ) -> None:
        done = 0
        while True:
            batch = lane.open or self._open(lane, first_seq + done)
            rest = zip(islice(keys, done, None), islice(values, done, None), repeat(()), strict=False)
            done += add_records(batch.builder, rest, timestamp_ms)
            size = batch.builder.size()
            self.in_flight_bytes += size - batch.counted_bytes
            batch.counted_bytes = size
            if done == len(values):
                return
            self._close([lane.account.partition])

    def _open(self, lane: _Lane, first_seq: int) -> _Batch:
        lane.open = _Batch(self._producer.create_batch(), first_seq, self._clock())
        self._filling[lane.account.partition] = lane
        return lane.open

    def _close(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            lane = self._lanes[partition]
            if lane.open is not None:
                lane.open.builder.close()
                lane.closed.put_nowait(lane.open)
                self._unsettled += 1
                lane.open = None
                lane.lingered = False
                self._filling.pop(partition, None)

    def _set_timer(self) -> None:
        self._timer = None
        first = next(iter(self._filling.values()), None)
        if first is not None and first.open is not None:
            seconds = first.open.opened_at + self._linger_seconds - self._clock()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(seconds, _TIMER_SECONDS), self._close_lingered)

    def _close_lingered(self) -> None:
        opened_before = self._clock() - self._linger_seconds + _TIMER_SECONDS
        for partition, lane in list(self._filling.items()):
            if lane.open is None or lane.open.opened_at > opened_before:
                break
            if lane.closed.empty():
                self._close([partition])
            else:
                del self._filling[partition]
                lane.lingered = True
        self._set_timer()

    async def _deliver(self, lane: _Lane) -> None:
        while True:
            batch = await lane.closed.get()
            if self.failure is not None:
                raise self.failure  # Nothing may come behind the hole.
            batch.handed_over_at = self._clock()
            lane.under_way.append(batch)
            try:
                acknowledgement = await hand_over(
                    self._producer,
                    batch.builder,
                    topic=self.topic,
                    partition=lane.account.partition,
                    attempt_seconds=self._attempt_seconds,
                )
            except KafkaError as error:
                raise self._given_up(lane, batch, error) from error
            acknowledgement.add_done_callback(partial(self._settle, lane, batch))
            if lane.lingered and lane.closed.empty():
                self._close([lane.account.partition])

    def _settle(self, lane: _Lane, batch: _Batch, acknowledgement: asyncio.Future[Any]) -> None:
        """Take a batch's outcome. Runs on the event loop when the client has it."""
        if acknowledgement.cancelled():
            return  # The process is being taken down: it stays unacknowledged.
        lane.under_way.remove(batch)
        self._unsettled -= 1
        self.in_flight_bytes -= batch.counted_bytes
        self._settled.set()
        error = acknowledgement.exception()
        if error is not None:
            failure = self._given_up(lane, batch, error)
            self.failure = self.failure or failure
            return
        now = self._clock()
        self._answered(now)
        count = batch.builder.record_count()
        lane.account.acknowledge(batch.first_seq, count, acknowledgement.result().offset)
        self._acknowledged_metrics[lane.account.partition].inc(count)
        self._acknowledged_bytes_metrics[lane.account.partition].inc(batch.counted_bytes)
        self._delivery_metric.observe(now - batch.handed_over_at)

    def _given_up(self, lane: _Lane, batch: _Batch, error: BaseException) -> StopServiceError:
        """Count a batch as failed, and return the error that ends the service for it."""
        count = batch.builder.record_count()
        lane.account.fail(count)
        self._failed_metrics[lane.account.partition].inc(count)
        return failed_for_good(
            error, topic=self.topic, partition=lane.account.partition, what=f"{count} events"
        )
