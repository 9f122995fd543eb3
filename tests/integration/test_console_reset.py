"""`tandem reset-offsets` on a real Kafka: counted again from the beginning, each partition whole or not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from tests.conftest import Kafka
from tests.integration.commands import COMMAND_SECONDS, StartTandem, Tandem
from tests.integration.grants import Grant, documented
from tests.integration.guarded import Guarded
from tests.verifier import LoadPlan, Service, environment, load, verify, wait_until_caught_up
from tests.verifier.broker import Broker
from tests.verifier.contract import PartitionId
from tests.verifier.polling import poll

PARTITIONS = 4
INPUT = "user_behavior"
CHANGELOG = "processor-user_behavior-changelog"
GROUP = "behavior-processor"
RECORDS = 3_000
RESULTS = ("purchases", "alerts", "behavior_stats", "sensor_stats", "dead_letters")

# As Ctrl-C does, at the first of these calls that has to do with a producer.
INTERRUPTED = """
import asyncio

from aiokafka import AIOKafkaProducer

from services.console.__main__ import run
from services.console.connection import Connection

call = {call}


async def interrupted(*arguments):
    if any(isinstance(one, AIOKafkaProducer) for one in arguments):
        asyncio.current_task().cancel()
    return await call(*arguments)


{call} = interrupted
run()
"""

StartProcessor = Callable[..., Service]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _topics(request: pytest.FixtureRequest, prefix: str) -> None:
    if "guarded" not in request.fixturenames:
        request.getfixturevalue("make_topics")(prefix, partitions=PARTITIONS)


@pytest.fixture
def counted(kafka: Kafka, prefix: str, start_processor: StartProcessor) -> int:
    """Let a processor count some records, and stop it; return how many user events it counted."""
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=5, users=500), records=RECORDS)
    return count(kafka, prefix, start_processor)


@pytest.fixture
def count_again(kafka: Kafka, prefix: str, start_processor: StartProcessor) -> Callable[[], int]:
    return lambda: count(kafka, prefix, start_processor)


def count(kafka: Kafka, prefix: str, start_processor: StartProcessor) -> int:
    service = start_processor()
    service.wait_until_ready()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    events = service.stats()["topologies"]["behavior"]["accounts"]["events"]
    assert service.terminate() == 0
    return int(events)


def latest(kafka: Kafka, topic: str) -> dict[tuple[int, bytes | None], bytes]:
    """Return the keys of a compacted topic that have a value, by partition and key."""
    found = {
        (one.partition, one.key): one.value for one in Broker(kafka.bootstrap_servers).read_topic(topic, 20)
    }
    return {place: value for place, value in found.items() if value is not None}


def committed(kafka: Kafka, prefix: str) -> list[int | None]:
    places = [PartitionId(f"{prefix}{INPUT}", number) for number in range(PARTITIONS)]
    found = Broker(kafka.bootstrap_servers).committed(f"{prefix}{GROUP}", places)
    return [found[place] for place in places]


def changed(kafka: Kafka, prefix: str, before: list[int | None]) -> set[int]:
    """Return the partitions whose group is no longer where it was."""
    now = committed(kafka, prefix)
    return {number for number in range(PARTITIONS) if now[number] != before[number]}


def make_results_anew(kafka: Kafka, prefix: str, *more: str) -> None:
    names = [prefix + name for name in (*RESULTS, *more)]
    for done in kafka.admin.delete_topics(names).values():
        done.result(20)
    poll(
        lambda: not set(names) & set(kafka.admin.list_topics(timeout=10).topics) or None,
        20,
        lambda: "they are still there",
    )
    for done in kafka.admin.create_topics([NewTopic(name, PARTITIONS) for name in names]).values():
        done.result(20)


def test_it_is_only_said_until_it_is_asked_for(
    counted: int, tandem: Tandem, kafka: Kafka, prefix: str
) -> None:
    before = latest(kafka, f"{prefix}{CHANGELOG}")
    ran = tandem("reset-offsets", INPUT, "--json")
    assert ran.exit_code == 0, ran.err
    assert [one["partition"] for one in ran.objects] == list(range(PARTITIONS))
    assert not any(one["done"] for one in ran.objects)
    assert sum(one["counted_again"] for one in ran.objects) >= counted > 0
    keys = sum(one["keys"] for one in ran.objects)
    assert keys == len([key for _, key in before if key is not None and not key.startswith(b"!")])
    assert latest(kafka, f"{prefix}{CHANGELOG}") == before
    people = tandem("reset-offsets", INPUT)
    assert "would be reset to" in people.out
    assert "purchases and alerts come twice" in people.err


def test_all_is_counted_again_and_comes_out_the_same(
    counted: int, tandem: Tandem, kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    for name in (INPUT, "sensor_data"):
        ran = tandem("reset-offsets", name, "--execute", "--json")
        assert (ran.exit_code, {one["done"] for one in ran.objects}) == (0, {True}), ran.err
    left = latest(kafka, f"{prefix}{CHANGELOG}")
    assert {key for _, key in left} <= {b"!offset", b"!writer"}
    assert {json.loads(value)["live_keys"] for (_, key), value in left.items() if key == b"!offset"} == {0}
    # Both inputs begin anew, so the accounts of both may go.
    make_results_anew(kafka, prefix, "progress")
    assert count(kafka, prefix, start_processor) == counted
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_another_group_than_the_changelogs_is_refused(
    counted: int, tandem: Tandem, kafka: Kafka, prefix: str
) -> None:
    assert counted
    before = latest(kafka, f"{prefix}{CHANGELOG}")
    wrong = tandem("reset-offsets", INPUT, "--group", "typo", "--execute")
    assert (wrong.exit_code, f"is counted by group {prefix}{GROUP}" in wrong.err) == (1, True), wrong.err
    # What stands in the changelog counts, not what we know of groups.
    place = next(one for one in before if one[1] == b"!offset")
    record = json.loads(before[place]) | {"group": "another"}
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(f"{prefix}{CHANGELOG}", json.dumps(record), b"!offset", place[0])
    assert producer.flush(20) == 0
    before[place] = json.dumps(record).encode()
    others = tandem("reset-offsets", INPUT, "--execute")
    assert (others.exit_code, "belongs to group another" in others.err) == (1, True), others.err
    assert latest(kafka, f"{prefix}{CHANGELOG}") == before


def test_one_partition_is_reset_and_no_other(counted: int, tandem: Tandem, prefix: str, kafka: Kafka) -> None:
    assert counted
    before = latest(kafka, f"{prefix}{CHANGELOG}")
    ran = tandem("reset-offsets", INPUT, "--partition", "2", "--execute", "--json")
    assert [one["partition"] for one in ran.objects] == [2]
    after = latest(kafka, f"{prefix}{CHANGELOG}")
    assert {place: value for place, value in after.items() if place[0] != 2} == {
        place: value for place, value in before.items() if place[0] != 2
    }
    assert {key for number, key in after if number == 2} <= {b"!offset", b"!writer"}


def test_what_retention_has_removed_is_not_expected_again(
    counted: int, tandem: Tandem, kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    topic = f"{prefix}{INPUT}"
    removal = kafka.admin.delete_records([TopicPartition(topic, 0, 10)])
    for done in removal.values():
        done.result(20)
    ran = tandem("reset-offsets", INPUT, "--execute", "--json")
    assert ran.objects[0]["to"] == 10
    make_results_anew(kafka, prefix)
    assert 0 < count(kafka, prefix, start_processor) < counted
    progress = latest(kafka, f"{prefix}progress")
    found = {
        json.loads(value)["partition"]: json.loads(value)
        for (_, key), value in progress.items()
        if key and key.startswith(topic.encode())
    }
    assert {number: one["first_offset"] for number, one in found.items()} == {0: 10, 1: 0, 2: 0, 3: 0}
    assert sum(one["gaps"] for one in found.values()) == 0


def test_a_group_at_work_is_left_alone(
    tandem: Tandem, kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=6), records=500)
    service = start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    for more in ((), ("--execute",)):
        ran = tandem("reset-offsets", INPUT, *more)
        assert (ran.exit_code, f"group {prefix}{GROUP} is active" in ran.err) == (1, True), ran.err
        assert "stop all its processors first" in ran.err
    assert service.stats()["topologies"]["behavior"]["accounts"]["events"] > 0
    assert service.terminate() == 0


def test_a_state_in_doubt_is_no_obstacle(
    counted: int, tandem: Tandem, kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    """It is the way out that the processor's last line names."""
    place = TopicPartition(f"{prefix}{INPUT}", 1, 1)
    [done] = kafka.admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(f"{prefix}{GROUP}", [place])]
    ).values()
    done.result(20)
    doubtful = start_processor()
    assert doubtful.wait(60) == 1
    assert "`tandem reset-offsets INPUT`" in doubtful.lines()[-1]
    assert tandem("reset-offsets", INPUT, "--execute").exit_code == 0
    make_results_anew(kafka, prefix)
    assert count(kafka, prefix, start_processor) == counted


def test_killed_in_the_middle_it_has_done_partitions_whole_or_not_at_all(
    counted: int, kafka: Kafka, prefix: str, begin_tandem: StartTandem, count_again: Callable[[], int]
) -> None:
    command = ("reset-offsets", INPUT, "--execute")
    chance = random.Random(3)
    for _ in range(4):
        process = begin_tandem(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.8, 2.0))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
    # Whatever is done: what a processor finds is a whole state, of before or of nothing.
    assert count_again() == counted
    assert begin_tandem(*command).wait(60) == 0
    make_results_anew(kafka, prefix)
    assert count_again() == counted


def test_interrupted_in_the_middle_it_says_which_partitions_are_done_and_no_other_is(
    counted: int, kafka: Kafka, prefix: str, begin_tandem: StartTandem, count_again: Callable[[], int]
) -> None:
    before = committed(kafka, prefix)
    assert None not in before
    process = begin_tandem(
        "reset-offsets", INPUT, "--execute", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        # Kafka shows an offset before the command knows that it is committed; with the second one shown it
        # knows of the first. The others are still to come, or under way.
        poll(lambda: len(changed(kafka, prefix, before)) > 1 or None, 40, lambda: "no two are reset")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)
    finally:
        process.kill()
        process.wait()
    said = {json.loads(line)["partition"] for line in out.splitlines()}
    assert process.returncode == 0 or "interrupted" in err, err
    assert said
    # What is said to be done is; Kafka answers a commit a little earlier than it shows it.
    poll(lambda: said <= changed(kafka, prefix, before) or None, 20, lambda: f"{said} are not all reset")
    done = changed(kafka, prefix, before)
    # But for one whose answer was not waited for, which is said too.
    assert all(f"partition {number}: not known" in err for number in done - said), err
    assert count_again() == counted


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    ("call", "done"),
    [("AIOKafkaProducer.send_offsets_to_transaction", set()), ("Connection.let_go", {0})],
    ids=["before it is committed", "after it was committed"],
)
def test_a_partition_is_done_from_its_commit_on(
    kafka: Kafka, prefix: str, tmp_path: Path, call: str, done: set[int]
) -> None:
    before = committed(kafka, prefix)
    assert None not in before
    program = INTERRUPTED.format(call=call)
    ran = subprocess.run(
        [sys.executable, "-c", program, "reset-offsets", INPUT, "--execute", "--json"],
        env=environment(KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers, KAFKA_TOPIC_PREFIX=prefix),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert (ran.returncode, "interrupted" in ran.stderr) == (1, True), ran.stderr
    assert {json.loads(line)["partition"] for line in ran.stdout.splitlines()} == done
    assert ("partition 0: not known" in ran.stderr) == (not done), ran.stderr
    poll(lambda: changed(kafka, prefix, before) == done or None, 20, lambda: str(committed(kafka, prefix)))


def test_bad_use_says_what_is_wrong(tandem: Tandem, prefix: str) -> None:
    unknown = tandem("reset-offsets", "page_views")
    assert (unknown.exit_code, "say which --group counts it" in unknown.err) == (1, True)
    missing = tandem("reset-offsets", "page_views", "--group", "views")
    assert (missing.exit_code, f"no topic {prefix}page_views" in missing.err) == (1, True)
    beyond = tandem("reset-offsets", INPUT, "--partition", "7")
    assert (beyond.exit_code, "has no partition 7: it has 0 to 3" in beyond.err) == (1, True)
    assert tandem("reset-offsets", INPUT, "--partition", "x").exit_code == 2
    nothing = tandem("reset-offsets", INPUT, "--execute")
    assert (nothing.exit_code, "was ever counted" in nothing.err) == (0, True)


RESETTER = documented("resetter")


def reset(guarded: Guarded, prefix: str, *arguments: str) -> tuple[int, list[str]]:
    return guarded.tandem(prefix, "resetter", "reset-offsets", INPUT, *arguments)


OF_USERS = [one for one in RESETTER if one.name.startswith(("behavior", "user_", "processor-user"))]


@pytest.mark.parametrize("needed", OF_USERS, ids=str)
def test_a_permission_to_reset_that_is_missing_is_named_and_all_of_them_are_enough(
    guarded: Guarded, prefix: str, needed: Grant
) -> None:
    guarded.make_topics(prefix)
    load(guarded.inside, prefix, LoadPlan(seed=7), records=300)
    guarded.grant(prefix, documented("processor"))
    service = guarded.service("services.processor", prefix, principal="processor")
    wait_until_caught_up(guarded.inside, prefix, 60)
    assert service.terminate() == 0
    guarded.grant(prefix, [one for one in RESETTER if one != needed])
    code, lines = reset(guarded, prefix, "--execute")
    assert code == 1
    name = needed.name.rstrip("-")
    assert f"{prefix}{name}" in "".join(lines), lines
    guarded.grant(prefix, [needed])
    code, lines = reset(guarded, prefix, "--execute", "--json")
    assert code == 0, lines
    assert all(json.loads(line)["done"] for line in lines)
