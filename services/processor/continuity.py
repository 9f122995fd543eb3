"""Which numbers of each source have been heard: duplicates, gaps, late arrivals. Pure.

Every source numbers its records 0, 1, 2, … in each partition. Per source this keeps the next number
expected and the open intervals below it: numbers that are missing, and numbers whose record became a
dead letter and may come back re-driven. Both are bounded; docs/reliability.md says what that means.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from enum import Enum

from services.processor.accounts import Counts
from services.processor.formats import ValueFormat
from shared.changelog import SOURCES, SOURCES_FORMAT, Interval, SourceState

MAX_SOURCES = 1_000
MAX_INTERVALS = 1_000


class Verdict(Enum):
    """What a number is to its source."""

    EXPECTED = "expected"
    AHEAD = "ahead"
    LATE = "late"
    REDRIVEN = "redriven"
    DUPLICATE = "duplicate"


class Continuity:
    """The sources of one partition, as a store of its state.

    Args:
        counts: gaps, late arrivals, duplicates, sourced events and dead letters are counted there.
    """

    name = SOURCES

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._format = ValueFormat(self.name, SourceState, number=SOURCES_FORMAT)
        # In the order in which they were heard last: the first one is the first to be forgotten.
        self._sources: dict[str, SourceState] = {}
        self._changed: set[str] = set()
        self._deleted: set[str] = set()

    def __len__(self) -> int:
        return len(self._sources)

    def admit_run(self, source: str, first_seq: int, count: int, last_offset: int) -> bool:
        """Count a run of consecutive numbers if it is just what was expected; else do nothing.

        Returns:
            Whether the run was counted.
        """
        state = self._sources.get(source)
        if state is None:
            if first_seq != 0:
                return False
            state = self._hear(source, first_seq, last_offset)
        elif state.next_seq != first_seq:
            return False
        state.next_seq += count
        self._counts.sourced_events += count
        self._touch(source, state, last_offset)
        return True

    def classify(self, source: str, seq: int) -> Verdict:
        """Say what a number would be, without noting it."""
        state = self._sources.get(source)
        if state is None:
            return Verdict.EXPECTED if seq == self._first_expected(seq) else Verdict.AHEAD
        if seq >= state.next_seq:
            return Verdict.EXPECTED if seq == state.next_seq else Verdict.AHEAD
        found = _find(state.open, seq)
        if found is None:
            return Verdict.DUPLICATE
        return Verdict.REDRIVEN if state.open[found].dead else Verdict.LATE

    def count(self, source: str, seq: int, offset: int) -> bool:
        """Note the number of an event. Returns False for a duplicate, which is to be left out."""
        verdict = self.classify(source, seq)
        state = self._hear(source, seq, offset)
        if verdict is Verdict.DUPLICATE:
            self._counts.duplicates += 1
        else:
            self._counts.sourced_events += 1
            if verdict is Verdict.REDRIVEN:
                self._counts.sourced_dead_letters -= 1
            self._advance(state, seq, verdict, dead=False)
        self._touch(source, state, offset)
        return verdict is not Verdict.DUPLICATE

    def dead_letter(self, source: str, seq: int, offset: int) -> None:
        """Note the number of a dead letter: no gap, and it stays open so that a re-driven copy fills it."""
        verdict = self.classify(source, seq)
        state = self._hear(source, seq, offset)
        if verdict not in (Verdict.DUPLICATE, Verdict.REDRIVEN):
            self._counts.sourced_dead_letters += 1
            self._advance(state, seq, verdict, dead=True)
        self._touch(source, state, offset)

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield the changelog records of what changed since the last call: key and value or None."""
        for source in self._deleted:
            yield _key(source), None
        for source in self._changed:
            yield _key(source), self._format.encode(self._sources[source])
        self._deleted.clear()
        self._changed.clear()

    def restore(self, key: str, value: bytes | None) -> None:
        """Take one changelog record back in."""
        if value is None:
            self._sources.pop(key, None)
        else:
            self._sources[key] = self._format.decode(value)

    def rewrite(self, key: str) -> None:
        """Let the next `take_changes` yield this source, or its tombstone."""
        (self._changed if key in self._sources else self._deleted).add(key)

    def restored(self) -> None:
        """Put the sources into the order in which they were heard, once all are back."""
        self._sources = dict(sorted(self._sources.items(), key=lambda item: item[1].heard_at))

    def _first_expected(self, seq: int) -> int:
        """Return what an unknown source has to begin with: 0, unless its beginning may be out of sight."""
        return seq if self._counts.beginning_unseen else 0

    def _hear(self, source: str, seq: int, offset: int) -> SourceState:
        state = self._sources.get(source)
        if state is not None:
            return state
        if len(self._sources) >= MAX_SOURCES:
            forgotten = next(iter(self._sources))
            del self._sources[forgotten]
            self._changed.discard(forgotten)
            self._deleted.add(forgotten)
            # From now on a source that is not known may be this one, come back.
            self._counts.beginning_unseen = True
        state = SourceState(self._first_expected(seq), offset, [])
        self._sources[source] = state
        self._deleted.discard(source)
        return state

    def _touch(self, source: str, state: SourceState, offset: int) -> None:
        state.heard_at = offset
        self._changed.add(source)
        # Dicts keep insertion order: out and in again makes it the one heard last.
        del self._sources[source]
        self._sources[source] = state

    def _advance(self, state: SourceState, seq: int, verdict: Verdict, *, dead: bool) -> None:
        if verdict in (Verdict.EXPECTED, Verdict.AHEAD):
            if seq > state.next_seq:
                state.open.append(Interval(state.next_seq, seq - 1, dead=False))
                self._counts.gaps += seq - state.next_seq
            if dead:
                _append_dead(state.open, seq)
            state.next_seq = seq + 1
        else:
            _close(state.open, seq, dead=dead)
            if verdict is Verdict.LATE:
                self._counts.gaps -= 1
                self._counts.late += not dead
        # The oldest are given up first: a number in them that still arrives is taken for a duplicate.
        del state.open[: max(len(state.open) - MAX_INTERVALS, 0)]


def _key(source: str) -> bytes:
    return f"{Continuity.name}/{source}".encode()


def _find(intervals: list[Interval], seq: int) -> int | None:
    place = bisect_right(intervals, seq, key=lambda interval: interval.first) - 1
    return place if place >= 0 and seq <= intervals[place].last else None


def _append_dead(intervals: list[Interval], seq: int) -> None:
    if intervals and intervals[-1].dead and intervals[-1].last == seq - 1:
        intervals[-1].last = seq
    else:
        intervals.append(Interval(seq, seq, dead=True))


def _close(intervals: list[Interval], seq: int, *, dead: bool) -> None:
    """Take `seq` out of its interval; where `dead`, put it back as a dead letter's number."""
    place = _find(intervals, seq)
    assert place is not None, "the caller has classified it"
    old = intervals[place]
    pieces = []
    if old.first < seq:
        pieces.append(Interval(old.first, seq - 1, dead=old.dead))
    if dead:
        pieces.append(Interval(seq, seq, dead=True))
    if seq < old.last:
        pieces.append(Interval(seq + 1, old.last, dead=old.dead))
    intervals[place : place + 1] = pieces
