"""The processor is killed where it hurts most, and every result is compared with a recomputation."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from tests.integration.conftest import Kafka
from tests.integration.scraped import Scraped
from tests.verifier import BackgroundLoad, LoadPlan, Service, load, verify, wait_until_caught_up

StartProcessor = Callable[..., Service]
MakeTopics = Callable[..., None]
FAULTY = "tests.integration.faulty_processor"
COMPILED = "services.processor"
UNCOMPILED = "tests.integration.uncompiled_processor"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _topics(make_topics: MakeTopics, prefix: str) -> None:
    make_topics(prefix)


@pytest.mark.parametrize(
    "cut", ["before_produce", "after_produce", "after_offsets", "while_ending", "after_commit"]
)
def test_nothing_is_lost_or_doubled_when_the_processor_dies_in_a_transaction(
    kafka: Kafka, prefix: str, start_processor: StartProcessor, cut: str
) -> None:
    plan = LoadPlan(seed=11, users=20_000, poison_rate=0.02, oddity_rate=0.05)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=3_000) as running:
        running.wait_for(2_000)
        # Thirty transactions go well: there is state to be restored, and results that must not be doubled.
        faulty = start_processor(argv=FAULTY, FAULT=cut, FAULT_AFTER=30)
        assert faulty.wait(60) == -9, "the process was to kill itself"
        running.wait_for(1_000)  # The work is not finished.
        start_processor()
        running.wait_for(3_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text
    assert report.counts["events"] > 5_000
    assert report.counts["dead letters"] == running.acknowledged.dead_letters > 0


def test_without_its_compiled_part_it_says_so_and_goes_on_from_what_was_counted_with_it(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    odd, plain = LoadPlan(seed=19, users=20_000, poison_rate=0.02, oddity_rate=0.05), LoadPlan(seed=20)
    load(kafka.bootstrap_servers, prefix, odd, records=3_000)
    for argv, is_slow in ((COMPILED, False), (UNCOMPILED, True), (COMPILED, False)):
        processor = start_processor(argv=argv)
        for plan in (plain, odd):
            load(kafka.bootstrap_servers, prefix, plan, records=3_000)
            wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
        by_columns = Scraped(processor).total("tandem_processor_columnar_events_total")
        assert (by_columns > 0) is not is_slow
        assert processor.terminate() == 0
        reasons = [line for line in processor.lines() if '"slow_path"' in line]
        assert len(reasons) == is_slow
        assert all("services.processor.native.compile" in line for line in reasons)
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_a_restore_that_is_killed_again_and_again_ends_in_the_same_state(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=12, users=20_000)
    load(kafka.bootstrap_servers, prefix, plan, records=20_000)
    first = start_processor(PROCESSOR_COMMIT_EVERY_EVENTS=500)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    first.kill()
    load(kafka.bootstrap_servers, prefix, plan, records=2_000)
    for after in (0, 2, 5):
        faulty = start_processor(argv=FAULTY, FAULT="during_restore", FAULT_AFTER=after)
        assert faulty.wait(60) == -9, "the process was to kill itself"
    start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_a_coordinator_that_answers_out_of_the_past_is_asked_again(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=17, users=20_000)
    load(kafka.bootstrap_servers, prefix, plan, records=4_000)
    first = start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert first.terminate() == 0
    load(kafka.bootstrap_servers, prefix, plan, records=1_000)
    second = start_processor(argv=FAULTY, FAULT="old_answer", FAULT_AFTER=8)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    doubts = [line for line in second.lines() if "do not belong together" in line]
    assert len(doubts) == 8
    assert all('"task_rebuilt"' in line for line in doubts)
    assert second.terminate() == 0
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_nothing_is_lost_or_doubled_when_processors_die_at_random_moments(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    chance = random.Random(13)
    plan = LoadPlan(seed=13, users=20_000, poison_rate=0.01)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=3_000) as running:
        start_processor()  # This one lives through the rebalances that the deaths of the others cause.
        for _ in range(3):
            victim = start_processor()
            victim.wait_until_ready(60)
            time.sleep(chance.uniform(0.0, 2.0))  # The moment of death; nothing is waited for.
            victim.kill()
        running.wait_for(3_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_a_duplicate_is_dropped_and_a_gap_is_counted_across_a_kill(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(
        seed=14, poison_rate=0.01, source="load", duplicate_rate=0.02, gap_rate=0.02, stray_rate=0.01
    )
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=3_000) as running:
        first = start_processor()
        first.wait_until_ready(60)
        running.wait_for(3_000)
        first.kill()
        start_processor()
        running.wait_for(3_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text
    assert report.counts["duplicates"] > 0
    assert report.counts["gaps"] > 0


def test_a_frozen_processor_that_wakes_up_after_its_partitions_were_given_away_is_fenced(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=15, users=20_000)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=2_000) as running:
        zombie = start_processor()
        zombie.wait_until_ready(60)
        running.wait_for(2_000)
        zombie.pause()
        time.sleep(8)  # Past the session timeout of 6 s: the group gives its partitions away.
        other = start_processor()
        other.wait_until_ready(60)
        running.wait_for(4_000)
        zombie.resume()
        running.wait_for(4_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_a_mutant_that_commits_results_and_offset_apart_is_caught(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    """The verifier and the cuts can fail: this guarantee is not one."""
    plan = LoadPlan(seed=16, users=20_000)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=3_000) as running:
        running.wait_for(2_000)
        mutant = start_processor(
            argv=FAULTY, MUTANT="two_transactions", FAULT="after_produce", FAULT_AFTER=30
        )
        assert mutant.wait(60) == -9, "the process was to kill itself"
        running.wait_for(1_000)
    correct = start_processor()
    # Its changelog is ahead of its offset: the processor refuses to count from that.
    assert correct.wait(60) == 1
    assert "the changelog stands at offset" in "\n".join(correct.lines())
    report = verify(kafka.bootstrap_servers, prefix)
    assert not report.ok
