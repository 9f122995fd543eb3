"""At least once: nothing is lost whatever dies, and what was under way may count twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from tests.integration.conftest import Kafka
from tests.verifier import BackgroundLoad, LoadPlan, Report, Service, load, verify, wait_until_caught_up
from tests.verifier.broker import Broker

StartProcessor = Callable[..., Service]
MakeTopics = Callable[..., None]
FAULTY = "tests.integration.faulty_processor"
CUTS = ["before_produce", "after_outputs", "in_changelog", "after_produce", "after_offsets"]
AT_LEAST_ONCE = {"PROCESSOR_GUARANTEE": "at_least_once"}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _topics(make_topics: MakeTopics, prefix: str) -> None:
    make_topics(prefix)


def lost(report: Report) -> list[str]:
    """Return the differences that may not be, with each result's being there twice left aside."""
    return [str(one) for one in report.differences if one.kind in ("lost", "open", "behind")]


def published_events(kafka: Kafka, prefix: str) -> Counter[str]:
    """Return, by input topic, the events and dead letters that the latest progress says were counted."""
    latest = {
        record.key: json.loads(record.value)
        for record in Broker(kafka.bootstrap_servers).read_topic(f"{prefix}progress", 30)
        if record.value
    }
    counted: Counter[str] = Counter()
    for progress in latest.values():
        counted[progress["topic"]] += progress["events"] + progress["dead_letters"]
    return counted


def read_events(kafka: Kafka, prefix: str) -> Counter[str]:
    """Return, by input topic, how many records there are."""
    broker = Broker(kafka.bootstrap_servers)
    names = (f"{prefix}user_behavior", f"{prefix}sensor_data")
    return Counter({name: len(broker.read_topic(name, 30)) for name in names})


def assert_nothing_is_lost(kafka: Kafka, prefix: str) -> Report:
    report = verify(kafka.bootstrap_servers, prefix)
    assert not lost(report), report.text
    published, read = published_events(kafka, prefix), read_events(kafka, prefix)
    assert all(published[topic] >= count > 0 for topic, count in read.items()), (published, read)
    return report


def test_without_a_failure_every_result_is_there_once(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=41, users=20_000, poison_rate=0.02, oddity_rate=0.05)
    load(kafka.bootstrap_servers, prefix, plan, records=10_000)
    service = start_processor(**AT_LEAST_ONCE)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert service.get("/readyz")[0] == 200
    assert service.terminate() == 0
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=42, users=20_000), records=5_000)
    service = start_processor(**AT_LEAST_ONCE)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert service.terminate() == 0
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


@pytest.mark.parametrize("cut", CUTS)
def test_nothing_is_lost_when_the_processor_dies_in_a_step(
    kafka: Kafka, prefix: str, start_processor: StartProcessor, cut: str
) -> None:
    plan = LoadPlan(seed=43, users=20_000, poison_rate=0.02)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=3_000) as running:
        running.wait_for(2_000)
        faulty = start_processor(argv=FAULTY, FAULT=cut, FAULT_AFTER=30, **AT_LEAST_ONCE)
        assert faulty.wait(60) == -9, "the process was to kill itself"
        running.wait_for(1_000)  # The work is not finished.
        service = start_processor(**AT_LEAST_ONCE)
        running.wait_for(3_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert_nothing_is_lost(kafka, prefix)
    if cut == "in_changelog":
        assert any('"left_out"' in line for line in service.lines()), "the step was cut short"


def test_the_verifier_catches_it_in_place_of_exactly_once(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=44, users=20_000)
    mutant = {"argv": FAULTY, "MUTANT": "at_least_once"}
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=3_000) as running:
        running.wait_for(2_000)
        faulty = start_processor(**mutant, FAULT="after_produce", FAULT_AFTER=30)
        assert faulty.wait(60) == -9, "the process was to kill itself"
        running.wait_for(1_000)
        service = start_processor(**mutant)
        service.wait_for_line("changelog_ahead")
        running.wait_for(1_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    report = assert_nothing_is_lost(kafka, prefix)
    # Its purchases are there twice, if there were any in the step. The totals tell of every event.
    assert any(one.kind == "wrong" for one in report.differences), report.text


def test_what_is_sourced_is_counted_once_even_so(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=45, users=20_000, source="load")
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=3_000) as running:
        running.wait_for(2_000)
        faulty = start_processor(argv=FAULTY, FAULT="after_produce", FAULT_AFTER=30, **AT_LEAST_ONCE)
        assert faulty.wait(60) == -9, "the process was to kill itself"
        service = start_processor(**AT_LEAST_ONCE)
        service.wait_for_line("changelog_ahead")
        running.wait_for(2_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert not lost(verify(kafka.bootstrap_servers, prefix))
    assert published_events(kafka, prefix) == read_events(kafka, prefix)


def test_nothing_is_lost_when_processors_come_and_die_and_go(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=46, users=20_000, poison_rate=0.01)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=3_000) as running:
        first = start_processor(**AT_LEAST_ONCE)
        first.wait_until_ready(60)
        running.wait_for(2_000)
        second = start_processor(**AT_LEAST_ONCE)
        second.wait_until_ready(60)
        running.wait_for(2_000)
        second.kill()
        third = start_processor(**AT_LEAST_ONCE)
        third.wait_until_ready(60)
        running.wait_for(2_000)
        assert first.terminate() == 0
        running.wait_for(2_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert_nothing_is_lost(kafka, prefix)


def test_two_processors_that_share_count_once_where_nothing_dies(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=47, users=20_000)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=2_000) as running:
        first = start_processor(**AT_LEAST_ONCE)
        first.wait_until_ready(60)
        running.wait_for(1_000)
        mark = first.mark()
        second = start_processor(**AT_LEAST_ONCE)
        second.wait_until_ready(60)
        first.wait_for_line("task_running", since=mark)  # What stays is built again too.
        running.wait_for(2_000)
        assert second.terminate() == 0
        running.wait_for(1_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_a_zombie_loses_nothing(kafka: Kafka, prefix: str, start_processor: StartProcessor) -> None:
    plan = LoadPlan(seed=48, users=20_000)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=2_000) as running:
        zombie = start_processor(**AT_LEAST_ONCE)
        zombie.wait_until_ready(60)
        running.wait_for(2_000)
        zombie.pause()
        other = start_processor(**AT_LEAST_ONCE)
        other.wait_until_ready(60)  # After the session timeout: the group gives the partitions away.
        running.wait_for(4_000)
        zombie.resume()
        running.wait_for(4_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert zombie.terminate() == 0
    assert other.terminate() == 0
    # Restored once more: what the zombie wrote into the changelog must not come back.
    last = start_processor(**AT_LEAST_ONCE)
    last.wait_until_ready(60)
    load(kafka.bootstrap_servers, prefix, plan, records=1_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert_nothing_is_lost(kafka, prefix)


# The guarantee is changed on data that is there


def test_it_goes_on_from_what_exactly_once_left_even_after_a_kill_in_a_transaction(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=49, users=20_000)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=2_000) as running:
        faulty = start_processor(
            argv=FAULTY, FAULT="after_offsets", FAULT_AFTER=30, PROCESSOR_TRANSACTION_TIMEOUT_SECONDS=5
        )
        assert faulty.wait(60) == -9, "the process was to kill itself"
        service = start_processor(**AT_LEAST_ONCE)
        service.wait_until_ready(60)  # When the broker has ended the transaction that hides its own mark.
        running.wait_for(1_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert service.terminate() == 0
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_exactly_once_goes_on_from_what_it_left_if_that_is_whole(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=50, users=20_000)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=3_000) as running:
        faulty = start_processor(argv=FAULTY, FAULT="after_produce", FAULT_AFTER=30, **AT_LEAST_ONCE)
        assert faulty.wait(60) == -9, "the process was to kill itself"
        running.wait_for(1_000)
    refused = start_processor()
    assert refused.wait(60) == 1
    reason = json.loads(refused.lines()[-1])["reason"]
    assert "the changelog stands at offset" in reason
    assert "start it with at_least_once again, let it catch up, stop it with SIGTERM" in reason
    service = start_processor(**AT_LEAST_ONCE)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert service.terminate() == 0
    before = published_events(kafka, prefix)
    load(kafka.bootstrap_servers, prefix, plan, records=1_000)
    start_processor().wait_until_ready(60)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert sum((published_events(kafka, prefix) - before).values()) == 1_000
    assert_nothing_is_lost(kafka, prefix)
