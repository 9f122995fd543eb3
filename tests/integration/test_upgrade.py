"""A version goes on from what the one before it left, and refuses what a later one wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from shared.changelog import FORMAT, KNOWN_FORMATS, OFFSET_KEY
from tests.fixtures import before
from tests.integration.conftest import Kafka
from tests.verifier import LoadPlan, Service, load, verify, wait_until_caught_up
from tests.verifier.broker import Broker
from tests.verifier.contract import PartitionId

StartProcessor = Callable[..., Service]
CHANGELOGS = ("processor-user_behavior-changelog", "processor-sensor_data-changelog")


@pytest.fixture(autouse=True)
def left_behind(kafka: Kafka, prefix: str, make_topics: Callable[..., None]) -> dict[PartitionId, int]:
    make_topics(prefix, before.PARTITIONS)
    return before.put_back(kafka.bootstrap_servers, prefix, kafka.admin)


def state_values(kafka: Kafka, prefix: str) -> dict[tuple[str, int, bytes], bytes]:
    """Return the latest value of each state key, offset records included."""
    found: dict[tuple[str, int, bytes], bytes] = {}
    for changelog in CHANGELOGS:
        for one in Broker(kafka.bootstrap_servers).read_topic(prefix + changelog, 30):
            assert one.key is not None
            assert one.value is not None, "nothing is deleted here"
            found[one.topic, one.partition, one.key] = one.value
    return found


def started_at(service: Service) -> dict[str, int]:
    lines = [json.loads(line) for line in service.lines() if '"task_running"' in line]
    return {one["input"]: one["offset"] for one in lines}


def last_reason(service: Service) -> str:
    line: dict[str, Any] = json.loads(service.lines()[-1])
    assert line["event"] == "stopped"
    return str(line["reason"])


def test_a_changelog_of_the_version_before_is_counted_on_and_mixed_values_restore(
    kafka: Kafka, prefix: str, start_processor: StartProcessor, left_behind: dict[PartitionId, int]
) -> None:
    as_it_was = state_values(kafka, prefix)
    assert not any(value.startswith(b"v") for value in as_it_was.values())
    offsets = {f"{one.topic}:{one.number}": offset for one, offset in left_behind.items()}
    # Few users and sensors: some keys are written anew, some stay as they were.
    more = LoadPlan(seed=42, users=70, source="after", poison_rate=0.02, large_limit=0)
    for round_number in range(2):
        load(kafka.bootstrap_servers, prefix, more, records=200)
        service = start_processor()
        wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
        assert service.terminate() == 0
        if round_number == 0:
            assert started_at(service) == offsets
            after = state_values(kafka, prefix)
            untouched = [key for key, value in after.items() if as_it_was.get(key) == value]
            assert untouched, "nothing is left of the older version"
            numbered = {key for key, value in after.items() if value.startswith(b"v1 ")}
            assert numbered >= {key for key in after if key[2].startswith((b"accounts/", b"totals/"))}
            offset_records = [value for key, value in after.items() if key[2] == OFFSET_KEY]
            assert {json.loads(value)["format"] for value in offset_records} == {FORMAT}
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text
    assert report.counts["duplicates"] > 0
    assert report.counts["gaps"] > 0


KNOWN = " and ".join(map(str, KNOWN_FORMATS))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ((b"totals/all", b'v2 {"total":{}}'), "a value of store totals has format 2, this version knows 1"),
        ((b"users/1017", b"v9 1"), "a value of store users has format 9, this version knows 1"),
        ((OFFSET_KEY, b'{"format":3,"more":1}'), f"the state has format 3, this version knows {KNOWN}"),
    ],
    ids=["a value", "a key", "the offset record"],
)
def test_what_a_later_version_wrote_is_refused_with_where_it_stands_and_what_to_do(
    kafka: Kafka, prefix: str, start_processor: StartProcessor, written: tuple[bytes, bytes], said: str
) -> None:
    key, value = written
    place = PartitionId(prefix + CHANGELOGS[0], 1)
    offset = Broker(kafka.bootstrap_servers).ends([place])[place].raw
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(place.topic, partition=place.number, key=key, value=value)
    assert not producer.flush(30)
    service = start_processor(PROCESSOR_TOPOLOGIES="behavior")
    assert service.wait(60) == 1
    assert last_reason(service) == f"{place.topic}:1@{offset}: {said}: run the version that wrote it"
    assert state_values(kafka, prefix)[place.topic, 1, key] == value, "it wrote over it"
