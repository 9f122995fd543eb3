"""Services as their users start them, on the run's Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Kafka, create, create_topics
from tests.integration.commands import StartTandem, Tandem, run_tandem, start_tandem
from tests.integration.guarded import Guarded, guarded_broker
from tests.verifier import Service, environment

__all__ = ["Guarded", "Kafka", "create", "create_topics"]


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


@pytest.fixture
def tandem(kafka: Kafka, prefix: str, tmp_path: Path) -> Tandem:
    """Return what runs a command against the cluster, under the test's own prefix."""
    reached = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "KAFKA_TOPIC_PREFIX": prefix}
    return lambda *arguments, **variables: run_tandem(
        *arguments, folder=tmp_path, variables=reached | variables
    )


@pytest.fixture
def begin_tandem(kafka: Kafka, prefix: str, tmp_path: Path) -> StartTandem:
    """Return what starts a command as `tandem` runs it, and leaves the rest to the test."""
    reached = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "KAFKA_TOPIC_PREFIX": prefix}
    return lambda *arguments, **streams: start_tandem(
        *arguments, folder=tmp_path, variables=reached, **streams
    )


@pytest.fixture(scope="session")
def guarded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One broker for the run that denies by default; see `guarded`."""
    with guarded_broker(tmp_path_factory.mktemp("guarded")) as guarded:
        yield guarded


@pytest.fixture
def guarded(guarded_kafka: Guarded) -> Iterator[Guarded]:
    """Return that broker; what a test started there ends with it."""
    yield guarded_kafka
    guarded_kafka.end_services()
