"""Whether this process makes progress, and whether it can be given work. Pure: the clock is handed in.

Liveness never blames the broker. Three things are looked at:

- loops that have to go round: by the plain clock;
- partitions that have something to do and do not move, and things that are waited for (an assignment):
  by the time in which Kafka was seen to answer, for without it nothing can move;
- time in which the whole process was frozen counts for nothing.

Safe to be asked from another thread than the one that reports: the HTTP server has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

_LONGEST_ROUND_SECONDS = 5.0
EVENT_LOOP = "event loop"
# Twice what passes between two of its heartbeats.
_EVENT_LOOP_LATE_SECONDS = 1.0


@dataclass
class _Beat:
    at: float
    bound_seconds: float


@dataclass
class _Movement:
    position: object
    since: float


@dataclass
class _Wait:
    since: float
    bound_seconds: float


class Health:
    """The health of one process.

    Args:
        clock: monotonic seconds.
        stall_seconds: how long a partition may be behind without moving.
    """

    def __init__(self, clock: Callable[[], float], *, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._frozen_seconds = 0.0
        self._beats: dict[str, _Beat] = {}
        self._movements: dict[str, _Movement] = {}
        self._waits: dict[str, _Wait] = {}
        # Seconds in which Kafka was seen to answer: the clock of movements and waits.
        self._answered_seconds = 0.0
        self._answered_at = self._now()
        self._away: set[str] = set()
        self._not_ready: dict[str, str] = {"service": "starting"}

    @property
    def round_seconds(self) -> float:
        """How often loops have to go round, and Kafka has to be asked, for `stall_seconds` to be kept."""
        return min(_LONGEST_ROUND_SECONDS, self.stall_seconds / 4)

    def beat(self, loop: str, *, bound_seconds: float) -> None:
        """Note that `loop` went round. It is taken for stuck `bound_seconds` later, or `stall_seconds`."""
        with self._lock:
            self._beats[loop] = _Beat(self._now(), min(bound_seconds, self.stall_seconds))

    def ended(self, loop: str) -> None:
        """Forget a loop that ended as it should."""
        with self._lock:
            self._beats.pop(loop, None)

    def seconds_since_beat(self, loop: str) -> float:
        """Return how long ago `loop` went round; 0 where it is not known."""
        with self._lock:
            beat = self._beats.get(loop)
            return 0.0 if beat is None else self._now() - beat.at

    def moved(self, partition: str, position: object, *, behind: bool) -> None:
        """Note where a partition stands; `behind` says that there is something it should be doing."""
        with self._lock:
            movement = self._movements.get(partition)
            if movement is None or movement.position != position or not behind:
                self._movements[partition] = _Movement(position, self._answered_seconds)

    def begin(self, partition: str) -> None:
        """Note that a partition has to move from now on, if that is not known already."""
        with self._lock:
            self._movements.setdefault(partition, _Movement("its beginning", self._answered_seconds))

    def forget(self, partition: str) -> None:
        """Exempt a partition that is not this process's any more."""
        with self._lock:
            self._movements.pop(partition, None)

    def expects(self, what: str, *, bound_seconds: float) -> None:
        """Note that `what` is waited for. The time counts from the first of several calls."""
        with self._lock:
            self._waits.setdefault(what, _Wait(self._answered_seconds, bound_seconds))

    def came(self, what: str) -> None:
        """Note that `what` is there, or is waited for no longer."""
        with self._lock:
            self._waits.pop(what, None)

    def kafka_answers(self, who: str, *, answers: bool) -> None:
        """Note whether Kafka answers `who`, and could do what it is needed for.

        Nothing is expected to move until it answers everybody again, and then everything has its whole
        time. A late answer counts for no more than half of `stall_seconds`: between two answers nobody
        knows.
        """
        with self._lock:
            now = self._now()
            was_away = bool(self._away)
            if answers:
                self._away.discard(who)
            else:
                self._away.add(who)
            if self._away:
                return
            if was_away:
                for movement in self._movements.values():
                    movement.since = self._answered_seconds
                for wait in self._waits.values():
                    wait.since = self._answered_seconds
            else:
                self._answered_seconds += min(now - self._answered_at, self.stall_seconds / 2)
            self._answered_at = now

    def thawed(self, seconds: float) -> None:
        """Note that the whole process was frozen for so long: no loop is to blame for that."""
        with self._lock:
            self._frozen_seconds += seconds

    def not_ready(self, what: str, reason: str) -> None:
        """Give a reason against sending work here, until `ready` takes it back."""
        with self._lock:
            self._not_ready[what] = reason

    def ready(self, what: str) -> None:
        """Take the reason named `what` back."""
        with self._lock:
            self._not_ready.pop(what, None)

    def why_not_live(self) -> list[str]:
        """Return what is stuck; empty when all moves."""
        with self._lock:
            now, answered = self._now(), self._answered_seconds
            # Where the event loop stands still, so do all the others: it is the one to be named.
            event_loop = self._beats.get(EVENT_LOOP)
            is_blocked = event_loop is not None and now - event_loop.at > _EVENT_LOOP_LATE_SECONDS
            until = event_loop.at if event_loop is not None and is_blocked else now
            stuck = [
                f"{loop} has not gone round for {now - beat.at:.1f} s"
                for loop, beat in self._beats.items()
                if (now if beat is event_loop else until) - beat.at > beat.bound_seconds
            ]
            stuck += [
                f"{partition} is behind and has not moved from {movement.position} "
                f"for {answered - movement.since:.1f} s in which Kafka answered"
                for partition, movement in self._movements.items()
                if answered - movement.since > self.stall_seconds
            ]
            stuck += [
                f"{what} has not come for {answered - wait.since:.1f} s in which Kafka answered"
                for what, wait in self._waits.items()
                if answered - wait.since > wait.bound_seconds
            ]
            return stuck

    def why_not_ready(self) -> list[str]:
        """Return what speaks against sending work here; empty when nothing does."""
        with self._lock:
            return [f"{what}: {reason}" for what, reason in self._not_ready.items()]

    def _now(self) -> float:
        return self._clock() - self._frozen_seconds
