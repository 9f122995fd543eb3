"""The processor with a fault, or a weakness, planted where production code has no hook.

`FAULT` names a cut: the process kills itself there with SIGKILL, after it has passed it `FAULT_AFTER` times
unharmed. `MUTANT` names a weakening of the guarantee that the suite has to catch. `JUMPY_CLOCK`: the wall
clock of this process jumps about by so many seconds.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from services.processor import task
from services.processor.__main__ import Application, run
from services.processor.exactly_once import ExactlyOnce
from services.processor.guarantee import Guarantee
from services.processor.membership import Membership
from shared.errors import RebuildTaskError
from shared.settings import Settings
from tests.integration import faulty_processor
from tests.integration.faulty_processor import CutGuarantee, CutReader, cut


class Unfenced(CutGuarantee):
    """The fence is skipped: every process has a transactional id of its own."""

    def __init__(self, *arguments: Any, transactional_id: str, **more: Any) -> None:
        super().__init__(*arguments, transactional_id=f"{transactional_id}-{os.getpid()}", **more)


class Hasty(CutGuarantee):
    """The offsets are committed before the sends were awaited, and nobody looks at what became of those."""

    async def publish(self, producer: Any, transaction: Any) -> None:
        class Unawaited:
            async def send_batch(self, *arguments: Any, **more: Any) -> Any:
                sent = await producer.send_batch(*arguments, **more)
                sent.add_done_callback(lambda done: done.cancelled() or done.exception())
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                done.set_result(None)
                return done

            def __getattr__(self, name: str) -> Any:
                return getattr(producer, name)

        await super().publish(Unawaited(), transaction)


class Unsought(CutGuarantee):
    """After an abort nobody seeks back: what failed is taken for committed, and the next comes after it."""

    async def commit(self, transaction: Any) -> None:
        try:
            await super().commit(transaction)
        except RebuildTaskError:
            await self.close()
            await self.open()


class Forgetful(CutGuarantee):
    """That a transactional request was repeated is forgotten: a late copy meets the next transaction."""

    async def open(self) -> None:
        await super().open()
        blind = {"retried": property(lambda _: False, lambda *_: None)}
        assert self._sender is not None, "it was opened"
        client = self._sender.client
        client.__class__ = type("Blind", (type(client),), blind)


MUTANTS: dict[str, Callable[..., Guarantee]] = {
    "skipped_fence": Unfenced,
    "unawaited_sends": Hasty,
    "forgotten_seek": Unsought,
    "forgotten_copies": Forgetful,
}


def plant_in_membership() -> None:
    """Put cuts into the rebalance callbacks."""
    revoked, assigned = Membership.revoked, Membership.assigned

    async def cut_revoked(self: Membership, *arguments: Any) -> None:
        cut("in_revoked")
        await revoked(self, *arguments)

    def cut_assigned(self: Membership, *arguments: Any) -> None:
        assigned(self, *arguments)
        cut("in_assigned")

    Membership.revoked = cut_revoked  # type: ignore[assignment,method-assign]
    Membership.assigned = cut_assigned  # type: ignore[assignment,method-assign]


def plant_in_restore() -> None:
    """Skip the checks of a restored state: go on from wherever the group says, or from the beginning."""

    def unchecked(*_: Any, committed: int | None, **__: Any) -> int | None:
        return committed

    task.starting_offset = unchecked  # type: ignore[attr-defined]


def plant_in_clock(seconds: float) -> None:
    """Let the wall clock jump, forwards and backwards, from one look at it to the next."""
    real, chance = time.time, random.Random(seconds)
    time.time = lambda: real() + chance.uniform(-seconds, seconds)


def application(settings: Settings) -> Application:
    """Wire the processor with what the environment asks for."""
    plant_in_membership()
    if jump := float(os.environ.get("JUMPY_CLOCK", "0")):
        plant_in_clock(jump)
    mutant = os.environ.get("MUTANT", "")
    if mutant == "unchecked_state":
        plant_in_restore()
    if mutant in MUTANTS:
        return Application(settings, guarantee=MUTANTS[mutant], reader=CutReader)
    return faulty_processor.application(settings)


assert issubclass(CutGuarantee, ExactlyOnce), "a mutant weakens what is shipped"

if __name__ == "__main__":
    sys.exit(run(application))
