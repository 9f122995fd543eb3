"""A real Kafka for the whole run, a topic prefix for each test, and services as their users start them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from sandbox import Sandbox
from shared import topics
from tests.verifier import Service, environment
from tests.verifier.polling import poll


@dataclass
class Kafka:
    """The cluster under the tests."""

    bootstrap_servers: str

    @cached_property  # It has to outlive the futures it returns.
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers})


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """One broker for the run; `KAFKA_BOOTSTRAP_SERVERS` set: that cluster instead."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield Kafka(given)
        return
    with Sandbox() as sandbox:
        yield Kafka(sandbox.bootstrap_servers)


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(4)}."


@pytest.fixture
def make_topics(kafka: Kafka) -> Callable[..., None]:
    """Return what creates every topic of the pair under a prefix."""
    return lambda prefix, partitions=4: create_topics(kafka.admin, prefix, partitions)


def create_topics(admin: AdminClient, prefix: str, partitions: int = 4) -> None:
    wanted = topics.definitions(partitions=partitions, retention_hours=168)
    new = [NewTopic(prefix + one.name, one.partitions, 1, config=one.configs) for one in wanted]
    create(admin, new)


def create(admin: AdminClient, new: list[NewTopic]) -> None:
    """Create topics and wait until the broker tells others of them: its answer comes a little earlier."""
    for created in admin.create_topics(new).values():
        created.result(30)
    for topic in new:
        poll(lambda name=topic.topic: is_there(admin, name), 30, lambda name=topic.topic: f"{name} is not there")


def is_there(admin: AdminClient, topic: str) -> bool | None:
    return admin.list_topics(topic, timeout=10).topics[topic].error is None or None


@pytest.fixture
def start_processor(kafka: Kafka, prefix: str, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Return what starts a processor with extra settings. Every one is ended with the test."""
    started: list[Service] = []

    def start(*, argv: str | list[str] = "services.processor", **settings: object) -> Service:
        variables = environment(
            **{
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
                "KAFKA_TOPIC_PREFIX": prefix,
                "HTTP_PORT": 0,
                "LOG_FORMAT": "json",
                **settings,
            }
        )
        service = Service(argv, variables, tmp_path / f"processor-{len(started)}.log")
        service.start()
        started.append(service)
        return service

    yield start
    for service in started:
        service.end()
