"""The ledger against the progress: sent, counted, in flight, lost. Pure.

The rule is the contract's ("Accounts"): where the progress of a partition is past the last offset of every
ledger entry, what was acknowledged and is neither counted nor a dead letter is lost; before that it is in
flight. The order of reading does not matter for it: whoever is past those offsets has read those events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from shared.results import LedgerEntry, Progress


@dataclass(frozen=True)
class Account:
    """The account of one input partition, or of several added up. All are numbers of events.

    Attributes:
        sent: acknowledged by Kafka, as the generators' ledger says.
        counted: what the statistics hold, with and without a source.
        in_flight: sent, and not reached yet.
        lost: sent, passed by, and not counted.
        unacknowledged: counted beyond what the ledger says: sent, and its acknowledgement not written down.
        before_start: sent before the offset at which counting began (`PROCESSOR_START=latest`), at most.
        unsourced: counted without source and number; nobody can say whether any of these were lost.
        duplicated: left out, because their number had been counted.
        gaps: numbers that are missing now.
        late: numbers that were missing once and came.
        dead_lettered: put aside; `dead_lettered_sourced` of them are in the ledger.
    """

    sent: int = 0
    counted: int = 0
    in_flight: int = 0
    lost: int = 0
    unacknowledged: int = 0
    before_start: int = 0
    unsourced: int = 0
    duplicated: int = 0
    gaps: int = 0
    late: int = 0
    dead_lettered: int = 0
    dead_lettered_sourced: int = 0

    def __add__(self, other: Account) -> Account:
        names = [field.name for field in fields(self)]
        return Account(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class PartitionAccount:
    """Whose account it is. `topic` is the full name, `offset` the next to read, -1 before any progress."""

    topic: str
    partition: int
    offset: int
    account: Account


def accounts(ledger: Iterable[LedgerEntry], progress: Iterable[Progress]) -> list[PartitionAccount]:
    """Return the account of every input partition that either side knows, by topic and partition.

    Args:
        ledger: the latest entry of each key.
        progress: the latest record of each key.
    """
    entries: dict[tuple[str, int], list[LedgerEntry]] = {}
    for entry in ledger:
        entries.setdefault((entry.topic, entry.partition), []).append(entry)
    reached = {(one.topic, one.partition): one for one in progress}
    return [
        _account(place, entries.get(place, []), reached.get(place)) for place in sorted({*entries, *reached})
    ]


def total(of: Iterable[PartitionAccount]) -> Account:
    """Return the accounts added up."""
    return sum((one.account for one in of), Account())


def _account(
    place: tuple[str, int], entries: list[LedgerEntry], progress: Progress | None
) -> PartitionAccount:
    sent = sum(entry.acknowledged for entry in entries)
    if progress is None:
        return PartitionAccount(*place, -1, Account(sent=sent, in_flight=sent))
    accounted_for = progress.sourced_events + progress.sourced_dead_letters
    missing = max(0, sent - accounted_for)
    past_all = all(progress.offset > entry.last_offset for entry in entries)
    # Whatever lies before the first offset was never to be counted: no more than that many records.
    before_start = min(missing, progress.first_offset) if past_all else 0
    account = Account(
        sent=sent,
        counted=progress.events,
        in_flight=0 if past_all else missing,
        lost=missing - before_start if past_all else 0,
        unacknowledged=max(0, accounted_for - sent),
        before_start=before_start,
        unsourced=progress.unsourced_events,
        duplicated=progress.duplicates,
        gaps=progress.gaps,
        late=progress.late,
        dead_lettered=progress.dead_letters,
        dead_lettered_sourced=progress.sourced_dead_letters,
    )
    return PartitionAccount(*place, progress.offset, account)
