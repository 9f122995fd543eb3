"""The names that the outside contract fixes, and a record as Kafka holds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Topology = Literal["behavior", "sensors"]
TOPOLOGIES: Final[tuple[Topology, ...]] = ("behavior", "sensors")

Headers = Sequence[tuple[str, bytes | None]]

ERROR_HEADER_PREFIX: Final = "__streams.errors."
"""Dead-letter headers are spelled as Kafka Streams does (KIP-1034)."""


class PartitionId(NamedTuple):
    """A topic and the number of one of its partitions."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.number}"


class Record(NamedTuple):
    """One record as it stands in Kafka, nothing decoded."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def where(self) -> str:
        """Topic, partition and offset, for people."""
        return f"{self.topic}-{self.partition}@{self.offset}"


@dataclass(frozen=True)
class Names:
    """Topics and groups under one prefix (`KAFKA_TOPIC_PREFIX`)."""

    prefix: str = ""

    @property
    def inputs(self) -> dict[Topology, str]:
        """The topic that each topology reads."""
        return {"behavior": self.prefix + "user_behavior", "sensors": self.prefix + "sensor_data"}

    @property
    def groups(self) -> dict[Topology, str]:
        """The consumer group of each topology."""
        return {"behavior": self.prefix + "behavior-processor", "sensors": self.prefix + "stream-processor"}

    @property
    def purchases(self) -> str:
        return self.prefix + "purchases"

    @property
    def alerts(self) -> str:
        return self.prefix + "alerts"

    @property
    def behavior_stats(self) -> str:
        return self.prefix + "behavior_stats"

    @property
    def sensor_stats(self) -> str:
        return self.prefix + "sensor_stats"

    @property
    def progress(self) -> str:
        return self.prefix + "progress"

    @property
    def dead_letters(self) -> str:
        return self.prefix + "dead_letters"

    @property
    def ledger(self) -> str:
        return self.prefix + "generator_ledger"

    def results(self, topology: Topology) -> list[str]:
        """The result topics of one topology, those that it shares with the other included."""
        own = {
            "behavior": [self.purchases, self.behavior_stats],
            "sensors": [self.alerts, self.sensor_stats],
        }
        return [*own[topology], self.progress, self.dead_letters]

    def changelog(self, topology: Topology) -> str:
        """The topic that keeps a topology's state."""
        unprefixed = Names().inputs[topology]
        return f"{self.prefix}processor-{unprefixed}-changelog"
