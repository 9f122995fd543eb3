"""Which records of an input partition count, record by record, as the contract says. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import UNSET

from services.console.verification.continuity import Continuity, Tally
from services.console.verification.rules import Rules, RulesHistory
from shared.events import (
    UNDECODABLE,
    Page,
    SensorReading,
    UserEvent,
    UserEventCounted,
    decoder,
    is_iso_8601,
    readable_source,
)

Headers = Sequence[tuple[str, bytes | None]]
EventT = TypeVar("EventT")


class InputRecord(Protocol):
    """A record as the client gives it."""

    @property
    def offset(self) -> int:
        """Return the place in the partition."""

    @property
    def key(self) -> bytes | None:
        """Return the key."""

    @property
    def value(self) -> bytes | None:
        """Return the value."""

    @property
    def headers(self) -> Headers:
        """Return pairs of name and value."""


class Admitted(NamedTuple, Generic[EventT]):
    """An event that counts. `sure` is False where what retention took decides whether it does."""

    record: InputRecord
    event: EventT
    sure: bool


class RefusedError(ValueError):
    """A record that has to be a dead letter for more than its bytes."""


class PurchaseEvent(UserEventCounted, gc=False):
    """What is used of a purchase."""

    page: Page
    timestamp: str


_user_event = decoder(UserEventCounted)
_purchase_event = decoder(PurchaseEvent)
_whole_user_event = decoder(UserEvent)
_sensor_reading = decoder(SensorReading)


def read_user_event(value: bytes | None, rules: Rules) -> Any:
    """Return what counts of a user event; of a purchase with `page` and `timestamp`.

    Raises:
        ValueError: it has to be a dead letter; any of `UNDECODABLE`.
    """
    if rules.validation == "full":
        event = _whole_user_event(value)  # type: ignore[arg-type]  # None is a TypeError, and UNDECODABLE
    else:
        event = _user_event(value)  # type: ignore[arg-type]
        if event.action != "purchase":
            return event
        event = _purchase_event(value)  # type: ignore[arg-type]
    if not is_iso_8601(event.timestamp):
        raise RefusedError("timestamp")
    return event


def read_sensor_reading(value: bytes | None, rules: Rules) -> Any:  # noqa: ARG001 — every field is used anyway
    """Return a reading.

    Raises:
        ValueError: it has to be a dead letter; any of `UNDECODABLE`.
    """
    return _sensor_reading(value)  # type: ignore[arg-type]


class Admission:
    """Sorts the records of one partition into events, duplicates and dead letters.

    Args:
        read: makes an event of a value under the rules of its offset.
        fits: says whether the state has room for the event; where it has not, it is a dead letter. None
            where nobody can say, because retention took the beginning: then `full_at` does.
        history: the rules.
        beginning_seen: see `Continuity`. The same for `partial`.
    """

    def __init__(
        self,
        read: Callable[[bytes | None, Rules], Any],
        fits: Callable[[Any, Rules], bool | None],
        history: RulesHistory,
        *,
        beginning_seen: bool,
        partial: bool,
    ) -> None:
        self.tally = Tally()
        self.dead_letters: list[InputRecord] = []
        # Records that were left out because their number had been counted, with source and number.
        self.duplicates: list[tuple[InputRecord, str, int]] = []
        # Offsets of what the processor says it had no room for; believed where we can't know better.
        self.full_at: frozenset[int] = frozenset()
        self.rules, self._next_change = history.at(0)
        self._read = read
        self._fits = fits
        self._history = history
        self.continuity = Continuity(self.tally, beginning_seen=beginning_seen, partial=partial)

    def events(self, records: Iterable[InputRecord]) -> Iterator[Admitted[Any]]:
        """Yield what counts, in order. What does not goes into the tally and `dead_letters` on the way."""
        tally = self.tally
        for record in records:
            offset = record.offset
            if self._next_change is not None and offset >= self._next_change:
                self.rules, self._next_change = self._history.at(offset)
            try:
                event = self._read(record.value, self.rules)
            except UNDECODABLE:
                self._bury(record)
                continue
            source, seq = event.source, event.seq
            if (source is UNSET) != (seq is UNSET):
                self._bury(record)
                continue
            if not self._has_room(event, offset) and not self._is_duplicate(event):
                self._bury(record)
                continue
            is_sure = True
            if source is UNSET:
                tally.unsourced_events += 1
            else:
                verdict = self.continuity.count(source, seq)
                if verdict == "duplicate":
                    self.duplicates.append((record, source, seq))
                    continue
                is_sure = verdict != "unsure"
            tally.events += 1
            yield Admitted(record, event, is_sure)

    def _has_room(self, event: Any, offset: int) -> bool:
        fits = self._fits(event, self.rules)
        return offset not in self.full_at if fits is None else fits

    def _is_duplicate(self, event: Any) -> bool:
        return event.source is not UNSET and self.continuity.judge(event.source, event.seq) == "duplicate"

    def _bury(self, record: InputRecord) -> None:
        self.tally.dead_letters += 1
        self.dead_letters.append(record)
        found = readable_source(record.value)
        if found is not None:
            self.continuity.bury(*found)


def as_fields(tally: Tally) -> dict[str, int]:
    """Return the tally under the names of `Progress`."""
    return dict(msgspec.to_builtins(tally))
