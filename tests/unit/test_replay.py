"""What a changelog means: steps that are whole count, whoever else wrote into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.accounts import Accounts
from services.processor.continuity import Continuity
from services.processor.replay import WRITER_HEADER, Replay, Writer, parse_header
from services.processor.state import State
from shared.changelog import OFFSET_KEY, WRITER_KEY, OffsetRecord
from shared.results import encode

Change = tuple[bytes, bytes | None]
A = Writer(1, "a", 1)
B = Writer(2, "b", 2)


@dataclass
class Logged:
    """A record as the client gives it."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Any = ()
    timestamp: int = 0


@dataclass
class Log:
    """A changelog partition."""

    records: list[Logged] = field(default_factory=list)

    def add(self, writer: Writer | None, next_offset: int, *changes: Change) -> None:
        headers = ((WRITER_HEADER, writer.header(next_offset)),) if writer else ()
        for key, value in changes:
            self.records.append(Logged(len(self.records), key, value, headers))

    def claim(self, writer: Writer) -> None:
        self.add(writer, 0, (WRITER_KEY, b""))

    def step(self, writer: Writer | None, next_offset: int, *changes: Change) -> None:
        record = encode(OffsetRecord(1, "input", "group", next_offset, 0))
        self.add(writer, next_offset, *changes, (OFFSET_KEY, record))

    def replay(self) -> tuple[dict[bytes, bytes], int | None, set[bytes]]:
        state: dict[bytes, bytes] = {}

        def apply(key: bytes, value: bytes | None) -> None:
            state.pop(key, None)
            if value is not None:
                state[key] = value

        replay = Replay(apply)
        for record in self.records:
            replay.take(record)
        return state, replay.offset_record.offset if replay.offset_record else None, replay.left_out

    def has_step(self, writer: Writer) -> bool:
        return any(
            one.key == OFFSET_KEY and parse_header(one.headers[0][1])[0] == writer for one in self.records
        )

    def compact(self, before: int) -> None:
        """Keep, of what lies before this place, what is the latest of its key in the whole log."""
        latest = {record.key: record for record in self.records}
        self.records = [one for at, one in enumerate(self.records) if at >= before or latest[one.key] is one]


def test_a_step_without_its_offset_record_is_left_out() -> None:
    log = Log()
    log.claim(A)
    log.step(A, 1, (b"k", b"1"))
    log.add(A, 2, (b"k", b"2"), (b"new", b"2"))
    assert log.replay() == ({b"k": b"1"}, 1, {b"k", b"new"})


def test_a_first_step_that_was_cut_short_leaves_nothing() -> None:
    log = Log()
    log.claim(A)
    log.add(A, 2, (b"k", b"2"))
    assert log.replay() == ({}, None, {b"k"})


def test_what_an_earlier_generation_writes_after_a_claim_is_left_out_its_offset_record_too() -> None:
    log = Log()
    log.claim(A)
    log.step(A, 1, (b"k", b"1"))
    log.claim(B)
    log.step(A, 9, (b"k", b"zombie"), (b"other", b"zombie"))
    assert log.replay() == ({b"k": b"1"}, 1, {b"k", b"other"})
    log.step(B, 2, (b"k", b"2"))
    assert log.replay() == ({b"k": b"2"}, 2, {b"other"})


def test_a_zombie_that_claims_again_stays_out() -> None:
    log = Log()
    log.claim(A)
    log.claim(B)
    again = Writer(A.generation, A.member, 7)
    log.claim(again)
    log.step(again, 9, (b"k", b"zombie"))
    log.step(B, 2, (b"k", b"2"))
    assert log.replay() == ({b"k": b"2"}, 2, set())


def test_an_earlier_build_of_the_same_member_is_left_out() -> None:
    log = Log()
    log.claim(A)
    later = Writer(A.generation, A.member, 2)
    log.claim(later)
    log.step(A, 9, (b"k", b"late"))
    assert log.replay() == ({}, None, {b"k"})


def test_a_group_that_begins_again_with_generation_1_shuts_nobody_out_and_counts() -> None:
    log = Log()
    old, new = Writer(57, "old", 1), Writer(1, "new", 1)
    log.claim(old)
    log.step(old, 1, (b"k", b"1"))
    log.claim(new)
    log.step(new, 2, (b"k", b"2"))
    assert log.replay() == ({b"k": b"2"}, 2, set())


def test_transactions_count_as_they_are_and_end_what_was_half_written() -> None:
    log = Log()
    log.step(None, 1, (b"k", b"1"))
    log.claim(A)
    log.add(A, 2, (b"k", b"half"))
    assert log.replay() == ({b"k": b"1"}, 1, {b"k"})
    log.step(None, 2, (b"k", b"2"))
    log.step(A, 9, (b"k", b"zombie"))
    assert log.replay() == ({b"k": b"2"}, 2, {b"k"})


def test_finished_steps_count_also_where_compaction_took_their_offset_records() -> None:
    log = Log()
    log.claim(A)
    log.step(A, 1, (b"k", b"1"))
    log.step(A, 2, (b"l", b"2"))
    log.compact(len(log.records))
    log.add(A, 3, (b"l", b"half"))
    assert log.replay() == ({b"k": b"1", b"l": b"2"}, 2, {b"l"})


@pytest.mark.parametrize("value", [b"", b"1/a/2", b"x/a/1/2", b"1/a/1/2/3", b"\xff/a/1/2"])
def test_a_header_of_somebody_else_is_an_error(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal|can't decode"):
        parse_header(value)


keys = st.sampled_from([b"t/%d" % number for number in range(5)])
changes = st.lists(st.tuples(keys, st.sampled_from([b"1", b"2", None])), max_size=4)
moments = st.lists(
    st.one_of(
        st.tuples(st.just("step"), changes),
        st.tuples(st.just("cut"), changes),
        st.tuples(st.just("zombie"), changes),
        st.tuples(st.just("compact"), st.just([])),
    ),
    max_size=25,
)


@given(moments)
def test_the_state_is_always_that_of_the_last_step_that_was_finished(
    told: list[tuple[str, list[Change]]],
) -> None:
    """Steps, deaths in the middle of one, zombies at any time, and compaction of what is settled."""
    log = Log()
    state: dict[bytes, bytes] = {}
    offset: int | None = None
    past: list[Writer] = []
    writer = Writer(1, "member-1", 1)
    log.claim(writer)
    claimed_at, rewrite, zombie_wrote = 0, set[bytes](), False
    for unique, (what, wanted) in enumerate(told, 1):
        made = [(key, None if value is None else b"%s-%d" % (value, unique)) for key, value in wanted]
        if what == "step":
            new = dict(state)
            for key, value in made:
                new.pop(key, None)
                if value is not None:
                    new[key] = value
            healed = [(key, new.get(key)) for key in sorted(rewrite - {key for key, _ in made})]
            offset = (offset or 0) + 1
            log.step(writer, offset, *made, *healed)
            state, rewrite = new, set()
        elif what == "cut":
            log.add(writer, (offset or 0) + 1, *made)
            past.append(writer)
            writer = Writer(writer.generation + 1, f"member-{unique}", unique)
            claimed_at = len(log.records)
            log.claim(writer)
            rewrite = log.replay()[2]
        elif what == "zombie" and past:
            log.step(past[unique % len(past)], 1_000 + unique, *made)
            zombie_wrote = True
        elif what == "compact" and log.has_step(writer):
            # What lies before the claim of a writer that has finished a step since.
            log.compact(claimed_at)
            claimed_at = [one.key for one in log.records].index(WRITER_KEY)
        found = log.replay()
        if what == "compact" and zombie_wrote and found[0] != state:
            # A late record that does not count took the place of one that does. Fewer keys than the offset
            # record says: the restore stops at that.
            assert found[1] == offset
            assert found[0].items() < state.items()
            return
        assert found[:2] == (state, offset)


def test_rewritten_keys_are_in_the_next_changes_as_they_are() -> None:
    state = State(max_keys=10)
    accounts = state.attach(Accounts())
    state.attach(Continuity(accounts.counts))
    users = state.key_set("users", int)
    totals = state.table("totals", int)
    users.add([1])
    totals.put("a", 1)
    first = dict(state.take_changes())
    state.rewrite({b"users/1", b"users/2", b"totals/a", b"totals/b", b"accounts/partition", b"sources/x"})
    changed = dict(state.take_changes())
    del changed[b"accounts/partition"]
    assert changed == {
        b"users/1": first[b"users/1"],
        b"users/2": None,
        b"totals/a": first[b"totals/a"],
        b"totals/b": None,
        b"sources/x": None,
    }
    assert list(dict(state.take_changes())) == [b"accounts/partition"]
