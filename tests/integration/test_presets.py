"""Each preset on a real Kafka: what is sent under it is counted once, what it asks for is insisted on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Kafka
from tests.integration.commands import Tandem
from tests.verifier import Service, environment, wait_until_caught_up

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["balanced", "durable", "throughput"])
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def generator(kafka: Kafka, prefix: str, preset: str, tmp_path: Path) -> Iterator[Service]:
    """A generator of 5,000 events a stream, not started."""
    variables = environment(
        KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers,
        KAFKA_TOPIC_PREFIX=prefix,
        KAFKA_PRESET=preset,
        GENERATOR_RATE="max",
        GENERATOR_SENSOR_RATE="max",
        GENERATOR_EVENTS=5_000,
        HTTP_PORT=0,
    )
    made = Service("services.generator", variables, tmp_path / "generator.log")
    yield made
    made.end()


@pytest.fixture
def processor(
    prefix: str, preset: str, make_topics: Callable[..., None], start_processor: Callable[..., Service]
) -> Service:
    make_topics(prefix)
    return start_processor(KAFKA_PRESET=preset)


@pytest.fixture
def _counted(kafka: Kafka, prefix: str, processor: Service, generator: Service) -> None:
    """Have what is sent under the preset counted under it."""
    generator.start()
    assert generator.wait(60) == 0
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert processor.terminate() == 0


@pytest.mark.usefixtures("_counted")
def test_what_is_sent_under_a_preset_is_counted_once(tandem: Tandem) -> None:
    verified = tandem("verify", "--json")
    assert verified.exit_code == 0, verified.out + verified.err
    account = verified.objects[-1]["account"]
    assert (account["sent"], account["counted"], account["lost"]) == (10_000, 10_000, 0)


def test_durable_insists_on_three_replicas(kafka: Kafka, tandem: Tandem) -> None:
    ran = tandem("topics", "create", KAFKA_PRESET="durable")
    brokers = len(kafka.admin.list_topics(timeout=10).brokers)
    assert ran.exit_code == (1 if brokers < 3 else 0), ran.err
    assert brokers >= 3 or "KAFKA_TOPIC_REPLICATION" in ran.err
