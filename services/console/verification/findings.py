"""What a verification found: differences by kind, the first few of each listed, all of them counted. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Span:
    """Records of an input partition: those at `first_offset` to `last_offset`. `topic` is the full name."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int


@dataclass(frozen=True)
class Numbers:
    """Events by what their producer calls them: `first` to `last` of a source in an input partition."""

    topic: str
    partition: int
    source: str
    first: int
    last: int

    @property
    def text(self) -> str:
        """Whose numbers they are and which, for people."""
        which = f"number {self.first}" if self.first == self.last else f"numbers {self.first} to {self.last}"
        return f"source {self.source} {which}"


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it has to be.

    Attributes:
        kind: lost, missing, unexpected, doubled, disordered, wrong, misplaced, undecodable.
        topic: where it shows.
        text: which record, and what is the matter with it.
        input: the records that it comes from, or is among, where that is known.
        numbers: the events that it comes from, or is among, where they have numbers.
    """

    kind: str
    topic: str
    text: str
    input: Span | None = None
    numbers: tuple[Numbers, ...] = ()


@dataclass(frozen=True)
class Note:
    """Something that has to be said and is no difference. `numbers` are the events that it is about."""

    text: str
    numbers: tuple[Numbers, ...] = ()


class Findings:
    """Collects what verification finds.

    Args:
        listed: how many differences of each topic and kind are kept word for word.
    """

    def __init__(self, *, listed: int) -> None:
        self.listed = listed
        self.differences: list[Difference] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.compared: Counter[str] = Counter()
        self.notes: list[Note] = []
        self._noted: set[Note] = set()

    def differ(
        self, kind: str, topic: str, text: str, *, span: Span | None = None, numbers: Sequence[Numbers] = ()
    ) -> None:
        """Note a difference; `span` is its `input`."""
        self.counts[topic, kind] += 1
        if self.counts[topic, kind] <= self.listed:
            self.differences.append(Difference(kind, topic, text, span, tuple(numbers)))

    def name(self, difference: Difference, numbers: Sequence[Numbers]) -> None:
        """Add to a listed difference which events it comes from, or is among."""
        self.differences[self.differences.index(difference)] = replace(difference, numbers=tuple(numbers))

    def note(self, text: str, numbers: Sequence[Numbers] = ()) -> None:
        """Note something that has to be said and is no difference. Said once, however often it is noted."""
        note = Note(text, tuple(numbers))
        if note not in self._noted:
            self._noted.add(note)
            self.notes.append(note)

    @property
    def total(self) -> int:
        """How many differences there are, listed or not."""
        return sum(self.counts.values())

    @property
    def unlisted(self) -> dict[tuple[str, str], int]:
        """How many of each topic and kind are not listed, where there are any."""
        return {place: n - self.listed for place, n in self.counts.items() if n > self.listed}
