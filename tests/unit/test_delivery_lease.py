"""The lease of a delivery: only who is known to be a member delivers, and hears of it in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaTimeoutError
from aiokafka.structs import TopicPartition

from services.processor.delivery.committing import Committer
from services.processor.delivery.lanes import Parcel
from services.processor.delivery.session import DeliverySession
from services.processor.settings import ProcessorSettings
from shared import logs

PLACE = TopicPartition("t", 0)
LEASE_SECONDS = 1.2
# A round of commits, what follows a failure, and this machine's delays.
LATE_SECONDS = 1.0


class Commits:
    """Commits of a group that does as it is told. In place of what asks Kafka, not of Kafka's client."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answer: Callable[[], Any] = lambda: asyncio.sleep(0)

    def writer(self, place: TopicPartition) -> object:
        return place

    async def commit_all(self, offsets: dict[TopicPartition, int], *, writer: object) -> None:
        assert (set(offsets), writer) == ({PLACE}, PLACE)
        self.asked.append(asyncio.get_running_loop().time())
        await self.answer()


class Told:
    """What a committer says of its lease."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.regained = asyncio.Event()


@asynccontextmanager
async def committing(commits: Commits, *, run: bool = True) -> AsyncIterator[tuple[Committer, Told]]:
    told = Told()
    committer = Committer(
        cast("Any", commits),
        topic="t",
        group="g",
        lease_seconds=LEASE_SECONDS,
        deadline_seconds=30,
        needs=(),
        is_wanted=lambda: True,
        on_lease=told.regained.set,
        on_lost=told.lost.set,
        on_committed=lambda: None,
        log=logs.get("test"),
    )
    committer.begin(PLACE, 5, committed=5)
    task = asyncio.create_task(committer.run() if run else asyncio.sleep(0))
    try:
        yield committer, told
    finally:
        task.cancel()
        await asyncio.wait([task])


async def fail() -> None:
    raise KafkaTimeoutError


async def hang() -> None:
    await asyncio.Event().wait()


async def seconds_until(event: asyncio.Event) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.wait_for(event.wait(), 10)
    return loop.time() - begun


async def test_a_lease_is_kept_by_commits_though_nothing_moves() -> None:
    commits = Commits()
    async with committing(commits) as (committer, told):
        await asyncio.sleep(3 * LEASE_SECONDS)
        assert committer.has_lease
        assert 0 < committer.lease_left_seconds <= LEASE_SECONDS
    assert not told.lost.is_set()
    assert len(commits.asked) >= 2


async def test_it_is_lost_with_commits_that_fail_and_comes_back_with_one_that_does_not() -> None:
    commits = Commits()
    commits.answer = fail
    async with committing(commits) as (committer, told):
        assert committer.has_lease
        assert await seconds_until(told.lost) < LEASE_SECONDS + LATE_SECONDS
        assert (committer.has_lease, committer.lease_left_seconds) == (False, 0)
        assert not told.regained.is_set()
        commits.answer = lambda: asyncio.sleep(0)
        await seconds_until(told.regained)
        assert committer.has_lease


async def test_who_loses_it_is_told_while_a_commit_is_under_way() -> None:
    commits = Commits()
    commits.answer = hang
    async with committing(commits) as (committer, told):
        assert await seconds_until(told.lost) < LEASE_SECONDS + LATE_SECONDS
        assert not committer.has_lease


async def test_who_loses_it_between_two_commits_is_told_before_the_next_one_is_answered() -> None:
    commits = Commits()

    async def fail_once() -> None:
        commits.answer = hang
        await fail()

    commits.answer = fail_once
    async with committing(commits) as (committer, told):
        committer.unfinished[PLACE].read(5)
        committer.unfinished[PLACE].finish(5)
        assert await seconds_until(told.lost) < LEASE_SECONDS + LATE_SECONDS


async def test_a_commit_that_outlives_the_lease_brings_it_back() -> None:
    """It is sent while there is one, and answered when there is none."""
    commits = Commits()
    async with committing(commits, run=False) as (committer, told):

        async def late() -> None:
            # Without going round: no deadline comes before the answer.
            time.sleep(committer.lease_left_seconds + 0.01)  # noqa: ASYNC251 — see above

        commits.answer = late
        committer.unfinished[PLACE].read(5)
        committer.unfinished[PLACE].finish(5)
        await asyncio.sleep(committer.lease_left_seconds / 2)
        assert committer.has_lease
        await committer.commit()
        assert told.regained.is_set()
        assert committer.has_lease


async def test_what_fails_at_once_is_not_asked_again_at_once() -> None:
    commits = Commits()
    commits.answer = fail
    async with committing(commits) as (committer, _):
        begun = asyncio.get_running_loop().time()
        for _ in range(100):
            committer.commit_soon()
            await asyncio.sleep(0.01)
        seconds = asyncio.get_running_loop().time() - begun
    assert 2 <= len(commits.asked) <= seconds / 0.25 + 1


@pytest.mark.parametrize("timeouts", [(1, 60), (60, 1.5)], ids=["short session", "short rebalance"])
async def test_a_session_may_deliver_as_long_as_kafka_keeps_its_partitions(
    timeouts: tuple[float, float],
) -> None:
    named: dict[str, Any] = dict(
        zip(("session_timeout_seconds", "rebalance_timeout_seconds"), timeouts, strict=True)
    )
    unused = cast("Any", SimpleNamespace(commits=None, wake=None, committed=None))
    session = DeliverySession(
        "purchases",
        [PLACE],
        group="g",
        membership=unused,
        make_consumer=unused,
        pool=unused,
        meter=unused,
        settings=ProcessorSettings(**named),
        deadline_seconds=30,
        patience=unused,
        on_round=lambda: None,
        log=logs.get("test"),
    )
    record = SimpleNamespace(partition=0, key=b"k", value=b"", offset=0)
    for _ in range(2):
        session.lanes.put(Parcel(record, record))
    assert session.may_deliver()
    # Without a turn of the loop: as one that is frozen.
    time.sleep(1.06)  # noqa: ASYNC251 — see above
    assert not session.may_deliver()
    assert session.take(time.monotonic()) is None
