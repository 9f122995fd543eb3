"""What AtLeastOnce promises where no fence holds, on a real Kafka."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from sandbox import Sandbox
from services.processor.at_least_once import AtLeastOnce
from services.processor.partition import Transaction
from services.processor.replay import Replay
from services.processor.topology import Outputs
from shared.changelog import OFFSET_KEY, OffsetRecord
from shared.errors import KafkaUnavailableError, RebuildTaskError
from shared.results import encode
from tests.contract.guarantees import World, transaction

pytestmark = pytest.mark.timeout(90)


def step(key: bytes, value: bytes, *, next_offset: int) -> Transaction:
    """Return a step that changes one key of the state."""
    record = encode(OffsetRecord(1, "input", "group", next_offset, 1))
    return Transaction(Outputs(), [(key, value), (OFFSET_KEY, record)], next_offset, 1, [])


async def replayed(world: World) -> tuple[dict[bytes, bytes | None], int | None]:
    """Return the state as a restore finds it, and its offset."""
    state: dict[bytes, bytes | None] = {}
    replay = Replay(state.__setitem__)
    for record in await world.read(world.changelog):
        replay.take(record)
    return state, replay.offset_record.offset if replay.offset_record else None


class Watched(AtLeastOnce):
    """Notes the order of what is written."""

    async def open(self) -> None:
        self.done: list[str] = []
        await super().open()

    async def publish(self, producer: Any, transaction: Transaction) -> None:
        await super().publish(producer, transaction)
        self.done.append("results")

    async def save(self, producer: Any, transaction: Transaction) -> None:
        assert self.done == ["results"]
        await super().save(producer, transaction)
        self.done.append("changelog")

    async def send_offsets(self, producer: Any, transaction: Transaction) -> None:
        assert self.done == ["results", "changelog"]
        await super().send_offsets(producer, transaction)


async def test_results_come_before_the_state_and_the_state_before_the_offset(world: World) -> None:
    guarantee = await world.opened(Watched)
    await guarantee.commit(transaction(b"one", next_offset=1))
    assert guarantee.done == ["results", "changelog"]
    assert await guarantee.committed() == 1


async def test_who_is_not_assigned_the_partition_may_not_begin(world: World) -> None:
    member = await world.member()
    member.commits.begin(member.consumer, [TopicPartition(world.input.topic, 7)])
    guarantee = await world.guarantee(AtLeastOnce)
    await guarantee.open()
    with pytest.raises(KafkaUnavailableError, match="is not assigned to us just now"):
        await guarantee.claim()


async def test_a_commit_for_an_assignment_that_is_gone_is_not_even_sent(world: World) -> None:
    guarantee = await world.opened(AtLeastOnce)
    member = await world.member()
    member.commits.end()
    member.commits.begin(member.consumer, [])
    with pytest.raises(RebuildTaskError, match="the group has rebalanced"):
        await guarantee.commit(transaction(b"one", next_offset=1))
    assert await guarantee.committed() is None


async def test_a_commit_that_waits_is_ended_when_a_rebalance_begins(
    far_world: World, own_kafka: tuple[Sandbox, socket.socket]
) -> None:
    sandbox = own_kafka[0]
    guarantee = await far_world.opened(AtLeastOnce, deadline_seconds=30)
    commits = (await far_world.member()).commits
    sandbox.pause()
    try:
        assert guarantee._writer is not None
        waiting = asyncio.create_task(commits.commit(far_world.input, 1, writer=guarantee._writer))
        await asyncio.wait({waiting}, timeout=0.2)
        assert not waiting.done(), "it waits for the broker"
        commits.end()
        with pytest.raises(RebuildTaskError, match="the group has rebalanced"):
            await asyncio.wait_for(waiting, 10)
    finally:
        sandbox.resume()


async def test_a_zombie_s_offset_is_refused_and_its_state_is_left_out(world: World) -> None:
    zombie_member = await world.join()
    zombie = await world.opened(AtLeastOnce, member=zombie_member)
    await zombie.commit(step(b"users/1", b"before", next_offset=1))
    await zombie_member.freeze()
    # Joining takes until the session of the frozen one is over.
    successor = await world.opened(AtLeastOnce, member=await world.join())
    await successor.commit(step(b"users/1", b"after", next_offset=2))
    with pytest.raises(RebuildTaskError, match="CommitFailed"):
        await zombie.commit(step(b"users/1", b"from the grave", next_offset=100))
    assert await successor.committed() == 2
    assert await replayed(world) == ({b"users/1": b"after"}, 2)
    # It knows now, and does not begin anew, as a task does that failed.
    again = await world.guarantee(AtLeastOnce, member=zombie_member)
    await again.open()
    with pytest.raises(KafkaUnavailableError, match="is not assigned to us just now"):
        await again.claim()
    await successor.commit(step(b"users/1", b"still here", next_offset=3))
    assert await replayed(world) == ({b"users/1": b"still here"}, 3)


async def test_what_an_earlier_build_had_under_way_is_left_out(world: World) -> None:
    late = await world.opened(AtLeastOnce)
    await late.commit(step(b"users/1", b"before", next_offset=1))
    successor = await world.opened(AtLeastOnce)
    assert late._producer is not None
    await late.save(late._producer, step(b"users/1", b"late", next_offset=2))
    assert await replayed(world) == ({b"users/1": b"before"}, 1)
    await successor.commit(step(b"users/1", b"after", next_offset=3))
    assert await replayed(world) == ({b"users/1": b"after"}, 3)
