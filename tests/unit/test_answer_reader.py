"""The reader of whole answers against asyncio's own, which it stands in for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.answer_reader import AnswerReader

LIMIT = 16


@dataclass
class Transport:
    """Notes what it is told, as a socket's would do it."""

    told: list[str] = field(default_factory=list)

    def is_paused(self) -> bool:
        return self.told[-1:] == ["pause"]

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


def reader(*, ours: bool, early: bytes = b"") -> tuple[asyncio.StreamReader, Transport]:
    made, transport = asyncio.StreamReader(limit=LIMIT), Transport()
    made.set_transport(transport)  # type: ignore[arg-type]  # all of one that a reader uses
    if early:
        made.feed_data(early)
    if ours:
        made.__class__ = AnswerReader
        assert isinstance(made, AnswerReader)
        made.begin()
    return made, transport


async def read_all(made: asyncio.StreamReader, chunks: list[bytes], sizes: list[int]) -> list[object]:
    """Feed chunks one by one, and read so many bytes each meanwhile; then the stream ends."""

    async def read() -> list[object]:
        found: list[object] = []
        for size in sizes:
            try:
                found.append(await made.readexactly(size))
            except asyncio.IncompleteReadError as error:
                found.append((error.partial, error.expected))
            except ValueError:
                found.append("no size")
        return found

    reading = asyncio.create_task(read())
    for chunk in chunks:
        made.feed_data(chunk)
        await asyncio.sleep(0)
    made.feed_eof()
    async with asyncio.timeout(5):
        found = await reading
    return [*found, made.at_eof()]


@given(
    early=st.binary(max_size=5),
    chunks=st.lists(st.binary(max_size=80)),
    sizes=st.lists(st.integers(-3, 100)),
)
def test_the_same_bytes_come_however_they_are_cut(
    early: bytes, chunks: list[bytes], sizes: list[int]
) -> None:
    async def both() -> None:
        (ours, _), (theirs, _) = reader(ours=True, early=early), reader(ours=False, early=early)
        assert await read_all(ours, chunks, sizes) == await read_all(theirs, chunks, sizes)

    asyncio.run(both())


async def test_what_was_not_asked_for_is_bounded() -> None:
    made, transport = reader(ours=True)
    made.feed_data(b"x" * 2 * LIMIT)
    assert not transport.is_paused()
    made.feed_data(b"x")
    assert transport.is_paused()
    await made.readexactly(LIMIT)
    assert transport.is_paused(), "more than the limit is left"
    await made.readexactly(1)
    assert not transport.is_paused()
    assert transport.told == ["pause", "resume"]


async def test_an_answer_larger_than_the_limit_comes_without_a_pause() -> None:
    made, transport = reader(ours=True)
    reading = asyncio.create_task(made.readexactly(10 * LIMIT))
    await asyncio.sleep(0)
    for _ in range(10):
        made.feed_data(b"x" * LIMIT)
    assert len(await reading) == 10 * LIMIT
    assert transport.told == []


async def test_what_is_paused_goes_on_when_more_is_asked_for_than_is_there() -> None:
    made, transport = reader(ours=True)
    made.feed_data(b"x" * (2 * LIMIT + 1))
    assert transport.is_paused()
    reading = asyncio.create_task(made.readexactly(3 * LIMIT))
    await asyncio.sleep(0)
    assert not transport.is_paused()
    made.feed_data(b"x" * LIMIT)
    assert len(await reading) == 3 * LIMIT


async def test_who_waits_for_an_answer_is_woken_once() -> None:
    made, _ = reader(ours=True)
    reading = asyncio.create_task(made.readexactly(3))
    for chunk in (b"a", b"b"):
        await asyncio.sleep(0)
        made.feed_data(chunk)
        await asyncio.sleep(0)
        assert made._waiter is not None, "it waits for the third"  # type: ignore[attr-defined]  # asyncio's own
    made.feed_data(b"c")
    assert await reading == b"abc"


@pytest.mark.parametrize("waits", [True, False], ids=["to who waits", "to who comes"])
async def test_a_failure_of_the_connection_is_told(waits: bool) -> None:
    made, _ = reader(ours=True)
    reading = asyncio.create_task(made.readexactly(3))
    if waits:
        await asyncio.sleep(0)
    made.set_exception(ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError, match="gone"):
        await reading
