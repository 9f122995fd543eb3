"""Duplicates, gaps and late ones of one input partition, by keeping every number ever heard."""

from dataclasses import dataclass, field

from tests.verifier.events import SourceSeq


@dataclass
class Heard:
    """The numbers of one source: counted, seen at all, of dead letters; and the next one expected."""

    first: int
    expected: int
    counted: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    buried: set[int] = field(default_factory=set)

    def see(self, seq: int) -> None:
        """Take note of a number, whether of an event or of a dead letter."""
        if seq >= self.first:
            self.seen.add(seq)
            self.expected = max(self.expected, seq + 1)

    @property
    def missing(self) -> int:
        """How many numbers below the expected one have not been seen."""
        return self.expected - self.first - len(self.seen)


@dataclass
class Continuity:
    """The accounts of one input partition, as `Progress` shows them.

    Args:
        log_start: the first offset that the partition still holds. At 0 a source is expected from number 0;
            later, from wherever it is first heard.
    """

    log_start: int = 0
    sourced_events: int = 0
    sourced_dead_letters: int = 0
    unsourced_events: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    late: int = 0
    sources: dict[str, Heard] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    """All readable numbers by source, in the order of their offsets, doubles included."""

    def count(self, source_seq: SourceSeq | None) -> bool:
        """Enter an event; return False where it is a duplicate, which no statistic may hold."""
        if source_seq is None:
            self.unsourced_events += 1
            return True
        heard, seq = self._hear(source_seq)
        if seq in heard.counted or seq < heard.first:
            self.duplicates += 1
            return False
        if seq in heard.buried:
            heard.buried.discard(seq)
            self.sourced_dead_letters -= 1
        elif seq < heard.expected and seq not in heard.seen:
            self.late += 1
        heard.counted.add(seq)
        heard.see(seq)
        self.sourced_events += 1
        return True

    def bury(self, source_seq: SourceSeq | None) -> None:
        """Enter a dead letter; its number, where it can be read, is no gap and stays open to be filled."""
        self.dead_letters += 1
        if source_seq is None:
            return
        heard, seq = self._hear(source_seq)
        if seq in heard.counted or seq in heard.buried:
            return  # A copy: its number has its account already.
        heard.see(seq)
        heard.buried.add(seq)
        self.sourced_dead_letters += 1

    @property
    def gaps(self) -> int:
        """How many numbers are missing now."""
        return sum(heard.missing for heard in self.sources.values())

    def as_progress(self) -> dict[str, int]:
        """Return the figures under the names that `Progress` gives them."""
        return {
            "events": self.sourced_events + self.unsourced_events,
            "sourced_events": self.sourced_events,
            "sourced_dead_letters": self.sourced_dead_letters,
            "unsourced_events": self.unsourced_events,
            "duplicates": self.duplicates,
            "gaps": self.gaps,
            "late": self.late,
            "dead_letters": self.dead_letters,
        }

    def _hear(self, source_seq: SourceSeq) -> tuple[Heard, int]:
        source, seq = source_seq
        if source not in self.sources:
            first = 0 if self.log_start == 0 else seq
            self.sources[source] = Heard(first, first)
        self.numbers.setdefault(source, []).append(seq)
        return self.sources[source], seq
