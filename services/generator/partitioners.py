"""Which partition a key belongs to. Pure.

The generator names the partition of every event itself, so that a key keeps to one partition whatever
the client library would do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

# Takes the key (None: there is none) and the number of partitions, returns the partition's number.
Partitioner = Callable[[bytes | None, int], int]

_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
_M = 0x5BD1E995
_R = 24


def murmur2(data: bytes) -> int:
    """Return Kafka's hash of `data` as the signed 32-bit number that Java gives.

    Bit for bit `org.apache.kafka.common.utils.Utils.murmur2`.
    """
    length = len(data)
    h = _SEED ^ length
    tail = length & ~3
    for at in range(0, tail, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k ^= k >> _R
        h = (h * _M & _MASK) ^ (k * _M & _MASK)
    if tail < length:
        h = (h ^ int.from_bytes(data[tail:], "little")) * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    h ^= h >> 15
    return h - 2**32 if h & 0x80000000 else h


def by_murmur2(key: bytes | None, partitions: int) -> int:
    """Return the partition that Kafka's own clients choose for a key: `toPositive(murmur2(key)) % n`.

    Kafka's clients spread keyless records at random; here they go to partition 0.
    """
    return 0 if key is None else (murmur2(key) & 0x7FFFFFFF) % partitions


def by_md5(key: bytes | None, partitions: int) -> int:
    """Return the reference system's choice: md5 of the key, as a number, modulo n; keyless to 0."""
    if key is None:
        return 0
    return int(hashlib.md5(key, usedforsecurity=False).hexdigest(), 16) % partitions


# What GENERATOR_PARTITIONER can name.
SHIPPED: Mapping[str, Partitioner] = MappingProxyType({"murmur2": by_murmur2, "md5": by_md5})


class PartitionTable(dict[bytes, int]):
    """The partition of each key, computed once: `table[key]`.

    Args:
        partitioner: asked for keys that are not in the table.
        partitions: the topic's count, 1 or more.
        max_keys: beyond so many keys nothing is added and the partitioner is asked each time.

    Raises, from a look-up:
        ValueError: the partitioner named a partition that there is not.
    """

    def __init__(self, partitioner: Partitioner, partitions: int, *, max_keys: int) -> None:
        super().__init__()
        self._partitioner = partitioner
        self._partitions = partitions
        self._max_keys = max_keys

    def __missing__(self, key: bytes) -> int:
        partition = self._partitioner(key, self._partitions)
        if not 0 <= partition < self._partitions:
            raise ValueError(f"the partitioner put key {key!r} on {partition} of {self._partitions}")
        if len(self) < self._max_keys:
            self[key] = partition
        return partition
