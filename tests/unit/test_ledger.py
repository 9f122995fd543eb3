"""The generator's accounts: what was sent, what Kafka acknowledged, what the ledger claims."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.ledger import Account, Ledger, as_record
from shared.results import LedgerEntry

AT = "2025-11-23T06:40:00+00:00"


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=30), st.randoms(use_true_random=False))
def test_the_account_claims_the_unbroken_run_from_0_whatever_the_order_of_acknowledgements(
    sizes: list[int], chance: object
) -> None:
    account = Account("t", 0)
    batches = []
    offset = 1_000
    for size in sizes:
        batches.append((account.number(size), size, offset))
        offset += size + 3
    assert account.sent == sum(sizes)
    shuffled = list(batches)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis has no name for its Random
    acknowledged: set[int] = set()
    for first, size, base in shuffled:
        account.acknowledge(first, size, base)
        acknowledged |= set(range(first, first + size))
        unbroken = next((i for i in range(len(acknowledged)) if i not in acknowledged), len(acknowledged))
        assert account.acknowledged == unbroken
        assert account.in_flight == account.sent - len(acknowledged)
    if batches:
        _, size, base = batches[-1]
        assert account.last_offset == base + size - 1


def test_numbers_go_on_from_where_they_were() -> None:
    account = Account("t", 0)
    assert [account.number(3), account.number(1), account.number(5)] == [0, 3, 4]


def test_failed_events_are_neither_acknowledged_nor_in_flight() -> None:
    account = Account("t", 0)
    account.number(10)
    account.acknowledge(0, 4, 0)
    account.fail(6)
    assert (account.acknowledged, account.failed, account.in_flight) == (4, 6, 0)


def test_an_acknowledgement_without_an_offset_moves_the_last_offset_by_its_count() -> None:
    account = Account("t", 0)
    account.number(9)
    account.acknowledge(0, 4, 100)
    account.acknowledge(4, 5, -1)
    assert account.last_offset == 108


def test_the_ledger_names_what_changed_since_it_was_last_written() -> None:
    accounts = [Account("t", 0), Account("t", 1)]
    ledger = Ledger("gen-1", accounts)
    assert ledger.changes(AT, finished=False) == []
    accounts[1].number(5)
    accounts[1].acknowledge(0, 5, 70)
    changes = ledger.changes(AT, finished=False)
    assert changes == [
        LedgerEntry(
            source="gen-1",
            topic="t",
            partition=1,
            acknowledged=5,
            last_offset=74,
            finished=False,
            updated_at=AT,
        )
    ]
    assert ledger.changes(AT, finished=False) == changes, "not yet written"
    ledger.written(changes)
    assert ledger.changes(AT, finished=False) == []


def test_what_is_acknowledged_while_an_entry_is_written_is_in_the_next_one() -> None:
    account = Account("t", 0)
    ledger = Ledger("gen-1", [account])
    account.number(2)
    account.acknowledge(0, 1, 0)
    changes = ledger.changes(AT, finished=False)
    account.acknowledge(1, 1, 1)
    ledger.written(changes)
    assert [entry.acknowledged for entry in ledger.changes(AT, finished=False)] == [2]


def test_the_end_is_an_entry_of_its_own_for_every_partition_that_was_sent_to() -> None:
    accounts = [Account("t", 0), Account("t", 1), Account("t", 2)]
    ledger = Ledger("gen-1", accounts)
    accounts[0].number(3)
    accounts[0].acknowledge(0, 3, 0)
    accounts[1].number(4)
    ledger.written(ledger.changes(AT, finished=False))
    last = ledger.changes(AT, finished=True)
    assert [(e.partition, e.acknowledged, e.last_offset, e.finished) for e in last] == [
        (0, 3, 2, True),
        (1, 0, -1, True),
    ]


def test_a_record_of_the_ledger_has_source_topic_and_partition_as_its_key() -> None:
    account = Account("p.user_behavior", 3)
    account.number(1)
    account.acknowledge(0, 1, 9)
    (entry,) = Ledger("gen-1", [account]).changes(AT, finished=False)
    key, value = as_record(entry)
    assert key == b"gen-1:p.user_behavior:3"
    assert msgspec.json.decode(value, type=LedgerEntry) == entry
