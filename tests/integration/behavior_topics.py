"""The topics of one of the two topologies: enough for most tests, and quicker made than all of them."""

from __future__ import annotations

from confluent_kafka.admin import NewTopic

from shared import topics

# The load of the tests needs both inputs.
_OF_THE_SENSORS = {topics.SENSOR_STATS, topics.ALERTS, topics.changelog_of(topics.SENSOR_DATA)}


def topics_of(prefix: str, partitions: int, *, every: bool = False) -> list[NewTopic]:
    """Return what the behavior topology, a generator and a load need, or every topic; with one replica."""
    return [
        NewTopic(prefix + one.name, one.partitions, 1, config=one.configs)
        for one in topics.definitions(partitions=partitions, retention_hours=168)
        if every or one.name not in _OF_THE_SENSORS
    ]
