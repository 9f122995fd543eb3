"""Which partition a key belongs to. Pure.

Whoever writes names the partition of every record itself, so that a key keeps to one partition whatever
the client library would do.
"""

from __future__ import annotations

import hashlib
import importlib
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


# Those that have a name of their own.
SHIPPED: Mapping[str, Partitioner] = MappingProxyType({"murmur2": by_murmur2, "md5": by_md5})


def partitioner_of(name: str) -> Partitioner:
    """Return a partitioner by its name, or anyone's own by its dotted path (`package.module.function`).

    Raises:
        ValueError: there is no such thing.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    path, _, attribute = name.replace(":", ".").rpartition(".")
    if not path:
        raise ValueError(f"has to be one of {', '.join(SHIPPED)}, or the dotted path of a function")
    try:
        found = getattr(importlib.import_module(path), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} can't be loaded: {error}") from error
    if not callable(found):
        raise ValueError(f"{name} is no function")  # noqa: TRY004 — what is wrong is the name
    partitioner: Partitioner = found
    return partitioner


def partition_of(partitioner: Partitioner, key: bytes, partitions: int) -> int:
    """Return a key's partition, one of those that there are.

    Raises:
        ValueError: the partitioner named a partition that there is not.
    """
    partition = partitioner(key, partitions)
    if not 0 <= partition < partitions:
        raise ValueError(f"the partitioner put key {key!r} on {partition} of {partitions}")
    return partition
