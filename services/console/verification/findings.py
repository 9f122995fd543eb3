"""What a verification found: differences by kind, the first few of each listed, all of them counted. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it has to be.

    Attributes:
        kind: lost, missing, unexpected, doubled, disordered, wrong, misplaced, undecodable.
        topic: where it shows.
        text: which record, and what is the matter with it.
    """

    kind: str
    topic: str
    text: str


class Findings:
    """Collects what verification finds.

    Args:
        listed: how many differences of each topic and kind are kept word for word.
    """

    def __init__(self, *, listed: int) -> None:
        self._listed = listed
        self.differences: list[Difference] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.compared: Counter[str] = Counter()
        self.notes: list[str] = []

    def differ(self, kind: str, topic: str, text: str) -> None:
        """Note a difference."""
        self.counts[topic, kind] += 1
        if self.counts[topic, kind] <= self._listed:
            self.differences.append(Difference(kind, topic, text))

    def note(self, text: str) -> None:
        """Note something that has to be said and is no difference. Said once, however often it is noted."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def total(self) -> int:
        """How many differences there are, listed or not."""
        return sum(self.counts.values())

    @property
    def unlisted(self) -> dict[tuple[str, str], int]:
        """How many of each topic and kind are not listed, where there are any."""
        return {place: n - self._listed for place, n in self.counts.items() if n > self._listed}
