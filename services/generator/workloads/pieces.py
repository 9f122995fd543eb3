"""The pieces that events are put together from, made ahead where that saves work. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat

import msgspec

# More texts than these are not made ahead, but each time one is wanted.
_MAX_TEXTS = 100_000
_AHEAD = 2_000
_BLOCK = 1_000


class Texts:
    """The text that each number of a draw stands for.

    Args:
        count: numbers are below it.
        make: returns a number's text.
    """

    def __init__(self, count: int, make: Callable[[int], bytes]) -> None:
        self._of = [make(i) for i in range(count)].__getitem__ if count <= _MAX_TEXTS else make

    def of(self, numbers: Sequence[int]) -> map[bytes]:
        """Return the text of each number, one after the other."""
        return map(self._of, numbers)


class MadeAhead:
    """Events made by the thousand and handed out in any number.

    Args:
        make: returns the next so many keys and bodies.
    """

    def __init__(self, make: Callable[[int], tuple[list[bytes], list[bytes]]]) -> None:
        self._make = make
        self._keys: list[bytes] = []
        self._bodies: list[bytes] = []
        self._at = 0

    def take(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """Return the next `count` keys and bodies."""
        missing = self._at + count - len(self._keys)
        if missing > 0:
            keys, bodies = self._make(max(missing, _AHEAD))
            self._keys = self._keys[self._at :] + keys
            self._bodies = self._bodies[self._at :] + bodies
            self._at = 0
        taken = slice(self._at, self._at + count)
        self._at += count
        return self._keys[taken], self._bodies[taken]


class Endings:
    """The last piece of each event: its number, and the closing bracket.

    A number's last three digits come from a table, so that an event costs no formatting.
    """

    def __init__(self) -> None:
        self._of_small = [b"%d}" % i for i in range(_BLOCK)]
        self._of_large = [b"%03d}" % i for i in range(_BLOCK)]

    def finish(self, bodies: Sequence[bytes], stamp: bytes, first_seq: int) -> list[bytes]:
        """Return the values of events: `bodies[i]`, the stamp, and the number `first_seq + i`."""
        values: list[bytes] = []
        while len(values) < len(bodies):
            done = len(values)
            thousands, within = divmod(first_seq + done, _BLOCK)
            count = min(_BLOCK - within, len(bodies) - done)
            middle = stamp + b"%d" % thousands if thousands else stamp
            endings = (self._of_large if thousands else self._of_small)[within : within + count]
            values += map(b"".join, zip(bodies[done : done + count], repeat(middle), endings, strict=False))
        return values


def as_json(text: str) -> bytes:
    """Return `text` as a JSON string, quotes included."""
    return msgspec.json.encode(text)
