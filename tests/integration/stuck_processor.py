"""The processor with a stall planted where production code has no hook: its parts are replaced.

`STALL` names the stall. It begins after some commits went well, and says `planted` in the log.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

from services.processor.__main__ import Application, run
from services.processor.exactly_once import ExactlyOnce
from services.processor.membership import Membership
from services.processor.processor import Processor
from services.processor.task import Task
from shared import logs
from shared.settings import Settings

STALL = os.environ.get("STALL", "")
COMMITS = 5
SLOW_COMMIT_SECONDS = 1.0

commits = 0
processor: Processor
said = False


def say() -> None:
    global said  # noqa: PLW0603 — one process, one stall
    if not said:
        said = True
        logs.get("planted").info("planted", stall=STALL)


class StuckGuarantee(ExactlyOnce):
    async def publish(self, producer: Any, transaction: Any) -> None:
        if STALL == "dead sender" and commits >= COMMITS:
            say()
            producer._sender.sender_task.cancel()
            await asyncio.sleep(0)
        await super().publish(producer, transaction)

    async def end(self, producer: Any) -> None:
        global commits  # noqa: PLW0603
        if STALL == "slow":
            await asyncio.sleep(SLOW_COMMIT_SECONDS)
        if STALL == "commit never returns" and commits >= COMMITS:
            say()
            await asyncio.get_running_loop().create_future()
        await super().end(producer)
        commits += 1
        if commits < COMMITS:
            return
        if STALL == "gate never opens":
            say()
            processor._may_commit.clear()
        elif STALL == "event loop blocked":
            say()
            time.sleep(3_600)  # noqa: ASYNC251 — just that


class StuckTask(Task):
    async def _fetch(self) -> Any:
        if STALL == "nothing is read" and commits >= COMMITS:
            say()
            await asyncio.sleep(0.2)
            return iter(())
        return await super()._fetch()


class StuckMembership(Membership):
    def assigned(self, consumer: Any, places: Any) -> None:
        if STALL == "rebalance never ends":
            say()
            consumer.pause(*places)
            return
        super().assigned(consumer, places)


class StuckApplication(Application):
    def _processor(self, *arguments: Any, **named: Any) -> Processor:
        global processor  # noqa: PLW0603
        processor = super()._processor(*arguments, **named)
        return processor


def application(settings: Settings) -> Application:
    # No constructor takes these two: what makes them looks them up by name.
    sys.modules[Application.__module__].Task = StuckTask  # type: ignore[attr-defined]
    sys.modules[Processor.__module__].Membership = StuckMembership  # type: ignore[attr-defined]
    return StuckApplication(settings, guarantee=StuckGuarantee)


if __name__ == "__main__":
    sys.exit(run(application))
