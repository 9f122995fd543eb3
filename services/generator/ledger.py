"""What Kafka has acknowledged of this generator's events, and what the ledger says about it. Pure.

The ledger never claims more than was acknowledged: an entry holds the length of the unbroken run of
acknowledged numbers from 0 on, as it was when the entry was made.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.results import LedgerEntry, encode


class Account:
    """The account of one partition: numbers given out, numbers acknowledged.

    Args:
        topic: its name in Kafka.
        partition: its number.
    """

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.sent = 0
        self.failed = 0
        # Without a break from 0 on, and the offset of the last of them; -1 where there is none.
        self.acknowledged = 0
        self.last_offset = -1
        # Acknowledged behind a break: first number → count and last offset. Bounded by what is in flight.
        self._beyond: dict[int, tuple[int, int]] = {}

    @property
    def in_flight(self) -> int:
        """How many events have a number and neither an acknowledgement nor a failure."""
        return self.sent - self.failed - self.acknowledged - sum(n for n, _ in self._beyond.values())

    def number(self, count: int) -> int:
        """Give the next `count` numbers out and return the first."""
        first = self.sent
        self.sent += count
        return first

    def acknowledge(self, first: int, count: int, base_offset: int) -> None:
        """Note that `count` numbers from `first` on are in Kafka, the first of them at `base_offset`.

        A `base_offset` of -1 says that the broker has the records and no longer knows where: the last
        offset is then at least so much further on.
        """
        if first != self.acknowledged:
            self._beyond[first] = (count, base_offset)
            return
        while True:
            self.acknowledged += count
            start = base_offset if base_offset >= 0 else self.last_offset + 1
            self.last_offset = start + count - 1
            if self.acknowledged not in self._beyond:
                return
            count, base_offset = self._beyond.pop(self.acknowledged)

    def fail(self, count: int) -> None:
        """Note that `count` events were given up."""
        self.failed += count


class Ledger:
    """The ledger of one generator incarnation.

    Args:
        source: the incarnation.
        accounts: one for each partition it writes to.
    """

    def __init__(self, source: str, accounts: Iterable[Account]) -> None:
        self._source = source
        self._accounts = list(accounts)
        self._written: dict[tuple[str, int], tuple[int, bool]] = {}

    def changes(self, updated_at: str, *, finished: bool) -> list[LedgerEntry]:
        """Return the entries that differ from what was last noted as written.

        Args:
            updated_at: ISO 8601 in UTC.
            finished: nothing more will come from this source.
        """
        return [
            LedgerEntry(
                source=self._source,
                topic=account.topic,
                partition=account.partition,
                acknowledged=account.acknowledged,
                last_offset=account.last_offset,
                finished=finished,
                updated_at=updated_at,
            )
            for account in self._accounts
            if account.sent
            and self._written.get((account.topic, account.partition), (0, False))
            != (account.acknowledged, finished)
        ]

    def written(self, entries: Iterable[LedgerEntry]) -> None:
        """Note that Kafka has acknowledged these entries."""
        for entry in entries:
            self._written[entry.topic, entry.partition] = (entry.acknowledged, entry.finished)


def as_record(entry: LedgerEntry) -> tuple[bytes, bytes]:
    """Return an entry's key and value as the ledger's topic holds them."""
    return f"{entry.source}:{entry.topic}:{entry.partition}".encode(), encode(entry)
