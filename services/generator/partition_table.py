"""The partition of each key, computed once. Pure."""

from __future__ import annotations

from shared.partitioners import Partitioner, partition_of


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
        partition = partition_of(self._partitioner, key, self._partitions)
        if len(self) < self._max_keys:
            self[key] = partition
        return partition
