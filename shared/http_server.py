"""Health, metrics and statistics over HTTP, from a thread of their own.

```
probe ──▶ thread "http" ── /livez, /readyz ──▶ Health, directly: also while the event loop is blocked
                        ── /metrics, /stats ─▶ the service's event loop, within a bound
                        ── every half second ▶ LoopWatch
```
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from shared.errors import BadConfigurationError
from shared.health import EVENT_LOOP, Health
from shared.logs import Logger
from shared.loop_watch import TICK_SECONDS, LoopWatch
from shared.settings import HttpSettings

_SHUTDOWN_SECONDS = 1.0
_JOIN_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_BEAT_SECONDS = 0.5
_BEAT_BOUND_SECONDS = 10.0

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """Serves `/livez`, `/readyz`, `/metrics` and `/stats` from `start` to `stop`.

    Args:
        default_port: the service's own, used where `HTTP_PORT` is not set.
        stats: returns what `/stats` shows, as JSON types; called per request on the service's event loop,
            must not block.
    """

    def __init__(
        self,
        settings: HttpSettings,
        *,
        default_port: int,
        health: Health,
        registry: CollectorRegistry,
        stats: Callable[[], Any],
        log: Logger,
    ) -> None:
        self._host = settings.host
        self._port = default_port if settings.port is None else settings.port
        self._health = health
        self._registry = registry
        self._stats = stats
        self._log = log
        self._thread: threading.Thread | None = None
        self._beat: asyncio.Task[None] | None = None
        self._end: Callable[[], None] = lambda: None

    async def start(self) -> int:
        """Listen, and return the port. From here on the event loop's heartbeat is watched.

        Raises:
            BadConfigurationError: the address can't be listened on.
        """
        self._service_loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._service_loop.create_future()
        listening: asyncio.Future[int] = self._service_loop.create_future()
        self._health.beat(EVENT_LOOP, bound_seconds=_BEAT_BOUND_SECONDS)
        self._watch = LoopWatch(self._health, clock=time.monotonic, log=self._log)
        self._thread = threading.Thread(target=self._run, args=(listening,), name="http", daemon=True)
        self._thread.start()
        self._beat = asyncio.create_task(self._go_round(), name="heartbeat")
        try:
            port = await listening
        except OSError as error:
            await self.stop()
            raise BadConfigurationError(
                [f"HTTP_PORT: can't listen on {self._host}:{self._port}: {error.strerror or error}"]
            ) from error
        self._log.info("http_listening", host=self._host, port=port)
        return port

    async def stop(self) -> None:
        """Close, giving requests under way a second, and end the thread."""
        if self._thread is None or self._beat is None:
            return
        self._end()
        await asyncio.wait({self._ended}, timeout=_SHUTDOWN_SECONDS + _JOIN_SECONDS)
        self._thread.join(_JOIN_SECONDS)
        self._beat.cancel()
        await asyncio.wait({self._beat})
        self._health.ended(EVENT_LOOP)

    async def _go_round(self) -> None:
        while True:
            self._health.beat(EVENT_LOOP, bound_seconds=_BEAT_BOUND_SECONDS)
            await asyncio.sleep(_BEAT_SECONDS)

    # --- In the thread -------------------------------------------------------------------------------

    def _run(self, listening: asyncio.Future[int]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(listening))
        except Exception as error:  # noqa: BLE001 — it is the service's to react: it does not start
            self._tell(listening.set_exception, error)
        finally:
            self._tell(self._ended.set_result, None)

    async def _serve(self, listening: asyncio.Future[int]) -> None:
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._end = lambda: self._in_loop(loop, ending.set)
        runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, handle_signals=False
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, self._host, self._port).start()
            self._tell(listening.set_result, int(runner.addresses[0][1]))
            while not ending.is_set():
                self._watch.look()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ending.wait(), TICK_SECONDS)
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/stats", self._in_service(self._show_stats)),
                web.get("/metrics", self._in_service(make_aiohttp_handler(self._registry))),
            ]
        )
        return app

    async def _livez(self, _request: web.Request) -> web.Response:
        self._watch.look()
        return _verdict(self._health.why_not_live())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _verdict(self._health.why_not_ready())

    def _in_service(self, handler: _Handler) -> _Handler:
        """Let a handler run on the service's event loop, where what it shows stands still meanwhile."""

        async def handed_over(request: web.Request) -> web.StreamResponse:
            answer = asyncio.run_coroutine_threadsafe(_call(handler, request), self._service_loop)
            try:
                return await asyncio.wait_for(asyncio.wrap_future(answer), _ANSWER_SECONDS)
            except TimeoutError:
                return web.Response(status=503, text="the event loop does not answer\n")

        return handed_over

    def _tell(self, call: Callable[[Any], object], value: object) -> None:
        """Hand something to the service's event loop, if it is still there to hear it."""
        self._in_loop(self._service_loop, lambda: _once(call, value))

    @staticmethod
    def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # It is closed: who would hear it is gone.
            loop.call_soon_threadsafe(call)

    # --- On the service's event loop -------------------------------------------------------------------

    async def _show_stats(self, _request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._stats()), content_type="application/json")


async def _call(handler: _Handler, request: web.Request) -> web.StreamResponse:
    return await handler(request)


def _once(call: Callable[[Any], object], value: object) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):  # Told before.
        call(value)


def _verdict(reasons: list[str]) -> web.Response:
    if reasons:
        return web.Response(status=503, text="\n".join(reasons) + "\n")
    return web.Response(text="ok\n")
