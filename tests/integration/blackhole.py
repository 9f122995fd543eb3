"""A way to a broker that can turn into a black hole: connections are taken, and nothing ever comes back."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self

from sandbox.ports import HOST

_LOOK_SECONDS = 0.1
_PIECE_BYTES = 65_536


class Blackhole:
    """Hands everything on both ways, in a thread of its own, until `swallow` is called.

    Attributes:
        port: where clients connect.
        target: where the broker listens: to be set before anybody connects.
    """

    def __init__(self) -> None:
        self.target = 0
        self._server = socket.create_server((HOST, 0))
        self.port: int = self._server.getsockname()[1]
        self._server.setblocking(False)
        self._other: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._swallows = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="blackhole", daemon=True)

    def __enter__(self) -> Self:
        self._selector.register(self._server, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            sock.close()
        self._selector.close()

    def swallow(self) -> None:
        """From now on take connections and bytes, and let nothing out."""
        self._swallows.set()

    def _run(self) -> None:
        while not self._ending.is_set():
            for key, _ in self._selector.select(_LOOK_SECONDS):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._server:
                    self._accept()
                elif sock in self._other:
                    self._pass_on(sock)

    def _accept(self) -> None:
        client, _ = self._server.accept()
        try:
            broker = socket.create_connection((HOST, self.target))
        except OSError:
            client.close()  # There is no broker: whoever connects is to see that.
            return
        for one, other in ((client, broker), (broker, client)):
            self._other[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, sock: socket.socket) -> None:
        other = self._other[sock]
        try:
            data = sock.recv(_PIECE_BYTES)
            if data and not self._swallows.is_set():
                other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for one in (sock, other):
                del self._other[one]
                with contextlib.suppress(KeyError):
                    self._selector.unregister(one)
                one.close()
