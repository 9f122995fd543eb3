"""The settings that results depend on, as they were at each input offset. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shared.results import Bound, SettingSince

BOUNDS: tuple[Bound, ...] = ("min", "max")
_NO_BOUNDS: Mapping[str, float | None] = {}


@dataclass(frozen=True)
class Rules:
    """The settings at one offset, under the names that `Progress.settings` has.

    Attributes:
        thresholds: by sensor, then "min" and "max"; None or absent where there is no bound.
    """

    window_size: int = 10
    alert_mode: str = "transitions"
    thresholds: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    hysteresis: float = 0.0
    validation: str = "counted"
    state_max_keys: int = 20_000_000

    def threshold(self, sensor_id: str, bound: Bound) -> float | None:
        """Return the threshold of one bound of one sensor, or None."""
        return self.thresholds.get(sensor_id, _NO_BOUNDS).get(bound)


class RulesHistory:
    """Which rules held at which offset.

    Args:
        settings: `Progress.settings`: per name its values, each with the offset from which it holds.
            Names that this console does not know are left alone.

    Raises:
        ValueError: a value is not of its setting's type.
    """

    def __init__(self, settings: Mapping[str, Sequence[SettingSince]]) -> None:
        changes: dict[int, dict[str, Any]] = {}
        known = {name: history for name, history in settings.items() if name in Rules.__dataclass_fields__}
        # Before the first entry nobody knows what held.
        self.known_from = max((history[0].since for history in known.values() if history), default=0)
        for name, history in known.items():
            for setting in history:
                changes.setdefault(setting.since, {})[name] = setting.value
        values: dict[str, Any] = {}
        self._rules: list[tuple[int, Rules]] = []
        for since in sorted(changes):
            values |= changes[since]
            self._rules.append((since, _checked(values)))

    def at(self, offset: int) -> tuple[Rules, int | None]:
        """Return the rules at `offset`, and the offset from which others hold (None: no others)."""
        rules = self._rules[0][1] if self._rules else Rules()
        for since, later in self._rules:
            if since > offset:
                return rules, since
            rules = later
        return rules, None


def _checked(values: Mapping[str, Any]) -> Rules:
    try:
        return msgspec.convert(values, Rules)
    except msgspec.ValidationError as error:
        raise ValueError(f"the settings in the progress are not as they should be: {error}") from error
