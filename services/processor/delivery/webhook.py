"""One attempt to deliver a record: a POST of its value, and what the answer means.

Of the record nothing is changed; what else is known of it stands in headers. `Idempotency-Key` as in
https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import aiohttp

# Of an answer: enough to see what it is about.
_ANSWER_BYTES = 512
# Timeout, "the same key is under way", too early, too many. All of 5xx as well.
_AGAIN = (408, 409, 425, 429)
_SERVER_ERRORS = 500
_SUCCESS = range(200, 300)
_HIDDEN = "********"


class Outcome(Enum):
    """What an attempt came to."""

    DELIVERED = "delivered"
    FAILED = "failed"  # to be tried again
    UNSENT = "unsent"  # nothing of it has left: it may not be sent any more
    REFUSED = "refused"  # no further attempt will help


@dataclass(frozen=True)
class Answer:
    """What an attempt came to, and why.

    Attributes:
        reason: for the log and the dead letter; without the URL, which may hold a secret.
        retry_after_seconds: what the webhook asked for, if it did.
    """

    outcome: Outcome
    reason: str
    retry_after_seconds: float | None = None


class _Permitted(aiohttp.BytesPayload):
    """A body that asks whether it may still be sent. The client sends the head together with it.

    Attributes:
        is_sent: None until it was asked for.
    """

    def __init__(self, value: bytes, may_send: Callable[[], bool]) -> None:
        super().__init__(value)
        self._may_send = may_send
        self.is_sent: bool | None = None

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        self.is_sent = self._may_send()
        if not self.is_sent:
            raise aiohttp.ClientConnectionError("it may not be sent any more")
        await super().write_with_length(writer, content_length)


class Webhook:
    """The receiver of deliveries. To be entered before it is used.

    Args:
        url: http or https.
        token: goes as `Authorization: Bearer`.
        timeout_seconds: of an attempt, from the connection to the end of the answer.
        connections: how many attempts there are at a time, at most.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        timeout_seconds: float,
        connections: int,
        wall_clock: Callable[[], float],
    ) -> None:
        self._url = url
        self._secrets = _secrets_in(url, token)
        self._headers = {"User-Agent": "tandem", "Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_seconds = timeout_seconds
        self._connections = connections
        self._wall_clock = wall_clock
        self._session: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        """Where it is, without what may be a secret: path, query, user."""
        parts = urlsplit(self._url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    async def post(self, value: bytes, about: dict[str, str], *, may_send: Callable[[], bool]) -> Answer:
        """Try once to deliver a value, with headers that tell about it.

        `may_send` is asked in the moment in which the request is written, behind all that takes time: the
        connection, and whatever kept this process from running. If it says no, nothing is sent.

        Failures are answers; nothing but a cancellation is raised.
        """
        assert self._session is not None, "it was entered"
        body = _Permitted(value, may_send)
        try:
            # A redirect would take the token somewhere else.
            async with self._session.post(
                self._url, data=body, headers=self._headers | about, allow_redirects=False
            ) as response:
                said = await response.content.read(_ANSWER_BYTES)
                if not body.is_sent:
                    # It lay on the kept connection before this request, and is about something else.
                    raise aiohttp.ClientConnectionError("it came without a request")
                return meaning(
                    response.status,
                    self._without_secrets(response.reason or ""),
                    self._without_secrets(said.decode(errors="replace")),
                    response.headers.get("Retry-After"),
                    self._wall_clock(),
                )
        except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            if body.is_sent is False:
                return Answer(Outcome.UNSENT, "it was not to be sent any more")
            return Answer(Outcome.FAILED, self._why(error))

    def _why(self, error: Exception) -> str:
        match error:
            case TimeoutError():
                return f"no answer within {self._timeout_seconds:g} s"
            case aiohttp.ClientConnectorCertificateError():
                return f"its certificate is not accepted: {error.certificate_error}"
            case aiohttp.ClientSSLError():
                return f"no TLS connection: {type(error.os_error).__name__}"
            case aiohttp.ClientConnectorError():
                return f"no connection: {_system_says(error.os_error)}"
            case _:
                return f"no HTTP answer: {type(error).__name__}"


def _secrets_in(url: str, token: str | None) -> list[str]:
    """Return what may be a secret, the longest first: servers like to repeat what they were asked."""
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    candidates = [url, target, parts.path, parts.query, parts.username, parts.password, token]
    plain = {unquote(one) for one in candidates if one}
    found = {one for one in (*candidates, *plain) if one and one != "/"}
    return sorted(found, key=len, reverse=True)


def _system_says(error: OSError) -> str:
    # The event loop puts a text of its own, with the address, in the system's place. Names that can't be
    # looked up have numbers below 0, and no other text than theirs.
    known = error.errno is not None and error.errno > 0
    return os.strerror(error.errno) if known else error.strerror or type(error).__name__  # type: ignore[arg-type]


def meaning(status: int, phrase: str, said: str, retry_after: str | None, now: float) -> Answer:
    """Return what an HTTP answer with this status, phrase and beginning of a body means.

    `retry_after` is the header, if there is one: seconds, or a date. `now` is in seconds since the epoch.
    """
    text = said.strip()
    reason = f"{status} {phrase}".strip() + (f": {text}" if text else "")
    if status in _SUCCESS:
        return Answer(Outcome.DELIVERED, reason)
    if status in _AGAIN or status >= _SERVER_ERRORS:
        return Answer(Outcome.FAILED, reason, _seconds(retry_after, now))
    return Answer(Outcome.REFUSED, reason)


def _seconds(value: str | None, now: float) -> float | None:
    """Return what a Retry-After says, in seconds from now: it is a number, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None  # Nonsense: the pause is our own.
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max((at - datetime.fromtimestamp(now, UTC)).total_seconds(), 0.0)
