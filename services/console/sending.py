"""Sends records and says what became of each: acknowledged, with its place, or failed, with why."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from services.console.lines import Outgoing
from shared.errors import KafkaUnavailableError, TandemError
from shared.kafka import Permission, refusal
from shared.partitioners import Partitioner, partition_of

# How many records may be under way: a bound on memory, and on what an interruption leaves in doubt.
IN_FLIGHT = 2_000
# Of the latencies, the last so many: enough for a percentile, and bounded.
_LATENCIES = 100_000


@dataclass(frozen=True)
class Acknowledged:
    """Where a record is, and how long that took."""

    record: Outgoing
    partition: int
    offset: int
    timestamp: int
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A record that was not acknowledged; it may be in Kafka all the same."""

    record: Outgoing
    why: str


@dataclass
class Tally:
    """What became of everything so far. `seconds` are the latencies of what was acknowledged."""

    sent: int = 0
    failed: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))


class OnOutcome(Protocol):
    """Is told what became of a record, as soon as that is known, in any order."""

    def __call__(self, outcome: Acknowledged | Failed) -> None:
        """Take an outcome."""


def place_of(partitioner: Partitioner, key: bytes, partitions: int) -> int:
    """Return a key's partition.

    Raises:
        TandemError: the partitioner names a partition that there is not.
    """
    try:
        return partition_of(partitioner, key, partitions)
    except ValueError as error:
        raise TandemError(str(error)) from error


class Sender:
    """Sends to one topic with an idempotent producer, acks=all. `flush` waits for all that is under way.

    Args:
        producer: started; whoever made it stops it.
        topic: full name.
        partitions: its count.
        partitioner: chooses by key; records without one go round the partitions.
        deadline_seconds: of a hand-over to a client whose buffer is full, and of the wait in the end.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        topic: str,
        *,
        partitions: int,
        partitioner: Partitioner,
        deadline_seconds: float,
        on_outcome: OnOutcome,
        clock: Callable[[], float],
    ) -> None:
        self.tally = Tally()
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._partitioner = partitioner
        self._deadline_seconds = deadline_seconds
        self._on_outcome = on_outcome
        self._clock = clock
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._under_way: dict[asyncio.Future[Any], Outgoing] = {}
        self._keyless = 0

    def partition_of(self, key: bytes | None) -> int:
        """Return where a record goes.

        Raises:
            TandemError: the partitioner names a partition that there is not.
        """
        if key is None:
            self._keyless += 1
            return (self._keyless - 1) % self._partitions
        return place_of(self._partitioner, key, self._partitions)

    async def send(self, record: Outgoing) -> None:
        """Hand a record over; waits while too many are under way.

        Raises:
            AccessRefusedError: Kafka refuses.
            KafkaUnavailableError: nothing has been acknowledged for too long.
        """
        partition = self.partition_of(record.key)
        began = self._clock()
        doing = f"write to {self._topic}"
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self._room.acquire()
                future = await self._producer.send(
                    self._topic, record.value, key=record.key, partition=partition
                )
        except TimeoutError as error:
            raise KafkaUnavailableError(
                f"nothing was acknowledged for {self._deadline_seconds:g} s: could not {doing}"
            ) from error
        except KafkaError as error:
            self._room.release()
            if refused := refusal(error, doing=doing, needs=[Permission("Write", "topic", self._topic)]):
                raise refused from error
            self._failed(record, repr(error))
            return
        self._under_way[future] = record
        future.add_done_callback(partial(self._done, began))

    async def flush(self) -> None:
        """Wait for everything under way; what is not acknowledged in time has failed."""
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=self._deadline_seconds)
        for future in list(self._under_way):
            if not future.done():
                self._failed(self._under_way.pop(future), f"no answer within {self._deadline_seconds:g} s")

    def _done(self, began: float, future: asyncio.Future[Any]) -> None:
        self._room.release()
        record = self._under_way.pop(future, None)
        if future.cancelled() or record is None:
            return  # Given up before.
        if error := future.exception():
            self._failed(record, repr(error))
            return
        found = future.result()
        seconds = self._clock() - began
        self.tally.sent += 1
        self.tally.seconds.append(seconds)
        self._on_outcome(Acknowledged(record, found.partition, found.offset, found.timestamp, seconds))

    def _failed(self, record: Outgoing, why: str) -> None:
        self.tally.failed += 1
        self._on_outcome(Failed(record, why))


class Pace:
    """Lets so many records a second through, evenly; 0 is as fast as they come.

    Args:
        rate: records a second.
        clock: monotonic seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._began: float | None = None
        self._count = 0

    async def wait(self) -> None:
        """Wait for the next record's moment."""
        if not self._rate:
            return
        now = self._clock()
        if self._began is None:
            self._began = now
        due = self._began + self._count / self._rate
        self._count += 1
        if due > now:
            await asyncio.sleep(due - now)
