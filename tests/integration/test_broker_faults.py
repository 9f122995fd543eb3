"""A broker that is not there yet, goes, comes back, or never does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from sandbox import Sandbox
from tests.integration.conftest import create_topics
from tests.verifier import BackgroundLoad, LoadPlan, Service, verify, wait_until_caught_up

StartProcessor = Callable[..., Service]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def own_kafka() -> Iterator[Sandbox]:
    """A broker of the test's own, to be broken."""
    with Sandbox() as sandbox:
        create_topics(AdminClient({"bootstrap.servers": sandbox.bootstrap_servers}), "")
        yield sandbox


def own(sandbox: Sandbox, **settings: object) -> dict[str, Any]:
    return {"KAFKA_BOOTSTRAP_SERVERS": sandbox.bootstrap_servers, "KAFKA_TOPIC_PREFIX": "", **settings}


def last_reason(service: Service) -> str:
    return str(json.loads(service.lines()[-1])["reason"])


def test_a_broker_that_comes_late_is_waited_for(own_kafka: Sandbox, start_processor: StartProcessor) -> None:
    own_kafka.stop()
    service = start_processor(**own(own_kafka))
    service.wait_for_line("kafka_unavailable")
    assert service.get("/livez")[0] == 200
    assert service.get("/readyz")[0] == 503
    own_kafka.restart()
    service.wait_until_ready(60)


def test_a_broker_that_never_comes_ends_the_process_at_the_deadline(start_processor: StartProcessor) -> None:
    service = start_processor(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", KAFKA_UNAVAILABLE_SECONDS=3)
    began = time.monotonic()
    assert service.wait(30) == 1
    assert 3 <= time.monotonic() - began < 15
    assert "Kafka has been unavailable for" in last_reason(service)


def test_a_broker_that_goes_for_ever_ends_an_idle_processor_too(
    own_kafka: Sandbox, start_processor: StartProcessor
) -> None:
    service = start_processor(**own(own_kafka, KAFKA_UNAVAILABLE_SECONDS=6))
    service.wait_until_ready(60)
    own_kafka.kill()
    assert service.wait(60) == 1
    assert "Kafka has been unavailable for" in last_reason(service)


def test_a_stop_while_the_broker_is_frozen_ends_within_the_grace_period(
    own_kafka: Sandbox, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=31, users=20_000)
    service = start_processor(**own(own_kafka))
    service.wait_until_ready(60)
    with BackgroundLoad(own_kafka.bootstrap_servers, "", plan, records_per_second=1_000) as running:
        running.wait_for(2_000)
        own_kafka.pause()
        try:
            assert service.terminate(30) == 0
        finally:
            own_kafka.resume()


@pytest.mark.parametrize("how", ["clean restart", "kill -9", "frozen"])
def test_nothing_is_lost_or_doubled_when_the_broker_fails_under_load(
    own_kafka: Sandbox, start_processor: StartProcessor, how: str
) -> None:
    plan = LoadPlan(seed=32, users=20_000, poison_rate=0.01)
    service = start_processor(**own(own_kafka))
    service.wait_until_ready(60)
    servers = own_kafka.bootstrap_servers
    with BackgroundLoad(servers, "", plan, records_per_second=2_000) as running:
        running.wait_for(3_000)
        if how == "frozen":
            own_kafka.pause()
            time.sleep(12)  # Longer than the deadline of an operation.
            own_kafka.resume()
        else:
            own_kafka.restart(graceful=how == "clean restart")
        running.wait_for(4_000, timeout_seconds=90)
    wait_until_caught_up(servers, "", 90)
    assert service.is_running, "a broker that comes back is no reason to stop"
    report = verify(servers, "")
    assert report.ok, report.text
    assert service.terminate() == 0
