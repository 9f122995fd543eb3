"""The accounts of one input partition: what was counted, what was not, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from services.processor.formats import ValueFormat
from shared.results import LatencyMilliseconds, Progress, SettingSince

# A setting is changed by hand: more changes than this are forgotten from the oldest on, and what lies
# before them can't be recomputed any more (`tandem verify` says so).
_MAX_CHANGES_OF_A_SETTING = 100


class Counts(msgspec.Struct):
    """The counters of one input partition, with everything that has to survive a restart."""

    first_offset: int = 0
    # Whether a source may have begun where we could not see it: the log did not start at 0, or
    # retention took records before us, or a source had to be forgotten.
    beginning_unseen: bool = False
    events: int = 0
    sourced_events: int = 0
    sourced_dead_letters: int = 0
    unsourced_events: int = 0
    duplicates: int = 0
    gaps: int = 0
    late: int = 0
    dead_letters: int = 0
    skipped: int = 0
    settings: dict[str, list[SettingSince]] = {}


_KEY = "partition"


class Accounts:
    """The counters of one partition, as a store of its state. It is written with every transaction."""

    name = "accounts"

    def __init__(self) -> None:
        self.counts = Counts()
        self._format = ValueFormat(self.name, Counts)
        self._present = False

    def __len__(self) -> int:
        return int(self._present)

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield the one record of this store."""
        self._present = True
        yield f"{self.name}/{_KEY}".encode(), self._format.encode(self.counts)

    def restore(self, key: str, value: bytes | None) -> None:
        """Take one changelog record back in."""
        assert key == _KEY, f"an unknown key of the accounts: {key}"
        # Deleted only by `tandem reset-offsets`: nothing was counted then.
        self._present = value is not None
        restored = Counts() if value is None else self._format.decode(value)
        # In place: the continuity check counts into the same object.
        for name in Counts.__struct_fields__:
            setattr(self.counts, name, getattr(restored, name))

    def rewrite(self, key: str) -> None:
        """Nothing: the one record is written with every transaction."""

    def begin(self, offset: int) -> None:
        """Note where a group without a committed offset starts."""
        self.counts.first_offset = offset
        self.counts.beginning_unseen = offset > 0

    def skip(self, count: int) -> None:
        """Note `count` records that retention removed before they were read."""
        self.counts.skipped += count
        self.counts.beginning_unseen = True

    def hold(self, settings: dict[str, Any], offset: int) -> None:
        """Note the settings that results depend on, as of `offset` on."""
        for name, value in settings.items():
            history = self.counts.settings.setdefault(name, [])
            if not history or history[-1].value != value:
                history.append(SettingSince(value, offset))
                del history[:-_MAX_CHANGES_OF_A_SETTING]

    def progress(
        self, *, topic: str, partition: int, offset: int, latency: LatencyMilliseconds, updated_at: str
    ) -> Progress:
        """Return the accounts as the contract publishes them."""
        counts = self.counts
        return Progress(
            topic=topic,
            partition=partition,
            offset=offset,
            first_offset=counts.first_offset,
            events=counts.events,
            sourced_events=counts.sourced_events,
            sourced_dead_letters=counts.sourced_dead_letters,
            unsourced_events=counts.unsourced_events,
            duplicates=counts.duplicates,
            gaps=counts.gaps,
            late=counts.late,
            dead_letters=counts.dead_letters,
            latency_ms=latency,
            settings=counts.settings,
            updated_at=updated_at,
        )
