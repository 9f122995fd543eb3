"""Services as their users start them, on the run's Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Kafka, create, create_topics
from tests.verifier import Service, environment

__all__ = ["Kafka", "create", "create_topics"]


@pytest.fixture
def make_topics(kafka: Kafka) -> Callable[..., None]:
    """Return what creates every topic of the pair under a prefix."""
    return lambda prefix, partitions=4: create_topics(kafka.admin, prefix, partitions)


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
