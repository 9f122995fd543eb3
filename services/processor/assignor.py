"""The group's assignor: `assignment` in the client's terms, with each member's memory of what it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from services.processor.assignment import NO_CLAIM, Claim, Member, Partitions, assign, decode, encode

# Of subscription and assignment: the first one, which every client reads.
_VERSION = 0


class StickyAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # the client has no types
    """One member's part in the assignment; one object for each membership, with nothing shared.

    The client's interface is made of class methods and is called through whatever was handed to the
    consumer: with an object the memory belongs to one membership, and two in a process do not mix.

    Args:
        generation: returns the group's generation that this member is in.
    """

    # Members whose names differ refuse each other: it changes when the rules of the assignment do.
    name = "tandem-sticky"

    def __init__(self, generation: Callable[[], int]) -> None:
        self._generation = generation
        self._claim = NO_CLAIM

    def metadata(self, topics: Iterable[str]) -> Any:
        """Return the subscription to join with: the topics, and what this member has."""
        return ConsumerProtocolMemberMetadata(_VERSION, sorted(topics), encode(self._claim))

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Assign, as the group's leader. A topic that is not known has no partitions."""
        subscribed = {
            name: Member(frozenset(metadata.subscription), decode(metadata.user_data))
            for name, metadata in members.items()
        }
        topics = frozenset[str]().union(*(member.topics for member in subscribed.values()))
        partitions = {topic: cluster.partitions_for_topic(topic) or set() for topic in topics}
        return {
            name: ConsumerProtocolMemberAssignment(_VERSION, sorted(share.items()), b"")
            for name, share in assign(partitions, subscribed).items()
        }

    def on_assignment(self, assignment: Any) -> None:
        """Remember what was assigned: it is what the next join claims."""
        owned: Partitions = {topic: list(partitions) for topic, partitions in assignment.assignment}
        self._claim = Claim(self._generation(), owned)
