"""A network that can be made to fail: a TCP proxy before each broker, run by one thread.

Brokers tell the clients of one listener to connect to the proxies' ports; those of another listener (the
load, the verifier) reach them directly. Kafka's frames are told apart, both ways, so that a connection can
be cut exactly at one kind of request.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from sandbox.ports import HOST, free_ports
from tests.faults.wire import Api, Connection, Cut, Way, Weather, close

__all__ = ["Api", "Cut", "Network", "Way", "Weather"]

Found = TypeVar("Found")

CONNECTIONS = 1_000
CLOSE_SECONDS = 10.0
PORT_TRIES = 5


class Network:
    """Proxies before so many brokers, from entering to leaving; then no thread and no socket is left.

    `ports` are known from the start; `lead_to` says where they lead once the brokers run. All methods are
    for the thread that entered.

    Attributes:
        chance: the delays and the victims come from here.
        weather: of all connections; to be replaced.
        held, delayed, lost, dripped: frames (pieces of them) that this happened to, so far.
        connections: those that live.
    """

    def __init__(self, nodes: int) -> None:
        self._sockets = _listen(nodes)
        self.ports = [one.getsockname()[1] for one in self._sockets]
        self.chance = random.Random(0)
        self.weather = Weather()
        self.held = 0
        self.delayed = 0
        self.lost = 0
        self.dripped = 0
        self.targets: list[int] = []
        self.connections: set[Connection] = set()
        self._cut: Cut | None = None
        self._loop = asyncio.new_event_loop()
        self._open = [asyncio.Event() for _ in range(nodes)]
        self._servers: list[asyncio.Server] = []
        self._serving: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._serve())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_SECONDS)
            self._loop.close()

    @property
    def servers(self) -> str:
        """The address list of the proxies."""
        return ",".join(f"{HOST}:{port}" for port in self.ports)

    def lead_to(self, targets: Sequence[int]) -> None:
        """Say which ports on this machine the brokers listen on, node by node."""
        self.targets = list(targets)

    def live(self, node_ids: Iterable[int] = ()) -> int:
        """Return how many connections there are now, to these nodes or to all."""
        return self._on_loop(lambda: len(self._chosen(node_ids)))

    def cut(self, cut: Cut) -> Cut:
        """Break a connection at a request that is still to come. One is waited for at a time."""
        self._cut = cut
        return cut

    def reset(self, share: float) -> int:
        """Break this share of all connections, at least one if there is any; return how many."""

        def act() -> int:
            victims = self._share(share)
            for one in victims:
                one.abort()
            return len(victims)

        return self._on_loop(act)

    def drop(self, way: Way, share: float) -> int:
        """Lose one way of this share of the connections in silence, for good; return of how many."""

        def act() -> int:
            victims = self._share(share)
            for one in victims:
                one.dropped.add(way)
            return len(victims)

        return self._on_loop(act)

    def darken(self, node_ids: Iterable[int]) -> None:
        """Hold back all that is on its way from and to these nodes, without a word to either side."""
        chosen = list(node_ids)

        def act() -> None:
            for node_id in chosen:
                self._open[node_id - 1].clear()

        self._on_loop(act)

    def heal(self, *, late: bool = False) -> None:
        """End all faults. With `late`, what was held back arrives after all; else its connections break."""
        self.weather = Weather()
        self._cut = None

        def act() -> None:
            for one in self.connections:
                if one.dropped or not (late or self._open[one.node_id - 1].is_set()):
                    one.abort()
            for gate in self._open:
                gate.set()

        self._on_loop(act)

    # What follows runs on the loop's thread

    async def passes(self, node_id: int) -> None:
        """Wait while nothing passes from and to a node."""
        if not self._open[node_id - 1].is_set():
            self.held += 1
            await self._open[node_id - 1].wait()

    def cut_at(self, kind: int) -> Cut | None:
        """Return the cut that is due at this kind of request."""
        cut = self._cut
        if cut is None or cut.api.value != kind:
            return None
        if cut.skip:
            cut.skip -= 1
            return None
        self._cut = None
        return cut

    def _chosen(self, node_ids: Iterable[int]) -> list[Connection]:
        wanted = set(node_ids)
        return [one for one in self.connections if not wanted or one.node_id in wanted]

    def _share(self, share: float) -> list[Connection]:
        there = sorted(self.connections, key=lambda one: one.number)
        return self.chance.sample(there, min(len(there), max(1, round(share * len(there)))))

    async def _serve(self) -> None:
        for gate in self._open:
            gate.set()
        for index, listening in enumerate(self._sockets):

            async def accept(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, index: int = index
            ) -> None:
                await self._carry(index, reader, writer)

            self._servers.append(await asyncio.start_server(accept, sock=listening))

    async def _carry(self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._serving.add(this)
        try:
            if len(self.connections) < CONNECTIONS and self.targets:
                await Connection(self, index + 1, (reader, writer)).run(self.targets[index])
        except asyncio.CancelledError:
            pass  # By _close alone, which waits for this task.
        finally:
            await close(writer)
            self._serving.discard(this)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for one in self._serving:
            one.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=CLOSE_SECONDS / 2)
        for server in self._servers:
            await server.wait_closed()

    def _on_loop(self, act: Callable[[], Found]) -> Found:
        async def run() -> Found:
            return act()

        return self._call(run())

    def _call(self, doing: Awaitable[Found]) -> Found:
        async def run() -> Found:
            return await doing

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(CLOSE_SECONDS)


def _listen(count: int) -> list[socket.socket]:
    """Return so many listening sockets; another process may be faster to take a port that was free."""
    for _ in range(PORT_TRIES):
        made: list[socket.socket] = []
        try:
            for port in free_ports(count):
                made.append(socket.create_server((HOST, port)))  # noqa: PERF401 - closed if a later one fails
        except OSError:
            for one in made:
                one.close()
        else:
            return made
    raise OSError(f"no free ports for {count} proxies on {HOST}")
