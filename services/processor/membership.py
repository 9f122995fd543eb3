"""Membership in the consumer group: who has which partition. It fetches nothing.

Every assigned partition is paused in the callback itself, before anything is awaited; the tasks read
through consumers of their own. Exceptions in a rebalance callback are swallowed by the client, so the
callbacks here only hand over and never raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiokafka
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from services.processor import instance
from services.processor.assignor import StickyAssignor
from services.processor.group_commits import GroupCommits, committed_offset
from services.processor.settings import ProcessorSettings
from shared.connecting import Patience, connect, stop_client
from shared.errors import KafkaUnavailableError
from shared.kafka import KafkaClients, Permission, refusal
from shared.logs import Logger
from shared.waiting import unless_ended, watched

# A poll fetches nothing: it is there for the errors, which wait in the client until one asks.
_POLL_SECONDS = 1.0
# In a rebalance a poll waits for its end, whatever its own time. Cut off, the client forgets to let go of
# what it waits for: that is for what takes long, and for a stop.
_CUT_OFF_SECONDS = 10.0
_PAUSE_SECONDS = 0.2
# The client's errors are sticky: after this long a new consumer does what the old one no longer can.
_ERRORS_BORNE_SECONDS = 3.0
# A member hears of a rebalance with its next heartbeat, and the group waits for the last one to hear. A
# quarter of the session, as is usual, would be most of the pause; a heartbeat is a hundred bytes.
_HEARTBEAT_SECONDS = 0.3

Revoked = Callable[[], Awaitable[None]]
Assigned = Callable[[frozenset[int]], None]


class Membership:
    """One process's place in one group, for one input topic.

    Args:
        topic: full name of the input.
        group: full name of the group.
        on_revoked: awaited before a rebalance; returns when no transaction runs, within a bound.
        on_assigned: told the partitions after it; must return at once.
        on_poll: called at each round of the loop with the topic's known number of partitions, or None.
        on_away: called when the loop ends: until it begins again there are no rounds.
        longest_round_seconds: how long a round may take, where Kafka has nothing to say.
        on_metadata: given the client's `ClusterMetadata` after each answer of Kafka; may not raise.
    """

    def __init__(
        self,
        clients: KafkaClients,
        settings: ProcessorSettings,
        *,
        topic: str,
        group: str,
        on_revoked: Revoked,
        on_assigned: Assigned,
        on_poll: Callable[[int | None], None],
        on_away: Callable[[], None],
        longest_round_seconds: float,
        patience: Patience,
        stopping: asyncio.Event,
        log: Logger,
        on_metadata: Callable[[Any], None] | None = None,
    ) -> None:
        self._clients = clients
        self._settings = settings
        self._topic = topic
        self._group = group
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned
        self._on_poll = on_poll
        self._on_away = on_away
        self._on_metadata = on_metadata
        self._poll_seconds = min(_POLL_SECONDS, longest_round_seconds)
        self._patience = patience
        self._stopping = stopping
        self._log = log
        self._consumer: aiokafka.AIOKafkaConsumer | None = None
        self._needs = (Permission("Read", "group", group), Permission("Read", "topic", topic))
        # It outlives the consumers: what this process has is claimed by the next one too.
        self._assignor = StickyAssignor(self._generation)
        self._member_id: str | None = None
        self.commits = GroupCommits()
        self._taken = False

    async def committed(self, place: TopicPartition) -> int | None:
        """Return the group's committed offset of a partition, or None.

        Raises:
            KafkaUnavailableError: this process is not a member just now.
        """
        if self._consumer is None:
            raise KafkaUnavailableError(f"not a member of group {self._group} just now")
        return await committed_offset(self._consumer, self._group, place)

    @property
    def connection(self) -> Any:
        """The connection of the consumer that started, or None: then `run` is trying to connect."""
        return None if self._consumer is None else self._consumer._client  # noqa: SLF001

    async def run(self) -> None:
        """Be a member until `stopping` is set, with a fresh consumer whenever the old one is done for.

        Returns with the consumer still a member; `leave` ends that.
        """
        while not self._stopping.is_set():
            consumer = await connect(
                self._make,
                self._clients.settings,
                patience=self._patience,
                stopping=self._stopping,
                log=self._log,
                doing=f"join group {self._group}",
                needs=self._needs,
                # A dead member is waited for: as long as its session, and no longer than a rebalance.
                deadline_seconds=self._settings.rebalance_timeout_seconds
                + self._clients.settings.operation_deadline_seconds,
            )
            if consumer is None:
                return
            self._consumer = consumer
            await self._poll_until_broken(consumer)
            self._on_away()
            if not self._stopping.is_set():
                await self.leave()

    async def leave(self) -> None:
        """Leave the group, within seconds."""
        consumer, self._consumer = self._consumer, None
        self.commits.end()
        if consumer is not None:
            await stop_client(consumer, log=self._log)

    def _make(self) -> aiokafka.AIOKafkaConsumer:
        settings = self._settings
        consumer = self._clients.consumer(
            group_id=self._group,
            group_instance_id=settings.instance_id,
            session_timeout_ms=int(settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(min(settings.session_timeout_seconds / 4, _HEARTBEAT_SECONDS) * 1000),
            rebalance_timeout_ms=int(settings.rebalance_timeout_seconds * 1000),
            partition_assignment_strategy=[self._assignor],
            # Never used to read from: an unknown position must not become an error of the poll loop.
            auto_offset_reset="earliest",
        )
        if self._on_metadata is not None:
            consumer._client.cluster.add_listener(self._on_metadata)  # noqa: SLF001
        consumer.subscribe([self._topic], listener=_Listener(self, consumer))
        self._joining = consumer
        return consumer

    def _generation(self) -> int:
        return int(self._joining._coordinator.generation)  # noqa: SLF001

    async def _poll_until_broken(self, consumer: aiokafka.AIOKafkaConsumer) -> None:
        loop = asyncio.get_running_loop()
        raising_since: float | None = None
        async with watched(self._stopping) as ends:
            while not self._stopping.is_set():
                if self._taken:
                    raise instance.taken(str(self._settings.instance_id), self._group)
                try:
                    polled = consumer.getmany(timeout_ms=max(int(self._poll_seconds * 1000), 1))
                    has_polled = await unless_ended(polled, ends, seconds=_CUT_OFF_SECONDS) is not None
                except (KafkaError, IllegalStateError) as error:
                    if await self._is_taken(consumer):
                        self._taken = True
                        continue
                    refused = refusal(error, doing=f"be a member of group {self._group}", needs=self._needs)
                    if refused is not None:
                        raise refused from error
                    raising_since = raising_since if raising_since is not None else loop.time()
                    self._log.warning("membership_error", group=self._group, reason=repr(error))
                    if loop.time() - raising_since > _ERRORS_BORNE_SECONDS:
                        return
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    raising_since = None if has_polled else raising_since
                known = consumer.partitions_for_topic(self._topic)
                self._on_poll(None if known is None else len(known))

    async def revoked(self, consumer: Any) -> None:
        """Hand over to the tasks, and return when none of them is in a transaction."""
        try:
            await self._on_revoked()
        finally:
            self.commits.end()
        is_ours = consumer is self._consumer
        was_dropped = is_ours and consumer._coordinator.generation < 0  # noqa: SLF001
        if was_dropped and await self._is_taken(consumer):
            self._taken = True
            await instance.keep_from_joining(consumer)

    async def _is_taken(self, consumer: aiokafka.AIOKafkaConsumer) -> bool:
        if self._settings.instance_id is None or self._member_id is None:
            return False
        return await instance.is_taken(
            consumer,
            group=self._group,
            instance_id=self._settings.instance_id,
            member_id=self._member_id,
            deadline_seconds=self._clients.settings.request_timeout_seconds,
        )

    def assigned(self, consumer: aiokafka.AIOKafkaConsumer, places: Any) -> None:
        """Pause what was assigned, and tell."""
        consumer.pause(*places)
        self._member_id = consumer._coordinator.member_id  # noqa: SLF001
        self.commits.begin(consumer, places)
        self._on_assigned(frozenset(place.partition for place in places))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    def __init__(self, membership: Membership, consumer: aiokafka.AIOKafkaConsumer) -> None:
        self._membership = membership
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 — all are, with this protocol
        await self._membership.revoked(self._consumer)

    # A coroutine without an await: only coroutines are awaited by the client, and nothing may come
    # between the assignment and the pause.
    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._membership.assigned(self._consumer, assigned)
