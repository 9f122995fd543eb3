"""Consumer groups as they are: members, committed offsets, and how far they are behind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from aiokafka.errors import NoError, for_code
from aiokafka.structs import TopicPartition

from services.console.connection import Connection, TopicFacts
from shared import topics
from shared.errors import TandemError
from shared.kafka import Permission, refusal

# Of the shipped topologies; names without the prefix.
GROUPS_OF_INPUTS = {topics.USER_BEHAVIOR: topics.BEHAVIOR_GROUP, topics.SENSOR_DATA: topics.SENSOR_GROUP}
_DEAD = "Dead"  # what a coordinator says of a group that it does not know


@dataclass(frozen=True)
class PartitionLag:
    """One partition of a group's input.

    Attributes:
        committed: the next offset to read; None where nothing was committed yet.
        start: the first offset in the log.
        end: the last stable offset: what a reader of committed records can reach.
    """

    topic: str
    partition: int
    committed: int | None
    start: int
    end: int

    @property
    def lag(self) -> int:
        """How many offsets are left to read."""
        return max(self.end - max(self.committed or 0, self.start), 0)


@dataclass(frozen=True)
class GroupFacts:
    """One group.

    Attributes:
        name: full name.
        state: as the coordinator calls it; "absent" where it knows none.
        assignor: how its partitions are shared; empty without members.
        members: client ids.
    """

    name: str
    state: str
    assignor: str = ""
    members: list[str] = field(default_factory=list)
    partitions: list[PartitionLag] = field(default_factory=list)

    @property
    def lag(self) -> int:
        """The sum over its partitions."""
        return sum(one.lag for one in self.partitions)


async def look_at(connection: Connection, name: str, places: Collection[TopicPartition]) -> GroupFacts:
    """Return a group's facts, with its lag on these partitions.

    Raises:
        TandemError: Kafka does not answer, or refuses.
    """
    admin = await connection.admin()
    doing = f"look up group {name}"
    answers = await connection.ask(lambda: admin.describe_consumer_groups([name]), doing=doing)
    (found,) = [group for answer in answers for group in answer.to_object()["groups"]]
    error_type = for_code(found["error_code"])
    if error_type is not NoError:
        needs = [Permission("Describe", "group", name)]
        raise refusal(error_type(name), doing=doing, needs=needs) or TandemError(
            f"group {name} can't be looked up: {error_type.__name__}"
        )
    committed = await connection.ask(
        lambda: admin.list_consumer_group_offsets(name, partitions=list(places)), doing=doing
    )
    ends = await connection.ends(places)
    partitions = []
    for place in places:
        offset = committed[place].offset if place in committed else -1
        where = ends[place]
        partitions.append(
            PartitionLag(place.topic, place.partition, None if offset < 0 else offset, where.start, where.end)
        )
    return GroupFacts(
        name=name,
        state="absent" if found["state"] in {"", _DEAD} else found["state"],
        assignor=found["protocol"],
        members=[member["client_id"] for member in found["members"]],
        partitions=partitions,
    )


async def pair(connection: Connection, existing: Mapping[str, TopicFacts]) -> list[GroupFacts]:
    """Return the processor's groups, those whose input is among the existing topics.

    Raises:
        TandemError: Kafka does not answer, or refuses.
    """
    named = connection.kafka.named
    found = []
    for source, group in GROUPS_OF_INPUTS.items():
        if facts := existing.get(named(source)):
            places = [TopicPartition(facts.name, number) for number in range(facts.partitions)]
            found.append(await look_at(connection, named(group), places))
    return found


async def behind_seconds(
    connection: Connection, partitions: Collection[PartitionLag], *, now: float
) -> dict[TopicPartition, float]:
    """Return how long the next record of each partition has been waiting, by its own timestamp.

    Args:
        connection: to be asked.
        partitions: those that are not behind are left out.
        now: seconds since the epoch.

    Raises:
        TandemError: Kafka does not answer, or refuses, or retention was quicker.
    """
    waiting = {
        TopicPartition(one.topic, one.partition): max(one.committed or 0, one.start)
        for one in partitions
        if one.lag
    }
    if not waiting:
        return {}
    reader = await connection.read(waiting)
    found: dict[TopicPartition, float] = {}
    try:
        until = {place: offset + 1 for place, offset in waiting.items()}
        while portions := await reader.next(until):
            for place, records in portions.items():
                if records:
                    found.setdefault(place, max(now - records[0].timestamp / 1_000, 0.0))
    finally:
        await connection.close(reader)
    return found
