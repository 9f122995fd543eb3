"""What ExactlyOnce promises alone, on a real Kafka: trap by trap (see ARCHITECTURE.md)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from services.processor.exactly_once import ExactlyOnce
from services.processor.partition import Transaction
from services.processor.sending import TooLargeError
from shared.errors import RebuildTaskError, TaskFencedError
from tests.contract.guarantees import DEADLINE_SECONDS, World, transaction
from tests.contract.proxy import ADD_PARTITIONS_TO_TXN, FIND_COORDINATOR, INIT_PRODUCER_ID, PRODUCE, Proxy

pytestmark = pytest.mark.timeout(60)

# Trap 1: a refused record fails nothing but its own future


async def test_a_refused_record_fails_the_commit_and_nothing_of_it_becomes_visible(world: World) -> None:
    guarantee = await world.opened(ExactlyOnce)
    await guarantee.commit(transaction(b"before", next_offset=1))
    with pytest.raises(TooLargeError, match="could not commit a transaction"):
        await guarantee.commit(transaction(b"mate", b"x" * 2_000_000, b"mate", next_offset=4))
    await guarantee.close()
    successor = await world.opened(ExactlyOnce)
    assert await successor.committed() == 1
    assert await world.visible() == [b"before"]
    assert await world.changes() == [(b"!offset", b"1")]


# Traps 4 and 5: one transactional id for an input partition, and what a zombie gets to see


async def test_a_second_one_with_the_same_id_fences_the_first(world: World) -> None:
    zombie = await world.opened(ExactlyOnce)
    await zombie.commit(transaction(b"one", next_offset=1))
    successor = await world.opened(ExactlyOnce)
    with pytest.raises(TaskFencedError, match="another producer took"):
        await zombie.commit(transaction(b"from the grave", next_offset=100))
    assert await successor.committed() == 1
    await successor.commit(transaction(b"two", next_offset=2))
    assert await world.visible() == [b"one", b"two"]
    assert await (await world.opened(ExactlyOnce)).committed() == 2


async def test_a_fenced_one_stays_fenced(world: World) -> None:
    zombie = await world.opened(ExactlyOnce)
    await world.opened(ExactlyOnce)
    for offset in (1, 2, 3):
        with pytest.raises(RebuildTaskError):
            await zombie.commit(transaction(b"from the grave", next_offset=offset))
    assert await world.visible() == []


class Held(ExactlyOnce):
    """Stops between two steps of its first transaction until it is released."""

    step = ""
    reached: asyncio.Event
    released: asyncio.Event

    async def open(self) -> None:
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        await super().open()

    async def _hold(self, step: str) -> None:
        if step == self.step:
            self.reached.set()
            await self.released.wait()

    async def publish(self, producer: Any, transaction: Transaction) -> None:
        await self._hold("before publish")
        await super().publish(producer, transaction)

    async def send_offsets(self, producer: Any, transaction: Transaction) -> None:
        await self._hold("before offsets")
        await super().send_offsets(producer, transaction)

    async def end(self, producer: Any) -> None:
        await self._hold("before end")
        await super().end(producer)


@pytest.mark.parametrize("step", ["before publish", "before offsets", "before end"])
async def test_a_zombie_that_wakes_up_in_its_transaction_can_not_finish_it(world: World, step: str) -> None:
    zombie = await world.guarantee(Held)
    zombie.step = step
    await zombie.open()
    late = asyncio.create_task(zombie.commit(transaction(b"from the grave", next_offset=100)))
    await asyncio.wait_for(zombie.reached.wait(), DEADLINE_SECONDS)
    successor = await world.opened(ExactlyOnce)
    assert await successor.committed() is None
    await successor.commit(transaction(b"one", next_offset=1))
    zombie.released.set()
    with pytest.raises(RebuildTaskError):
        await late
    assert await world.visible() == [b"one"]
    assert await (await world.opened(ExactlyOnce)).committed() == 1


@pytest.mark.parametrize("step", ["before offsets", "before end"])
async def test_a_transaction_left_open_by_a_predecessor_is_aborted_by_the_next_open(
    world: World, step: str
) -> None:
    dead = await world.guarantee(Held)
    dead.step = step
    await dead.open()
    last_act = asyncio.create_task(dead.commit(transaction(b"half done", next_offset=1)))
    await asyncio.wait_for(dead.reached.wait(), DEADLINE_SECONDS)
    ends = await world.ends(world.purchases)
    assert ends["read_committed"] < ends["read_uncommitted"], "it is open"
    began = time.monotonic()
    successor = await world.opened(ExactlyOnce)
    assert time.monotonic() - began < 3.0
    ends = await world.ends(world.purchases)
    assert ends["read_committed"] == ends["read_uncommitted"], "nothing is open any more"
    assert await world.visible() == []
    assert await successor.committed() is None
    last_act.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await last_act


# Trap 2: late copies of a request that was retried

TRANSACTIONAL = {
    "AddPartitionsToTxn": ADD_PARTITIONS_TO_TXN,
    "AddOffsetsToTxn": 25,
    "EndTxn": 26,
    "TxnOffsetCommit": 28,
}


@pytest.mark.parametrize("request_arrives", [True, False], ids=["answer lost", "request lost"])
@pytest.mark.parametrize("name", TRANSACTIONAL)
async def test_a_transactional_request_that_was_retried_is_finished_and_then_a_reason_to_rebuild(
    far_world: World, proxy: Proxy, name: str, request_arrives: bool
) -> None:
    guarantee = await far_world.opened(ExactlyOnce)
    await guarantee.commit(transaction(b"one", next_offset=1))
    proxy.cut(TRANSACTIONAL[name], request_arrives=request_arrives)
    with pytest.raises(RebuildTaskError, match="committed, but a transactional request was repeated"):
        await guarantee.commit(transaction(b"two", next_offset=2))
    assert proxy.cuts == 1
    await guarantee.close()
    successor = await far_world.opened(ExactlyOnce)
    assert await successor.committed() == 2
    await successor.commit(transaction(b"three", next_offset=3))
    assert await far_world.visible() == [b"one", b"two", b"three"]


@pytest.mark.parametrize("request_arrives", [True, False], ids=["answer lost", "request lost"])
@pytest.mark.parametrize("request_kind", [PRODUCE, INIT_PRODUCER_ID], ids=["Produce", "InitProducerId"])
async def test_requests_whose_late_copies_do_no_harm_are_no_reason_to_rebuild(
    far_world: World, proxy: Proxy, request_kind: int, request_arrives: bool
) -> None:
    proxy.cut(request_kind, request_arrives=request_arrives)
    guarantee = await far_world.opened(ExactlyOnce)
    await guarantee.commit(transaction(b"one", next_offset=1))
    await guarantee.commit(transaction(b"two", next_offset=2))
    assert proxy.cuts == 1
    assert await far_world.visible() == [b"one", b"two"]


# Trap 7: a connection lost at the wrong moment ends the client's sender without a word


async def test_a_connection_lost_while_the_coordinator_is_looked_for_is_mended_by_a_rebuild(
    far_world: World, proxy: Proxy
) -> None:
    guarantee = await far_world.opened(ExactlyOnce, deadline_seconds=2)
    proxy.cut(FIND_COORDINATOR, request_arrives=False)
    with pytest.raises(RebuildTaskError):
        await guarantee.commit(transaction(b"never sent", next_offset=1))
    assert proxy.cuts == 1
    await guarantee.close()
    successor = await far_world.opened(ExactlyOnce)
    assert await successor.committed() is None
    await successor.commit(transaction(b"after", next_offset=1))
    assert await far_world.visible() == [b"after"]
