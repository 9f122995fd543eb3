"""Every topic as the contract's table has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import topics
from shared.topics import TopicDefinition, changelog_of, definitions

DAY_MILLISECONDS = 86_400_000
COUNTS = st.integers(1, 50)


def by_name(users: int = 6, sensors: int = 6, hours: int = 168) -> dict[str, TopicDefinition]:
    actual = {topics.USER_BEHAVIOR: users, topics.SENSOR_DATA: sensors}
    found = definitions(partitions=6, retention_hours=hours, input_partitions=actual)
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def test_these_are_the_topics_of_the_pair() -> None:
    assert set(by_name()) == {
        "user_behavior",
        "sensor_data",
        "purchases",
        "alerts",
        "behavior_stats",
        "sensor_stats",
        "progress",
        "dead_letters",
        "dead_letters-handled",
        "delivery_dead_letters",
        "delivery_dead_letters-handled",
        "delivery_retries",
        "processor-user_behavior-changelog",
        "processor-sensor_data-changelog",
        "generator_ledger",
    }


@given(users=COUNTS, sensors=COUNTS)
def test_what_belongs_to_an_input_has_its_number_of_partitions(users: int, sensors: int) -> None:
    counts = {name: one.partitions for name, one in by_name(users, sensors).items()}
    for name in ("user_behavior", "purchases", "behavior_stats", "processor-user_behavior-changelog"):
        assert counts[name] == users
    for name in ("sensor_data", "alerts", "sensor_stats", "processor-sensor_data-changelog"):
        assert counts[name] == sensors
    assert counts["dead_letters"] == max(users, sensors)
    assert counts["progress"] == counts["generator_ledger"] == 1


@given(wanted=COUNTS, actual=COUNTS)
def test_the_setting_counts_only_for_an_input_that_does_not_exist_yet(wanted: int, actual: int) -> None:
    found = definitions(partitions=wanted, retention_hours=1, input_partitions={topics.SENSOR_DATA: actual})
    counts = {one.name: one.partitions for one in found}
    assert counts["user_behavior"] == wanted
    assert counts["sensor_data"] == actual


def test_inputs_are_deleted_after_the_hours_that_are_set() -> None:
    for name in topics.INPUTS:
        assert by_name(hours=5)[name].configs == {"cleanup.policy": "delete", "retention.ms": "18000000"}


@pytest.mark.parametrize("name", ["purchases", "alerts"])
def test_results_record_by_record_are_kept_for_30_days(name: str) -> None:
    assert by_name()[name].configs == {
        "cleanup.policy": "delete",
        "retention.ms": str(30 * DAY_MILLISECONDS),
    }


@pytest.mark.parametrize(
    "name",
    [
        "behavior_stats",
        "sensor_stats",
        "progress",
        "generator_ledger",
        "processor-user_behavior-changelog",
        "processor-sensor_data-changelog",
    ],
)
def test_where_the_latest_record_is_the_truth_the_topic_is_compacted(name: str) -> None:
    assert by_name()[name].configs["cleanup.policy"] == "compact"


def test_changelogs_are_cleaned_early() -> None:
    configs = by_name()[changelog_of(topics.USER_BEHAVIOR)].configs
    assert float(configs["min.cleanable.dirty.ratio"]) < 0.5
    assert int(configs["segment.bytes"]) < 2**30
    assert int(configs["segment.ms"]) < 7 * DAY_MILLISECONDS


def test_dead_letters_are_kept_for_ever_and_take_twice_the_largest_input() -> None:
    assert by_name()["dead_letters"].configs == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "max.message.bytes": str(2 * 1_048_588),
    }
