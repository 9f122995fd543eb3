"""The assignor as the client calls it: what a member remembers, and that nothing is shared."""

from __future__ import annotations

from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from services.processor.assignor import StickyAssignor


class Cluster:
    """What the client knows of the topics."""

    def __init__(self, **partitions: int) -> None:
        self._partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._partitions[topic])) if topic in self._partitions else None


def over_the_wire(assignor: StickyAssignor, *topics: str) -> Any:
    return ConsumerProtocolMemberMetadata.decode(assignor.metadata(topics).encode())


def give(assignor: StickyAssignor, assignment: Any) -> list[int]:
    decoded = ConsumerProtocolMemberAssignment.decode(assignment.encode())
    assignor.on_assignment(decoded)
    return [place.partition for place in decoded.partitions()]


def test_a_member_keeps_what_it_had_when_another_joins_whoever_leads() -> None:
    old, new = StickyAssignor(lambda: 1), StickyAssignor(lambda: 2)
    first = old.assign(Cluster(clicks=4), {"z": over_the_wire(old, "clicks")})
    assert give(old, first["z"]) == [0, 1, 2, 3]
    joined = {"z": over_the_wire(old, "clicks"), "a": over_the_wire(new, "clicks")}
    second = new.assign(Cluster(clicks=4), joined)
    assert give(old, second["z"]) == [0, 1]
    assert give(new, second["a"]) == [2, 3]


def test_two_memberships_in_one_process_do_not_mix() -> None:
    clicks, readings = StickyAssignor(lambda: 9), StickyAssignor(lambda: 1)
    give(clicks, clicks.assign(Cluster(clicks=2), {"a": over_the_wire(clicks, "clicks")})["a"])
    assert (
        over_the_wire(readings, "readings").user_data
        == over_the_wire(StickyAssignor(lambda: 5), "readings").user_data
    )
    assert over_the_wire(clicks, "clicks").user_data != over_the_wire(readings, "clicks").user_data


def test_the_generation_of_the_group_goes_with_the_claim() -> None:
    generation = 3
    early, late = StickyAssignor(lambda: generation), StickyAssignor(lambda: generation + 1)
    for assignor in (early, late):
        give(assignor, assignor.assign(Cluster(clicks=2), {"a": over_the_wire(assignor, "clicks")})["a"])
    members = {"a": over_the_wire(early, "clicks"), "b": over_the_wire(late, "clicks")}
    # Both claim both. The later one is heard and keeps the first; the other is what has to move.
    assert give(late, early.assign(Cluster(clicks=2), members)["b"]) == [0]


def test_a_topic_that_is_not_known_has_no_partitions() -> None:
    assignor = StickyAssignor(lambda: 1)
    assert give(assignor, assignor.assign(Cluster(), {"a": over_the_wire(assignor, "clicks")})["a"]) == []


def test_a_member_without_user_data_gets_its_share() -> None:
    assignor = StickyAssignor(lambda: 1)
    foreign = ConsumerProtocolMemberMetadata(0, ["clicks"], b"")
    members = {"a": foreign, "b": over_the_wire(assignor, "clicks")}
    assert {
        name: share.partitions() for name, share in assignor.assign(Cluster(clicks=2), members).items()
    }.keys() == {
        "a",
        "b",
    }
