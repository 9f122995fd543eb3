"""A request leaves only while its session may deliver: that is asked when it is written. Real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
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
from tests.integration.receiver import Receiver, Reply, receiving

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

    def lapse(self) -> None:
        self._may_deliver = False

    def comes_back(self) -> None:
        self._may_deliver = True

    def take(self, now: float) -> Parcel | None:
        return self.lanes.take(now) if self._may_deliver else None

    def may_deliver(self) -> bool:
        if self._left:
            self._left -= 1
            self.lapse()
            self.lapsed.set()
        return self._may_deliver

    def wakes_at(self) -> float | None:
        return self.lanes.wakes_at() if self._may_deliver else None

    def finished(self, _parcel: Parcel) -> None:
        self.delivered.set()


async def until(there: Callable[[], bool]) -> None:
    """Wait for what is bound to come."""
    async with asyncio.timeout(10):
        while not there():  # noqa: ASYNC110 — the pool tells nobody
            await asyncio.sleep(0.001)


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


async def test_an_answer_that_came_before_its_request_delivers_nothing() -> None:
    """A receiver that says something on its own has not taken what is about to be sent."""
    ended, is_idle, said = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        for unasked in (False, True):
            if unasked:
                await is_idle.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        said.set()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        async with Webhook(
            url, token=None, timeout_seconds=5, connections=1, wall_clock=time.time
        ) as webhook:
            first = await webhook.post(b"{}", {}, may_send=lambda: True)
            is_idle.set()
            await said.wait()
            await asyncio.sleep(0.1)  # It is on the way to the client, which tells nobody.
            second = await webhook.post(b"{}", {}, may_send=lambda: False)
        assert first.outcome is Outcome.DELIVERED
        # Which one depends on whether the body was asked by then.
        assert second.outcome in {Outcome.FAILED, Outcome.UNSENT}
        await asyncio.wait_for(ended.wait(), 5)


def delivering(webhook: Webhook, *, attempts: int) -> Pool:
    """Return two workers that may not write dead letters."""
    retrying = Retrying(attempts, 0.01, 0.01, Random(1))
    return Pool(2, webhook, retrying, cast("Any", None), prefix="", log=logs.get("test"))


@asynccontextmanager
async def running(pool: Pool, session: Lapsing) -> AsyncIterator[None]:
    """Let a pool deliver a session's one parcel."""
    record = Made(0)
    session.lanes.put(Parcel(record, record))
    pool.add(session)
    task = asyncio.create_task(pool.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_was_not_sent_is_no_attempt_and_comes_when_the_session_is_back(
    webhook: Webhook, receiver: Receiver
) -> None:
    pool, session = delivering(webhook, attempts=1), Lapsing(lapses=3)
    async with running(pool, session):
        for _ in range(3):
            await asyncio.wait_for(session.lapsed.wait(), 10)
            session.lapsed.clear()
            await until(lambda: session.lanes.wakes_at() is not None)
            session.comes_back()
            pool.wake()
        await asyncio.wait_for(session.delivered.wait(), 10)
    assert [one.headers["Tandem-Attempt"] for one in receiver.received] == ["1"]
    figures = session.meter.figures()
    assert (figures["delivered"], figures["failed_attempts"], session.lanes.records) == (1, 0, 0)


async def test_a_failure_counts_only_where_the_session_may_deliver_when_it_is_known(
    webhook: Webhook, receiver: Receiver
) -> None:
    pool, session = delivering(webhook, attempts=1), Lapsing(lapses=0)

    def refuse(_headers: dict[str, str], _body: bytes) -> Reply:
        session.lapse()
        return Reply(400)

    receiver.answers = refuse
    async with running(pool, session):
        await until(lambda: session.lanes.wakes_at() is not None)
        receiver.answers = lambda _headers, _body: Reply()
        session.comes_back()
        pool.wake()
        await asyncio.wait_for(session.delivered.wait(), 10)
    assert [(one.status, one.headers["Tandem-Attempt"]) for one in receiver.received] == [
        (400, "1"),
        (200, "1"),
    ]
    assert session.meter.figures()["failed_attempts"] == 0
