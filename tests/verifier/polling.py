"""Waiting with a deadline."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

Found = TypeVar("Found")

POLL_INTERVAL_SECONDS: Final = 0.05


def poll(
    look: Callable[[], Found | None],
    timeout_seconds: float,
    failure: Callable[[], str],
    *,
    interval_seconds: float = POLL_INTERVAL_SECONDS,
) -> Found:
    """Call `look` until it returns something other than None, and return that.

    Raises:
        TimeoutError: the time is over; the text is what `failure` says then.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            raise TimeoutError(f"after {timeout_seconds:g} s: {failure()}")
        time.sleep(interval_seconds)
