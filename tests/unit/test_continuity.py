"""Duplicates, gaps, late and re-driven numbers, against a model that keeps every number in sets."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.processor.accounts import Accounts, Counts
from services.processor.continuity import MAX_INTERVALS, MAX_SOURCES, Continuity, Verdict
from services.processor.state import State
from shared.changelog import SourceState
from shared.events import MAX_INT64


class Books:
    """The accounts and sources of one partition, and the changelog that a restart comes back from."""

    def __init__(self, *, beginning_unseen: bool = False) -> None:
        self.changelog: dict[bytes, bytes] = {}
        self._open()
        self.counts.beginning_unseen = beginning_unseen

    def _open(self) -> None:
        self._state = State(max_keys=1)
        self._accounts = self._state.attach(Accounts())
        self.continuity = self._state.attach(Continuity(self.counts))

    @property
    def counts(self) -> Counts:
        return self._accounts.counts

    @property
    def live_keys(self) -> int:
        return self._state.live_keys

    def commit(self) -> None:
        for key, value in self._state.take_changes():
            if value is None:
                self.changelog.pop(key, None)
            else:
                self.changelog[key] = value

    def restart(self) -> None:
        """Commit, forget everything, and come back from the changelog."""
        self.commit()
        self._open()
        # Compaction keeps the order of the latest records, which need not be that of the first ones.
        for key, value in sorted(self.changelog.items(), reverse=True):
            self._state.restore(key, value)
        self.continuity.restored()


@dataclass
class Heard:
    first: int
    expected: int
    counted: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)

    @property
    def missing(self) -> int:
        return self.expected - self.first - len(self.counted) - len(self.dead)


@dataclass
class Naive:
    """The contract's "Accounts", with every number kept."""

    beginning_unseen: bool = False
    sourced_events: int = 0
    duplicates: int = 0
    late: int = 0
    forgotten_gaps: int = 0
    forgotten_dead_letters: int = 0
    sources: OrderedDict[str, Heard] = field(default_factory=OrderedDict)

    def event(self, source: str, seq: int) -> bool:
        heard = self._hear(source, seq)
        if seq < heard.first or seq in heard.counted:
            self.duplicates += 1
            return False
        self.sourced_events += 1
        if seq in heard.dead:
            heard.dead.remove(seq)
        elif seq < heard.expected:
            self.late += 1
        heard.counted.add(seq)
        heard.expected = max(heard.expected, seq + 1)
        return True

    def dead_letter(self, source: str, seq: int) -> None:
        heard = self._hear(source, seq)
        if seq >= heard.first and seq not in heard.counted:
            heard.dead.add(seq)
            heard.expected = max(heard.expected, seq + 1)

    def figures(self) -> dict[str, int]:
        heard = self.sources.values()
        return {
            "sourced_events": self.sourced_events,
            "sourced_dead_letters": self.forgotten_dead_letters + sum(len(one.dead) for one in heard),
            "duplicates": self.duplicates,
            "late": self.late,
            "gaps": self.forgotten_gaps + sum(one.missing for one in heard),
        }

    def _hear(self, source: str, seq: int) -> Heard:
        if source not in self.sources:
            if len(self.sources) == MAX_SOURCES:
                _, gone = self.sources.popitem(last=False)
                self.forgotten_gaps += gone.missing
                self.forgotten_dead_letters += len(gone.dead)
                self.beginning_unseen = True
            first = seq if self.beginning_unseen else 0
            self.sources[source] = Heard(first, first)
        self.sources.move_to_end(source)
        return self.sources[source]


def figures(counts: Counts) -> dict[str, int]:
    names = ("sourced_events", "sourced_dead_letters", "duplicates", "late", "gaps")
    return {name: getattr(counts, name) for name in names}


@dataclass(frozen=True)
class Step:
    """What happens next: consecutive events, consecutive dead letters, a commit, or a restart."""

    kind: str
    source: str = ""
    seq: int = 0
    count: int = 1


SOURCES = st.sampled_from(["gen-1", "gen/2", "gén 3"])
NUMBERS = st.integers(0, 12)
STEPS = st.lists(
    st.one_of(
        st.builds(Step, st.just("events"), SOURCES, NUMBERS),
        st.builds(Step, st.just("events"), SOURCES, NUMBERS, st.integers(1, 5)),
        st.builds(Step, st.just("dead letters"), SOURCES, NUMBERS, st.integers(1, 4)),
        st.just(Step("commit")),
        st.just(Step("restart")),
    ),
    max_size=60,
)


def take(books: Books, naive: Naive, step: Step, offset: int) -> int:
    """Let both go through a step and return the next offset."""
    if step.kind == "commit":
        books.commit()
    elif step.kind == "restart":
        books.restart()
    elif step.kind == "dead letters":
        for place in range(step.count):
            books.continuity.dead_letter(step.source, step.seq + place, offset + place)
            naive.dead_letter(step.source, step.seq + place)
        return offset + step.count
    else:
        numbers = range(step.seq, step.seq + step.count)
        last = offset + step.count - 1
        is_expected = step.count > 1 and books.continuity.admit_run(step.source, step.seq, step.count, last)
        for place, seq in enumerate(numbers):
            counted = naive.event(step.source, seq)
            if is_expected:
                assert counted, "a run was taken for what was expected"
            else:
                assert books.continuity.count(step.source, seq, offset + place) == counted
        return offset + step.count
    return offset


@settings(deadline=None, max_examples=300)
@given(steps=STEPS, beginning_unseen=st.booleans())
def test_the_accounts_are_those_of_the_naive_model_with_restarts_anywhere(
    steps: list[Step],
    beginning_unseen: bool,
) -> None:
    books, naive = Books(beginning_unseen=beginning_unseen), Naive(beginning_unseen=beginning_unseen)
    offset = 0
    for step in steps:
        offset = take(books, naive, step, offset)
        assert figures(books.counts) == naive.figures()
    books.commit()
    assert books.live_keys == len(books.changelog) == len(naive.sources) + 1


@settings(deadline=None)
@given(steps=STEPS, source=SOURCES, seq=NUMBERS)
def test_classifying_says_what_counting_then_does_and_changes_nothing(
    steps: list[Step], source: str, seq: int
) -> None:
    books, naive = Books(), Naive()
    for offset, step in enumerate(steps):
        take(books, naive, step, 10 * offset)
    before = msgspec.to_builtins(books.counts)
    verdict = books.continuity.classify(source, seq)
    assert books.continuity.classify(source, seq) is verdict
    assert msgspec.to_builtins(books.counts) == before
    late, dead, gaps = books.counts.late, books.counts.sourced_dead_letters, books.counts.gaps
    counted = books.continuity.count(source, seq, 1_000)
    assert counted == (verdict is not Verdict.DUPLICATE)
    assert books.counts.late - late == (verdict is Verdict.LATE)
    assert dead - books.counts.sourced_dead_letters == (verdict is Verdict.REDRIVEN)
    assert (books.counts.gaps > gaps) == (verdict is Verdict.AHEAD)


@settings(deadline=None)
@given(
    runs=st.lists(st.tuples(SOURCES, NUMBERS, st.integers(1, 6)), max_size=15),
    commits=st.sets(st.integers(0, 14)),
)
def test_a_run_is_admitted_as_a_whole_only_where_it_is_what_was_expected(
    runs: list[tuple[str, int, int]], commits: set[int]
) -> None:
    books = Books()
    expected = {"gen-1": 0, "gen/2": 0, "gén 3": 0}
    for index, (source, first, count) in enumerate(runs):
        admitted = books.continuity.admit_run(source, first, count, 10 * index)
        assert admitted == (first == expected[source])
        if admitted:
            expected[source] += count
        if index in commits:
            books.restart()
    assert books.counts.sourced_events == sum(expected.values())


def test_a_gap_is_counted_at_once_and_closed_by_what_arrives_late() -> None:
    books = Books()
    for offset, seq in enumerate([0, 4]):
        books.continuity.count("gen", seq, offset)
    assert (books.counts.gaps, books.counts.late) == (3, 0)
    assert books.continuity.count("gen", 2, 2)
    assert (books.counts.gaps, books.counts.late, books.counts.sourced_events) == (2, 1, 3)


def test_a_number_heard_again_is_a_duplicate_and_not_an_event() -> None:
    books = Books()
    books.continuity.count("gen", 0, 0)
    assert not books.continuity.count("gen", 0, 1)
    assert (books.counts.duplicates, books.counts.sourced_events) == (1, 1)


def test_a_dead_letter_is_no_gap_and_a_redriven_copy_takes_its_place() -> None:
    books = Books()
    books.continuity.dead_letter("gen", 0, 0)
    books.continuity.count("gen", 1, 1)
    assert (books.counts.gaps, books.counts.sourced_dead_letters, books.counts.sourced_events) == (0, 1, 1)
    assert books.continuity.count("gen", 0, 2)
    assert (books.counts.late, books.counts.sourced_dead_letters, books.counts.sourced_events) == (0, 0, 2)
    assert not books.continuity.count("gen", 0, 3)


def test_redriven_copies_fill_their_places_in_any_order() -> None:
    books = Books()
    for seq in range(5):
        books.continuity.dead_letter("gen", seq, seq)
    for offset, seq in enumerate([2, 4, 0, 3, 1]):
        assert books.continuity.classify("gen", seq) is Verdict.REDRIVEN
        assert books.continuity.count("gen", seq, 10 + offset)
        assert books.counts.sourced_dead_letters == 4 - offset


def test_a_dead_letter_of_a_number_that_was_counted_changes_only_who_was_heard() -> None:
    books = Books()
    books.continuity.count("gen", 0, 0)
    before = figures(books.counts)
    books.continuity.dead_letter("gen", 0, 1)
    assert figures(books.counts) == before


def test_a_missing_number_that_arrives_as_a_dead_letter_is_neither_missing_nor_late() -> None:
    books = Books()
    books.continuity.count("gen", 1, 0)
    books.continuity.dead_letter("gen", 0, 1)
    assert (books.counts.gaps, books.counts.late, books.counts.sourced_dead_letters) == (0, 0, 1)


def test_an_unknown_source_has_to_begin_with_0_where_its_beginning_was_in_sight() -> None:
    books = Books()
    books.continuity.count("gen", 3, 0)
    assert books.counts.gaps == 3


def test_an_unknown_source_may_begin_anywhere_where_the_log_did_not_start_at_0() -> None:
    books = Books(beginning_unseen=True)
    books.continuity.count("gen", 3, 0)
    assert books.counts.gaps == 0
    assert not books.continuity.count("gen", 2, 1), "what came before was counted before"


def test_numbers_up_to_the_largest_survive_a_restart() -> None:
    books = Books()
    for offset, source in enumerate(("one", "two", "three")):
        books.continuity.count(source, MAX_INT64, offset)
    books.restart()
    assert books.counts.gaps == 3 * MAX_INT64
    assert books.continuity.classify("one", MAX_INT64) is Verdict.DUPLICATE
    assert books.continuity.classify("one", MAX_INT64 - 1) is Verdict.LATE


def fill(books: Books, naive: Naive) -> int:
    """Let as many sources be heard as are kept, and return the next offset."""
    for offset in range(MAX_SOURCES):
        books.continuity.admit_run(f"s{offset}", 0, 2, offset)
        naive.event(f"s{offset}", 0)
        naive.event(f"s{offset}", 1)
    return MAX_SOURCES


NEAR_THE_BOUND = st.sampled_from(
    [f"s{number}" for number in (0, 1, 2, 3, MAX_SOURCES - 1, MAX_SOURCES, 1_500)]
)


@settings(deadline=None, max_examples=40)
@given(
    steps=st.lists(
        st.one_of(
            st.builds(Step, st.sampled_from(["events", "dead letters"]), NEAR_THE_BOUND, st.integers(0, 6)),
            st.sampled_from([Step("restart"), Step("commit")]),
        ),
        max_size=25,
    )
)
def test_the_sources_heard_last_are_kept_and_the_others_forgotten(steps: list[Step]) -> None:
    books, naive = Books(), Naive()
    offset = fill(books, naive)
    for step in steps:
        offset = take(books, naive, step, offset)
        assert figures(books.counts) == naive.figures()
        assert len(books.continuity) == len(naive.sources) <= MAX_SOURCES
    books.commit()
    kept = {key.decode().removeprefix("sources/") for key in books.changelog} - {"accounts/partition"}
    assert kept == set(naive.sources)


def test_the_source_heard_longest_ago_is_the_one_forgotten_also_after_a_restart() -> None:
    books = Books()
    offset = fill(books, Naive())
    books.continuity.count("s0", 2, offset)
    books.restart()
    books.continuity.count("new", 0, offset + 1)
    assert books.continuity.classify("s0", 1) is Verdict.DUPLICATE, "s0 was heard after all others"
    assert books.continuity.classify("s1", 1) is Verdict.EXPECTED, "s1 is the one that was forgotten"


def test_a_forgotten_source_that_comes_back_goes_on_from_where_it_is() -> None:
    books = Books()
    offset = fill(books, Naive())
    books.continuity.count("new", 0, offset)
    assert books.continuity.count("s0", 77, offset + 1)
    assert books.counts.gaps == 0


def with_gaps_of_one(count: int) -> Books:
    """Return books in which the even numbers 0, 2, … are missing: so many intervals of one number."""
    books = Books()
    for place in range(count):
        books.continuity.count("gen", 2 * place + 1, place)
    return books


def test_as_many_intervals_as_are_kept_can_all_be_closed() -> None:
    books = with_gaps_of_one(MAX_INTERVALS)
    assert all(books.continuity.count("gen", 2 * place, 5_000 + place) for place in range(MAX_INTERVALS))
    assert (books.counts.gaps, books.counts.late, books.counts.duplicates) == (0, MAX_INTERVALS, 0)


@pytest.mark.parametrize("restart", [False, True])
def test_the_oldest_interval_is_given_up_first_and_stays_missing(restart: bool) -> None:
    books = with_gaps_of_one(MAX_INTERVALS + 1)
    if restart:
        books.restart()
    assert books.counts.gaps == MAX_INTERVALS + 1
    assert not books.continuity.count("gen", 0, 5_000), "given up: taken for a duplicate"
    assert books.continuity.count("gen", 2, 5_001)
    assert (books.counts.gaps, books.counts.late, books.counts.duplicates) == (MAX_INTERVALS, 1, 1)


def open_intervals(books: Books) -> int:
    books.commit()
    stored = books.changelog[b"sources/gen"].removeprefix(b"v1 ")
    return len(msgspec.json.decode(stored, type=SourceState).open)


def test_an_interval_that_is_split_does_not_go_beyond_the_bound() -> None:
    books = Books()
    books.continuity.count("gen", 10, 0)
    for place in range(MAX_INTERVALS - 1):
        books.continuity.count("gen", 2 * place + 12, place + 1)
    assert open_intervals(books) == MAX_INTERVALS
    books.continuity.count("gen", 5, 5_000)
    assert open_intervals(books) == MAX_INTERVALS


def test_consecutive_dead_letters_are_one_interval() -> None:
    books = Books()
    for seq in range(MAX_INTERVALS + 500):
        books.continuity.dead_letter("gen", seq, seq)
    assert open_intervals(books) == 1
    assert all(
        books.continuity.classify("gen", seq) is Verdict.REDRIVEN for seq in range(MAX_INTERVALS + 500)
    )
