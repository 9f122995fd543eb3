"""One connection through the proxy, frame by frame, and what can happen to it on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sandbox.ports import HOST

if TYPE_CHECKING:
    from tests.faults.proxy import Network

FRAMES_QUEUED = 16
FRAME_BYTES = 128 * 1024 * 1024
PIECE_BYTES = 2_048
ANSWER_SECONDS = 10.0
FLUSH_SECONDS = 2.0


class Api(Enum):
    """Kinds of requests. https://kafka.apache.org/protocol#protocol_api_keys"""

    PRODUCE = 0
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


class Way(Enum):
    """A direction of a connection, seen from the client."""

    REQUESTS = "requests"
    ANSWERS = "answers"


@dataclass
class Cut:
    """The client's connection breaks at one request, after `skip` of its kind went through.

    Attributes:
        api: which kind of request.
        arrives: whether the broker gets it all the same; the answer is lost.
        late_seconds: how long it is on its way then: the client has long connected anew.
        done: whether the connection was broken.
        handled: whether the broker answered the request after that.
    """

    api: Api
    arrives: bool
    skip: int = 0
    late_seconds: float = 0.0
    done: bool = False
    handled: bool = False


@dataclass(frozen=True)
class Weather:
    """What is done to all that passes.

    Attributes:
        delay_seconds: of each frame, from and to; drawn anew for each, the order stays.
        bytes_per_second: of each connection and way; 0 is unlimited.
    """

    delay_seconds: tuple[float, float] = (0.0, 0.0)
    bytes_per_second: float = 0.0


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Queue = asyncio.Queue[tuple[float, bytes]]
_numbers = itertools.count()


class _OverError(Exception):
    """The connection has ended."""


class Connection:
    """A client's connection and its other half to the broker."""

    def __init__(self, network: Network, node_id: int, client: Ends) -> None:
        self.network = network
        self.node_id = node_id
        self.number = next(_numbers)
        self.dropped: set[Way] = set()
        self._client_reads, self._client = client
        self._broker: asyncio.StreamWriter | None = None
        self._waits_for: bytes | None = None
        self._answered = asyncio.Event()

    def abort(self) -> None:
        """Reset it, on both sides."""
        self._client.transport.abort()
        if self._broker is not None:
            self._broker.transport.abort()

    async def run(self, target: int) -> None:
        """Hand on until either side, or a fault, ends it."""
        try:
            broker_reads, self._broker = await asyncio.open_connection(HOST, target)
        except OSError:
            self._client.transport.abort()  # Nobody listens there: so neither do we.
            return
        requests: Queue = asyncio.Queue(FRAMES_QUEUED)
        answers: Queue = asyncio.Queue(FRAMES_QUEUED)
        self.network.connections.add(self)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._take_requests(requests))
                group.create_task(self._take_answers(broker_reads, answers))
                group.create_task(self._hand_on(Way.REQUESTS, requests, self._broker))
                group.create_task(self._hand_on(Way.ANSWERS, answers, self._client))
        except* (_OverError, OSError):
            pass
        finally:
            self.network.connections.discard(self)
            self._client.transport.abort()
            # What was handed on arrives, unless the fault was a reset.
            self._broker.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(self._broker.wait_closed(), FLUSH_SECONDS)
            await close(self._broker)

    async def _take_requests(self, queue: Queue) -> None:
        while frame := await _frame(self._client_reads):
            cut = self.network.cut_at(struct.unpack_from(">h", frame, 4)[0])
            if cut is None:
                await queue.put((self._due(), frame))
            else:
                await self._break_at(cut, frame, queue)
        # What was sent before the client went away is on its way, and arrives.
        await queue.put((self._due(), b""))

    async def _break_at(self, cut: Cut, frame: bytes, queue: Queue) -> None:
        self._waits_for = frame[8:12]  # the correlation id
        self._client.transport.abort()
        cut.done = True
        if cut.arrives:
            await queue.put((time.monotonic() + cut.late_seconds, frame))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), cut.late_seconds + ANSWER_SECONDS)
                cut.handled = True
        raise _OverError

    async def _take_answers(self, reads: asyncio.StreamReader, queue: Queue) -> None:
        while frame := await _frame(reads):
            if frame[4:8] == self._waits_for:
                self._answered.set()
            await queue.put((self._due(), frame))
        await queue.put((self._due(), b""))

    def _due(self) -> float:
        low, high = self.network.weather.delay_seconds
        self.network.delayed += high > 0
        return time.monotonic() + self.network.chance.uniform(low, high)

    async def _hand_on(self, way: Way, queue: Queue, writer: asyncio.StreamWriter) -> None:
        while True:
            due, frame = await queue.get()
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            await self.network.passes(self.node_id)
            if not frame:
                raise _OverError
            if way in self.dropped:
                self.network.lost += 1
            elif way is Way.REQUESTS or self._waits_for is None:
                await self._write(frame, writer)

    async def _write(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(frame), PIECE_BYTES):
            if not (rate := self.network.weather.bytes_per_second):
                writer.write(frame[at:])
                break
            piece = frame[at : at + PIECE_BYTES]
            writer.write(piece)
            self.network.dripped += 1
            await asyncio.sleep(len(piece) / rate)
        try:
            await writer.drain()
        except OSError:
            if self._waits_for is None or writer is not self._client:
                raise
            # The client was cut off in the middle of an answer; its request is still to be handed on.


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """Return one request or answer with its size before it, b"" at the end of the connection."""
    try:
        size = await reader.readexactly(4)
        count = int.from_bytes(size)
        if count > FRAME_BYTES:
            raise _OverError
        return size + await reader.readexactly(count)
    except asyncio.IncompleteReadError:
        return b""


async def close(writer: asyncio.StreamWriter) -> None:
    """Reset a connection's half, and wait until its socket is closed."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
