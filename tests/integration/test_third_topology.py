"""A topology from outside the project keeps what is hard: it is killed, and nothing is lost or doubled."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from tests.integration.conftest import Kafka, create
from tests.integration.scraped import Scraped
from tests.verifier import Service
from tests.verifier.broker import Broker
from tests.verifier.polling import poll

PARTITIONS = 3
EVENTS = 9_000


@pytest.fixture(autouse=True)
def _topics(kafka: Kafka, prefix: str, make_topics: Callable[..., None]) -> None:
    make_topics(prefix)
    compacted = {"cleanup.policy": "compact"}
    new = [
        NewTopic(f"{prefix}page_views", PARTITIONS, 1),
        NewTopic(f"{prefix}page_counts", PARTITIONS, 1, config=compacted),
        NewTopic(f"{prefix}processor-page_views-changelog", PARTITIONS, 1, config=compacted),
    ]
    create(kafka.admin, new)


@pytest.mark.parametrize("name", ["PageViews", "ColumnarPageViews"])
def test_a_topology_by_dotted_path_comes_through_kill_9(
    kafka: Kafka, prefix: str, start_processor: Callable[..., Service], name: str
) -> None:
    settings = {
        "PROCESSOR_TOPOLOGIES": f"tests.integration.page_views.{name}",
        "PROCESSOR_COMMIT_EVERY_EVENTS": 50,
    }
    first = start_processor(**settings)
    first.wait_until_ready(60)
    chance = random.Random(5)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    expected: Counter[tuple[int, str]] = Counter()
    for number in range(EVENTS):
        partition, page = number % PARTITIONS, f"/page/{chance.randint(1, 40)}"
        producer.produce(f"{prefix}page_views", json.dumps({"page": page}), partition=partition)
        expected[partition, page] += 1
        if number % 1_000 == 500:
            producer.flush(30)
        if number in (3_000, 6_000):
            first.kill()
            first.start()
    producer.flush(30)
    broker = Broker(kafka.bootstrap_servers)

    def all_counted() -> bool | None:
        return sum(latest().values()) >= EVENTS or None

    def latest() -> dict[tuple[int, str], int]:
        records = broker.read_topic(f"{prefix}page_counts", 30)
        found = [json.loads(record.value) for record in records if record.value]
        return {(one["partition"], one["page"]): one["views"] for one in found}

    poll(all_counted, 60, lambda: f"counted {sum(latest().values())} of {EVENTS}")
    assert latest() == dict(expected)
    by_columns = Scraped(first).total("tandem_processor_columnar_events_total")
    assert (by_columns > 0) == (name == "ColumnarPageViews")
    assert first.terminate() == 0


def test_a_topology_that_does_not_exist_is_named_with_the_other_problems(
    start_processor: Callable[..., Service],
) -> None:
    service = start_processor(PROCESSOR_TOPOLOGIES="behavior,tests.integration.page_views.Nothing")
    assert service.wait(30) == 2
    assert "tests.integration.page_views.Nothing" in service.lines()[-1]
