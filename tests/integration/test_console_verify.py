"""What `tandem verify` says of a million events of which a few are wrong, each in its own way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.conftest import Kafka
from tests.integration.commands import Ran, StartTandem
from tests.verifier import Service, environment, wait_until_caught_up

pytestmark = pytest.mark.timeout(300)

EVENTS = 1_000_000
PLANTED = 1_000
MISSING, TWICE = 500, 700
# The events as bytes alone are as much: what is read is not kept.
MOST_MEBIBYTES = 256
NOW = "2026-01-01T00:00:00+00:00"


def planted(number: int) -> bytes:
    return json.dumps(
        {
            "user_id": number,
            "action": "click",
            "page": "/page/1",
            "timestamp": "2026-01-01T00:00:00",
            "ip": "192.168.1.1",
            "device": "mobile",
            "source": "planted",
            "seq": number,
        }
    ).encode()


def plant(kafka: Kafka, prefix: str) -> int:
    """Write events of another source, one missing and one there twice; return the offset of it."""
    delivered: list[int] = []
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "enable.idempotence": True})
    topic = f"{prefix}user_behavior"
    for number in [*range(MISSING), *range(MISSING + 1, TWICE + 1), *range(TWICE, PLANTED)]:
        producer.produce(
            topic,
            planted(number),
            partition=3,
            on_delivery=lambda _error, message: delivered.append(message.offset()),
        )
    assert producer.flush(30) == 0
    entry = {"source": "planted", "topic": topic, "partition": 3, "acknowledged": PLANTED}
    entry |= {"last_offset": delivered[-1], "finished": True, "updated_at": NOW}
    producer.produce(f"{prefix}generator_ledger", json.dumps(entry), f"planted:{topic}:3", partition=0)
    assert producer.flush(30) == 0
    return delivered[TWICE]


def find(kafka: Kafka, prefix: str, partition: int, begin: int, action: str) -> tuple[int, str, int]:
    """Return offset, source and number of the first event of a kind."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": f"{prefix}unused"})
    consumer.assign([TopicPartition(f"{prefix}user_behavior", partition, begin)])
    try:
        for _ in range(10_000):
            message = consumer.poll(10)
            assert message is not None
            event = json.loads(message.value())
            if event["action"] == action:
                return message.offset(), event["source"], event["seq"]
    finally:
        consumer.close()
    raise AssertionError(f"no {action} from {begin} on")


def numbers(found: dict[str, Any]) -> list[tuple[str, int, int, int]]:
    return [(one["source"], one["partition"], one["first"], one["last"]) for one in found["numbers"]]


@dataclass(frozen=True)
class Blunders:
    """What is wrong: which event is twice in the log, and which ones the processor has dealt with wrongly.

    `overlooked` and `doubled` are offset, source and number of an event of partitions 1 and 2.
    """

    twice_at: int
    overlooked: tuple[int, str, int]
    doubled: tuple[int, str, int]


@pytest.fixture
def blunders(
    kafka: Kafka,
    prefix: str,
    make_topics: Callable[..., None],
    start_processor: Callable[..., Service],
    tmp_path: Path,
) -> Blunders:
    """Have a million events counted, and a few of them wrongly."""
    make_topics(prefix)
    reached = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "KAFKA_TOPIC_PREFIX": prefix}
    load = {"GENERATOR_STREAMS": "behavior", "GENERATOR_RATE": "max", "GENERATOR_EVENTS": EVENTS - PLANTED}
    variables = environment(**reached, **load, HTTP_PORT=0)
    generator = Service("services.generator", variables, tmp_path / "generator.log")
    generator.start()
    try:
        twice_at = plant(kafka, prefix)
        assert generator.wait(120) == 0
    finally:
        generator.end()
    found = Blunders(
        twice_at, find(kafka, prefix, 1, 100_000, "click"), find(kafka, prefix, 2, 50_000, "purchase")
    )
    start_processor(
        argv="tests.integration.blundering_processor",
        OVERLOOKED=f"1:{found.overlooked[0]}",
        DOUBLED=f"2:{found.doubled[0]}",
        PROCESSOR_TOPOLOGIES="behavior",
    ).wait_until_ready()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, timeout_seconds=120)
    return found


def test_what_is_lost_or_doubled_among_a_million_is_named(
    blunders: Blunders,
    prefix: str,
    begin_tandem: StartTandem,
    record_property: Callable[[str, object], None],
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    out = tmp_path / "out"
    with out.open("w") as file:
        process = begin_tandem("verify", "--json", stdout=file)
        # Of this process alone: the test's other children may have been larger.
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    mebibytes = used.ru_maxrss / 1024

    ran = Ran(process.returncode, out.read_text(), "")
    assert ran.exit_code == 1
    summary = ran.objects[-1]
    assert summary["records"] == EVENTS
    record_property("measured", f"verify of {EVENTS:,} events: {seconds:.1f} s, {mebibytes:.0f} MiB")
    assert mebibytes < MOST_MEBIBYTES
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for one in ran.objects:
        if one["type"] == "difference":
            partition = one["numbers"][0]["partition"] if one["numbers"] else -1
            found.setdefault((one["kind"], one["topic"].removeprefix(prefix), partition), []).append(one)
    # In the log.
    [missing] = found["lost", "user_behavior", 3]
    assert numbers(missing) == [("planted", 3, MISSING, MISSING)]
    notes = [one for one in ran.objects if one["type"] == "note" and one["numbers"]]
    assert [(numbers(one), f"@{blunders.twice_at}:" in one["text"]) for one in notes] == [
        ([("planted", 3, TWICE, TWICE)], True)
    ]
    # In the processor.
    [uncounted] = found["lost", "user_behavior", 1]
    _, source, number = blunders.overlooked
    assert numbers(uncounted) == [(source, 1, number, number)]
    [twice] = found["doubled", "purchases", 2]
    _, source, number = blunders.doubled
    assert numbers(twice) == [(source, 2, number, number)]
    # The sums say the same; of the first wrong ones it is said where it can come from.
    for partition, offset in ((1, blunders.overlooked[0]), (2, blunders.doubled[0])):
        [first] = found["wrong", "behavior_stats", partition]
        assert first["input"]["first_offset"] <= offset <= first["input"]["last_offset"]
    assert {key[:2] for key in found} == {
        ("lost", "user_behavior"),
        ("doubled", "purchases"),
        ("wrong", "behavior_stats"),
        ("wrong", "progress"),
    }
