"""A small world for guarantees: topics, the group, and what readers see."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Self, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.structs import TopicPartition
from confluent_kafka.admin import NewTopic

from services.processor.at_least_once import AtLeastOnce
from services.processor.group_commits import GroupCommits, committed_offset
from services.processor.guarantee import Guarantee
from services.processor.partition import Transaction
from services.processor.sending import Routes
from services.processor.topology import Outputs
from shared import logs
from shared.changelog import WRITER_KEY
from shared.connecting import stop_client
from shared.kafka import KafkaClients
from shared.settings import KafkaSettings, load

DEADLINE_SECONDS = 10.0
GuaranteeT = TypeVar("GuaranteeT", bound=Guarantee)


class Stopwatch:
    """Seconds that something took, less those in which this machine did not let the event loop run.

    A machine that is busy wakes sleepers late: how late, a sleeper beside it measures. So a bound on what
    the code waits for can be close.
    """

    _TICK_SECONDS = 0.02

    def __init__(self) -> None:
        self.elapsed_seconds = 0.0
        self.late_seconds = 0.0

    @property
    def seconds(self) -> float:
        return self.elapsed_seconds - self.late_seconds

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.elapsed_seconds = time.monotonic() - self._began
        self._ticker.cancel()
        await asyncio.wait({self._ticker})

    async def _tick(self) -> None:
        while True:
            slept_from = time.monotonic()
            await asyncio.sleep(self._TICK_SECONDS)
            self.late_seconds += time.monotonic() - slept_from - self._TICK_SECONDS


def transaction(*values: bytes, next_offset: int) -> Transaction:
    """Return a transaction that publishes purchases, and notes the offset in the changelog."""
    outputs = Outputs()
    for value in values:
        outputs.publish("purchases", b"key", value)
    return Transaction(outputs, [(b"!offset", b"%d" % next_offset)], next_offset, len(values), [])


class World:
    """Three topics under a prefix, and guarantees for the one partition of the input.

    `session_seconds`: how long the group bears with a silent member.
    """

    def __init__(self, servers: str, prefix: str, *, session_seconds: int = 6, **settings: str) -> None:
        self.session_seconds = session_seconds
        self.input = TopicPartition(f"{prefix}user_behavior", 0)
        self.purchases = TopicPartition(f"{prefix}purchases", 0)
        self.changelog = TopicPartition(f"{prefix}changelog", 0)
        self.group = f"{prefix}group"
        self.clients = KafkaClients(
            load(KafkaSettings, environ={"KAFKA_BOOTSTRAP_SERVERS": servers, **settings}, dotenv=None)[
                KafkaSettings
            ]
        )
        self._made: list[Guarantee] = []
        self._members: list[Member] = []
        self._member: Member | None = None

    @property
    def topics(self) -> list[NewTopic]:
        places = (self.input, self.purchases, self.changelog)
        return [NewTopic(place.topic, 1, 1) for place in places]

    async def guarantee(
        self,
        kind: type[GuaranteeT],
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        member: Member | None = None,
    ) -> GuaranteeT:
        """Return a guarantee that is not open yet. All transactional ones have the same id.

        `member`: as whom an AtLeastOnce commits; the world's own when left out.
        """
        common: dict[str, Any] = {
            "group": self.group,
            "place": self.input,
            "routes": Routes(
                {"purchases": self.purchases.topic},
                {self.purchases.topic: 1},
                changelog=self.changelog.topic,
            ),
            "read_committed_offset": self.read_committed_offset,
            "deadline_seconds": deadline_seconds,
            "log": logs.get("test"),
        }
        make: Any = kind
        if issubclass(kind, AtLeastOnce):
            commits = (member or await self.member()).commits
            more: dict[str, Any] = {"make_writer": commits.writer, "commit_offset": commits.commit}
        else:
            more = {
                "transactional_id": f"{self.group}-user_behavior-0",
                "transaction_timeout_seconds": 30,
            }
        made: GuaranteeT = make(self.clients, **common, **more)
        self._made.append(made)
        return made

    async def opened(
        self,
        kind: type[GuaranteeT],
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        member: Member | None = None,
    ) -> GuaranteeT:
        made = await self.guarantee(kind, deadline_seconds=deadline_seconds, member=member)
        await made.open()
        await made.claim()
        return made

    async def member(self) -> Member:
        """Return this world's own member of the group, which joins when it is first needed."""
        if self._member is None:
            self._member = await self.join()
        return self._member

    async def join(self) -> Member:
        """Return a new member that has been assigned the input."""
        member = Member(self)
        self._members.append(member)
        await member.consumer.start()
        await asyncio.wait_for(member.has_it.wait(), 30)
        return member

    async def read_committed_offset(self, place: TopicPartition) -> int | None:
        async with self.clients.consumer(group_id=self.group) as consumer:
            return await committed_offset(consumer, self.group, place)

    async def read(self, place: TopicPartition, isolation: str = "read_committed") -> list[Any]:
        """Return everything that a reader with this isolation sees."""
        consumer: AIOKafkaConsumer = self.clients.consumer(
            group_id=None, isolation_level=isolation, auto_offset_reset="none"
        )
        found = []
        async with consumer, asyncio.timeout(DEADLINE_SECONDS):
            consumer.assign([place])
            consumer.seek(place, 0)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                found += (await consumer.getmany(place, timeout_ms=100)).get(place, [])
        return found

    async def settled(self) -> None:
        """Wait until no transaction is open: its last markers are written after its commit has returned."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            for place in (self.purchases, self.changelog):
                while len(set((await self.ends(place)).values())) > 1:  # noqa: ASYNC110 — a broker is asked
                    await asyncio.sleep(0.01)

    async def visible(self) -> list[bytes]:
        """Return the values of the purchases, as readers of committed records see them in the end."""
        await self.settled()
        return [record.value for record in await self.read(self.purchases)]

    async def ends(self, place: TopicPartition) -> dict[str, int]:
        """Return where the partition ends for each kind of reader: the same when nothing is open."""
        found = {}
        for isolation in ("read_committed", "read_uncommitted"):
            async with self.clients.consumer(group_id=None, isolation_level=isolation) as consumer:
                found[isolation] = (await consumer.end_offsets([place]))[place]
        return found

    async def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Return keys and values of the changelog, as readers of committed records see them in the end."""
        await self.settled()
        found = [(one.key, one.value) for one in await self.read(self.changelog)]
        return [(key, value) for key, value in found if key != WRITER_KEY]

    async def close(self) -> None:
        await asyncio.gather(*(made.close() for made in self._made))
        for member in self._members:
            await stop_client(member.consumer, log=logs.get("test"))


class Member(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    """A member of the group, as a processor's membership is one.

    Attributes:
        has_it: the input is assigned to it.
        commits: what AtLeastOnce commits through.
    """

    def __init__(self, world: World) -> None:
        self.commits = GroupCommits()
        self.has_it = asyncio.Event()
        self.consumer: AIOKafkaConsumer = world.clients.consumer(
            group_id=world.group,
            session_timeout_ms=world.session_seconds * 1000,
            heartbeat_interval_ms=300,
            auto_offset_reset="earliest",
        )
        self.consumer.subscribe([world.input.topic], listener=self)

    async def on_partitions_revoked(self, _: Any) -> None:
        self.commits.end()
        self.has_it.clear()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self.consumer.pause(*assigned)
        self.commits.begin(self.consumer, assigned)
        if assigned:
            self.has_it.set()

    async def freeze(self) -> None:
        """Heartbeat no more, and hear of no rebalance: to the group it is dead, and it does not know."""
        for job in (
            self.consumer._coordinator._coordination_task,
            self.consumer._coordinator._heartbeat_task,
        ):
            if job is not None:
                job.cancel()
                await asyncio.wait({job})
