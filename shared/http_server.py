"""Health, metrics and statistics over HTTP, on the service's own event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from shared.errors import BadConfigurationError
from shared.health import Health
from shared.logs import Logger
from shared.settings import HttpSettings

_SHUTDOWN_SECONDS = 1.0


class HttpServer:
    """Serves `/livez`, `/readyz`, `/metrics` and `/stats` until it is stopped.

    Args:
        default_port: the service's own, used where `HTTP_PORT` is not set.
        stats: returns what `/stats` shows, as JSON types; called per request, must not block.
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
        self._stats = stats
        self._log = log
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/stats", self._show_stats),
                web.get("/metrics", make_aiohttp_handler(registry)),
            ]
        )
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, handle_signals=False
        )

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            BadConfigurationError: the address can't be listened on.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            raise BadConfigurationError(
                [f"HTTP_PORT: can't listen on {self._host}:{self._port}: {error.strerror or error}"]
            ) from error
        port = int(self._runner.addresses[0][1])
        self._log.info("http_listening", host=self._host, port=port)
        return port

    async def stop(self) -> None:
        """Close, giving requests under way a second."""
        await self._runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        return _verdict(self._health.why_not_live())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _verdict(self._health.why_not_ready())

    async def _show_stats(self, _request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._stats()), content_type="application/json")


def _verdict(reasons: list[str]) -> web.Response:
    if reasons:
        return web.Response(status=503, text="\n".join(reasons) + "\n")
    return web.Response(text="ok\n")
