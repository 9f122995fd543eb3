"""Waits that something else may end."""

from __future__ import annotations

import asyncio

import pytest

from shared.waiting import unless_ended, watched

LONG_SECONDS = 30.0


async def given(what: str, cancelled: asyncio.Event | None = None, *, seconds: float = 0.0) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if cancelled is not None:
            cancelled.set()
        raise
    return what


async def test_what_comes_first_is_returned() -> None:
    async with watched(asyncio.Event()) as ends:
        assert await unless_ended(given("it"), ends, seconds=LONG_SECONDS) == "it"


async def test_an_end_cuts_it_off_at_once() -> None:
    event, cancelled = asyncio.Event(), asyncio.Event()
    async with watched(asyncio.Event(), event) as ends, asyncio.timeout(LONG_SECONDS / 2):
        asyncio.get_running_loop().call_soon(event.set)
        late = given("late", cancelled, seconds=LONG_SECONDS)
        assert await unless_ended(late, ends, seconds=LONG_SECONDS) is None
    assert cancelled.is_set(), "it was awaited after it was cancelled"


async def test_an_end_that_has_come_cuts_off_what_is_asked_for_later() -> None:
    event = asyncio.Event()
    event.set()
    async with watched(event) as ends, asyncio.timeout(LONG_SECONDS / 2):
        for _ in range(2):
            assert await unless_ended(given("late", seconds=LONG_SECONDS), ends, seconds=LONG_SECONDS) is None


async def test_so_does_the_end_of_the_time() -> None:
    cancelled = asyncio.Event()
    async with watched(asyncio.Event()) as ends:
        assert await unless_ended(given("late", cancelled, seconds=LONG_SECONDS), ends, seconds=0.01) is None
    assert cancelled.is_set()


async def test_a_failure_is_raised() -> None:
    async def fails() -> None:
        raise ValueError("it failed")

    async with watched(asyncio.Event()) as ends:
        with pytest.raises(ValueError, match="it failed"):
            await unless_ended(fails(), ends, seconds=LONG_SECONDS)


async def test_nothing_is_left_when_the_caller_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def waits() -> None:
        async with watched(asyncio.Event()) as ends:
            await unless_ended(given("late", cancelled, seconds=LONG_SECONDS), ends, seconds=LONG_SECONDS)

    caller = asyncio.create_task(waits())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert cancelled.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}
