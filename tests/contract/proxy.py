"""A proxy between clients and a broker that breaks one connection at one request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Self

from sandbox.ports import HOST

# Kinds of requests, https://kafka.apache.org/protocol#protocol_api_keys
PRODUCE, FIND_COORDINATOR, INIT_PRODUCER_ID, ADD_PARTITIONS_TO_TXN = 0, 10, 22, 24


class Proxy:
    """Hands everything on as it is. `cut` breaks the client's connection at one request, once.

    Args:
        listening: where clients, and the broker itself, connect; stays open.
        target: the port at which the broker listens.
    """

    def __init__(self, listening: socket.socket, target: int) -> None:
        self.port: int = listening.getsockname()[1]
        self._listening = listening
        self.cuts = 0
        self._target = target
        self._request: int | None = None
        self._request_arrives = True
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def cut(self, request: int, *, request_arrives: bool) -> None:
        """Break the connection at the next request of this kind: its answer is lost, or it is itself."""
        self._request, self._request_arrives = request, request_arrives

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, sock=self._listening.dup())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            to_reader, to_writer = await asyncio.open_connection(HOST, self._target)
            try:
                answers = asyncio.create_task(self._answers(to_reader, writer))
                with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                    await self._requests(reader, to_writer, writer)
                # A request that was handed on is let through to its end.
                await asyncio.wait({answers}, timeout=0.2)
                answers.cancel()
            finally:
                to_writer.close()
        except OSError:
            pass  # The broker is gone, or closed first: so do we.
        finally:
            writer.close()
            del self._connections[task]

    async def _requests(
        self, reader: asyncio.StreamReader, to_writer: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            size = await reader.readexactly(4)
            request = await reader.readexactly(int.from_bytes(size))
            kind, version = struct.unpack_from(">hh", request)
            # From version 4 on this one is the broker's own, to itself.
            is_cut = kind == self._request and (kind != ADD_PARTITIONS_TO_TXN or version < 4)
            if is_cut:
                self._request = None
                self.cuts += 1
                writer.transport.abort()
            if not is_cut or self._request_arrives:
                to_writer.write(size + request)
                await to_writer.drain()
            if is_cut:
                return

    @staticmethod
    async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if not writer.transport.is_closing():
                    writer.write(data)
                    await writer.drain()
        writer.close()
