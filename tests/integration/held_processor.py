"""The processor, held in one state until the broker is gone: its parts are replaced.

`HOLD` names the state; when it is reached the log says `held`, and the process goes on once the file
`HOLD_UNTIL` is there. `transaction` holds each partition in another step of it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from services.processor.__main__ import Application, run
from services.processor.exactly_once import ExactlyOnce
from services.processor.membership import Membership
from services.processor.preflight import look
from services.processor.processor import Processor
from services.processor.restore import ChangelogReader
from shared import logs
from shared.settings import Settings

HOLD = os.environ.get("HOLD", "")
HOLD_UNTIL = Path(os.environ.get("HOLD_UNTIL", "/nowhere"))
STEPS = ("begin", "publish", "offsets", "end", "ending")
COMMITS = 2


async def hold(state: str, **fields: object) -> None:
    logs.get("held").info("held", state=state, **fields)
    while not HOLD_UNTIL.exists():  # noqa: ASYNC110, ASYNC240 — another process makes it
        await asyncio.sleep(0.05)


class HeldGuarantee(ExactlyOnce):
    commits = 0

    async def _hold_in(self, step: str) -> None:
        if HOLD == "transaction" and self.commits >= COMMITS and STEPS[self._place.partition] == step:
            await hold(step, partition=self._place.partition)

    async def begin(self, producer: Any) -> None:
        await self._hold_in("begin")
        await super().begin(producer)

    async def publish(self, producer: Any, transaction: Any) -> None:
        await self._hold_in("publish")
        await super().publish(producer, transaction)

    async def send_offsets(self, producer: Any, transaction: Any) -> None:
        await self._hold_in("offsets")
        await super().send_offsets(producer, transaction)

    async def end(self, producer: Any) -> None:
        await self._hold_in("end")
        if HOLD == "transaction" and self.commits >= COMMITS and STEPS[self._place.partition] == "ending":
            # The request is not on its way yet when the broker goes.
            producer._txn_manager.committing_transaction()
            await hold("ending", partition=self._place.partition)
            await producer._txn_manager.wait_for_transaction_end()
            return
        await super().end(producer)
        self.commits += 1


class HeldReader(ChangelogReader):
    async def _fetch(self) -> Any:
        if HOLD == "restoring":
            await hold(HOLD)
        return await super()._fetch()


class HeldMembership(Membership):
    async def run(self) -> None:
        if HOLD == "joining":
            await hold(HOLD)
        await super().run()


async def held_look(*arguments: Any, **named: Any) -> Any:
    if HOLD == "starting":
        await hold(HOLD)
    return await look(*arguments, **named)


def application(settings: Settings) -> Application:
    # No constructor takes these two: what uses them looks them up by name.
    where: Any = sys.modules[Processor.__module__]
    where.Membership, where.look = HeldMembership, held_look
    return Application(settings, guarantee=HeldGuarantee, reader=HeldReader)


if __name__ == "__main__":
    sys.exit(run(application))
