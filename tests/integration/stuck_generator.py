"""The generator with a stall planted: its parts are replaced. See `stuck_processor`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

from services.generator.__main__ import main
from services.generator.publisher import Publisher
from services.generator.stream import Stream
from shared import logs

STALL = os.environ.get("STALL", "")
BATCHES = 20

batches = 0
said = False


def say() -> None:
    global said  # noqa: PLW0603 — one process, one stall
    if not said:
        said = True
        logs.get("planted").info("planted", stall=STALL)


def is_due() -> bool:
    """Say whether the stall begins, or has begun."""
    if batches < BATCHES:
        return False
    say()
    return True


class StuckPublisher(Publisher):
    def _settle(self, *arguments: Any) -> None:
        global batches  # noqa: PLW0603
        batches += 1
        super()._settle(*arguments)
        if STALL == "dead sender" and is_due():
            sender: Any = self._producer
            sender._sender.sender_task.cancel()
        if STALL == "event loop blocked" and is_due():
            time.sleep(3_600)

    async def _deliver(self, lane: Any) -> None:
        if STALL == "dead lane" and lane.account.partition == 0:
            say()
            await asyncio.get_running_loop().create_future()
        await super()._deliver(lane)


class StuckStream(Stream):
    def _seconds_to_sleep(self, ends_at: float) -> float:
        if STALL == "stream stands still" and is_due():
            return 3_600.0
        return super()._seconds_to_sleep(ends_at)


if __name__ == "__main__":
    sys.modules[main.__module__].Publisher = StuckPublisher  # type: ignore[attr-defined]
    sys.modules[main.__module__].Stream = StuckStream  # type: ignore[attr-defined]
    sys.exit(main())
