"""Kafka's default partitioner for keyed records, as `org.apache.kafka.common.utils.Utils.murmur2` has it."""

from typing import Final

SEED: Final = 0x9747B28C
MULTIPLIER: Final = 0x5BD1E995
MASK: Final = 0xFFFFFFFF
POSITIVE: Final = 0x7FFFFFFF


def murmur2(data: bytes) -> int:
    """Return the unsigned 32-bit hash."""
    result = (SEED ^ len(data)) & MASK
    whole = len(data) & ~3
    for index in range(0, whole, 4):
        word = int.from_bytes(data[index : index + 4], "little") * MULTIPLIER & MASK
        word = (word ^ word >> 24) * MULTIPLIER & MASK
        result = (result * MULTIPLIER & MASK) ^ word
    if whole < len(data):
        result = (result ^ int.from_bytes(data[whole:], "little")) * MULTIPLIER & MASK
    result = (result ^ result >> 13) * MULTIPLIER & MASK
    return result ^ result >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's own producer would choose."""
    return (murmur2(key) & POSITIVE) % partitions
