"""Who gets which partition: as balanced as can be, and as few moves as that allows. Pure.

Each member says what it has and in which generation of the group it was given that. Balance is counted
within a topic: no two of its members differ by more than one partition.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

Partitions = dict[str, list[int]]


class Claim(msgspec.Struct, frozen=True):
    """What a member had when it joined.

    Attributes:
        generation: of the group, in which it was given them; -1 for a member that never had any.
        owned: partitions by topic.
    """

    generation: int = -1
    owned: Partitions = {}


NO_CLAIM = Claim()
_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Claim).decode


@dataclass(frozen=True)
class Member:
    """One member as the leader sees it: the topics it reads, and what it had."""

    topics: frozenset[str]
    claim: Claim = NO_CLAIM


def encode(claim: Claim) -> bytes:
    """Return a claim as it travels with the member's subscription."""
    return _encode(claim)


def decode(user_data: bytes | None) -> Claim:
    """Return a member's claim; what is not one claims nothing."""
    if not user_data:
        return NO_CLAIM
    try:
        return _decode(user_data)
    except ValueError:
        # Another program under the same group and assignor: it gets its share, from what is free.
        return NO_CLAIM


def assign(partitions: Mapping[str, Collection[int]], members: Mapping[str, Member]) -> dict[str, Partitions]:
    """Return for every member its partitions by topic, in ascending order.

    The same input gives the same output, in whatever order it comes. Of a partition that several claim,
    the newest generation counts, and in one generation the lowest member id.

    Args:
        partitions: by topic.
        members: by member id.
    """
    assigned: dict[str, Partitions] = {member: {} for member in members}
    loads = dict.fromkeys(members, 0)
    for topic in sorted(partitions):
        readers = {name: member for name, member in members.items() if topic in member.topics}
        if not readers:
            continue
        kept = _kept(topic, set(partitions[topic]), readers)
        for name, share in _balance(sorted(partitions[topic]), kept, loads).items():
            loads[name] += len(share)
            if share:
                assigned[name][topic] = sorted(share)
    return assigned


def _kept(topic: str, partitions: set[int], readers: Mapping[str, Member]) -> dict[str, list[int]]:
    """Return for every reader the partitions that are rightly its own so far."""
    owners: dict[int, str] = {}
    for name in sorted(readers):
        claim = readers[name].claim
        for partition in partitions.intersection(claim.owned.get(topic, ())):
            other = owners.get(partition)
            if other is None or readers[other].claim.generation < claim.generation:
                owners[partition] = name
    kept: dict[str, list[int]] = {name: [] for name in readers}
    for partition in sorted(owners):
        kept[owners[partition]].append(partition)
    return kept


def _balance(
    partitions: list[int], kept: dict[str, list[int]], loads: Mapping[str, int]
) -> dict[str, list[int]]:
    """Give each member its quota, most of it from what it has.

    What can't be divided evenly goes to those who have most: each of them has one less to give away, which
    is why no balanced assignment moves fewer. Among equals it goes to who has least of the other topics.
    """
    least, over = divmod(len(partitions), len(kept))
    order = sorted(kept, key=lambda name: (-len(kept[name]), loads[name], name))
    quotas = {name: least + (place < over) for place, name in enumerate(order)}
    shares = {name: kept[name][: quotas[name]] for name in order}
    taken = {partition for share in shares.values() for partition in share}
    free = iter([partition for partition in partitions if partition not in taken])
    for name in order:
        shares[name] += [next(free) for _ in range(quotas[name] - len(shares[name]))]
    return shares
