"""The ledger against the progress, as the contract's "Accounts" defines it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.console.accounts import Account, accounts, total
from shared.results import LatencyMilliseconds, LedgerEntry, Progress


def entry(acknowledged: int, last_offset: int, source: str = "g", partition: int = 0) -> LedgerEntry:
    return LedgerEntry(
        source=source,
        topic="user_behavior",
        partition=partition,
        acknowledged=acknowledged,
        last_offset=last_offset,
        finished=False,
        updated_at="2026-01-01T00:00:00+00:00",
    )


def progress(
    offset: int,
    sourced: int,
    *,
    dead: int = 0,
    unsourced: int = 0,
    duplicates: int = 0,
    first_offset: int = 0,
    partition: int = 0,
) -> Progress:
    return Progress(
        topic="user_behavior",
        partition=partition,
        offset=offset,
        first_offset=first_offset,
        events=sourced + unsourced,
        sourced_events=sourced,
        sourced_dead_letters=dead,
        unsourced_events=unsourced,
        duplicates=duplicates,
        gaps=0,
        late=0,
        dead_letters=dead,
        latency_ms=LatencyMilliseconds(1.0, 2.0),
        settings={},
        updated_at="2026-01-01T00:00:00+00:00",
    )


def account(ledger: list[LedgerEntry], reached: list[Progress]) -> Account:
    return total(accounts(ledger, reached))


def test_what_is_acknowledged_and_counted_is_neither_lost_nor_in_flight() -> None:
    found = account([entry(10, 9)], [progress(10, 10)])
    assert (found.sent, found.counted, found.lost, found.in_flight, found.unacknowledged) == (10, 10, 0, 0, 0)


def test_what_progress_has_not_reached_is_in_flight() -> None:
    found = account([entry(10, 9)], [progress(6, 6)])
    assert (found.in_flight, found.lost) == (4, 0)


def test_progress_on_the_last_offset_has_not_passed_it() -> None:
    found = account([entry(10, 9)], [progress(9, 9)])
    assert (found.in_flight, found.lost) == (1, 0)


def test_what_progress_has_passed_and_not_counted_is_lost() -> None:
    found = account([entry(10, 9)], [progress(10, 8)])
    assert (found.in_flight, found.lost) == (0, 2)


def test_a_dead_letter_with_a_number_is_not_lost() -> None:
    found = account([entry(10, 9)], [progress(10, 9, dead=1)])
    assert (found.lost, found.dead_lettered) == (0, 1)


def test_one_source_that_is_not_reached_keeps_the_whole_partition_in_flight() -> None:
    found = account([entry(5, 4, "a"), entry(5, 12, "b")], [progress(10, 8)])
    assert (found.in_flight, found.lost) == (2, 0)


def test_more_counted_than_acknowledged_is_sent_and_unacknowledged() -> None:
    found = account([entry(10, 9)], [progress(12, 12)])
    assert (found.unacknowledged, found.lost, found.in_flight) == (2, 0, 0)


def test_events_without_a_source_are_counted_and_in_no_ledger() -> None:
    found = account([], [progress(7, 0, unsourced=7)])
    assert (found.counted, found.unsourced, found.sent, found.unacknowledged) == (7, 7, 0, 0)


def test_without_any_progress_everything_is_in_flight() -> None:
    found = account([entry(10, 9)], [])
    assert (found.sent, found.in_flight, found.lost) == (10, 10, 0)


def test_what_was_sent_before_counting_began_is_not_lost() -> None:
    found = account([entry(10, 9)], [progress(10, 6, first_offset=4)])
    assert (found.before_start, found.lost) == (4, 0)


def test_beyond_what_may_have_come_before_the_start_it_is_lost() -> None:
    found = account([entry(10, 9)], [progress(10, 5, first_offset=4)])
    assert (found.before_start, found.lost) == (4, 1)


def test_a_surplus_of_one_partition_does_not_hide_the_loss_of_another() -> None:
    ledger = [entry(10, 9), entry(10, 9, partition=1)]
    found = account(ledger, [progress(10, 9), progress(11, 11, partition=1)])
    assert (found.lost, found.unacknowledged) == (1, 1)


def test_duplicates_are_shown_as_they_were_counted() -> None:
    assert account([entry(10, 9)], [progress(12, 10, duplicates=2)]).duplicated == 2


@given(
    sent=st.integers(0, 100),
    counted=st.integers(0, 100),
    dead=st.integers(0, 100),
    offset=st.integers(0, 200),
    last_offset=st.integers(-1, 200),
)
def test_every_event_that_was_sent_is_in_exactly_one_place(
    sent: int, counted: int, dead: int, offset: int, last_offset: int
) -> None:
    found = account([entry(sent, last_offset)], [progress(offset, counted, dead=dead)])
    assert found.sent + found.unacknowledged == counted + dead + found.in_flight + found.lost
    assert not (found.in_flight and found.lost)
