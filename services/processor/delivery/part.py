"""The delivery part of the processor: one webhook, one pool of workers, and a membership for each topic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from aiokafka import AIOKafkaConsumer

from services.processor.delivery.letters import DeadLetters
from services.processor.delivery.meter import DeliveryMeter
from services.processor.delivery.pool import Pool
from services.processor.delivery.retrying import Retrying
from services.processor.delivery.topic_delivery import TopicDelivery, group_of
from services.processor.delivery.webhook import Webhook
from services.processor.preflight import describe, persistently
from services.processor.settings import ProcessorSettings
from shared import topics
from shared.connecting import Patience
from shared.health import Health
from shared.kafka import KafkaClients, Permission
from shared.logs import Logger
from shared.metrics import DeliveryMetrics

_NAME = "delivery"


class Delivery:
    """Delivers the topics of `PROCESSOR_DELIVERY_TOPICS` to `PROCESSOR_DELIVERY_URL`.

    Args:
        make_consumer: returns a started consumer that belongs to no group and has nothing assigned.
        patience: makes the measure of how long an absent Kafka is borne.
    """

    def __init__(
        self,
        clients: KafkaClients,
        settings: ProcessorSettings,
        *,
        make_consumer: Callable[[], Awaitable[AIOKafkaConsumer]],
        patience: Callable[[], Patience],
        metrics: DeliveryMetrics,
        health: Health,
        log: Logger,
    ) -> None:
        assert settings.delivery_url is not None, "without it there is no delivery"
        self._clients = clients
        self._settings = settings
        self._make_consumer = make_consumer
        self._patience = patience
        self._health = health
        self._log = log
        # Before the process says that it is ready.
        health.not_ready(_NAME, "looking at its topics")
        token = settings.delivery_token
        self._webhook = Webhook(
            settings.delivery_url.get_secret_value(),
            token=None if token is None else token.get_secret_value(),
            timeout_seconds=settings.delivery_timeout_seconds,
            connections=settings.worker_count,
            wall_clock=time.time,
        )
        self._meters = {
            topic: DeliveryMeter(
                metrics,
                clients.settings.named(topic),
                log_every=settings.log_every_events,
                clock=time.monotonic,
                wall_clock=time.time,
                log=log,
            )
            for topic in (*settings.delivery_topics, topics.DELIVERY_RETRIES)
        }

    def figures(self) -> dict[str, Any]:
        """Return what `/stats` shows."""
        return {topic: meter.figures() for topic, meter in self._meters.items()}

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver until `stopping` is set, then finish what is under way, commit, and leave the groups.

        Raises:
            StopServiceError: the process has to end.
        """
        letters = await self._dead_letters(stopping)
        if letters is None:
            return
        settings = self._settings
        retrying = Retrying(
            settings.delivery_attempts,
            settings.delivery_first_pause_seconds,
            settings.delivery_longest_pause_seconds,
            Random(),  # noqa: S311 — it spreads retries, and keeps no secret
        )
        self._log.info(
            "delivery_to",
            webhook=self._webhook.address,
            topics=list(self._meters),
            workers=settings.worker_count,
        )
        async with self._webhook:
            pool = Pool(
                settings.worker_count,
                self._webhook,
                retrying,
                letters,
                prefix=self._clients.settings.topic_prefix,
                log=self._log,
            )
            working = asyncio.create_task(pool.run(), name="delivery workers")
            jobs = [
                asyncio.create_task(self._topic(topic, pool).run(stopping), name=f"delivery of {topic}")
                for topic in self._meters
            ]
            self._health.ready(_NAME)
            try:
                await asyncio.wait({working, *jobs}, return_when=asyncio.FIRST_COMPLETED)
                # The workers end by themselves only in failure, and a topic also where it is told to stop.
                stopping.set()
                outcomes = await asyncio.gather(*jobs, return_exceptions=True)
            finally:
                for job in (*jobs, working):
                    job.cancel()
                await asyncio.wait({working, *jobs})
                await letters.close()
        for outcome in (*outcomes, None if working.cancelled() else working.exception()):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _dead_letters(self, stopping: asyncio.Event) -> DeadLetters | None:
        """Return what writes the dead letters, or None if `stopping` was set first.

        Raises:
            StopServiceError: a topic is missing, or may not be seen.
        """
        kafka = self._clients.settings
        letters = kafka.named(topics.DELIVERY_DEAD_LETTERS)
        needs = [Permission("Read", "topic", kafka.named(topic)) for topic in self._meters]
        needs += [Permission("Read", "group", kafka.named(group_of(topic))) for topic in self._meters]
        needs.append(Permission("Write", "topic", letters))
        patience = self._patience()
        described = await persistently(
            lambda: describe(
                self._clients,
                needs=needs,
                configs_of=[letters],
                doing="look at the topics of the delivery",
                patience=patience,
                stopping=stopping,
                log=self._log,
            ),
            # Its own: a connection that succeeds says nothing about the question.
            patience=self._patience(),
            stopping=stopping,
        )
        if described is None:
            return None
        return DeadLetters(
            self._clients,
            topic=letters,
            partitions=described.counts[letters],
            limit_bytes=described.message_bytes(letters),
            patience=self._patience,
            stopping=stopping,
            log=self._log,
        )

    def _topic(self, topic: str, pool: Pool) -> TopicDelivery:
        return TopicDelivery(
            topic,
            self._clients,
            self._settings,
            pool=pool,
            make_consumer=self._make_consumer,
            patience=self._patience,
            health=self._health,
            meter=self._meters[topic],
            log=self._log,
        )
