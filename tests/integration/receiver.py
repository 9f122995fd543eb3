"""A webhook to deliver to: it answers as a test wants it to, and remembers what it was sent."""

from __future__ import annotations

import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request, and when it came and was answered (monotonic seconds)."""

    headers: dict[str, str]
    body: bytes
    began: float
    ended: float
    status: int

    @property
    def name(self) -> str:
        """Its idempotency key."""
        return self.headers["Idempotency-Key"]


@dataclass(frozen=True)
class Reply:
    """What is answered; without a status the connection is closed instead."""

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None


Answers = Callable[[dict[str, str], bytes], Reply]


class Receiver:
    """The running webhook.

    Attributes:
        answers: is asked for each answer, in a thread of the request; may sleep.
        most_at_once: how many requests there were at a time.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.answers: Answers = lambda _headers, _body: Reply()
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self._received: list[Received] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Say nothing of a client that breaks off."""

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}/hook?secret=hush"

    def take(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        began = time.monotonic()
        headers = dict(request.headers)
        body = request.rfile.read(int(headers.get("Content-Length", 0)))
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            reply = self.answers(headers, body)
        finally:
            with self._lock:
                self._now -= 1
        with self._lock:
            status = 0 if reply.raw is not None else reply.status or 0
            self._received.append(Received(headers, body, began, time.monotonic(), status))
        try:
            if reply.raw is not None or reply.status is None:
                request.wfile.write(reply.raw or b"")
                request.close_connection = True
                return
            request.send_response(reply.status)
            for name, value in reply.headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(reply.body)))
            request.end_headers()
            request.wfile.write(reply.body)
        except ConnectionError:
            request.close_connection = True  # It was killed, or gave up waiting.

    @property
    def received(self) -> list[Received]:
        """All requests that were answered, in the order of the answers."""
        with self._lock:
            return list(self._received)

    def taken(self) -> dict[str, int]:
        """Return how often each idempotency key was answered with 2xx."""
        counts: dict[str, int] = defaultdict(int)
        for one in self.received:
            if 200 <= one.status < 300:
                counts[one.name] += 1
        return dict(counts)


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a webhook on a free loopback port, with TLS if there is a context."""
    receiver = Receiver(tls)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join(10)
