"""Which numbers of each source were heard, from scratch, as the contract's "Accounts" says. Pure.

Written for being checked by eye, not for speed: per source the next number, and a plain list of what is open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

# The contract's bounds.
SOURCES_KEPT = 1_000
INTERVALS_KEPT = 1_000

Verdict = Literal["next", "ahead", "late", "redriven", "duplicate", "unsure"]


class Open(NamedTuple):
    """Numbers `first` to `last` below the next one that are not counted: missing, or dead letters."""

    first: int
    last: int
    dead: bool


@dataclass
class Heard:
    """One source. `begin` is the first number that it was expected to have."""

    begin: int
    next: int
    open: list[Open] = field(default_factory=list)


@dataclass
class Tally:
    """The accounts, under the names that `Progress` has."""

    events: int = 0
    sourced_events: int = 0
    sourced_dead_letters: int = 0
    unsourced_events: int = 0
    duplicates: int = 0
    gaps: int = 0
    late: int = 0
    dead_letters: int = 0


class Continuity:
    """The sources of one partition.

    Args:
        tally: counted into.
        beginning_seen: the log was read from 0 on, so that a source that is not known begins with 0.
        partial: what lies before is unknown, so that a number from before a source's first one may have been
            counted or not.
    """

    def __init__(self, tally: Tally, *, beginning_seen: bool, partial: bool = False) -> None:
        self._tally = tally
        self._beginning_seen = beginning_seen
        self._partial = partial
        self._sources: dict[str, Heard] = {}

    def judge(self, source: str, seq: int) -> Verdict:
        """Say what a number would be, without taking it in."""
        heard = self._sources.get(source)
        if heard is None:
            return "next" if seq == 0 or not self._beginning_seen else "ahead"
        if seq >= heard.next:
            return "next" if seq == heard.next else "ahead"
        if seq < heard.begin and self._partial:
            return "unsure"
        for interval in heard.open:
            if interval.first <= seq <= interval.last:
                return "redriven" if interval.dead else "late"
        return "duplicate"

    def count(self, source: str, seq: int) -> Verdict:
        """Take in the number of an event and return what it is: a `duplicate` is to be left out."""
        verdict = self.judge(source, seq)
        heard = self._hear(source, seq)
        if verdict == "duplicate":
            self._tally.duplicates += 1
            return verdict
        self._tally.sourced_events += 1
        if verdict in ("next", "ahead"):
            self._go_to(heard, seq)
        elif verdict in ("late", "redriven"):
            self._close(heard, seq)
            self._tally.late += verdict == "late"
            self._tally.gaps -= verdict == "late"
            self._tally.sourced_dead_letters -= verdict == "redriven"
        self._bound(heard)
        return verdict

    def bury(self, source: str, seq: int) -> None:
        """Take in the number of a dead letter: no gap, and open for a copy that is re-driven."""
        verdict = self.judge(source, seq)
        heard = self._hear(source, seq)
        if verdict in ("next", "ahead"):
            self._tally.sourced_dead_letters += 1
            self._go_to(heard, seq)
            last = heard.open[-1] if heard.open else None
            if last is not None and last.dead and last.last == seq - 1:
                heard.open[-1] = last._replace(last=seq)
            else:
                heard.open.append(Open(seq, seq, dead=True))
        elif verdict == "late":
            self._tally.sourced_dead_letters += 1
            self._tally.gaps -= 1
            self._close(heard, seq, leaving=[Open(seq, seq, dead=True)])
        self._bound(heard)

    def missing(self, source: str, below: int) -> list[tuple[int, int]]:
        """Return the numbers below `below` that were never heard, as first and last of each stretch.

        Of those that are given up, or of a source that was forgotten, nothing is known and nothing is said.
        """
        heard = self._sources.get(source)
        if heard is None:
            return [(0, below - 1)] if self._beginning_seen and below else []
        found = [
            (interval.first, min(interval.last, below - 1))
            for interval in heard.open
            if not interval.dead and interval.first < below
        ]
        return [*found, (heard.next, below - 1)] if heard.next < below else found

    def heard_of(self, source: str, stretches: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return what of these numbers, first and last of each stretch, was counted."""
        heard = self._sources[source]
        found = []
        for first, last in stretches:
            at = max(first, heard.begin)
            for interval in heard.open:
                if interval.last < at or interval.first > last:
                    continue
                if at < interval.first:
                    found.append((at, interval.first - 1))
                at = interval.last + 1
            if at <= min(last, heard.next - 1):
                found.append((at, min(last, heard.next - 1)))
        return found

    @property
    def nexts(self) -> dict[str, int]:
        """The number after the highest one that was heard, by source."""
        return {source: heard.next for source, heard in self._sources.items()}

    def _hear(self, source: str, seq: int) -> Heard:
        """Return the source as the one heard last, forgetting the one heard longest ago where it is new."""
        heard = self._sources.pop(source, None)
        if heard is None:
            if len(self._sources) >= SOURCES_KEPT:
                del self._sources[next(iter(self._sources))]
                # From now on a source that is not known may be one that was forgotten.
                self._beginning_seen = False
            begin = 0 if self._beginning_seen else seq
            heard = Heard(begin, begin)
        self._sources[source] = heard
        return heard

    def _go_to(self, heard: Heard, seq: int) -> None:
        if seq > heard.next:
            heard.open.append(Open(heard.next, seq - 1, dead=False))
            self._tally.gaps += seq - heard.next
        heard.next = seq + 1

    def _close(self, heard: Heard, seq: int, leaving: list[Open] | None = None) -> None:
        pieces: list[Open] = []
        for interval in heard.open:
            if not interval.first <= seq <= interval.last:
                pieces.append(interval)
                continue
            if interval.first < seq:
                pieces.append(interval._replace(last=seq - 1))
            pieces += leaving or []
            if seq < interval.last:
                pieces.append(interval._replace(first=seq + 1))
        heard.open = pieces

    def _bound(self, heard: Heard) -> None:
        del heard.open[: max(len(heard.open) - INTERVALS_KEPT, 0)]
