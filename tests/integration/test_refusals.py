"""The processor stops, with a clear last line, before it counts from a state or topic it can't trust."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from shared.changelog import FORMAT, OFFSET_KEY
from tests.integration.conftest import Kafka, create
from tests.verifier import LoadPlan, Service, load, verify, wait_until_caught_up
from tests.verifier.broker import Broker

StartProcessor = Callable[..., Service]
CHANGELOG = "processor-user_behavior-changelog"


@pytest.fixture(autouse=True)
def _topics(make_topics: Callable[..., None], prefix: str) -> None:
    make_topics(prefix)


def last_reason(service: Service) -> str:
    line: dict[str, Any] = json.loads(service.lines()[-1])
    assert line["event"] == "stopped"
    return str(line["reason"])


def count_some(kafka: Kafka, prefix: str, start: StartProcessor, records: int = 2_000) -> None:
    """Leave a stopped processor behind that has counted."""
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=21), records=records)
    service = start()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert service.terminate() == 0


def set_policy(kafka: Kafka, prefix: str, policy: str) -> None:
    entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, prefix + CHANGELOG, incremental_configs=[entry])
    wait_for(kafka.admin.incremental_alter_configs([resource]))


def wait_for(futures: dict[Any, Any]) -> None:
    for future in futures.values():
        future.result(30)


def test_missing_topics_are_named_with_what_to_do(start_processor: StartProcessor) -> None:
    service = start_processor(KAFKA_TOPIC_PREFIX="nothing-here.")
    assert service.wait(60) == 1
    assert "missing topics: nothing-here.user_behavior" in last_reason(service)
    assert "tandem topics create" in last_reason(service)


def test_partitions_added_while_it_runs_stop_it_before_it_counts_from_them(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=22), records=1_000)
    service = start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    topic = f"{prefix}user_behavior"
    wait_for(kafka.admin.create_partitions([NewPartitions(topic, 6)]))
    assert service.wait(60) == 1
    assert f"topic {topic} has 6 partitions and its changelog was made for 4" in last_reason(service)
    again = start_processor()
    assert again.wait(60) == 1
    assert "6 partitions" in last_reason(again)
    progress = [line for line in service.lines() + again.lines() if '"task_running"' in line]
    assert not any("user_behavior:4" in line or "user_behavior:5" in line for line in progress)


def test_a_changelog_that_was_cut_is_not_counted_from(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    count_some(kafka, prefix, start_processor)
    # Kafka cuts no compacted topic: whoever does it has to change the policy first.
    set_policy(kafka, prefix, "delete")
    wait_for(kafka.admin.delete_records([Place(f"{prefix}{CHANGELOG}", number, 5) for number in range(4)]))
    set_policy(kafka, prefix, "compact")
    service = start_processor()
    assert service.wait(60) == 1
    assert "the changelog should hold" in last_reason(service)
    assert "let it count the input again from the start" in last_reason(service)


def test_a_changelog_that_was_deleted_is_not_counted_from(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    count_some(kafka, prefix, start_processor)
    topic = f"{prefix}{CHANGELOG}"
    wait_for(kafka.admin.delete_topics([topic]))
    missing = start_processor()
    assert missing.wait(60) == 1
    assert f"missing topics: {topic}" in last_reason(missing)
    create(kafka.admin, [NewTopic(topic, 4, 1, config={"cleanup.policy": "compact"})])
    empty = start_processor()
    assert empty.wait(60) == 1
    assert "the changelog has 0 keys and no offset record" in last_reason(empty)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"group": "somebody-else"}, "the changelog belongs to group somebody-else"),
        ({"format": FORMAT + 1}, f"the state has format {FORMAT + 1}"),
        ({"offset": 7}, "the changelog stands at offset 7"),
    ],
)
def test_a_changelog_of_another_group_format_or_offset_is_not_counted_from(
    kafka: Kafka, prefix: str, start_processor: StartProcessor, changed: dict[str, Any], said: str
) -> None:
    count_some(kafka, prefix, start_processor)
    topic = f"{prefix}{CHANGELOG}"
    records = Broker(kafka.bootstrap_servers).read_topic(topic, 30)
    found = [one for one in records if one.key == OFFSET_KEY and one.partition == 0][-1]
    assert found.value is not None
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(topic, json.dumps(json.loads(found.value) | changed), OFFSET_KEY, 0)
    producer.flush(30)
    service = start_processor()
    assert service.wait(60) == 1
    assert said in last_reason(service)


def test_a_changelog_that_is_not_compacted_is_refused(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    set_policy(kafka, prefix, "delete")
    service = start_processor()
    assert service.wait(60) == 1
    assert "cleanup.policy=delete" in last_reason(service)


def test_a_group_whose_offsets_expired_goes_on_from_its_changelog(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    count_some(kafka, prefix, start_processor)
    wait_for(kafka.admin.delete_consumer_groups([f"{prefix}behavior-processor"]))
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=23), records=1_000)
    service = start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert any("group_offset_was_gone" in line for line in service.lines())
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


@pytest.mark.parametrize(("on_loss", "exit_code"), [("stop", 1), ("skip", None)])
def test_records_that_retention_removed_unread_stop_it_or_are_skipped_as_set(
    kafka: Kafka, prefix: str, start_processor: StartProcessor, on_loss: str, exit_code: int | None
) -> None:
    count_some(kafka, prefix, start_processor)
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=24), records=2_000)
    topic = f"{prefix}user_behavior"
    # Everything of partition 0 goes, read or not.
    wait_for(kafka.admin.delete_records([Place(topic, 0, -1)]))
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=25), records=1_000)
    service = start_processor(PROCESSOR_ON_RETENTION_LOSS=on_loss)
    if exit_code is not None:
        assert service.wait(60) == exit_code
        assert "Retention removed what was not read yet" in last_reason(service)
        return
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    skipped = json.loads(service.wait_for_line("retention_loss"))["skipped"]
    assert skipped > 0
    assert service.stats()["topologies"]["behavior"]["accounts"]["skipped"] == skipped


def test_all_bad_settings_are_said_at_once(start_processor: StartProcessor) -> None:
    service = start_processor(
        PROCESSOR_WINDOW_SIZE=0, PROCESSOR_TOPOLOGYS="behavior", KAFKA_BOOTSTRAP_SERVERS="nonsense"
    )
    assert service.wait(30) == 2
    reason = last_reason(service)
    assert "PROCESSOR_WINDOW_SIZE" in reason
    assert "did you mean PROCESSOR_TOPOLOGIES?" in reason
    assert "KAFKA_BOOTSTRAP_SERVERS" in reason
