"""What the verifier found."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "lost",  # must be there, and is not
    "doubled",  # is there more often than once
    "invented",  # is there, and nothing in the input calls for it
    "wrong",  # is there, with another key, field or place
    "disordered",  # stands before one that it must follow
    "open",  # a transaction was not finished
    "behind",  # input that is not committed
]


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it must be."""

    kind: Kind
    topic: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind:<10} {self.topic}: {self.detail}"


@dataclass
class Report:
    """The outcome of a verification.

    Attributes:
        differences: everything that is not as it must be; empty means that all four checks passed.
        counts: what was compared, so that a test can see that there was something: `input records`, `events`,
            `dead letters`, `duplicates`, `gaps`, `late`, `purchases`, `alerts`, `behavior stats`,
            `sensor stats`, `transactions`, `acknowledged` and so on.
    """

    differences: list[Difference] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def kinds(self) -> Counter[str]:
        """Return how many differences there are of each kind."""
        return Counter(difference.kind for difference in self.differences)

    @property
    def text(self) -> str:
        """The counts and the first fifty differences, one a line."""
        shown = [f"  {difference}" for difference in self.differences[:50]]
        more = len(self.differences) - len(shown)
        counted = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        verdict = (
            "nothing differs" if self.ok else f"{len(self.differences):,} differences {dict(self.kinds())}"
        )
        return "\n".join(
            [f"verified: {verdict}", f"  {counted}", *shown, *([f"  … {more:,} more"] if more else [])]
        )
