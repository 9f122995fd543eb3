"""Topics as they are against topics as they should be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared import topics
from shared.topics import TopicDefinition

_REPLICATED = 3
# With three replicas one broker may be away, and what is acknowledged is on two.
_MIN_INSYNC_REPLICAS = {"min.insync.replicas": "2"}


@dataclass(frozen=True)
class Existing:
    """A topic as it is; `configs` by Kafka's names."""

    partitions: int
    replication: int
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Discrepancy:
    """A property of an existing topic that is not as it should be, and what to do about it."""

    property: str
    is_now: str
    should_be: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.property} is {self.is_now}, should be {self.should_be}"


def replication_for(brokers: int, wanted: int | None) -> int:
    """Return the replication to create with: what is set, or 3 where there are as many brokers, else 1."""
    if wanted is not None:
        return wanted
    return _REPLICATED if brokers >= _REPLICATED else 1


def configs_of(definition: TopicDefinition, replication: int) -> dict[str, str]:
    """Return the settings to create a topic with."""
    return definition.configs | (_MIN_INSYNC_REPLICAS if replication >= _REPLICATED else {})


def discrepancies(
    definition: TopicDefinition,
    existing: Existing,
    *,
    full_name: str,
    replication: int,
    partitions_asked: int | None,
) -> list[Discrepancy]:
    """Return what is not as it should be with a topic that exists.

    Args:
        definition: as it should be.
        existing: as it is.
        full_name: with the prefix, for the remedy.
        replication: as it should be.
        partitions_asked: what was asked for on the command line. An input's actual count is the truth
            unless another one was asked for in so many words.
    """
    found = []
    wanted = definition.partitions
    if definition.name in topics.INPUTS:
        wanted = existing.partitions if partitions_asked is None else partitions_asked
    if existing.partitions != wanted:
        found.append(
            Discrepancy(
                "partitions", str(existing.partitions), str(wanted), _partitions_remedy(definition.name)
            )
        )
    if existing.replication != replication:
        remedy = "kafka-reassign-partitions.sh, or set KAFKA_TOPIC_REPLICATION to what is there"
        found.append(Discrepancy("replication", str(existing.replication), str(replication), remedy))
    for name, value in sorted(configs_of(definition, replication).items()):
        is_now = existing.configs.get(name, "unknown")
        if is_now != value:
            remedy = f"kafka-configs.sh --alter --topic {full_name} --add-config {name}={value}"
            if name == "retention.ms" and definition.name in topics.INPUTS:
                remedy += ", or set KAFKA_TOPIC_RETENTION_HOURS to what is there"
            found.append(Discrepancy(name, is_now, value, remedy))
    return found


def _partitions_remedy(name: str) -> str:
    if name in topics.INPUTS:
        return "leave it as it is: partitions can't be taken away, and added ones stop the processor"
    return "stop the processor, delete the topic if what it holds may go, and create it again"
