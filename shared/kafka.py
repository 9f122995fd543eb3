"""Kafka clients, made from the settings in one place, security included.

What is set here and why is in docs/decisions; each of the client's traps is named where it is avoided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    InconsistentGroupProtocolError,
    ProducerFenced,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

from shared import tls
from shared.errors import AccessRefusedError, StopServiceError
from shared.settings import KafkaSettings

__all__ = ["FENCED", "KafkaClients", "Permission", "principal", "refusal"]

# Raised when a later producer took the transactional id. The client shows the same fact in several
# ways after the first one (AssertionError, IllegalOperation): callers treat any failure as doubt.
FENCED: tuple[type[Exception], ...] = (ProducerFenced,)

# How often a consumer looks whether there is something to ask for, beside all that tells it so: the client's
# own 200 ms are what an idle process with many partitions does most of the time.
_IDLE_LOOK_MILLISECONDS = 1000

_WRONG_LOGIN: dict[type[BaseException], str] = {
    SaslAuthenticationFailed: "see KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    AuthenticationFailedError: "see KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    UnsupportedSaslMechanismError: "it does not know the mechanism, see KAFKA_SASL_MECHANISM",
    AuthenticationMethodNotSupported: "it does not know the mechanism, see KAFKA_SASL_MECHANISM",
    IllegalSaslStateError: "this listener asks for none, see KAFKA_SECURITY_PROTOCOL",
}
_RESOURCES: dict[type[Exception], str] = {
    TopicAuthorizationFailedError: "topic",
    GroupAuthorizationFailedError: "group",
    ClusterAuthorizationFailedError: "cluster",
    TransactionalIdAuthorizationFailed: "transactional id",
}
_NO_PERMISSION = tuple(_RESOURCES)


class Permission(NamedTuple):
    """What Kafka has to allow, as `kafka-acls.sh` spells it: `Permission("Write", "topic", "alerts")`."""

    operation: str
    resource: str
    name: str


def refusal(
    error: BaseException | None, *, doing: str, needs: Sequence[Permission] = ()
) -> StopServiceError | None:
    """Return the error that ends the service if `error` is a refusal, else None.

    Args:
        error: as the client raised it; its causes are looked at too.
        doing: what was being done and to what, for the message ("read topic purchases").
        needs: the permissions that it takes. Kafka does not say which one is missing: of those on the
            kind of resource that it names, the ones on the names that come with the error are; the first,
            where none comes with it.
    """
    while error is not None:
        if isinstance(error, _NO_PERMISSION):
            missing = _missing(error, needs)
            return AccessRefusedError(
                f"Kafka refuses to let us {doing}: {missing} is missing ({type(error).__name__}); "
                "the operations guide has what is needed under Permissions"
            )
        if isinstance(error, tuple(_WRONG_LOGIN)):
            said = [arg for arg in error.args if isinstance(arg, str)]
            why = "; ".join([_WRONG_LOGIN[type(error)], *said])
            return AccessRefusedError(f"Kafka refuses our login while we {doing}: {why}")
        if isinstance(error, InconsistentGroupProtocolError):
            return StopServiceError(
                f"Kafka refuses to let us {doing}: its members share partitions out in another way, as "
                "another version of the processor does; stop all of them before starting this one"
            )
        error = error.__cause__ or error.__context__
    return None


def _missing(error: Exception, needs: Sequence[Permission]) -> str:
    resource = _RESOURCES[type(error)]
    names = {str(name) for arg in error.args for name in _each(arg)}
    fitting = [one for one in needs if one.resource == resource]
    if resource == "cluster" and not fitting:
        # What a producer is told that may write to nothing at all (KIP-679).
        fitting = list(needs)
    elif names:
        fitting = [one for one in fitting if one.name in names]
    else:
        fitting = fitting[:1]
    if not fitting:
        return " ".join(["a permission on", resource, *sorted(names)])
    by_name: dict[tuple[str, str], list[str]] = {}
    for operation, kind, name in fitting:
        by_name.setdefault((kind, name), []).append(operation)
    return ", ".join(
        f"{' and '.join(operations)} on {kind} {name}" for (kind, name), operations in by_name.items()
    )


def _each(arg: object) -> Iterable[object]:
    return arg if isinstance(arg, set | frozenset | list | tuple) else (arg,)


def principal(settings: KafkaSettings) -> str:
    """Return who we are to Kafka's permissions, as far as it can be known here."""
    if settings.security_protocol.startswith("SASL"):
        return f"User:{settings.sasl_username}"
    if settings.security_protocol == "SSL" and settings.ssl_certfile is not None:
        return f"the subject of the certificate {settings.ssl_certfile}"
    return "User:ANONYMOUS"


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
        idle = {"consumer_timeout_ms": _IDLE_LOOK_MILLISECONDS}
        return AIOKafkaConsumer(enable_auto_commit=False, **idle, **self._common, **options)

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
        options["ssl_context"] = tls.context(settings)
    return options
