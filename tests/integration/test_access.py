"""Wrong password, protocol or permission: one line that says which, exit 1, at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from sandbox import Sandbox
from tests.integration.conftest import create_topics
from tests.verifier import LoadPlan, Service, load, wait_until_caught_up

StartProcessor = Callable[..., Service]
PASSWORD = "correct horse battery"
AT_ONCE_SECONDS = 20


@pytest.fixture(scope="module")
def guarded() -> Iterator[Sandbox]:
    """A broker that asks for a password and allows nothing that was not granted."""
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    users = f'user_processor="{PASSWORD}" user_admin="{PASSWORD}"'
    properties = {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": f"{login} {users};",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
        "allow.everyone.if.no.acl.found": "false",
    }
    with Sandbox(security_protocol="SASL_PLAINTEXT", properties=properties) as sandbox:
        create_topics(AdminClient({"bootstrap.servers": sandbox.internal_servers}), "")
        yield sandbox


def settings(sandbox: Sandbox, **changed: object) -> dict[str, object]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": sandbox.bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": "",
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "processor",
        "KAFKA_SASL_PASSWORD": PASSWORD,
        **changed,
    }


def grant(sandbox: Sandbox, *, without: str | None = None) -> None:
    """Grant the least that the processor needs, as the operations guide lists it, less one thing."""
    inputs = ["user_behavior", "sensor_data"]
    results = ["behavior_stats", "purchases", "sensor_stats", "alerts", "progress", "dead_letters"]
    changelogs = [f"processor-{topic}-changelog" for topic in inputs]
    wanted: list[tuple[ResourceType, str, ResourcePatternType, AclOperation]] = []
    topic, exact = ResourceType.TOPIC, ResourcePatternType.LITERAL
    wanted += [(topic, name, exact, AclOperation.READ) for name in inputs + changelogs]
    wanted += [(topic, name, exact, AclOperation.WRITE) for name in results + changelogs]
    for group in ("behavior-processor", "stream-processor"):
        wanted.append((ResourceType.GROUP, group, exact, AclOperation.READ))
        ids = ResourcePatternType.PREFIXED
        wanted.append((ResourceType.TRANSACTIONAL_ID, f"{group}-", ids, AclOperation.WRITE))
    admin = AdminClient({"bootstrap.servers": sandbox.internal_servers})
    bindings = [
        AclBinding(kind, name, pattern, "User:processor", "*", operation, AclPermissionType.ALLOW)
        for kind, name, pattern, operation in wanted
        if f"{operation.name} {name}" != without
    ]
    for done in admin.create_acls(bindings).values():
        done.result(30)


@pytest.fixture
def _no_grants(guarded: Sandbox) -> Iterator[None]:
    yield
    admin = AdminClient({"bootstrap.servers": guarded.internal_servers})
    everything = AclBindingFilter(
        ResourceType.ANY,
        None,
        ResourcePatternType.ANY,
        "User:processor",
        None,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    for done in admin.delete_acls([everything]).values():
        done.result(30)


def refused(service: Service) -> str:
    """Return the reason of a service that is to end with 1 at once, and see that no secret is in its log."""
    began = time.monotonic()
    assert service.wait(AT_ONCE_SECONDS) == 1
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert PASSWORD not in "\n".join(service.lines())
    return str(json.loads(service.lines()[-1])["reason"])


def test_a_wrong_password_is_named(guarded: Sandbox, start_processor: StartProcessor) -> None:
    reason = refused(start_processor(**settings(guarded, KAFKA_SASL_PASSWORD="wrong-one")))
    assert "refuses our login" in reason
    assert "wrong-one" not in reason


def test_a_wrong_mechanism_is_named(guarded: Sandbox, start_processor: StartProcessor) -> None:
    reason = refused(start_processor(**settings(guarded, KAFKA_SASL_MECHANISM="SCRAM-SHA-512")))
    assert "refuses our login" in reason


def test_no_login_where_one_is_needed_is_named(guarded: Sandbox, start_processor: StartProcessor) -> None:
    reason = refused(start_processor(**settings(guarded, KAFKA_SECURITY_PROTOCOL="PLAINTEXT")))
    assert "is it a SASL listener?" in reason


@pytest.mark.usefixtures("kafka")
def test_tls_to_a_plain_port_is_named(start_processor: StartProcessor) -> None:
    reason = refused(start_processor(KAFKA_SECURITY_PROTOCOL="SSL"))
    assert "speaks plain text and KAFKA_SECURITY_PROTOCOL is SSL" in reason


@pytest.mark.usefixtures("_no_grants")
def test_the_least_permissions_are_enough(guarded: Sandbox, start_processor: StartProcessor) -> None:
    grant(guarded)
    load(guarded.internal_servers, "", LoadPlan(seed=41, poison_rate=0.05), records=2_000)
    service = start_processor(**settings(guarded))
    wait_until_caught_up(guarded.internal_servers, "", 60)
    assert service.terminate() == 0


@pytest.mark.usefixtures("_no_grants")
@pytest.mark.parametrize(
    "missing",
    [
        "READ user_behavior",
        "WRITE purchases",
        "WRITE progress",
        "READ processor-user_behavior-changelog",
        "WRITE processor-user_behavior-changelog",
        "READ behavior-processor",
        "WRITE behavior-processor-",
    ],
)
def test_a_missing_permission_is_named(
    guarded: Sandbox, start_processor: StartProcessor, missing: str
) -> None:
    grant(guarded, without=missing)
    load(guarded.internal_servers, "", LoadPlan(seed=42), records=500)
    reason = refused(start_processor(**settings(guarded)))
    assert "refuses" in reason
    assert missing.split()[1] in reason
