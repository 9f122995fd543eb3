"""A request leaves only while its session may deliver: that is asked when it is written. Real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from services.processor.delivery.lanes import Lanes, Parcel
from services.processor.delivery.meter import DeliveryMeter
from services.processor.delivery.pool import Pool
from services.processor.delivery.retrying import Retrying
from services.processor.delivery.webhook import Outcome, Webhook
from shared import logs
from shared.metrics import DeliveryMetrics
from tests.integration.receiver import Receiver, receiving

TOPIC = "purchases"
KEY = "Idempotency-Key"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest_asyncio.fixture
async def webhook(receiver: Receiver) -> AsyncIterator[Webhook]:
    async with Webhook(
        receiver.url, token=None, timeout_seconds=10, connections=1, wall_clock=time.time
    ) as made:
        yield made


@dataclass(frozen=True)
class Made:
    """A record as the client gives it."""

    offset: int
    topic: str = TOPIC
    partition: int = 0
    timestamp: int = 0
    key: bytes | None = b"k"
    value: bytes | None = b"{}"


class Lapsing:
    """A session that may deliver when it gives a parcel out, and not any more when its request is written.

    So is one whose process was frozen in between. `lapses` says how often.
    """

    topic = TOPIC

    def __init__(self, *, lapses: int) -> None:
        self.lanes = Lanes()
        self.meter = DeliveryMeter(
            DeliveryMetrics(CollectorRegistry()),
            TOPIC,
            log_every=1000,
            clock=time.monotonic,
            wall_clock=time.time,
            log=logs.get("test"),
        )
        self.lapsed = asyncio.Event()
        self.delivered = asyncio.Event()
        self._left = lapses
        self._may_deliver = True

    def comes_back(self) -> None:
        self._may_deliver = True

    def take(self, now: float) -> Parcel | None:
        return self.lanes.take(now) if self._may_deliver else None

    def may_deliver(self) -> bool:
        if self._left:
            self._left -= 1
            self._may_deliver = False
            self.lapsed.set()
        return self._may_deliver

    def wakes_at(self) -> float | None:
        return self.lanes.wakes_at() if self._may_deliver else None

    def finished(self, _parcel: Parcel) -> None:
        self.delivered.set()


@pytest.mark.parametrize("value", [b"{}", b"", b"x" * 200_000], ids=["small", "empty", "large"])
async def test_nothing_of_a_request_leaves_that_may_not_be_sent_any_more(
    webhook: Webhook, receiver: Receiver, value: bytes
) -> None:
    # On a new connection, on one that is kept, and on the next one.
    for name, may_send in (("1", False), ("2", True), ("3", False), ("4", True)):
        answer = await webhook.post(value, {KEY: name}, may_send=lambda may=may_send: may)  # type: ignore[misc]
        assert answer.outcome is (Outcome.DELIVERED if may_send else Outcome.UNSENT)
    assert [(one.name, one.body) for one in receiver.received] == [("2", value), ("4", value)]


async def test_it_is_asked_behind_the_connection() -> None:
    """The connection is there, and the session is gone meanwhile."""
    permitted = True
    came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set_result(await reader.read())
        writer.close()

    def may_send() -> bool:
        return permitted

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with (
        server,
        Webhook(url, token=None, timeout_seconds=5, connections=1, wall_clock=time.time) as webhook,
    ):
        posting = asyncio.create_task(webhook.post(b"{}", {}, may_send=may_send))
        # One turn of the loop: its socket is on the way, nothing is written.
        await asyncio.sleep(0)
        permitted = False
        assert (await posting).outcome is Outcome.UNSENT
        assert await asyncio.wait_for(came, 5) == b""


async def test_what_was_not_sent_is_no_attempt_and_comes_when_the_session_is_back(
    webhook: Webhook, receiver: Receiver
) -> None:
    retrying = Retrying(2, 0.01, 0.01, Random(1))
    pool = Pool(2, webhook, retrying, cast("Any", None), prefix="", log=logs.get("test"))
    session = Lapsing(lapses=3)
    record = Made(0)
    session.lanes.put(Parcel(record, record))
    pool.add(session)
    running = asyncio.create_task(pool.run())
    try:
        for _ in range(3):
            await asyncio.wait_for(session.lapsed.wait(), 10)
            session.lapsed.clear()
            assert receiver.received == []
            session.comes_back()
            pool.wake()
        await asyncio.wait_for(session.delivered.wait(), 10)
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert [one.headers["Tandem-Attempt"] for one in receiver.received] == ["1"]
    figures = session.meter.figures()
    assert (figures["delivered"], figures["failed_attempts"]) == (1, 0)
    assert session.lanes.records == 0
