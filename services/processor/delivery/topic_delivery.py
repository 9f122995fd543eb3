"""The delivery of one result topic by this process: its membership, and a session for each assignment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from services.processor.delivery.meter import DeliveryMeter
from services.processor.delivery.pool import Pool
from services.processor.delivery.session import DeliverySession
from services.processor.kafka_watch import KafkaWatch
from services.processor.membership import Membership
from services.processor.settings import ProcessorSettings
from shared.connecting import Patience
from shared.errors import StopServiceError
from shared.health import Health
from shared.kafka import KafkaClients
from shared.logs import Logger

# Of a rebalance's time: for what is under way, and for the commit after it. The rest is the group's.
_FOR_ATTEMPTS, _FOR_COMMIT = 0.4, 0.3
_MOST_REVOKE_SECONDS = 5.0
_COMMIT_SECONDS = 3.0
_CLOSE_SECONDS = 4.0
_BEAT_BOUND_SECONDS = 30.0
_MEMBER_BOUND_SECONDS = 15.0


class TopicDelivery:
    """Delivers one topic until it is told to stop.

    Args:
        topic: name without prefix.
        partitions: how many it has.
        make_consumer: returns a started consumer that belongs to no group and has nothing assigned.
        patience: makes the measure of how long an absent Kafka is borne.
        on_answer: told whether Kafka answers.
    """

    def __init__(
        self,
        topic: str,
        clients: KafkaClients,
        settings: ProcessorSettings,
        *,
        pool: Pool,
        make_consumer: Callable[[], Awaitable[AIOKafkaConsumer]],
        patience: Callable[[], Patience],
        health: Health,
        meter: DeliveryMeter,
        log: Logger,
    ) -> None:
        self._topic = topic
        self._full_name = clients.settings.named(topic)
        self._group = clients.settings.named(group_of(topic))
        self._clients = clients
        self._settings = settings
        self._pool = pool
        self._make_consumer = make_consumer
        self._patience = patience
        self._health = health
        self._meter = meter
        self._log = log
        self._name = f"delivery of {topic}"
        self._membership: Membership | None = None
        self._session: DeliverySession | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._member_name = f"membership {self._name}"
        self._assignment = f"an assignment of group {self._group}"
        # Before the process says that it is ready.
        health.not_ready(self._name, "not assigned yet")

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver until `stopping` is set, then finish what is under way, commit, and leave the group.

        Raises:
            StopServiceError: the process has to end; partitions are let go of first.
        """
        self._stopping = stopping
        patience = self._patience()
        self._membership = membership = Membership(
            self._clients,
            self._settings,
            topic=self._full_name,
            group=self._group,
            on_revoked=self._revoked,
            on_assigned=self._assigned,
            on_poll=self._polled,
            on_away=self._away,
            longest_round_seconds=self._health.round_seconds,
            patience=patience,
            stopping=stopping,
            log=self._log,
        )
        watch = KafkaWatch(
            self._clients,
            who=self._name,
            topics=[self._full_name],
            connection=lambda: membership.connection,
            health=self._health,
            patience=patience,
            on_answer=lambda _: None,  # The topologies' watches have the metric.
            log=self._log,
        )
        self._expect_assignment()
        member = asyncio.create_task(membership.run(), name=self._member_name)
        watching = asyncio.create_task(watch.run(), name=f"watch {self._name}")
        asked = asyncio.create_task(stopping.wait())
        try:
            # Also for the stop itself: the membership may be in the middle of something else.
            any_of: set[asyncio.Future[Any]] = {member, watching, asked, self._failed}
            await asyncio.wait(any_of, return_when=asyncio.FIRST_COMPLETED)
            for ended in (self._failed, watching, member):
                if ended.done():
                    ended.result()
        finally:
            self._health.not_ready(self._name, "draining")
            self._health.ended(self._member_name)
            self._health.came(self._assignment)
            stopping.set()
            await self._end_session(self._settings.stop_seconds, _COMMIT_SECONDS)
            await asyncio.wait({member}, timeout=_CLOSE_SECONDS)
            await membership.leave()
            jobs: set[asyncio.Future[Any]] = {member, watching, asked, *self._jobs}
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)
            if not self._failed.cancel():
                self._failed.exception()  # Seen: a failure that came second is not reported twice.
            self._health.ended(self._name)
            self._health.ended(self._member_name)
            self._meter.line()

    async def _revoked(self) -> None:
        """Before a rebalance: deliver nothing more, and commit what was delivered."""
        self._log.debug("revoked", group=self._group)
        self._expect_assignment()
        seconds = self._settings.rebalance_timeout_seconds
        await self._end_session(
            min(_MOST_REVOKE_SECONDS, seconds * _FOR_ATTEMPTS), min(_COMMIT_SECONDS, seconds * _FOR_COMMIT)
        )

    def _assigned(self, partitions: frozenset[int]) -> None:
        """After a rebalance: a new session. Returns at once."""
        self._health.came(self._assignment)
        if self._stopping.is_set():
            return  # Another member has left: what comes now is for whoever stays.
        self._log.info("assigned", group=self._group, partitions=sorted(partitions))
        before, self._session = self._session, None
        if partitions:
            self._session = self._new_session(partitions)
        self._begin(self._serve(before, self._session))
        self._health.ready(self._name)

    def _away(self) -> None:
        """The membership is over, and its consumer leaves the group: somebody else may deliver at once."""
        self._health.ended(self._member_name)
        self._health.not_ready(self._name, "not a member of its group just now")
        self._expect_assignment()
        before, self._session = self._session, None
        if before is not None and not self._stopping.is_set():
            self._begin(self._serve(before, None))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        job = asyncio.create_task(work, name=self._name)
        self._jobs.add(job)
        job.add_done_callback(self._served)

    def _new_session(self, partitions: frozenset[int]) -> DeliverySession:
        assert self._membership is not None, "an assignment comes from it"
        return DeliverySession(
            self._topic,
            [TopicPartition(self._full_name, partition) for partition in sorted(partitions)],
            group=self._group,
            membership=self._membership,
            make_consumer=self._make_consumer,
            pool=self._pool,
            meter=self._meter,
            settings=self._settings,
            deadline_seconds=self._clients.settings.operation_deadline_seconds,
            patience=self._patience(),
            on_round=lambda: self._health.beat(self._name, bound_seconds=_BEAT_BOUND_SECONDS),
            log=self._log,
        )

    async def _serve(self, before: DeliverySession | None, session: DeliverySession | None) -> None:
        if before is not None:
            # It was not ended before: nobody could be asked for time.
            await before.end(seconds=0, commit_seconds=0)
        if session is not None:
            await session.run()

    def _served(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        error = None if job.cancelled() else job.exception()
        if error is not None and not self._failed.done():
            if not isinstance(error, StopServiceError):
                error = StopServiceError(f"unexpected in the {self._name}: {error!r}")
            self._failed.set_exception(error)

    async def _end_session(self, seconds: float, commit_seconds: float) -> None:
        session = self._session
        if session is None:
            return
        await session.end(seconds=seconds, commit_seconds=commit_seconds)
        # Kept until now: a rebalance in the middle of a stop ends it sooner.
        if self._session is session:
            self._session = None
            self._health.ended(self._name)

    def _polled(self, _partitions: int | None) -> None:
        # Partitions that are added are assigned with the next rebalance; nothing depends on their number.
        self._health.beat(self._member_name, bound_seconds=_MEMBER_BOUND_SECONDS)

    def _expect_assignment(self) -> None:
        # As in `services.processor.processor`: a dead member's session, and a rebalance's time.
        settings = self._settings
        bound = settings.rebalance_timeout_seconds + settings.session_timeout_seconds
        bound += self._clients.settings.operation_deadline_seconds
        self._health.expects(self._assignment, bound_seconds=bound)


def group_of(topic: str) -> str:
    """Return the name of the group that delivers a topic."""
    return f"{topic}-delivery"
