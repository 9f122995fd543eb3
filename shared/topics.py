"""Every topic by name, with what it is created as. Pure: no client, no settings but what is handed in."""

from __future__ import annotations

from dataclasses import dataclass, field

USER_BEHAVIOR = "user_behavior"
SENSOR_DATA = "sensor_data"
PURCHASES = "purchases"
ALERTS = "alerts"
BEHAVIOR_STATS = "behavior_stats"
SENSOR_STATS = "sensor_stats"
PROGRESS = "progress"
DEAD_LETTERS = "dead_letters"
DELIVERY_DEAD_LETTERS = "delivery_dead_letters"
DELIVERY_RETRIES = "delivery_retries"
GENERATOR_LEDGER = "generator_ledger"

INPUTS = (USER_BEHAVIOR, SENSOR_DATA)
BEHAVIOR_GROUP = "behavior-processor"
SENSOR_GROUP = "stream-processor"

# Kafka's own default for max.message.bytes.
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
_DAY_MILLISECONDS = 86_400_000
_MEBIBYTE = 2**20


def changelog_of(input_topic: str) -> str:
    """Return the name of the changelog that belongs to an input topic."""
    return f"processor-{input_topic}-changelog"


def handled_of(dead_letters: str) -> str:
    """Return the name of the topic that says what became of which dead letter."""
    return f"{dead_letters}-handled"


@dataclass(frozen=True)
class TopicDefinition:
    """A topic as it should be.

    Attributes:
        name: without the prefix.
        partitions: the number of partitions to create it with.
        configs: topic settings by Kafka's names, as Kafka prints them.
    """

    name: str
    partitions: int
    configs: dict[str, str] = field(default_factory=dict)


def _deleted_after(milliseconds: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(milliseconds)}


# Cleaned early, so that restores and whoever reads the latest of each key stay quick: small segments that
# roll, and a low ratio of dirt. One record per transaction would otherwise fill a gigabyte first.
_COMPACTED = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.1",
    "segment.bytes": str(64 * _MEBIBYTE),
    "segment.ms": "600000",
    "max.compaction.lag.ms": "3600000",
}


def definitions(
    *, partitions: int, retention_hours: int, input_partitions: dict[str, int] | None = None
) -> list[TopicDefinition]:
    """Return every topic the pair uses.

    Args:
        partitions: for an input topic that does not exist yet.
        retention_hours: of the input topics.
        input_partitions: the actual counts of the inputs that exist: they are the truth, and what
            belongs to an input takes its count.
    """
    counts = {name: (input_partitions or {}).get(name, partitions) for name in INPUTS}
    users, sensors = counts[USER_BEHAVIOR], counts[SENSOR_DATA]
    input_policy = _deleted_after(retention_hours * 3_600_000)
    thirty_days = _deleted_after(30 * _DAY_MILLISECONDS)
    letter_bytes = str(2 * DEFAULT_MAX_MESSAGE_BYTES)
    dead_letter_policy = _deleted_after(-1) | {"max.message.bytes": letter_bytes}
    return [
        TopicDefinition(USER_BEHAVIOR, users, input_policy),
        TopicDefinition(SENSOR_DATA, sensors, input_policy),
        TopicDefinition(PURCHASES, users, thirty_days),
        TopicDefinition(ALERTS, sensors, thirty_days),
        TopicDefinition(BEHAVIOR_STATS, users, _COMPACTED),
        TopicDefinition(SENSOR_STATS, sensors, _COMPACTED),
        TopicDefinition(PROGRESS, 1, _COMPACTED),
        TopicDefinition(DEAD_LETTERS, max(users, sensors), dead_letter_policy),
        TopicDefinition(handled_of(DEAD_LETTERS), 1, _COMPACTED),
        TopicDefinition(DELIVERY_DEAD_LETTERS, max(users, sensors), dead_letter_policy),
        TopicDefinition(handled_of(DELIVERY_DEAD_LETTERS), 1, _COMPACTED),
        TopicDefinition(
            DELIVERY_RETRIES, max(users, sensors), thirty_days | {"max.message.bytes": letter_bytes}
        ),
        TopicDefinition(changelog_of(USER_BEHAVIOR), users, _COMPACTED),
        TopicDefinition(changelog_of(SENSOR_DATA), sensors, _COMPACTED),
        TopicDefinition(GENERATOR_LEDGER, 1, _COMPACTED),
    ]
