"""A refusal names what is missing, whatever of it the client kept."""

from __future__ import annotations

import logging

import pytest
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)

from shared.kafka import Permission, principal, refusal
from shared.logs import KeepBelowErrors
from shared.settings import KafkaSettings, load

NEEDS = (
    Permission("Read", "topic", "in"),
    Permission("Read", "topic", "changelog"),
    Permission("Write", "topic", "changelog"),
    Permission("Write", "topic", "out"),
    Permission("Read", "group", "g"),
)


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (TopicAuthorizationFailedError("out"), "Write on topic out is missing"),
        (TopicAuthorizationFailedError({"out"}), "Write on topic out is missing"),
        (TopicAuthorizationFailedError("changelog"), "Read and Write on topic changelog is missing"),
        (TopicAuthorizationFailedError(), "Read on topic in is missing"),
        (TopicAuthorizationFailedError("other"), "a permission on topic other is missing"),
        (GroupAuthorizationFailedError(), "Read on group g is missing"),
        (ClusterAuthorizationFailedError(), "Write on topic out, Read on group g is missing"),
        (SaslAuthenticationFailed("no"), "KAFKA_SASL_PASSWORD; no"),
    ],
)
def test_what_is_missing_is_named(error: Exception, named: str) -> None:
    refused = refusal(error, doing="work", needs=NEEDS)
    assert named in str(refused)


def test_the_reason_behind_an_error_counts() -> None:
    error = KafkaConnectionError("closed")
    error.__cause__ = TopicAuthorizationFailedError("out")
    assert "topic out" in str(refusal(error, doing="work", needs=NEEDS))


def test_a_connection_that_fails_is_no_refusal() -> None:
    assert refusal(KafkaConnectionError("closed"), doing="work", needs=NEEDS) is None


@pytest.mark.parametrize(
    ("environ", "who"),
    [
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "me", "KAFKA_SASL_PASSWORD": "x"},
            "User:me",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CERTFILE": __file__},
            f"the subject of the certificate {__file__}",
        ),
        ({}, "User:ANONYMOUS"),
    ],
)
def test_who_we_are_is_the_user_the_certificate_or_nobody(environ: dict[str, str], who: str) -> None:
    assert principal(load(KafkaSettings, environ=environ, dotenv=None)[KafkaSettings]) == who


@pytest.mark.parametrize(
    ("logger", "level"), [("aiokafka.cluster", logging.WARNING), ("asyncio", logging.ERROR)]
)
def test_the_clients_errors_are_warnings_in_our_log(logger: str, level: int) -> None:
    record = logging.LogRecord(logger, logging.ERROR, "", 0, "said", None, None)
    assert KeepBelowErrors("aiokafka").filter(record)
    assert (record.levelno, record.levelname) == (level, logging.getLevelName(level))
