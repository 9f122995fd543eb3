"""Kafka clients, made from the settings in one place, security included.

What is set here and why is in docs/decisions; each of the client's traps is named where it is avoided.
"""

from __future__ import annotations

import ssl
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    ProducerFenced,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

from shared.errors import AccessRefusedError, TandemError
from shared.settings import KafkaSettings

__all__ = ["FENCED", "REFUSALS", "KafkaClients", "refusal"]

# Raised when a later producer took the transactional id. The client shows the same fact in several
# ways after the first one (AssertionError, IllegalOperation): callers treat any failure as doubt.
FENCED: tuple[type[Exception], ...] = (ProducerFenced,)

_WRONG_LOGIN = (
    SaslAuthenticationFailed,
    AuthenticationFailedError,
    UnsupportedSaslMechanismError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
)
_NO_PERMISSION = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
REFUSALS: tuple[type[Exception], ...] = (*_WRONG_LOGIN, *_NO_PERMISSION)


def refusal(error: BaseException | None, *, doing: str) -> TandemError | None:
    """Return the error that ends the service if `error` is a refusal, else None.

    Args:
        error: as the client raised it; its causes are looked at too.
        doing: what was being done and to what, for the message ("read topic purchases").
    """
    while error is not None:
        if isinstance(error, _NO_PERMISSION):
            what = ", ".join(str(arg) for arg in error.args) or "no further detail"
            return AccessRefusedError(f"Kafka refuses to let us {doing}: {type(error).__name__} ({what})")
        if isinstance(error, _WRONG_LOGIN):
            return AccessRefusedError(f"Kafka refuses our login while we {doing}: {error}")
        error = error.__cause__ or error.__context__
    return None


class KafkaClients:
    """Makes clients. Each call returns a fresh one that is not started.

    Every client is given short metadata ages (a moved leader is noticed in seconds) and a bounded
    request time; deadlines around whole operations are the callers' business, because nearly every
    await of this client waits for ever when no broker answers.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self._common = _common(settings)

    def consumer(self, **options: Any) -> AIOKafkaConsumer:
        """Return a consumer that never commits by a timer. `options` are the client's own."""
        return AIOKafkaConsumer(enable_auto_commit=False, **self._common, **options)

    def producer(self, **options: Any) -> AIOKafkaProducer:
        """Return a producer. `options` are the client's own."""
        return AIOKafkaProducer(**self._common, **options)

    def admin(self) -> AIOKafkaAdminClient:
        """Return an administration client."""
        return AIOKafkaAdminClient(**self._common)


def _common(settings: KafkaSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": settings.client_id,
        "request_timeout_ms": int(settings.request_timeout_seconds * 1000),
        "metadata_max_age_ms": int(settings.metadata_max_age_seconds * 1000),
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.startswith("SASL"):
        assert settings.sasl_password is not None, "the settings insist on it"
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    return options


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Return the context for TLS.

    Raises:
        AccessRefusedError: the certificate or key can't be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
        context.check_hostname = settings.ssl_check_hostname
        if settings.ssl_certfile is not None:
            password = settings.ssl_key_password
            context.load_cert_chain(
                settings.ssl_certfile,
                settings.ssl_keyfile,
                # A string, even an empty one: with None OpenSSL would ask on the terminal.
                password.get_secret_value() if password is not None else "",
            )
    except (ssl.SSLError, OSError) as error:
        raise AccessRefusedError(
            f"the TLS files can't be used (KAFKA_SSL_CAFILE, _CERTFILE, _KEYFILE): {error}"
        ) from error
    return context
