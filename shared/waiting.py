"""Waits that something else may end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def watched(*events: asyncio.Event) -> AsyncIterator[Collection[asyncio.Future[Any]]]:
    """Give, for the length of a block, what `unless_ended` takes: done as soon as its event is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        yield waits
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def unless_ended(
    wanted: Awaitable[T], ends: Collection[asyncio.Future[Any]], *, seconds: float
) -> T | None:
    """Return what `wanted` gives; None where an end came first or the time was over.

    It is cancelled then, and awaited.

    Raises:
        Exception: what `wanted` raises.
    """
    waiting = asyncio.ensure_future(wanted)
    try:
        await asyncio.wait({waiting, *ends}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        if waiting.cancel():
            await asyncio.wait({waiting}, timeout=seconds)
