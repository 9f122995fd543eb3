"""When what is pending is committed. Pure: the clock's reading is handed in."""

from __future__ import annotations

from dataclasses import dataclass

from services.processor.settings import ProcessorSettings

# A commit that takes a tenth of a second is not made each tenth of a second: a third of the time at most.
_COMMITS_APART = 2
# For how long to count before a transaction is worth what it takes: here some 1.5 ms however little is in it
# (docs/decisions/0027-commits-that-are-worth-it.md).
_WORTH_SECONDS = 0.015


@dataclass(frozen=True)
class Pending:
    """What one partition holds uncommitted.

    Attributes:
        records: read since the last commit, dead letters and duplicates included.
        size_bytes: of the results.
        since: when the first of it was read, monotonic seconds.
        committed_at: when the last commit ended, monotonic seconds.
        commit_seconds: how long that one took, from sealing to the answer.
        worked_seconds: of the time since then, how much was spent on counting.
        caught_up: there was nothing left to read.
    """

    records: int
    size_bytes: int
    since: float
    committed_at: float
    commit_seconds: float
    worked_seconds: float
    caught_up: bool


@dataclass(frozen=True)
class CommitPolicy:
    """Commit after N records, after T seconds, or when caught up: whichever comes first; 0 is never.

    A caught-up partition commits at most once in `pause_seconds`: with a trickle of records, one
    transaction for each of them would cost more than all of their processing.

    Where commits take long (many partitions, many keys that changed), T is stretched to twice what the last
    one took, up to `longest_seconds`; and, where there is more to read at once, until there is enough in a
    transaction to be worth it. A partition that is not caught up is late by more than that.
    """

    every_events: int
    every_seconds: float
    longest_seconds: float
    when_caught_up: bool
    pause_seconds: float
    pending_bytes: int

    @classmethod
    def of(cls, settings: ProcessorSettings) -> CommitPolicy:
        """Return the policy that the settings ask for."""
        return cls(
            every_events=settings.commit_every_events,
            every_seconds=settings.commit_every_milliseconds / 1000,
            longest_seconds=settings.commit_stretch_milliseconds / 1000,
            when_caught_up=settings.commit_when_caught_up,
            pause_seconds=settings.commit_pause_milliseconds / 1000,
            pending_bytes=settings.pending_bytes,
        )

    def due_in(self, pending: Pending, now: float) -> float | None:
        """Return in how many seconds a commit is due (0: now), or None where only more records make it so."""
        if self.is_full(pending.records, pending.size_bytes):
            return 0.0
        moments = []
        if self.every_seconds:
            stretched = min(_COMMITS_APART * pending.commit_seconds, self.longest_seconds)
            if not pending.caught_up and pending.worked_seconds < _WORTH_SECONDS:
                stretched = self.longest_seconds
            moments.append(pending.since + max(self.every_seconds, stretched))
        if self.when_caught_up and pending.caught_up:
            moments.append(pending.committed_at + self.pause_seconds)
        return max(min(moments) - now, 0.0) if moments else None

    def is_full(self, records: int, size_bytes: int) -> bool:
        """Say whether nothing more may be added before a commit."""
        return bool(self.every_events and records >= self.every_events) or size_bytes >= self.pending_bytes

    def room(self, records: int) -> int | None:
        """Return how many more records a transaction may take, or None where there is no bound."""
        return max(self.every_events - records, 0) if self.every_events else None
