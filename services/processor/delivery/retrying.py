"""When a delivery that failed is tried again, and when it is given up. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

_DOUBLINGS = 30


@dataclass(frozen=True)
class Retrying:
    """Pauses that double, each shortened at random so that what failed together does not come together.

    Attributes:
        attempts: how often a parcel is tried in all.
        first_seconds: the first pause, at most.
        longest_seconds: of any pause, also of one that the webhook asks for.
        chance: where the shortening comes from.
    """

    attempts: int
    first_seconds: float
    longest_seconds: float
    chance: Random

    def pause(self, failed: int, *, asked_seconds: float | None = None) -> float | None:
        """Return how long to wait before the next attempt, or None where there is none.

        Args:
            failed: attempts so far, at least one.
            asked_seconds: what the webhook asked for (Retry-After): the pause is not shorter.
        """
        if failed >= self.attempts:
            return None
        longest = min(self.first_seconds * 2.0 ** min(failed - 1, _DOUBLINGS), self.longest_seconds)
        pause = longest * self.chance.uniform(0.5, 1.0)
        return max(pause, self.asked(asked_seconds))

    def asked(self, seconds: float | None) -> float:
        """Return how long the webhook is left alone that asked for so many seconds; 0 if it did not."""
        return min(seconds or 0.0, self.longest_seconds)
