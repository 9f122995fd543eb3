"""What a reader of committed results sees while faults land: when each partition last moved."""

from __future__ import annotations

import json
import threading
import time
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, TopicPartition

from tests.verifier.broker import QUIET
from tests.verifier.contract import Names, PartitionId

POLL_SECONDS = 0.05
# Shorter pauses between two results are how a partition works.
NO_STALL_SECONDS = 0.2
SOCKET_SECONDS = 3
JOIN_SECONDS = 20


class Watch:
    """Follows `progress` from its start, in a thread of its own, from entering to leaving.

    What it tells is what users of the results see: the time until a committed result can be read.
    """

    def __init__(self, servers: str, prefix: str) -> None:
        self._topic = Names(prefix).progress
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "watch",  # asked for by the client, never joined
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                # By default a minute passes before it gives up on a broker that is frozen, and asks another.
                "socket.timeout.ms": SOCKET_SECONDS * 1_000,
                **QUIET,
            }
        )
        self._lock = threading.Lock()
        self._moved_at: dict[PartitionId, float] = {}
        self._stalls: list[tuple[float, float]] = []  # from when to when a partition stood still
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._consumer.assign([TopicPartition(self._topic, 0, 0)])
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(JOIN_SECONDS)
        self._consumer.close()

    def moved_at(self) -> dict[PartitionId, float]:
        """Return when a result of each input partition was last seen, by `time.monotonic()`."""
        with self._lock:
            return dict(self._moved_at)

    def end_of_load(self) -> float:
        """Return the longest time that any partition stood still, and count no longer: nothing more comes."""
        with self._lock:
            longest = self._longest_since(0.0)
            self._moved_at.clear()
            return longest

    def longest_stall(self, since: float) -> float:
        """Return the longest time that any partition has stood still after `since` (`time.monotonic()`)."""
        with self._lock:
            return self._longest_since(since)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(1_000, POLL_SECONDS):
                if message.error() is None and message.value() is not None:
                    self._take(json.loads(message.value()))

    def _take(self, progress: dict[str, object]) -> None:
        partition = PartitionId(str(progress["topic"]), int(str(progress["partition"])))
        now = time.monotonic()
        with self._lock:
            before = self._moved_at.get(partition, now)
            if now - before > NO_STALL_SECONDS:
                self._stalls.append((before, now))
            self._moved_at[partition] = now

    def _longest_since(self, since: float) -> float:
        now = time.monotonic()
        stalls = [*self._stalls, *((at, now) for at in self._moved_at.values())]
        return max((end - max(begin, since) for begin, end in stalls if end > since), default=0.0)
