"""Whether this process makes progress, and whether it can be given work. Pure: the clock is handed in.

Liveness never looks at the broker: a process that waits for an absent Kafka is alive. It looks at the
main loop's heartbeat, and at partitions that have data and do not move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Beat:
    at: float
    bound_seconds: float


@dataclass
class _Movement:
    position: object
    moved_at: float


class Health:
    """The health of one process.

    Args:
        clock: monotonic seconds.
        stall_seconds: how long a partition may be behind without moving.
    """

    def __init__(self, clock: Callable[[], float], *, stall_seconds: float) -> None:
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._beats: dict[str, _Beat] = {}
        self._movements: dict[str, _Movement] = {}
        self._kafka_answers = True
        self._not_ready: dict[str, str] = {"service": "starting"}

    def beat(self, loop: str, *, bound_seconds: float) -> None:
        """Note that `loop` went round. It is taken for stuck `bound_seconds` later."""
        self._beats[loop] = _Beat(self._clock(), bound_seconds)

    def ended(self, loop: str) -> None:
        """Forget a loop that ended as it should."""
        self._beats.pop(loop, None)

    def moved(self, partition: str, position: object, *, behind: bool) -> None:
        """Note where a partition stands; `behind` says that there is something it should be doing."""
        if not self._kafka_answers:
            return
        movement = self._movements.get(partition)
        if movement is None or movement.position != position or not behind:
            self._movements[partition] = _Movement(position, self._clock())

    def forget(self, partition: str) -> None:
        """Exempt a partition that is not served just now, or that is gone."""
        self._movements.pop(partition, None)

    def kafka_answers(self, *, answers: bool) -> None:
        """Note whether Kafka answers: no partition is expected to move while it does not."""
        if self._kafka_answers and not answers:
            self._movements.clear()
        self._kafka_answers = answers

    def not_ready(self, what: str, reason: str) -> None:
        """Give a reason against sending work here, until `ready` takes it back."""
        self._not_ready[what] = reason

    def ready(self, what: str) -> None:
        """Take the reason named `what` back."""
        self._not_ready.pop(what, None)

    def why_not_live(self) -> list[str]:
        """Return what is stuck; empty when all moves."""
        now = self._clock()
        stuck = [
            f"{loop} has not gone round for {now - beat.at:.1f} s"
            for loop, beat in self._beats.items()
            if now - beat.at > beat.bound_seconds
        ]
        stuck += [
            f"{partition} is behind and has not moved from {movement.position} "
            f"for {now - movement.moved_at:.1f} s"
            for partition, movement in self._movements.items()
            if now - movement.moved_at > self._stall_seconds
        ]
        return stuck

    def why_not_ready(self) -> list[str]:
        """Return what speaks against sending work here; empty when nothing does."""
        return [f"{what}: {reason}" for what, reason in self._not_ready.items()]
