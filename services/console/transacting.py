"""Transactions of commands: whose a transactional id is, and the end of what fails in the middle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError

from services.console.connection import Connection
from shared.kafka import Permission

# What the client is known to raise out of a transaction; its state machine is made of asserts.
FAILURES = (KafkaError, IllegalOperation, AssertionError, TimeoutError, OSError)
_ABORT_SECONDS = 3.0


async def take_over(
    kafka: Connection,
    identity: str,
    *,
    doing: str,
    needs: Sequence[Permission],
    timeout_milliseconds: int,
    **options: Any,
) -> AIOKafkaProducer:
    """Return a producer with the transactional id `identity`: whoever had it is shut out.

    Args:
        kafka: makes it, and lets go of it.
        identity: the transactional id, in full.
        doing: what it is for.
        needs: the permissions that it takes; both are for the message of a refusal.
        timeout_milliseconds: after which Kafka ends a transaction that is left open.
        options: more of the client's own.

    Raises:
        StopServiceError: Kafka stays away, or refuses us.
    """
    return await kafka.producer(
        doing=doing,
        needs=needs,
        transactional_id=identity,
        transaction_timeout_ms=timeout_milliseconds,
        acks="all",
        enable_idempotence=True,
        **options,
    )


@contextlib.asynccontextmanager
async def aborted_if_it_fails(producer: AIOKafkaProducer) -> AsyncIterator[None]:
    """Abort the transaction of a block that does not come to its end; its deadline is the caller's."""
    try:
        yield
    except BaseException:
        # Also when it is interrupted: whoever reads the topics waits behind a transaction that is left open.
        with contextlib.suppress(*FAILURES):  # Then Kafka ends it when its time is up.
            async with asyncio.timeout(_ABORT_SECONDS):
                await producer.abort_transaction()
        raise
