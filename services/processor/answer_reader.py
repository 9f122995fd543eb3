"""Reads a broker's answers off a connection with one copy, where the client's reader makes four.

The client reads with asyncio's `StreamReader`: each chunk that arrives goes into a buffer, which grows and
moves as it fills, wakes the reading task, and is copied out of it when the answer is whole. An answer to a
fetch is a megabyte in sixteen chunks. Here the chunks are kept as they came, the task is woken when the
answer is whole, and they are joined once.

This reaches into the client's internals: it was checked with the client version below, and on any other the
client is left as it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import FunctionType, MethodType
from typing import Any

import aiokafka
from aiokafka import client, conn

from shared.header_names import CHECKED_VERSION


class AnswerReader(asyncio.StreamReader):
    """A stream that is read by `readexactly` alone, of which it keeps the promises.

    What has arrived and not been asked for is bounded as by asyncio: at twice the limit reading is paused.
    """

    _buffer: bytearray
    _limit: int
    _eof: bool
    _exception: Exception | None
    _transport: asyncio.ReadTransport | None
    _paused: bool
    _waiter: asyncio.Future[None] | None
    _loop: asyncio.AbstractEventLoop
    _chunks: deque[bytes]
    _arrived: int
    _wanted: int

    def begin(self) -> None:
        """Take over from a `StreamReader` that nothing was read from, and whose class was changed."""
        early = bytes(self._buffer)
        self._chunks = deque([early] if early else ())
        self._arrived = len(early)
        self._wanted = 0

    def at_eof(self) -> bool:
        """Say whether everything was read and the other side has ended."""
        return self._eof and not self._arrived

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # what transports give
        """Take a chunk in; wake who reads when what it asked for is there."""
        if not data:
            return
        self._chunks.append(data)
        self._arrived += len(data)
        if self._arrived >= self._wanted:
            self._wakeup_waiter()  # type: ignore[attr-defined]  # asyncio's own
            if (
                self._transport is not None
                and not self._paused
                and self._arrived > self._wanted + 2 * self._limit
            ):
                self._transport.pause_reading()
                self._paused = True

    async def readexactly(self, n: int) -> bytes:
        """Return the next `n` bytes.

        Raises:
            IncompleteReadError: the stream ended before.
            ValueError: `n` is negative: a length from somebody who is no broker.
        """
        if n < 0:
            raise ValueError(f"{n} bytes can't be read")
        if self._exception is not None:
            raise self._exception
        self._wanted = n
        while self._arrived < n:
            if self._eof:
                rest = self._take(self._arrived)
                raise asyncio.IncompleteReadError(rest, n)
            await self._wait_for_data("readexactly")  # type: ignore[attr-defined]  # asyncio's own
        self._wanted = 0
        data = self._take(n)
        if self._paused and self._arrived <= self._limit:
            assert self._transport is not None, "it was paused"
            self._paused = False
            self._transport.resume_reading()
        return data

    def _take(self, size: int) -> bytes:
        taken: list[bytes] = []
        missing = size
        while missing:
            chunk = self._chunks.popleft()
            if len(chunk) > missing:
                self._chunks.appendleft(chunk[missing:])
                chunk = chunk[:missing]
            taken.append(chunk)
            missing -= len(chunk)
        self._arrived -= size
        return taken[0] if len(taken) == 1 else b"".join(taken)


class _Connection(conn.AIOKafkaConnection):  # type: ignore[misc]  # the client has no types
    def _create_reader_task(self) -> Any:
        # The transport feeds it already: it can't be another object.
        self._reader.__class__ = AnswerReader
        self._reader.begin()
        return super()._create_reader_task()


def read_answers_whole(consumer: aiokafka.AIOKafkaConsumer) -> bool:
    """Let the connections that `consumer` (started) opens from now on read as this module does.

    Returns:
        False where this client version was not checked: the consumer is left as it is.
    """
    stock = client.AIOKafkaClient._get_conn  # noqa: SLF001 — see the module's docstring
    if aiokafka.__version__ != CHECKED_VERSION or stock.__closure__ is not None:
        return False
    # As `shared.header_names` does it: functions with globals of their own, for this consumer alone.
    create = _with(conn.create_conn, AIOKafkaConnection=_Connection)
    consumer._client._get_conn = MethodType(_with(stock, create_conn=create), consumer._client)  # noqa: SLF001
    return True


def _with(function: Any, **names: Any) -> Any:
    copy = FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
