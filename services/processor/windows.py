"""The last readings of each sensor. Pure."""

from __future__ import annotations

import ctypes
import math
import statistics
from array import array
from collections.abc import Sequence

import msgspec

from services.processor.columns import Columns
from services.processor.native.library import Rings, address_of

_MOST_SUMMED_FAST = 1e6
# Most windows are full in the end, and have their room at once. A large one that is never filled is not to
# take all that.
_MOST_AT_ONCE = 64
_FIRST_ROOM = 16
_GROWTH = 4


class Window(msgspec.Struct, array_like=True):
    """The last readings of one sensor, by offset: values, and timestamps in seconds since the epoch."""

    values: list[float] = []
    timestamps: list[float] = []


class Windows:
    """The last `size` readings of each row: see `rows.RowTable`.

    They lie in two arrays and not in an object each, and many are taken in by one call. A reading takes 16
    bytes; in windows that grow up to twice as many, once they are full, for the room they have left behind.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values = array("d")
        self._timestamps = array("d")
        # By row: where its stretch begins, how long that is, how much of it is filled, and what comes next.
        self._starts = array("q")
        self._room = array("i")
        self._held = array("i")
        self._next = array("i")
        # Where stretches begin that are free again, by their length.
        self._free: dict[int, list[int]] = {}
        self._rings = Rings(size=size)

    def add(self, row: int) -> None:
        """Make an empty window: the next row, or one that is there."""
        if row < len(self._starts):
            self._held[row] = self._next[row] = 0
            return
        room = self._size if self._size <= _MOST_AT_ONCE else _FIRST_ROOM
        self._starts.append(self._stretch(room))
        self._room.append(room)
        self._held.append(0)
        self._next.append(0)

    def is_full(self, row: int) -> bool:
        """Say whether a window holds as many readings as it may."""
        return self._held[row] == self._size

    def push(self, row: int, value: float, timestamp: float) -> None:
        """Take one reading in, and let go of the oldest one where there is no room for both."""
        if self._held[row] == self._room[row] < self._size:
            self._widen(row)
        place = self._starts[row] + self._next[row]
        self._values[place], self._timestamps[place] = value, timestamp
        self._held[row] = min(self._held[row] + 1, self._size)
        self._next[row] = (self._next[row] + 1) % self._size

    def push_all(
        self, columns: Columns, rows: array[int], values: array[float], timestamps: array[float]
    ) -> None:
        """Take the reading of each event in, in order, as `push` does."""
        taken = 0
        while True:
            self._point()
            taken = columns.library.tandem_push(
                ctypes.addressof(self._rings),
                address_of(rows),
                taken,
                len(rows),
                address_of(values),
                address_of(timestamps),
            )
            if taken == len(rows):
                return
            self._widen(rows[taken])

    def values(self, row: int) -> list[float]:
        """Return the values of a window, the oldest one first."""
        return self._in_order(self._values, row)

    def window(self, row: int) -> Window:
        """Return what a window holds."""
        return Window(self.values(row), self._in_order(self._timestamps, row))

    def span(self, row: int) -> tuple[float, float]:
        """Return the timestamps of the oldest and the latest reading; there is at least one."""
        latest = self._starts[row] + (self._next[row] - 1) % self._size
        return self._timestamps[self._oldest(row)], self._timestamps[latest]

    def put(self, row: int, window: Window) -> None:
        """Fill a window with the last ones of these readings, also when the size was changed.

        Raises:
            ValueError: there is not a timestamp for each value.
        """
        if len(window.values) != len(window.timestamps):
            raise ValueError(f"{len(window.values)} values, {len(window.timestamps)} timestamps")
        values = array("d", window.values[-self._size :])
        timestamps = array("d", window.timestamps[-self._size :])
        held = len(values)
        while self._room[row] < held:
            self._widen(row)
        start = self._starts[row]
        self._values[start : start + held] = values
        self._timestamps[start : start + held] = timestamps
        self._held[row], self._next[row] = held, held % self._size

    def _in_order(self, numbers: array[float], row: int) -> list[float]:
        start = self._starts[row]
        end, oldest = start + self._held[row], self._oldest(row)
        return (numbers[oldest:end] + numbers[start:oldest]).tolist()

    def _oldest(self, row: int) -> int:
        """Return where the oldest reading lies: in a full window the next one takes its place."""
        return self._starts[row] + (self._next[row] if self.is_full(row) else 0)

    def _widen(self, row: int) -> None:
        """Give a row more room: it holds all that it has room for, and not yet what it may."""
        room, start = self._room[row], self._starts[row]
        wider = min(room * _GROWTH, self._size)
        to = self._stretch(wider)
        self._values[to : to + room] = self._values[start : start + room]
        self._timestamps[to : to + room] = self._timestamps[start : start + room]
        self._free.setdefault(room, []).append(start)
        self._starts[row], self._room[row] = to, wider

    def _stretch(self, room: int) -> int:
        """Return where there is room for so many readings."""
        if free := self._free.get(room):
            return free.pop()
        start = len(self._values)
        self._values.frombytes(bytes(8 * room))
        self._timestamps.frombytes(bytes(8 * room))
        return start

    def _point(self) -> None:
        rings = self._rings
        rings.value, rings.time = address_of(self._values), address_of(self._timestamps)
        rings.start, rings.room = address_of(self._starts), address_of(self._room)
        rings.held, rings.next = address_of(self._held), address_of(self._next)


class Summary(msgspec.Struct):
    """What is published of a window: see the contract's SensorStats."""

    avg: float
    min: float
    max: float
    median: float


def summarize(values: Sequence[float]) -> Summary:
    """Return the summary of values, at least one."""
    return Summary(
        avg=_rounded_mean(values),
        min=min(values),
        max=max(values),
        median=round(statistics.median(values), 2),
    )


def _rounded_mean(values: Sequence[float]) -> float:
    """Return `round(statistics.mean(values), 2)`, mostly without the exact mean.

    The two means are within 1e-9 of each other. They round alike but for those that lie about half-way
    between two hundredths, or next to 0, whose sign shows.
    """
    mean = math.fsum(values) / len(values)
    rounded = round(mean, 2)
    if rounded and abs(mean) < _MOST_SUMMED_FAST and abs(abs(mean - rounded) - 0.005) > 1e-8:
        return rounded
    return round(_exact_mean(values), 2)


def _exact_mean(values: Sequence[float]) -> float:
    """Return `statistics.mean(values)`, sooner: every tenth mean of ten hundredths comes here."""
    ratios = [value.as_integer_ratio() for value in values]
    # Powers of two: each divides the largest. Python's division of whole numbers rounds once.
    shared = max(denominator for _, denominator in ratios)
    total = sum(numerator * (shared // denominator) for numerator, denominator in ratios)
    return total / (shared * len(values))
