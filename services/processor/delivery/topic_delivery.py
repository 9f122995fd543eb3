"""The delivery of one result topic by this process: its membership, and a session for each assignment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

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

_REVOKE_SECONDS = 5.0
_CLOSE_SECONDS = 4.0
_BEAT_BOUND_SECONDS = 30.0


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

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver until `stopping` is set, then finish what is under way, commit, and leave the group.

        Raises:
            StopServiceError: the process has to end; partitions are let go of first.
        """
        self._health.not_ready(self._name, "not assigned yet")
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
        member = asyncio.create_task(membership.run(), name=f"membership {self._name}")
        watching = asyncio.create_task(watch.run(), name=f"watch {self._name}")
        try:
            await asyncio.wait({member, watching, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (self._failed, watching, member):
                if ended.done():
                    ended.result()
        finally:
            self._health.not_ready(self._name, "draining")
            stopping.set()
            await self._end_session(self._settings.stop_seconds)
            await asyncio.wait({member}, timeout=_CLOSE_SECONDS)
            await membership.leave()
            jobs = {member, watching, *self._jobs}
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)
            if not self._failed.cancel():
                self._failed.exception()  # Seen: a failure that came second is not reported twice.
            self._health.ended(self._name)
            self._meter.line()

    async def _revoked(self) -> None:
        """Before a rebalance: deliver nothing more, and commit what was delivered."""
        self._log.debug("revoked", group=self._group)
        await self._end_session(min(_REVOKE_SECONDS, self._settings.rebalance_timeout_seconds / 2))

    def _assigned(self, partitions: frozenset[int]) -> None:
        """After a rebalance: a new session. Returns at once."""
        if self._stopping.is_set():
            return  # Another member has left: what comes now is for whoever stays.
        self._log.info("assigned", group=self._group, partitions=sorted(partitions))
        before, self._session = self._session, None
        if partitions:
            self._session = self._new_session(partitions)
        job = asyncio.create_task(self._serve(before, self._session), name=self._name)
        self._jobs.add(job)
        job.add_done_callback(self._served)
        self._health.ready(self._name)

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
            # A consumer that broke is replaced without a revocation.
            await before.end(seconds=0)
        if session is not None:
            await session.run()

    def _served(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        error = None if job.cancelled() else job.exception()
        if error is not None and not self._failed.done():
            if not isinstance(error, StopServiceError):
                error = StopServiceError(f"unexpected in the {self._name}: {error!r}")
            self._failed.set_exception(error)

    async def _end_session(self, seconds: float) -> None:
        session, self._session = self._session, None
        self._health.ended(self._name)
        if session is not None:
            await session.end(seconds=seconds)
            if self._jobs:
                await asyncio.wait(self._jobs, timeout=_CLOSE_SECONDS)

    def _polled(self, _partitions: int | None) -> None:
        """Partitions that are added are assigned with the next rebalance; nothing depends on their number."""

    def _away(self) -> None:
        self._health.not_ready(self._name, "not a member of its group just now")


def group_of(topic: str) -> str:
    """Return the name of the group that delivers a topic."""
    return f"{topic}-delivery"
