"""When an alert fires and when it resolves. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from shared.results import AlertState, Bound


class Thresholds(msgspec.Struct, frozen=True):
    """The bounds of one sensor; None where there is none."""

    min: float | None = None
    max: float | None = None

    def of(self, bound: Bound) -> float | None:
        """Return the threshold of one bound."""
        return self.min if bound == "min" else self.max


class Firing(msgspec.Struct, array_like=True):
    """An alert that has fired and is not resolved."""

    alert_id: str
    threshold: float


class Transition(msgspec.Struct):
    """What a reading did to one bound."""

    bound: Bound
    alert_id: str
    state: AlertState
    threshold: float


BOUNDS: tuple[Bound, ...] = ("min", "max")


def is_beyond(value: float, bound: Bound, threshold: float) -> bool:
    """Say whether a value is strictly beyond a threshold."""
    return value < threshold if bound == "min" else value > threshold


def is_back_inside(value: float, bound: Bound, threshold: float, hysteresis: float) -> bool:
    """Say whether a value is inside a threshold by at least `hysteresis`; on it counts with 0."""
    return value >= threshold + hysteresis if bound == "min" else value <= threshold - hysteresis


def breaches(value: float, thresholds: Thresholds) -> bool:
    """Say whether a value is beyond any bound."""
    return any(
        threshold is not None and is_beyond(value, bound, threshold)
        for bound in BOUNDS
        for threshold in (thresholds.of(bound),)
    )


def transitions(
    value: float,
    new_id: Mapping[Bound, str],
    firing: dict[str, Firing],
    thresholds: Thresholds,
    hysteresis: float,
) -> Iterator[Transition]:
    """Yield the alerts that a reading fires or resolves, and keep `firing` (by bound) up to date.

    Args:
        value: the reading.
        new_id: the id of an alert that this reading would fire, by bound.
        firing: what fires now; changed in place.
        thresholds: those in force. A firing alert whose bound is gone resolves.
        hysteresis: how far back inside a value has to be.
    """
    for bound in BOUNDS:
        threshold = thresholds.of(bound)
        fired = firing.get(bound)
        if fired is None:
            if threshold is not None and is_beyond(value, bound, threshold):
                firing[bound] = Firing(new_id[bound], threshold)
                yield Transition(bound, new_id[bound], "firing", threshold)
        elif threshold is None:
            del firing[bound]
            yield Transition(bound, fired.alert_id, "resolved", fired.threshold)
        elif is_back_inside(value, bound, threshold, hysteresis):
            del firing[bound]
            yield Transition(bound, fired.alert_id, "resolved", threshold)


def each_breach(value: float, new_id: Mapping[Bound, str], thresholds: Thresholds) -> Iterator[Transition]:
    """Yield one alert for each bound that a reading is beyond, as the reference system does."""
    for bound in BOUNDS:
        threshold = thresholds.of(bound)
        if threshold is not None and is_beyond(value, bound, threshold):
            yield Transition(bound, new_id[bound], "firing", threshold)
