"""One assignment of one result topic: reads, hands records to the workers, commits what is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from services.processor.delivery.committing import Committer
from services.processor.delivery.lanes import Lanes, Parcel
from services.processor.delivery.meter import DeliveryMeter
from services.processor.delivery.original import original
from services.processor.delivery.pool import Pool
from services.processor.keeper import pause
from services.processor.membership import Membership
from services.processor.sending import FAILURES
from services.processor.settings import ProcessorSettings
from shared import topics
from shared.connecting import Patience, stop_client
from shared.errors import KafkaUnavailableError, StopServiceError, TandemError
from shared.kafka import Permission, refusal
from shared.logs import Logger

# How long getmany waits at most: also how long the end of a session goes unnoticed.
_POLL_SECONDS = 0.2
_RECORDS_AT_ONCE = 500
# A rebalance leaves out who is silent for its whole time, in a long session too; and it may have begun a
# heartbeat before the last commit.
_OF_A_REBALANCE = 0.7


class DeliverySession:
    """What is read and delivered between one assignment and the next.

    Args:
        topic: name without prefix.
        places: what is assigned.
        membership: of the group; commits are refused once the assignment is gone.
        make_consumer: returns a started consumer that belongs to no group and has nothing assigned.
        deadline_seconds: of each operation.

    Attributes:
        lanes: what is read and not finished.
    """

    def __init__(
        self,
        topic: str,
        places: Iterable[TopicPartition],
        *,
        group: str,
        membership: Membership,
        make_consumer: Callable[[], Awaitable[AIOKafkaConsumer]],
        pool: Pool,
        meter: DeliveryMeter,
        settings: ProcessorSettings,
        deadline_seconds: float,
        patience: Patience,
        on_round: Callable[[], None],
        log: Logger,
    ) -> None:
        self.topic = topic
        self._sent_as: Callable[[Any], Any] = original if topic == topics.DELIVERY_RETRIES else _itself
        self.lanes = Lanes()
        self.meter = meter
        self._places = list(places)
        self._group = group
        self._membership = membership
        self._make_consumer = make_consumer
        self._pool = pool
        self._settings = settings
        self._deadline_seconds = deadline_seconds
        self._patience = patience
        self._on_round = on_round
        self._log = log
        self._ended = asyncio.Event()
        self._has_room = asyncio.Event()
        self._needs = [Permission("Read", "topic", place.topic) for place in self._places[:1]]
        self._needs.append(Permission("Read", "group", group))
        self._committer = Committer(
            membership.commits,
            topic=topic,
            group=group,
            lease_seconds=min(
                settings.session_timeout_seconds, settings.rebalance_timeout_seconds * _OF_A_REBALANCE
            ),
            deadline_seconds=deadline_seconds,
            needs=self._needs,
            is_wanted=lambda: self.lanes.records > 0,
            on_lease=pool.wake,
            on_lost=lambda: pool.cut_off(self),
            on_committed=self._has_room.set,
            log=log,
        )
        self._unfinished = self._committer.unfinished

    async def run(self) -> None:
        """Read and commit until `end`.

        Raises:
            StopServiceError: Kafka refuses, has been away for too long, or has removed what was not read.
        """
        if self._ended.is_set():
            return
        consumer: AIOKafkaConsumer | None = None
        self._pool.add(self)
        committing = asyncio.create_task(self._committer.run(), name=f"commits of {self.topic}")
        try:
            while not self._ended.is_set():
                self._on_round()
                if committing.done():
                    committing.result()
                try:
                    if consumer is None:
                        consumer = await self._make_consumer()
                        await self._begin(consumer)
                    await self._read(consumer)
                    self._patience.worked()
                except KafkaUnavailableError as error:
                    seconds = self._patience.failed(str(error))
                    self._log.warning(
                        "delivery_waits", topic=self.topic, reason=str(error), retry_seconds=seconds
                    )
                    if consumer is not None:
                        await stop_client(consumer, log=self._log)
                        consumer = None
                    await pause(seconds, self._ended)
        finally:
            committing.cancel()
            await asyncio.wait({committing})
            if consumer is not None:
                await stop_client(consumer, log=self._log)

    async def end(self, *, seconds: float, commit_seconds: float) -> None:
        """Begin nothing more, let what is under way end within `seconds`, and commit what is finished.

        May be called again meanwhile, with less time: the shorter one counts.
        """
        self._ended.set()
        # Nothing renews the lease any more: what is under way has what is left of it, at most.
        await self._pool.remove(self, seconds=min(seconds, self._committer.lease_left_seconds))
        try:
            await self._committer.commit(seconds=commit_seconds)
        except TandemError as error:
            # Whoever has the partitions next delivers it once more, with the same keys.
            self._log.warning("delivery_not_committed", topic=self.topic, reason=str(error))
        self.meter.waiting(0)

    def may_deliver(self) -> bool:
        """Say whether it is known that we are a member."""
        return self._committer.has_lease

    def take(self, now: float) -> Parcel | None:
        """Return a parcel that may be delivered now; none while it is not known that we are a member."""
        if self.may_deliver():
            return self.lanes.take(now)
        if self.lanes.records:
            self._committer.commit_soon()
        return None

    def wakes_at(self) -> float | None:
        """Return when a parcel that sleeps may be delivered, or None."""
        return self.lanes.wakes_at() if self.may_deliver() else None

    def finished(self, parcel: Parcel) -> None:
        """Note that a parcel was delivered, or is in the dead letters."""
        record = parcel.record
        unfinished = self._unfinished[TopicPartition(record.topic, record.partition)]
        unfinished.finish(record.offset)
        self.meter.waiting(self.lanes.records)
        self._has_room.set()
        # What is finished and not committed takes room, too.
        if unfinished.uncommitted * 2 >= self._settings.delivery_window_records:
            self._committer.commit_soon()

    # --- Where reading begins ---------------------------------------------------------------------------

    async def _begin(self, consumer: AIOKafkaConsumer) -> None:
        """Seek to what comes next: after a failure behind what was read, else to the committed offsets."""
        consumer.assign(self._places)
        for place in self._places:
            self._on_round()
            if place not in self._unfinished:
                committed = await self._ask_committed(place)
                offset = await self._first_offset(consumer, place) if committed is None else committed
                if self._ended.is_set():
                    return
                self._committer.begin(place, offset, committed=committed)
                self._log.info("delivery_begins", input=_name(place), offset=offset, committed=committed)
            consumer.seek(place, self._unfinished[place].position)

    async def _first_offset(self, consumer: AIOKafkaConsumer, place: TopicPartition) -> int:
        low, high = await self._range(consumer, place)
        # The one that is committed next: whoever comes after this one begins there, too. What an operator
        # has sent again is wanted in any case.
        is_wanted = self._settings.start == "earliest" or self.topic == topics.DELIVERY_RETRIES
        return low if is_wanted else high

    async def _range(self, consumer: AIOKafkaConsumer, place: TopicPartition) -> tuple[int, int]:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                low = await consumer.beginning_offsets([place])
                high = await consumer.end_offsets([place])
        except FAILURES as error:
            raise self._failure(error, f"read topic {self.topic}") from error
        return int(low[place]), int(high[place])

    async def _ask_committed(self, place: TopicPartition) -> int | None:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await self._membership.committed(place)
        except FAILURES as error:
            raise self._failure(error, f"ask where group {self._group} is") from error

    # --- Reading ----------------------------------------------------------------------------------------

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """Read what there is room for."""
        self._has_room.clear()
        rooms = self._rooms()
        if not rooms or self._ended.is_set():
            await self._room()
            return
        try:
            # By argument: to pause a partition would throw away what was fetched of it.
            fetched = await consumer.getmany(
                *rooms,
                timeout_ms=int(_POLL_SECONDS * 1000),
                max_records=min(_RECORDS_AT_ONCE, *rooms.values()),
            )
        except OffsetOutOfRangeError:
            await self._out_of_range(consumer)
            return
        except KafkaError as error:
            raise self._failure(error, f"read topic {self.topic}") from error
        if self._ended.is_set():
            return
        for place, records in fetched.items():
            unfinished = self._unfinished[place]
            for record in records:
                unfinished.read(record.offset)
                self.lanes.put(Parcel(record, self._sent_as(record)))
        if fetched:
            self.meter.waiting(self.lanes.records)
            self._pool.wake()
        await self._pass_markers(consumer, rooms)

    async def _pass_markers(self, consumer: AIOKafkaConsumer, places: Iterable[TopicPartition]) -> None:
        """Note what is behind the last records: a transaction leaves its marker there."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                for place in places:
                    self._unfinished[place].passed(await consumer.position(place))
        except FAILURES as error:
            raise self._failure(error, f"read topic {self.topic}") from error

    def _rooms(self) -> dict[TopicPartition, int]:
        """Return the partitions that may be read further, each with how many records."""
        if self.lanes.size_bytes >= self._settings.delivery_buffer_bytes:
            return {}
        window = self._settings.delivery_window_records
        rooms = {place: window - len(unfinished) for place, unfinished in self._unfinished.items()}
        return {place: room for place, room in rooms.items() if room > 0}

    async def _room(self) -> None:
        """Wait until a parcel is finished or committed, or the time of a poll."""
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._has_room.wait()
        except TimeoutError:
            return  # Looked at again: the session may have ended.

    async def _out_of_range(self, consumer: AIOKafkaConsumer) -> None:
        """The log does not hold a position: stop, or go on from its start, as the settings say."""
        for place, unfinished in list(self._unfinished.items()):
            low, high = await self._range(consumer, place)
            offset = unfinished.position
            if low <= offset <= high:
                continue
            where = f"{_name(place)}: offset {offset} is not in the log, which holds {low} to {high}. "
            if offset > high:
                raise StopServiceError(
                    f"{where}Was the topic made anew? Delete the group {self._group} to begin at its start"
                )
            if self._settings.on_retention_loss == "stop":
                raise StopServiceError(
                    f"{where}Retention removed what was not delivered yet; "
                    "PROCESSOR_ON_RETENTION_LOSS=skip goes on without it"
                )
            self._log.error(
                "retention_loss", input=_name(place), offset=offset, log_start=low, skipped=low - offset
            )
            unfinished.passed(low)
            consumer.seek(place, low)

    def _failure(self, error: BaseException, doing: str) -> TandemError:
        refused = refusal(error, doing=doing, needs=self._needs)
        return refused or KafkaUnavailableError(f"could not {doing}: {error!r}")


def _itself(record: Any) -> Any:
    return record


def _name(place: TopicPartition) -> str:
    return f"{place.topic}:{place.partition}"
