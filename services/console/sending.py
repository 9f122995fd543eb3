"""Sends records and says what became of each: acknowledged, with its place, or failed, with why."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    RecordListTooLargeError,
)

from services.console.lines import Outgoing
from shared.errors import KafkaUnavailableError, TandemError
from shared.kafka import Permission, refusal
from shared.partitioners import Partitioner, partition_of

# How many records may be under way: a bound on memory, and on what an interruption leaves in doubt.
IN_FLIGHT = 2_000
# Of the latencies, the last so many: enough for a percentile, and bounded.
_LATENCIES = 100_000
# Refused so often for what is before it, a record is sent alone as well.
_MOST_REFUSALS = 5
# A batch that is refused for one of these was not written: to send its records again doubles none.
_NOT_WRITTEN = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidTimestampError,
    OutOfOrderSequenceNumber,
)


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


@dataclass
class _Parcel:
    """A record on its way; `began` is when it was first handed over.

    One that was refused is suspect, unless that was for what was refused before it. A suspect is sent alone:
    if it is refused again, it is at fault.
    """

    record: Outgoing
    partition: int
    began: float
    refusals: int = 0
    is_suspect: bool = False


class Sender:
    """Sends to one topic with idempotent producers, acks=all. `flush` waits for all that is under way.

    A record that Kafka refuses takes its batch with it, and the client's producer is of no use for that
    partition afterwards: what comes behind is refused too. None of it was written, so it is sent once more,
    in its order and with a new producer, and in the end the record that is at fault fails alone.

    Args:
        make: returns a producer that is started.
        let_go: stops one.
        topic: full name.
        partitions: its count.
        partitioner: chooses by key; records without one go round the partitions.
        deadline_seconds: of a hand-over to a client whose buffer is full, and of the wait in the end.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[AIOKafkaProducer]],
        let_go: Callable[[AIOKafkaProducer], Awaitable[None]],
        topic: str,
        *,
        partitions: int,
        partitioner: Partitioner,
        deadline_seconds: float,
        on_outcome: OnOutcome,
        clock: Callable[[], float],
    ) -> None:
        self.tally = Tally()
        self._make = make
        self._let_go = let_go
        self._topic = topic
        self._partitions = partitions
        self._partitioner = partitioner
        self._deadline_seconds = deadline_seconds
        self._on_outcome = on_outcome
        self._clock = clock
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._producer: AIOKafkaProducer | None = None
        self._is_poisoned = True  # There is none yet.
        self._ended_by: TandemError | None = None
        self._under_way: dict[asyncio.Future[Any], _Parcel] = {}
        self._refused: list[_Parcel] = []
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
            AccessRefusedError: Kafka refuses us.
            KafkaUnavailableError: nothing has been acknowledged for too long.
        """
        parcel = _Parcel(record, self.partition_of(record.key), self._clock())
        if self._is_poisoned:
            await self._mend()
        await self._hand_over(parcel)

    async def flush(self) -> None:
        """Wait for everything under way; what is not acknowledged in time has failed.

        Raises:
            TandemError: as `send`.
        """
        try:
            await self._settle()
            if self._refused:
                await self._mend()
        finally:
            for parcel in self._refused:
                self._failed(parcel.record, "it was refused with others, and not sent again")
            self._refused.clear()
        if self._ended_by is not None:
            raise self._ended_by

    async def _hand_over(self, parcel: _Parcel) -> None:
        doing = f"write to {self._topic}"
        record = parcel.record
        assert self._producer is not None, "it is made before"
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self._room.acquire()
                future = await self._producer.send(
                    self._topic, record.value, key=record.key, partition=parcel.partition
                )
        except TimeoutError as error:
            raise KafkaUnavailableError(
                f"nothing was acknowledged for {self._deadline_seconds:g} s: could not {doing}"
            ) from error
        except KafkaError as error:
            self._room.release()
            if refused := self._refusal(error):
                raise refused from error
            self._failed(record, repr(error))
            return
        self._under_way[future] = parcel
        future.add_done_callback(self._done)

    async def _mend(self) -> None:
        """Send what was refused with others, until all is acknowledged or has failed; with new producers."""
        await self._settle()  # What is behind it in its partition is refused too.
        await self._renew()
        while self._refused:
            self._refused.sort(key=lambda one: one.record.line)
            waiting, self._refused = deque(self._refused), []
            try:
                # Another one that is refused: those behind it stand behind it again.
                while waiting:
                    if waiting[0].is_suspect:
                        await self._settle()
                    if self._is_poisoned:
                        break
                    parcel = waiting.popleft()
                    await self._hand_over(parcel)
                    if parcel.is_suspect:
                        await self._settle()
            finally:
                self._refused += waiting
            await self._settle()
            await self._renew()

    async def _renew(self) -> None:
        """Make a producer that is of use, where there is none.

        Raises:
            TandemError: Kafka refuses us, or stays away.
        """
        if self._ended_by is not None:
            raise self._ended_by
        if self._producer is not None and self._is_poisoned:
            producer, self._producer = self._producer, None
            await self._let_go(producer)
        if self._producer is None:
            self._producer = await self._make()
            self._is_poisoned = False

    async def _settle(self) -> None:
        """Wait for everything under way; what is not acknowledged in time, or waited for, has failed."""
        why = f"no answer within {self._deadline_seconds:g} s"
        try:
            if self._under_way:
                await asyncio.wait(list(self._under_way), timeout=self._deadline_seconds)
        except asyncio.CancelledError:
            why = "its answer was not waited for"
            raise
        finally:
            for future in list(self._under_way):
                if not future.done():
                    self._failed(self._under_way.pop(future).record, why)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._room.release()
        parcel = self._under_way.pop(future, None)
        if future.cancelled() or parcel is None:
            return  # Given up before.
        if error := future.exception():
            self._is_poisoned = True
            self._ended_by = self._ended_by or self._refusal(error)
            if isinstance(error, _NOT_WRITTEN) and not parcel.is_suspect:
                parcel.refusals += 1
                is_behind_one = isinstance(error, OutOfOrderSequenceNumber)
                parcel.is_suspect = not is_behind_one or parcel.refusals >= _MOST_REFUSALS
                self._refused.append(parcel)
            else:
                self._failed(parcel.record, repr(error))
            return
        found = future.result()
        seconds = self._clock() - parcel.began
        self.tally.sent += 1
        self.tally.seconds.append(seconds)
        self._on_outcome(Acknowledged(parcel.record, found.partition, found.offset, found.timestamp, seconds))

    def _refusal(self, error: BaseException) -> TandemError | None:
        needs = [Permission("Write", "topic", self._topic)]
        return refusal(error, doing=f"write to {self._topic}", needs=needs)

    def _failed(self, record: Outgoing, why: str) -> None:
        self.tally.failed += 1
        self._on_outcome(Failed(record, why))
