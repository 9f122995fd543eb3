"""The format number of each stored value, and how older values become today's. Pure.

A stored value is `v{number} {JSON}`. Version 0.1.0 wrote the JSON alone: no JSON begins with a `v`, and what
has no number is of format 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

ValueT = TypeVar("ValueT")

Upgrades = Mapping[int, Callable[[Any], Any]]
"""By format number: makes the JSON types of the next format out of those of this one."""

encode_json = msgspec.json.Encoder().encode
_FIRST = 1
_MARK = b"v"


class UnknownFormatError(Exception):
    """Something stored has a format that this version does not know: only what knows it may go on."""

    def __init__(self, what: str, found: int, known: Iterable[int]) -> None:
        numbers = " and ".join(map(str, sorted(known)))
        super().__init__(f"{what} has format {found}, this version knows {numbers}")


class ValueFormat(Generic[ValueT]):
    """How the values of one store are written, and which older ones can be read.

    Args:
        store: the store's name, for messages.
        value_type: what msgspec encodes and decodes.
        number: of the format that is written.
        upgrades: for each older format that can still be read; they are applied one after the other.

    Attributes:
        prefix: what stands before the JSON of a value.

    Raises:
        ValueError: the upgrades do not lead up to `number` without a gap.
    """

    def __init__(
        self, store: str, value_type: type[ValueT], *, number: int = _FIRST, upgrades: Upgrades | None = None
    ) -> None:
        self._upgrades = dict(upgrades or {})
        self._known = (*sorted(self._upgrades), number)
        if self._known != tuple(range(self._known[0], number + 1)) or self._known[0] < _FIRST:
            raise ValueError(
                f"store {store}: format {number} needs upgrades from consecutive formats just below it, "
                f"beginning with {_FIRST} or later, and has them from {sorted(self._upgrades)}"
            )
        self._store = store
        self._number = number
        self._decode = msgspec.json.Decoder(value_type).decode
        self.prefix = _MARK + b"%d " % number

    def encode(self, value: ValueT) -> bytes:
        """Return a value as it is stored."""
        return self.prefix + encode_json(value)

    def decode(self, stored: bytes) -> ValueT:
        """Return a stored value, upgraded where it is older.

        Raises:
            UnknownFormatError: it is of a format that is not known (any more, or yet).
            ValueError: it is not what its format says.
        """
        if stored.startswith(self.prefix):
            return self._decode(stored[len(self.prefix) :])
        found, encoded = _split(stored)
        if found not in self._known:
            raise UnknownFormatError(f"a value of store {self._store}", found, self._known)
        if found == self._number:
            return self._decode(encoded)
        return self._decode(encode_json(self._upgraded(found, msgspec.json.decode(encoded))))

    def _upgraded(self, found: int, value: Any) -> Any:
        for number in range(found, self._number):
            try:
                value = self._upgrades[number](value)
            except Exception as error:
                raise ValueError(
                    f"store {self._store}: a value of format {number} can't be upgraded: {error!r}"
                ) from error
        return value


def _split(stored: bytes) -> tuple[int, bytes]:
    """Return the format number and the JSON of a stored value."""
    if not stored.startswith(_MARK):
        return _FIRST, stored
    number, _, encoded = stored[len(_MARK) :].partition(b" ")
    return int(number), encoded
