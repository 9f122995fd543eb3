"""Static membership: has another process taken our place under the same instance id?

The client asks for its place with heartbeats that do not carry the instance id, so the broker answers it
"unknown member", as after an expired session, and it joins anew and takes the place back: two processes
with one id would take it from each other for ever. Here the broker is asked with the id, and then it tells
the two apart (KIP-345).
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import SyncGroupRequest

from shared.errors import StopServiceError

# FENCED_INSTANCE_ID. https://kafka.apache.org/protocol#protocol_error_codes; unknown to the client.
_FENCED_INSTANCE_ID = 82
# No group is ever in this generation: a question with it changes nothing, whatever the group is doing.
_NO_GENERATION = -1
# Longer than any stop of the process, which is what ends the wait.
_STOP_SECONDS = 60.0


async def is_taken(
    consumer: Any, *, group: str, instance_id: str, member_id: str, deadline_seconds: float
) -> bool:
    """Say whether `instance_id` belongs to another member than `member_id`, which we were last.

    False also where the coordinator does not answer: it is asked again at the next occasion.
    """
    coordinator = consumer._coordinator  # noqa: SLF001
    request = SyncGroupRequest(group, _NO_GENERATION, member_id, instance_id, [])
    try:
        async with asyncio.timeout(deadline_seconds):
            await coordinator.ensure_coordinator_known()
            answer = await consumer._client.send(  # noqa: SLF001
                coordinator.coordinator_id, request, group=ConnectionGroup.COORDINATION
            )
    except (KafkaError, OSError, TimeoutError):
        return False
    return bool(answer.error_code == _FENCED_INSTANCE_ID)


async def keep_from_joining(consumer: Any) -> None:
    """Return when `consumer` is being stopped, and keep it from joining once more. In the revoked callback.

    The client would join right after the callback, and so throw out who took our place. Who waits for
    records meanwhile gets an error: it would wait for the next assignment.
    """
    coordinator = consumer._coordinator  # noqa: SLF001
    consumer._subscription.abort_waiters(KafkaError("the instance id is taken"))  # noqa: SLF001
    await asyncio.wait({coordinator._closing}, timeout=_STOP_SECONDS)  # noqa: SLF001
    coordinator.coordinator_dead()


def taken(instance_id: str, group: str) -> StopServiceError:
    """Return the error that ends this process."""
    return StopServiceError(
        f"another process has joined group {group} with PROCESSOR_INSTANCE_ID={instance_id} and taken our "
        "place: give every process an id of its own, or stop the other one"
    )
