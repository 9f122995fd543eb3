"""What could not be delivered goes to `delivery_dead_letters`, and is in Kafka before it counts as done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer

from services.processor.dead_letters import dead_letter
from services.processor.sending import FAILURES, Limits, TooLargeError, failure, placed
from services.processor.topology import Place
from shared.connecting import Patience, connect, stop_client
from shared.errors import KafkaUnavailableError, RebuildTaskError, RejectedError, StopServiceError
from shared.kafka import KafkaClients, Permission
from shared.logs import Logger


class UndeliverableError(RejectedError):
    """A record that the webhook did not take. The text is the dead letter's reason."""


class DeadLetters:
    """Writes dead letters, one after another.

    Args:
        topic: full name.
        partitions: how many it has.
        limit_bytes: the largest message it takes.
        patience: makes the measure of how long an absent Kafka is borne.
        stopping: cuts waiting for Kafka short.
    """

    def __init__(
        self,
        clients: KafkaClients,
        *,
        topic: str,
        partitions: int,
        limit_bytes: int,
        patience: Callable[[], Patience],
        stopping: asyncio.Event,
        log: Logger,
    ) -> None:
        self._clients = clients
        self._topic = topic
        self._partitions = partitions
        self._limit_bytes = limit_bytes
        self._make_patience = patience
        # Of writing; a connection that succeeds is not yet a letter that is written.
        self._patience = patience()
        self._stopping = stopping
        self._log = log
        self._producer: AIOKafkaProducer | None = None
        self._turn = asyncio.Lock()
        self._needs = (Permission("Write", "topic", topic),)

    async def put(self, record: Any, error: UndeliverableError) -> bool:
        """Write one, and return when Kafka has it; False where the stop of the process came first.

        Raises:
            StopServiceError: Kafka refuses it, or has been away for `KAFKA_UNAVAILABLE_SECONDS`.
        """
        async with self._turn:
            limits = Limits(self._limit_bytes)
            while not self._stopping.is_set():
                try:
                    if await self._try(record, error, limits):
                        self._patience.worked()
                        return True
                except TooLargeError as too_large:
                    if limits.batch_bytes == 1:
                        raise StopServiceError(
                            f"{self._topic} takes no dead letter: {too_large}"
                        ) from too_large
                    limits = limits.lowered()
                except KafkaUnavailableError as away:
                    seconds = self._patience.failed(str(away))
                    self._log.warning("dead_letter_waits", reason=str(away), retry_seconds=seconds)
                    await asyncio.sleep(seconds)
        return False

    async def close(self) -> None:
        """Let go of the producer, within seconds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_client(producer, log=self._log)

    async def _try(self, record: Any, error: UndeliverableError, limits: Limits) -> bool:
        """Write one; False where there is no producer because of the stop.

        Raises:
            TooLargeError: the topic does not take it.
            KafkaUnavailableError: to be tried again.
            StopServiceError: Kafka refuses.
        """
        if self._producer is None:
            self._producer = await connect(
                lambda: self._clients.producer(enable_idempotence=True, acks="all"),
                self._clients.settings,
                patience=self._make_patience(),
                stopping=self._stopping,
                log=self._log,
                doing=f"write to {self._topic}",
                needs=self._needs,
            )
        if self._producer is None:
            return False
        place = Place(record.topic, record.partition)
        letter = dead_letter(record, place, error, limit_bytes=limits.dead_letter_bytes)
        try:
            async with asyncio.timeout(self._clients.settings.operation_deadline_seconds):
                await placed(self._producer, letter, self._topic, record.partition % self._partitions)
        except RebuildTaskError:
            # Kafka does not say where it is because it had it already: a repeated request.
            return True
        except FAILURES as trouble:
            # After a failure it is of no further use: its numbers may be out of step.
            await self.close()
            meant = failure(trouble, f"write to {self._topic}", needs=self._needs)
            if isinstance(meant, TooLargeError | StopServiceError):
                raise meant from trouble
            raise KafkaUnavailableError(str(meant)) from trouble
        return True
