"""The sensors' readings: `SensorReading`, keyed by the sensor. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from services.generator.draws import Draws
from services.generator.workloads.pieces import MadeAhead, Texts, as_json

_STREAM = 2
_HUNDREDTHS = 100


class SensorsWorkload:
    """One sensor after the other, round and round; value and location drawn evenly.

    Args:
        seed: 0 or more.
        source: this incarnation of the generator, 1 to 64 characters.
        sensors: their ids, in the order of the round.
        value_min: the lowest value; values are whole hundredths.
        value_max: the highest, itself included.
        locations: where readings come from.
    """

    def __init__(
        self,
        *,
        seed: int,
        source: str,
        sensors: Sequence[str],
        value_min: float,
        value_max: float,
        locations: Sequence[str],
    ) -> None:
        lowest = round(value_min * _HUNDREDTHS)
        values = round(value_max * _HUNDREDTHS) - lowest + 1
        self._draws = Draws(seed, _STREAM, (values, len(locations)))
        self._values = Texts(values, lambda i: b"%b," % repr((lowest + i) / _HUNDREDTHS).encode())
        self._locations = Texts(len(locations), lambda i: b'"location":%b,' % as_json(locations[i]))
        self._keys = [sensor.encode() for sensor in sensors]
        self._heads = [b'{"sensor_id":%b,"value":' % as_json(sensor) for sensor in sensors]
        self._next = 0
        self._source = as_json(source)
        self._ahead = MadeAhead(self._make)

    def take(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """Return the next `count` readings as their keys and their bodies."""
        return self._ahead.take(count)

    def stamp(self, now: float) -> bytes:
        """Return the piece that says when and by whom, for readings made at `now` (epoch seconds)."""
        return b'"timestamp":%.6f,"source":%b,"seq":' % (now, self._source)

    def _make(self, count: int) -> tuple[list[bytes], list[bytes]]:
        values, locations = self._draws.columns(count)
        round_length = len(self._keys)
        turns = [turn % round_length for turn in range(self._next, self._next + count)]
        self._next = (self._next + count) % round_length
        pieces = zip(
            map(self._heads.__getitem__, turns),
            self._values.of(values),
            self._locations.of(locations),
            strict=True,
        )
        return list(map(self._keys.__getitem__, turns)), list(map(b"".join, pieces))
