"""The processor with a fault planted where production code has no hook: its parts are replaced.

`FAULT` names the cut, `FAULT_AFTER` the number of times it is passed unharmed. At the cut the process
kills itself with SIGKILL: nothing is flushed, closed or committed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from typing import Any

from services.processor.__main__ import Application, run
from services.processor.at_least_once import AtLeastOnce
from services.processor.exactly_once import ExactlyOnce
from services.processor.restore import ChangelogReader
from services.processor.settings import ProcessorSettings
from shared.settings import Settings

FAULT = os.environ.get("FAULT", "")
passes_left = int(os.environ.get("FAULT_AFTER", "0"))


def cut(name: str) -> None:
    global passes_left  # noqa: PLW0603 — one process, one fault
    if name != FAULT:
        return
    if passes_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    passes_left -= 1


class CutGuarantee(ExactlyOnce):
    async def committed(self) -> int | None:
        """Answer as a coordinator does that was replaced and does not know it: out of the past."""
        global passes_left  # noqa: PLW0603
        found = await super().committed()
        if FAULT != "old_answer" or not found or not passes_left:
            return found
        passes_left -= 1
        return found - 1

    async def publish(self, producer: Any, transaction: Any) -> None:
        cut("before_produce")
        await super().publish(producer, transaction)
        cut("after_produce")

    async def send_offsets(self, producer: Any, transaction: Any) -> None:
        await super().send_offsets(producer, transaction)
        cut("after_offsets")

    async def end(self, producer: Any) -> None:
        if FAULT == "while_ending":
            # The request is on its way when the process dies.
            producer._txn_manager.committing_transaction()
            await asyncio.sleep(0.001)
            cut("while_ending")
            await producer._txn_manager.wait_for_transaction_end()
            return
        await super().end(producer)
        cut("after_commit")


class CutAtLeastOnce(AtLeastOnce):
    """The same cuts, one between results and changelog, and one in the middle of the changelog."""

    async def publish(self, producer: Any, transaction: Any) -> None:
        cut("before_produce")
        await super().publish(producer, transaction)
        cut("after_outputs")

    async def save(self, producer: Any, transaction: Any) -> None:
        half = FAULT == "in_changelog" and passes_left == 0
        if half:
            # All keys of this step arrive, and no offset record.
            transaction = dataclasses.replace(transaction, changelog=transaction.changelog[:-1])
        await super().save(producer, transaction)
        if half or passes_left:
            cut("in_changelog")
        cut("after_produce")

    async def send_offsets(self, producer: Any, transaction: Any) -> None:
        await super().send_offsets(producer, transaction)
        cut("after_offsets")
        cut("after_commit")


class CutReader(ChangelogReader):
    def _take(self, batch: Any, partition: Any) -> Any:
        found = super()._take(batch, partition)
        cut("during_restore")
        return found


class ForgetfulGuarantee(ExactlyOnce):
    """A mutant: the offset is committed in a transaction of its own, after the results."""

    async def send_offsets(self, producer: Any, transaction: Any) -> None:
        await producer.commit_transaction()
        cut("after_produce")
        await producer.begin_transaction()
        await super().send_offsets(producer, transaction)


def weakened(settings: Settings) -> Settings:
    """Return the settings with at_least_once in place of what they say."""
    groups = dict(settings._groups)
    groups[ProcessorSettings] = settings[ProcessorSettings].model_copy(update={"guarantee": "at_least_once"})
    return Settings(groups, settings.origins)


def application(settings: Settings) -> Application:
    mutant = os.environ.get("MUTANT")
    if mutant == "at_least_once":
        settings = weakened(settings)
    if settings[ProcessorSettings].guarantee == "at_least_once":
        return Application(settings, guarantee=CutAtLeastOnce, reader=CutReader)
    guarantee = ForgetfulGuarantee if mutant == "two_transactions" else CutGuarantee
    return Application(settings, guarantee=guarantee, reader=CutReader)


if __name__ == "__main__":
    sys.exit(run(application))
