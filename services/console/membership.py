"""A member of a consumer group that commits by hand: what was processed, and nothing past a failure."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from services.console.connection import Connection, Isolation
from services.console.tailing import readable
from shared.errors import KafkaUnavailableError, TandemError
from shared.kafka import Permission, refusal

_POLL_MILLISECONDS = 500
# A member that asks for no records for five minutes is taken for dead by its own client.
_EACH_SECONDS = 60.0
_KEY_CHARACTERS = 10_000
_JOIN_SECONDS = 60.0
# A rebalance waits for members that are at work: five minutes by their clients' default.
_REBALANCE_SECONDS = 330.0

Say = Callable[[str], None]


class Member(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    """Reads topics as one of a group, and keeps account of what it has processed.

    Args:
        consumer: started, subscribed to nothing, with offsets that nothing commits by itself.
        group: full name.
        commit_every: commit when so many records have been processed since the last time.
        at_once: how many records `next` returns at most.
        deadline_seconds: of each operation.
        say: told of every commit, and of partitions that come and go.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        topics: Iterable[str],
        *,
        group: str,
        commit_every: int,
        at_once: int,
        deadline_seconds: float,
        say: Say,
    ) -> None:
        self._consumer = consumer
        self._topics = list(topics)
        self._group = group
        self._commit_every = commit_every
        self._at_once = at_once
        self._deadline_seconds = deadline_seconds
        self._say = say
        self._next_offsets: dict[TopicPartition, int] = {}
        self._processed = 0
        # Counts assignments: what was fetched before the latest is fetched again by whoever has it now.
        self._generation = 0
        self._fetched_in = 0
        self.has_joined = asyncio.Event()

    def join(self) -> None:
        """Begin to become a member; `has_joined` is set when it is known which partitions are ours."""
        self._consumer.subscribe(self._topics, listener=self)

    @property
    def places(self) -> set[TopicPartition]:
        """The partitions that are ours now."""
        return set(self._consumer.assignment())

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Commit what was processed of these before somebody else gets them."""
        going = set(revoked)
        try:
            await self._commit({place for place in self._next_offsets if place in going})
        except TandemError as error:
            self._say(f"{error}; whoever gets the partitions next reads from the commit before")

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Say what is ours."""
        self._generation += 1
        self._next_offsets.clear()
        ours = sorted(f"{place.topic}:{place.partition}" for place in assigned)
        self._say(f"member of {self._group}: {', '.join(ours) or 'no partition, others have them all'}")
        self.has_joined.set()

    async def next(self) -> list[Any]:
        """Return records that come within half a second, those of a partition in order.

        Raises:
            TandemError: Kafka refuses, or does not answer.
        """
        doing = f"read {', '.join(self._topics)} as group {self._group}"
        try:
            async with asyncio.timeout(_REBALANCE_SECONDS):  # The client waits for a rebalance to end.
                fetched = await self._consumer.getmany(
                    timeout_ms=_POLL_MILLISECONDS, max_records=self._at_once
                )
        except (KafkaError, TimeoutError) as error:
            raise self._failure(error, doing) from error
        self._fetched_in = self._generation
        return [record for records in fetched.values() for record in records]

    async def process(self, record: Any, handle: Callable[[Any], Awaitable[None]]) -> None:
        """Let `handle` have a record, and commit when it is time. What raises is not committed past."""
        place = TopicPartition(record.topic, record.partition)
        if self._fetched_in != self._generation:
            return
        # Also where nothing was committed yet: if this one fails, the group goes on with it, not at an end.
        self._next_offsets.setdefault(place, record.offset)
        await handle(record)
        if self._fetched_in != self._generation:
            return  # A rebalance came meanwhile: it was not committed, and comes again.
        self._next_offsets[place] = record.offset + 1
        self._processed += 1
        if self._processed >= self._commit_every:
            await self.commit()

    async def commit(self) -> None:
        """Commit what was processed.

        Raises:
            TandemError: Kafka refuses, or does not answer: it is read again.
        """
        await self._commit(set(self._next_offsets))

    async def has_read(self, until: dict[TopicPartition, int]) -> bool:
        """Say whether each partition that is ours has been read up to its offset; without one it has not."""
        ours = self.places
        return ours <= until.keys() and all([await self._position(place) >= until[place] for place in ours])

    async def _position(self, place: TopicPartition) -> int:
        # Not what was processed: behind the last record there can be the marker of a transaction.
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return int(await self._consumer.position(place))
        except (KafkaError, IllegalStateError):
            return 0  # No longer ours, or not known yet: asked again.
        except TimeoutError as error:
            raise self._failure(error, f"find out where {self._group} goes on in {place.topic}") from error

    async def _commit(self, places: set[TopicPartition]) -> None:
        offsets = {place: self._next_offsets[place] for place in places if place in self.places}
        if not offsets:
            return
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError):
            self._say("not committed: the group gave the partitions to somebody else, who reads this again")
            return
        except (KafkaError, TimeoutError) as error:
            raise self._failure(error, f"commit as group {self._group}") from error
        where = ", ".join(f"{one.topic}:{one.partition} to {offsets[one]}" for one in sorted(offsets))
        self._say(f"committed {where}")
        self._processed = 0
        for place, offset in offsets.items():
            if self._next_offsets.get(place) == offset:
                del self._next_offsets[place]

    def _failure(self, error: Exception, doing: str) -> TandemError:
        needs = [
            *(Permission("Read", "topic", topic) for topic in self._topics),
            Permission("Read", "group", self._group),
        ]
        refused = refusal(error, doing=doing, needs=needs)
        return refused or KafkaUnavailableError(f"could not {doing}: {error!r}")


class Shows(Protocol):
    """Shows what is wanted of the records, until there is enough."""

    def wants_one(self, record: Any) -> bool:
        """Say whether a record is wanted."""

    def take(self, records: list[Any]) -> bool:
        """Show records. False where there are enough."""


class Handling:
    """What is done with each record: a command gets its value, where there is one, then it is shown."""

    def __init__(self, shows: Shows, command: str | None) -> None:
        self._shows = shows
        self._command = command
        self.has_enough = False

    async def __call__(self, record: Any) -> None:
        """Handle a record.

        Raises:
            TandemError: the command failed: the record is not to be committed.
        """
        if self._shows.wants_one(record):
            if self._command is not None:
                await _run(self._command, record)
            self.has_enough = not self._shows.take([record])


async def consume(
    member: Member,
    handling: Handling,
    kafka: Connection | None = None,
    isolation: Isolation = "read_committed",
) -> None:
    """Handle what the group has not committed, and commit what was handled, whatever ends this.

    Args:
        member: has not joined yet.
        handling: what is done with a record.
        kafka: tells where partitions end, to end there; None: until it is interrupted.
        isolation: of the ends.

    Raises:
        TandemError: a record could not be handled, or Kafka refuses or does not answer.
    """
    member.join()
    found: list[Any] = []
    try:
        async with asyncio.timeout(_JOIN_SECONDS):
            # Asking for records is also how one hears that the group refuses us.
            while not member.has_joined.is_set():
                found = await member.next()
    except TimeoutError as error:
        raise TandemError(f"the group let nobody in for {_JOIN_SECONDS:g} s") from error
    until: dict[TopicPartition, int] = {}
    loop = asyncio.get_running_loop()
    moved_at = loop.time()
    try:
        while kafka is None or found or not (until and await member.has_read(until)):
            if kafka is not None:
                # Partitions that come later are read to where they end when they come.
                ends = await kafka.ends(member.places - until.keys(), isolation)
                until |= {place: where.end for place, where in ends.items()}
                if not until:
                    return  # Others have them all.
            for record in found:
                await member.process(record, handling)
                moved_at = loop.time()
                if handling.has_enough:
                    return
            if kafka is not None and loop.time() - moved_at > kafka.console.stall_seconds:
                raise KafkaUnavailableError(
                    f"nothing to read for {kafka.console.stall_seconds:g} s (CONSOLE_STALL_SECONDS), and not "
                    "at the end: Kafka is away, or a transaction was left open"
                )
            found = await member.next()
    finally:
        await member.commit()


async def _run(command: str, record: Any) -> None:
    """Hand a record's value to a command."""
    where = f"{record.topic}:{record.partition}:{record.offset}"
    told = {
        "RECORD_TOPIC": record.topic,
        "RECORD_PARTITION": str(record.partition),
        "RECORD_OFFSET": str(record.offset),
        # The system takes no zero bytes, and no more than 128 KiB.
        "RECORD_KEY": (readable(record.key) or "").replace("\0", "\\x00")[:_KEY_CHARACTERS],
    }
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command), stdin=asyncio.subprocess.PIPE, env={**os.environ, **told}
        )
    except (OSError, ValueError) as error:
        raise TandemError(f"{where}: {command!r} can't be run: {error}; not committed") from error
    try:
        async with asyncio.timeout(_EACH_SECONDS):
            await process.communicate(record.value or b"")
    except TimeoutError as error:
        raise TandemError(
            f"{where}: {command!r} took longer than {_EACH_SECONDS:g} s; not committed, it comes again"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise TandemError(
            f"{where}: {command!r} ended with {process.returncode}; not committed, it comes again"
        )
