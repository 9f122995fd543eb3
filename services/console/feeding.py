"""Hands what is read line by line to an event loop that must not wait for it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TypeVar

from shared.errors import TandemError

ItemT = TypeVar("ItemT")

_AHEAD = 100
_CHUNK_BYTES = 64 * 1024
_LONGEST_LINE_BYTES = 32 * 2**20


def lines_of(descriptor: int) -> Iterator[bytes]:
    """Yield the lines of a pipe or a terminal as they come.

    Without Python's buffered files: one whose lock a thread holds at the end aborts the process.

    Raises:
        TandemError: a line has no end for 32 MiB.
    """
    rest = b""
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
        if len(rest) > _LONGEST_LINE_BYTES:
            raise TandemError(f"a line is longer than {_LONGEST_LINE_BYTES:,} bytes")
    if rest:
        yield rest


async def fed(items: Iterator[ItemT]) -> AsyncIterator[ItemT]:
    """Yield what a blocking iterator yields, read in a thread of its own, a hundred ahead at most.

    The thread is a daemon: one that waits for a pipe is not waited for when a command is interrupted.

    Raises:
        Exception: whatever the iterator raised.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[ItemT | BaseException | None] = asyncio.Queue(_AHEAD)

    def put(item: ItemT | BaseException | None) -> None:
        asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

    def read() -> None:
        # The loop may be gone, and with it whoever wanted this.
        with suppress(RuntimeError, asyncio.CancelledError):
            try:
                for item in items:
                    put(item)
            except Exception as error:  # noqa: BLE001 — raised on the other side
                put(error)
            else:
                put(None)

    threading.Thread(target=read, name="lines", daemon=True).start()
    while (item := await queue.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


async def taken(items: Iterator[ItemT]) -> AsyncIterator[ItemT]:
    """Yield what an iterator that never blocks yields."""
    for item in items:
        yield item
