"""Stopping a client, whatever its own `stop` does."""

from __future__ import annotations

import asyncio
import time

from shared import logs
from shared.connecting import stop_client

LOG = logs.get("test")


class Cancelling:
    """Ends its stop as the client's consumer does while its fetch waits for the next try."""

    async def stop(self) -> None:
        raise asyncio.CancelledError


class Hanging:
    """Does not stop, and does not let itself be cancelled at once."""

    async def stop(self) -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue


async def test_a_cancellation_that_the_client_lets_out_is_not_taken_for_our_own() -> None:
    await stop_client(Cancelling(), log=LOG)


async def test_a_client_that_does_not_stop_is_left_behind_in_time() -> None:
    began = time.monotonic()
    await stop_client(Hanging(), log=LOG, seconds=0.1)
    assert time.monotonic() - began < 2
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for _ in range(5):
        for task in rest:
            task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait(rest)
