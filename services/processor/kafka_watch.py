"""Asks Kafka again and again whether it answers, also where nothing else waits for an answer of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from aiokafka.errors import KafkaError

from shared.answering import Answering, ask
from shared.connecting import Patience, stop_client
from shared.health import Health
from shared.kafka import KafkaClients
from shared.logs import Logger


class KafkaWatch:
    """Keeps health, metrics and the patience with an absent Kafka up to date.

    Args:
        who: names it to `health`.
        topics: full names of what has to be reachable for anything to move.
        connection: returns the connection of a started client, or None while there is none.
        patience: told only while there is a connection: else whoever connects keeps it.
        on_answer: told whether any broker answers.
    """

    def __init__(
        self,
        clients: KafkaClients,
        *,
        who: str,
        topics: Collection[str],
        connection: Callable[[], Any],
        health: Health,
        patience: Patience,
        on_answer: Callable[[bool], None],
        log: Logger,
    ) -> None:
        self._clients = clients
        self._who = who
        self._topics = topics
        self._connection = connection
        self._health = health
        self._patience = patience
        self._on_answer = on_answer
        self._log = log

    async def run(self) -> None:
        """Ask until cancelled.

        Raises:
            StopServiceError: no broker has answered for `KAFKA_UNAVAILABLE_SECONDS`.
        """
        pause = self._health.round_seconds
        while True:
            await asyncio.sleep(pause)
            pause = self._health.round_seconds
            connection = self._connection()
            answer = await self._ask(connection)
            self._health.kafka_answers(self._who, answers=answer is Answering.WHOLE)
            self._on_answer(answer is not Answering.AWAY)
            if connection is None:
                continue
            if answer is not Answering.AWAY:
                self._patience.worked()
                continue
            servers = ",".join(self._clients.settings.bootstrap_servers)
            pause = min(pause, self._patience.failed(f"no broker of {servers} answers"))
            self._log.warning("kafka_unavailable", watch=self._who)

    async def _ask(self, connection: Any) -> Answering:
        seconds = self._patience.a_try(self._clients.settings.operation_deadline_seconds)
        if connection is not None:
            return await ask(connection, self._topics, deadline_seconds=seconds)
        # Not a member just now: is that Kafka's fault?
        admin = self._clients.admin()
        try:
            async with asyncio.timeout(seconds):
                await admin.start()
                return await ask(admin._client, self._topics, deadline_seconds=seconds)  # noqa: SLF001
        except (KafkaError, OSError, TimeoutError):
            # Whoever connects for good tells which of them.
            return Answering.AWAY
        finally:
            await stop_client(admin, log=self._log)
