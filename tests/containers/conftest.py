"""One stack for the run of this tier: built once, and gone at its end."""

from collections.abc import Iterator

import pytest

from tests.containers.stack import Stack, engine_answers
from tests.last_words import LOG_LINES, last_words
from tests.verifier.broker import Broker

# What stands in .env: settings of every kind, and some that are right outside the containers only.
SETTINGS = {
    "GENERATOR_RATE": 120,
    "GENERATOR_SENSOR_RATE": 50,
    # Something is in flight at each stop and kill, and the machine has to do less.
    "PROCESSOR_COMMIT_WHEN_CAUGHT_UP": "false",
    "PROCESSOR_COMMIT_EVERY_MILLISECONDS": 300,
    "PROCESSOR_LOG_EVERY_EVENTS": 1000,
    "CONSOLE_REFRESH_SECONDS": 2,
    "KAFKA_CLIENT_ID": "containers-tier",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
    "HTTP_HOST": "127.0.0.1",
    "HTTP_PORT": 9999,
}


@last_words.register
def _(fixture: Stack) -> list[tuple[str, str]]:
    return [
        ("the pair's last lines", fixture.last_log_lines("generator", "processor", count=LOG_LINES)),
        ("the brokers' last lines", fixture.last_log_lines(*fixture.kafka_ports, count=LOG_LINES)),
    ]


@pytest.fixture(scope="session")
def engine() -> None:
    if not engine_answers():
        pytest.skip("no container engine answers `docker info`")


@pytest.fixture(scope="session")
def stack(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:  # noqa: ARG001
    with Stack(tmp_path_factory.mktemp("compose"), SETTINGS) as one:
        one.build()
        yield one
    assert one.remains() == []


@pytest.fixture
def broker(stack: Stack) -> Broker:
    """Kafka as it is seen from outside the containers, with another client than the services'."""
    return Broker(stack.bootstrap_servers)
