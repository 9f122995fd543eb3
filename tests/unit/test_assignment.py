"""Who gets which partition, against an optimum that is found by trying every balanced assignment."""

from __future__ import annotations

from functools import cache
from itertools import chain, count, product

from hypothesis import given
from hypothesis import strategies as st

from services.processor.assignment import Claim, Member, assign, decode, encode

TOPIC = "input"
Owners = dict[str, list[int]]


class Group:
    """A group as the broker keeps it: each join or leave gives the members a new assignment."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.generation = 0
        self.claims: dict[str, Claim] = {}
        self.moved = 0
        self.fewest = 0
        self._names = count()

    def join(self) -> str:
        name = f"member-{next(self._names) * 7919 % 1000}"
        self.claims[name] = Claim()
        self._rebalance()
        return name

    def leave(self, name: str) -> None:
        del self.claims[name]
        if self.claims:
            self._rebalance()

    def owners(self) -> Owners:
        return {name: claim.owned.get(TOPIC, []) for name, claim in self.claims.items()}

    def _rebalance(self) -> None:
        self.generation += 1
        before = self.owners()
        members = {name: Member(frozenset({TOPIC}), claim) for name, claim in self.claims.items()}
        after = assign({TOPIC: range(self.partitions)}, members)
        self.claims = {name: Claim(self.generation, owned) for name, owned in after.items()}
        had = sum(map(len, before.values()))
        self.moved += had - stayed(before, self.owners())
        self.fewest += had - most_that_can_stay(self.partitions, tuple(map(tuple, before.values())))


def stayed(before: Owners, after: Owners) -> int:
    return sum(len(set(owned) & set(after.get(name, ()))) for name, owned in before.items())


def is_balanced(counts: list[int]) -> bool:
    return max(counts) - min(counts) <= 1


@cache
def most_that_can_stay(partitions: int, owned: tuple[tuple[int, ...], ...]) -> int:
    """Try every way to give the partitions to the members, and keep the best of the balanced ones."""
    members = range(len(owned))
    had = {partition: member for member in members for partition in owned[member]}
    return max(
        sum(had.get(partition) == member for partition, member in enumerate(given_to))
        for given_to in product(members, repeat=partitions)
        if is_balanced([given_to.count(member) for member in members])
    )


@given(
    partitions=st.integers(1, 6),
    steps=st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=12),
)
def test_every_step_moves_as_few_partitions_as_balance_allows(
    partitions: int, steps: list[int | None]
) -> None:
    group = Group(partitions)
    group.join()
    for step in steps:
        if step is None and len(group.claims) < 4:
            group.join()
        elif step is not None and len(group.claims) > 1:
            group.leave(sorted(group.claims)[step % len(group.claims)])
        owned = group.owners()
        assert sorted(chain.from_iterable(owned.values())) == list(range(partitions)), (
            "each belongs to exactly one"
        )
        assert is_balanced([len(one) for one in owned.values()])
        assert group.moved == group.fewest


@given(partitions=st.integers(1, 6), processes=st.integers(1, 4))
def test_a_rolling_restart_ends_balanced_and_moves_as_few_as_its_steps_allow(
    partitions: int, processes: int
) -> None:
    group = Group(partitions)
    names = [group.join() for _ in range(processes)]
    group.moved = group.fewest = 0
    for name in names:
        group.leave(name)
        group.join()
    assert is_balanced([len(owned) for owned in group.owners().values()])
    assert group.moved == group.fewest


members = st.dictionaries(
    st.sampled_from("abcd"),
    st.builds(
        Member,
        st.sets(st.sampled_from(["one", "two"]), min_size=1).map(frozenset),
        st.builds(
            Claim,
            st.integers(-1, 3),
            st.dictionaries(st.sampled_from(["one", "two", "gone"]), st.lists(st.integers(-1, 5))),
        ),
    ),
    min_size=1,
)


@given(members=members, partitions=st.integers(0, 5))
def test_whatever_is_claimed_each_partition_of_a_topic_goes_to_exactly_one_of_its_readers(
    members: dict[str, Member], partitions: int
) -> None:
    topics = {"one": range(partitions), "two": range(3)}
    assigned = assign(topics, members)
    assert assigned.keys() == members.keys()
    for topic, wanted in topics.items():
        readers = [name for name, member in members.items() if topic in member.topics]
        shares = [assigned[name].get(topic, []) for name in members]
        assert sorted(chain.from_iterable(shares)) == (list(wanted) if readers else [])
        assert not readers or is_balanced([len(assigned[name].get(topic, [])) for name in readers])


@given(members=members)
def test_the_order_in_which_members_are_listed_changes_nothing(members: dict[str, Member]) -> None:
    topics = {"one": [0, 1, 2, 3, 4], "two": [0, 1, 2]}
    backwards = dict(reversed(members.items()))
    assert assign(topics, members) == assign(dict(reversed(topics.items())), backwards)


def member(generation: int, *partitions: int) -> Member:
    return Member(frozenset({TOPIC}), Claim(generation, {TOPIC: list(partitions)}))


def test_a_stale_claim_loses_against_a_newer_generation() -> None:
    back_from_a_pause = member(3, 0, 1, 2, 3)
    assigned = assign({TOPIC: range(4)}, {"a": back_from_a_pause, "b": member(5, 0, 1), "c": member(5, 2, 3)})
    assert set(assigned["b"][TOPIC]) <= {0, 1}
    assert set(assigned["c"][TOPIC]) <= {2, 3}
    assert len(assigned["a"][TOPIC]) == 1


def test_of_a_claim_that_is_made_twice_in_one_generation_one_is_heard() -> None:
    assigned = assign({TOPIC: range(2)}, {"b": member(4, 0, 1), "a": member(4, 0)})
    assert assigned == {"a": {TOPIC: [0]}, "b": {TOPIC: [1]}}


def test_what_can_not_be_divided_goes_to_who_has_least_of_the_other_topics() -> None:
    both = Member(frozenset({"one", "two"}))
    assigned = assign({"one": [0], "two": [0]}, {"a": both, "b": both})
    assert sorted(sum(len(owned) for owned in share.values()) for share in assigned.values()) == [1, 1]


@given(st.builds(Claim, st.integers(-1, 2**31), st.dictionaries(st.text(), st.lists(st.integers(0, 9)))))
def test_a_claim_comes_back_as_it_was(claim: Claim) -> None:
    assert decode(encode(claim)) == claim


@given(st.one_of(st.none(), st.binary(), st.sampled_from([b"{}", b"[]", b'{"owned": 3}', b'{"owned": [1]}'])))
def test_user_data_that_is_no_claim_claims_nothing(user_data: bytes | None) -> None:
    assert decode(user_data) == Claim()
