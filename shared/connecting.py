"""Bearing an absent Kafka, within a bound, and telling absence from refusal.

The client reports a wrong password, a wrong certificate and a wrong protocol all as "Unable to
bootstrap"; the reason is only in its log records. `connect` reads it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from aiokafka.errors import KafkaError

from shared import tls
from shared.errors import AccessRefusedError, StopServiceError
from shared.kafka import Permission, refusal
from shared.logs import Logger
from shared.settings import KafkaSettings

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0
_SHORTEST_TRY_SECONDS = 1.0
_STOP_SECONDS = 3.0
_CUT_OFF_SECONDS = 0.5
_PROBE_SECONDS = 2.0
_CLOSED_TOO_OFTEN = 3
# ApiVersions v0, the one request that every listener answers before authentication: size, key 18,
# version 0, correlation id, no client id. https://kafka.apache.org/protocol
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
_CORRELATION = struct.pack(">i", 1)
_TLS_ALERT = b"\x15\x03"


ClientT = TypeVar("ClientT", bound=Any)


class _Reasons(logging.Handler):
    """Keeps the exceptions that the client library logs instead of raising."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            self.errors += [arg for arg in record.args if isinstance(arg, BaseException)][:8]


@contextlib.contextmanager
def _listening_to_the_client() -> Iterator[_Reasons]:
    reasons = _Reasons()
    library = logging.getLogger("aiokafka")
    library.addHandler(reasons)
    try:
        yield reasons
    finally:
        library.removeHandler(reasons)


class Patience:
    """How long an absent Kafka is borne: `KAFKA_UNAVAILABLE_SECONDS` from the first failure on.

    Args:
        seconds: the bound.
        clock: monotonic seconds.
        setting: the variable that sets the bound, for the message.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float], *, setting: str = "KAFKA_UNAVAILABLE_SECONDS"
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._setting = setting
        self._since: float | None = None
        self._pause = _FIRST_PAUSE_SECONDS

    def worked(self) -> None:
        """Note that Kafka answered."""
        self._since = None
        self._pause = _FIRST_PAUSE_SECONDS

    def failed(self, reason: str) -> float:
        """Note a failure and return for how many seconds to wait before the next try.

        Raises:
            StopServiceError: Kafka has been away for too long.
        """
        now = self._clock()
        if self._since is None:
            self._since = now
        waited = now - self._since
        if waited >= self._seconds:
            raise StopServiceError(
                f"Kafka has been unavailable for {waited:.0f} s ({self._setting}={self._seconds:g}): {reason}"
            )
        pause = min(self._pause, max(self._seconds - waited, 0.05))
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        return pause

    def a_try(self, seconds: float) -> float:
        """Return how long the next try may take: `seconds`, or what is left once it has begun to fail.

        At least one second, so that a Kafka that is back can show it.
        """
        if self._since is None:
            return seconds
        left = self._seconds - (self._clock() - self._since)
        return min(seconds, max(left, _SHORTEST_TRY_SECONDS))


async def connect(
    make: Callable[[], ClientT],
    settings: KafkaSettings,
    *,
    patience: Patience,
    stopping: asyncio.Event,
    log: Logger,
    doing: str,
    needs: Sequence[Permission] = (),
    deadline_seconds: float | None = None,
) -> ClientT | None:
    """Return a started client, or None if `stopping` was set first.

    A fresh object is made for each try: a client that failed to start is of no further use. A try may
    take `deadline_seconds`; without it, as long as any operation. `stopping` cuts a try short. `needs`: the
    permissions that it takes, for the message.

    Raises:
        AccessRefusedError: Kafka answered and refused; at once.
        StopServiceError: Kafka stayed away for `KAFKA_UNAVAILABLE_SECONDS`.
    """
    servers = ",".join(settings.bootstrap_servers)
    closed_in_a_row = 0
    while not stopping.is_set():
        client = make()
        with _listening_to_the_client() as reasons:
            try:
                seconds = deadline_seconds or settings.operation_deadline_seconds
                has_started = await _start(client, patience.a_try(seconds), stopping)
            except (KafkaError, OSError, TimeoutError) as error:
                await stop_client(client, log=log)
                refused = await _refusal(settings, [error, *reasons.errors], doing=doing, needs=needs)
                if refused is not None:
                    raise refused from error
                closed_in_a_row = closed_in_a_row + 1 if _was_closed(reasons.errors) else 0
                if closed_in_a_row >= _CLOSED_TOO_OFTEN and await _is_kafka_without_us(settings):
                    raise AccessRefusedError(
                        f"{servers} closes every connection that does not log in: is it a SASL listener? "
                        f"KAFKA_SECURITY_PROTOCOL is {settings.security_protocol}"
                    ) from error
                reason = str(reasons.errors[0] if reasons.errors else error) or type(error).__name__
                pause = patience.failed(f"{doing} at {servers}: {reason}")
                log.warning(
                    "kafka_unavailable", servers=servers, doing=doing, reason=reason, retry_seconds=pause
                )
            except BaseException:
                await stop_client(client, log=log)
                raise
            else:
                if not has_started:
                    await stop_client(client, log=log)
                    return None
                patience.worked()
                return client
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), pause)
    return None


async def _start(client: Any, seconds: float, stopping: asyncio.Event) -> bool:
    """Start a client; False if `stopping` came first.

    Raises:
        TimeoutError: it takes longer than `seconds`.
        Exception: as the client raises it.
    """
    starting = asyncio.ensure_future(client.start())
    asked = asyncio.ensure_future(stopping.wait())
    try:
        done, _ = await asyncio.wait({starting, asked}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if starting in done:
            if starting.cancelled():
                raise TimeoutError("cancelled inside the client")
            starting.result()
            return True
        if asked in done:
            return False
        raise TimeoutError(f"no answer for {seconds:g} s")
    finally:
        for one in (starting, asked):
            one.cancel()
        # Bounded like all else of the client's: its own clean-up may wait for a broker.
        await asyncio.wait({starting, asked}, timeout=_CUT_OFF_SECONDS)
        if starting.done() and not starting.cancelled():
            starting.exception()  # Seen: what came after the end of the wait changes nothing.


async def stop_client(client: Any, *, log: Logger, seconds: float = _STOP_SECONDS) -> None:
    """Stop a consumer, producer or administration client, and wait no longer than about `seconds`.

    A producer with anything pending would wait for ever for a broker that is gone; what is left of it is
    then cut off. A consumer whose fetch is just waiting for its next try ends its `stop` with a
    CancelledError although nobody cancelled anything: it is kept from the caller, who would take it for
    the end of its own task.
    """
    stop = getattr(client, "stop", None) or client.close
    stopping = asyncio.ensure_future(stop())
    _, late = await asyncio.wait({stopping}, timeout=seconds)
    if not late and not stopping.cancelled() and stopping.exception() is None:
        return
    # What it had pending is lost with it, on purpose: it was not committed.
    stopping.cancel()
    rest = asyncio.ensure_future(_cut_off(client))
    await asyncio.wait({stopping, rest}, timeout=_CUT_OFF_SECONDS)
    rest.cancel()
    for ended in (stopping, rest):
        error = ended.exception() if ended.done() and not ended.cancelled() else None
        reason = repr(error) if error else f"late after {seconds:g} s" if late else "cancelled by the client"
        log.debug("client_stop_cut_short", client=type(client).__name__, reason=reason)


async def _cut_off(client: Any) -> None:
    """End what a client that could not be stopped leaves running: its sender and its connections."""
    sender = getattr(getattr(client, "_sender", None), "sender_task", None)
    if sender is not None:
        sender.cancel()
    connections = getattr(client, "client", None) or getattr(client, "_client", None)
    if connections is not None:
        await connections.close()


def _was_closed(errors: list[BaseException]) -> bool:
    return any("closed" in str(error).lower() for error in errors)


async def _refusal(
    settings: KafkaSettings, errors: list[BaseException], *, doing: str, needs: Sequence[Permission]
) -> StopServiceError | None:
    servers = ",".join(settings.bootstrap_servers)
    for error in errors:
        refused = refusal(error, doing=f"{doing} at {servers}", needs=needs)
        if refused is not None:
            return refused
        if isinstance(error, ssl.SSLCertVerificationError):
            return tls.untrusted(error, servers=servers)
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return tls.unaccepted(error, settings)
    if errors and settings.security_protocol.endswith("SSL"):
        refused = await tls.certificate_refusal(settings)
        if refused is not None:
            return refused
    if errors:
        return await _wrong_protocol(settings)
    return None


async def _wrong_protocol(settings: KafkaSettings) -> AccessRefusedError | None:
    """Compare what answers on the first server's port with what we are set to speak."""
    answer = await _probe(settings)
    set_to = f"KAFKA_SECURITY_PROTOCOL is {settings.security_protocol}"
    where = settings.bootstrap_servers[0]
    speaks_tls = settings.security_protocol.endswith("SSL")
    if answer.startswith(b"HTTP"):
        return AccessRefusedError(f"{where} is an HTTP server, not Kafka; see KAFKA_BOOTSTRAP_SERVERS")
    if answer.startswith(_TLS_ALERT) and not speaks_tls:
        return AccessRefusedError(f"{where} speaks TLS and {set_to}")
    if answer[4:8] == _CORRELATION and speaks_tls:
        return AccessRefusedError(f"{where} speaks plain text and {set_to}")
    return None


async def _is_kafka_without_us(settings: KafkaSettings) -> bool:
    """Say whether Kafka itself answers on a port that closes what does not log in.

    A port forward or a proxy without a broker behind it closes connections too, and is only absence.
    """
    if settings.security_protocol not in ("PLAINTEXT", "SSL"):
        return False
    answer = await _probe(settings)
    return (
        answer.startswith(_TLS_ALERT) if settings.security_protocol == "SSL" else answer[4:8] == _CORRELATION
    )


async def _probe(settings: KafkaSettings) -> bytes:
    """Ask the first server for its versions, in plain text, and return the first bytes of its answer."""
    host, _, port = settings.bootstrap_servers[0].rpartition(":")
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(_API_VERSIONS)
                return await reader.read(8)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""  # It does not answer at all: absence, not refusal.
