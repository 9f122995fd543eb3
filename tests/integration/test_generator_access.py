"""The generator on a Kafka that asks who it is and what it may."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from sandbox import Sandbox
from tests.integration.conftest import create_topics
from tests.verifier import Service, environment

pytestmark = pytest.mark.timeout(180)

Start = Callable[..., Service]
Run = Callable[..., dict[str, Any]]
_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_USERS = 'user_generator="right" user_stranger="right"'


@pytest.fixture(scope="module")
def guarded_kafka() -> Iterator[Sandbox]:
    """A broker with a password for each user, and nothing allowed that is not granted."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": f"{_LOGIN} {_USERS};",
    }
    with Sandbox(security_protocol="SASL_PLAINTEXT", properties=properties) as sandbox:
        yield sandbox


@pytest.fixture
def run(guarded_kafka: Sandbox, tmp_path: Path) -> Iterator[Run]:
    """Return what runs a generator to its end, and returns its last log line."""
    started: list[Service] = []

    def run_one(prefix: str, **settings: object) -> dict[str, Any]:
        variables: dict[str, object] = {
            "KAFKA_BOOTSTRAP_SERVERS": guarded_kafka.bootstrap_servers,
            "KAFKA_TOPIC_PREFIX": prefix,
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": "generator",
            "KAFKA_SASL_PASSWORD": "right",
            "HTTP_PORT": 0,
            "LOG_FORMAT": "json",
            "GENERATOR_RATE": "max",
            "GENERATOR_SENSOR_RATE": "max",
            "GENERATOR_EVENTS": 1_000,
        }
        wanted = {name: value for name, value in (variables | settings).items() if value is not None}
        service = Service("services.generator", environment(**wanted), tmp_path / f"{len(started)}.log")
        service.start()
        started.append(service)
        code = service.wait(30)
        last: dict[str, Any] = json.loads(service.lines()[-1])
        assert last["event"] == "stopped"
        assert last["exit_code"] == code
        return last

    yield run_one
    for service in started:
        service.end()


@pytest.fixture
def granted(guarded_kafka: Sandbox, prefix: str) -> Callable[..., str]:
    """Return what makes the topics, grants Write on some of them, and returns the prefix."""

    def grant(*topics: str) -> str:
        run_prefix = f"{prefix}{secrets.token_hex(2)}."
        admin = AdminClient({"bootstrap.servers": guarded_kafka.internal_servers})
        create_topics(admin, run_prefix)
        acls = [
            AclBinding(
                ResourceType.TOPIC,
                run_prefix + topic,
                ResourcePatternType.LITERAL,
                "User:generator",
                "*",
                AclOperation.WRITE,
                AclPermissionType.ALLOW,
            )
            for topic in topics
        ]
        if acls:
            for done in admin.create_acls(acls).values():
                done.result(30)
        return run_prefix

    return grant


def test_write_on_the_inputs_and_the_ledger_is_all_it_needs(run: Run, granted: Callable[..., str]) -> None:
    last = run(granted("user_behavior", "sensor_data", "generator_ledger"))
    assert last["exit_code"] == 0, last["reason"]


@pytest.mark.parametrize("missing", ["user_behavior", "sensor_data", "generator_ledger"])
def test_a_missing_permission_ends_it_with_1_and_topic_and_operation(
    run: Run, granted: Callable[..., str], missing: str
) -> None:
    prefix = granted(*{"user_behavior", "sensor_data", "generator_ledger"} - {missing})
    last = run(prefix)
    assert last["exit_code"] == 1
    assert f"refuses to let us write to topic {prefix}{missing} (operation Write)" in last["reason"]


def test_without_any_permission_it_ends_with_1_and_all_that_is_needed(
    run: Run, granted: Callable[..., str]
) -> None:
    # Kafka refuses the idempotent producer itself then, with an error that speaks of the cluster.
    prefix = granted()
    last = run(prefix, KAFKA_SASL_USERNAME="stranger")
    assert last["exit_code"] == 1
    assert "operation Write" in last["reason"]
    assert all(prefix + topic in last["reason"] for topic in ("user_behavior", "sensor_data"))
    assert f"{prefix}generator_ledger" in last["reason"]


def test_a_wrong_password_ends_it_with_1_and_says_so(run: Run, granted: Callable[..., str]) -> None:
    last = run(granted(), KAFKA_SASL_PASSWORD="wrong-one")
    assert last["exit_code"] == 1
    assert "refuses our login" in last["reason"]
    assert "wrong-one" not in last["reason"]


def test_a_wrong_protocol_ends_it_with_1_and_says_so(run: Run, granted: Callable[..., str]) -> None:
    plain = {f"KAFKA_SASL_{name}": None for name in ("MECHANISM", "USERNAME", "PASSWORD")}
    last = run(granted(), KAFKA_SECURITY_PROTOCOL="PLAINTEXT", **plain)
    assert last["exit_code"] == 1
    assert "KAFKA_SECURITY_PROTOCOL is PLAINTEXT" in last["reason"]
