"""The stream of records that a load sends: valid events, poison and oddities mixed in. Pure and seeded."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Generic, NamedTuple, TypeVar

from tests.verifier import oddities, poison
from tests.verifier.contract import TOPOLOGIES, Headers, Names, PartitionId, Topology
from tests.verifier.fragments import Fragments, event, fragment, join
from tests.verifier.murmur2 import partition_of

Card = TypeVar("Card")

LARGE_BYTES: Final = 100_000
LATE_SHARE: Final = 0.5


@dataclass(frozen=True)
class LoadPlan:
    """What a load consists of. Rates are shares of the records, from 0 to 1.

    Attributes:
        seed: the same seed, and the same numbers of partitions, make the same records byte for byte.
        users: how many different users there are.
        sensors: how many different sensors; the first five are those with names of their own.
        sensor_share: how much of it goes to `sensor_data`.
        poison_rate: how much of it must become dead letters; every kind comes before one comes again.
        oddity_rate: how much of it looks strange and is valid.
        stray_rate: how much of it goes to a partition that its key does not ask for.
        source: with a name here all records are numbered, by topic and partition.
        duplicate_rate: how many of the valid ones take a number that an earlier valid one had.
        gap_rate: how often a number is left out; half of those left out come later.
        large_limit: after so many poisoned records above 100 kB only smaller ones are sent.
    """

    seed: int = 1
    users: int = 9_000
    sensors: int = 25
    sensor_share: float = 0.5
    poison_rate: float = 0
    oddity_rate: float = 0
    stray_rate: float = 0
    source: str | None = None
    duplicate_rate: float = 0
    gap_rate: float = 0
    large_limit: int = 20


class Outgoing(NamedTuple):
    """A record to be sent, and what it is."""

    partition: PartitionId
    key: bytes | None
    value: bytes | None
    headers: Headers
    kind: str
    is_poison: bool


class Deck(Generic[Card]):
    """Deals every card once before it deals one again."""

    def __init__(self, random: Random, cards: Sequence[Card]) -> None:
        self._random = random
        self._cards = list(cards)
        self._left: list[Card] = []

    def deal(self) -> Card:
        if not self._left:
            self._left = self._random.sample(self._cards, len(self._cards))
        return self._left.pop()


class Numbers:
    """Hands out `seq` for one topic and partition: 0, 1, 2, … with doubles and gaps as planned."""

    def __init__(self, random: Random, plan: LoadPlan) -> None:
        self._random = random
        self._plan = plan
        self._next = 0
        self._used: list[int] = []
        self._left_out: list[int] = []

    def of_event(self) -> tuple[int, str]:
        """Return a number for a valid event, and which kind of number it is."""
        if self._used and self._random.random() < self._plan.duplicate_rate:
            return self._random.choice(self._used), "duplicate"
        if self._left_out and self._random.random() < self._plan.gap_rate:
            number, kind = self._left_out.pop(), "late"
        else:
            number, kind = self.of_poison(), "valid"
        self._used.append(number)
        return number, kind

    def of_poison(self) -> int:
        """Return a fresh number."""
        if self._random.random() < self._plan.gap_rate:
            if self._random.random() < LATE_SHARE:
                self._left_out.append(self._next)
            self._next += 1
        self._next += 1
        return self._next - 1


class Records:
    """An endless iterator of records.

    Args:
        plan: what they consist of.
        names: the topics.
        partitions: how many each input topic has.
    """

    def __init__(self, plan: LoadPlan, names: Names, partitions: Mapping[str, int]) -> None:
        self._plan = plan
        self._random = Random(plan.seed)
        self._topics = names.inputs
        self._partitions = partitions
        self._poison = {one: Deck(self._random, list(poison.kinds(one).items())) for one in TOPOLOGIES}
        self._oddities = {one: Deck(self._random, list(oddities.kinds(one).items())) for one in TOPOLOGIES}
        self._numbers: dict[PartitionId, Numbers] = defaultdict(lambda: Numbers(self._random, plan))
        self._partition_of_key: dict[tuple[str, bytes], int] = {}
        self._counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Outgoing]:
        return self

    def __next__(self) -> Outgoing:
        plan, random = self._plan, self._random
        topology: Topology = "sensors" if random.random() < plan.sensor_share else "behavior"
        number = self._counts[topology]
        self._counts[topology] += 1
        key, fragments = event(topology, random, number, users=plan.users, sensors=plan.sensors)
        chance = random.random()
        if chance < plan.poison_rate:
            return self._poisoned(topology, key, fragments)
        if chance < plan.poison_rate + plan.oddity_rate:
            return self._odd(topology, key, fragments)
        is_stray = random.random() < plan.stray_rate
        partition = self._stray(topology) if is_stray else self._place(topology, key)
        kind = self._number(partition, fragments)
        kind = "stray" if is_stray and kind == "valid" else kind
        return Outgoing(partition, key, join(fragments), (), kind, is_poison=False)

    def _poisoned(self, topology: Topology, key: bytes, fragments: Fragments) -> Outgoing:
        random = self._random
        sent_key = random.choice(poison.KEYS) if random.random() < 0.3 else key
        partition = self._stray(topology) if sent_key is None else self._place(topology, sent_key)
        if self._plan.source is not None:
            fragments |= self._source_seq(self._numbers[partition].of_poison())
        name, value = self._affordable(topology, fragments)
        headers = random.choice(poison.HEADERS)
        return Outgoing(partition, sent_key, value, headers, f"poison: {name}", is_poison=True)

    def _affordable(self, topology: Topology, fragments: Fragments) -> tuple[str, bytes | None]:
        while True:
            name, make = self._poison[topology].deal()
            value = make(self._random, fragments)
            if value is None or len(value) < LARGE_BYTES:
                return name, value
            if self._counts["large"] < self._plan.large_limit:
                self._counts["large"] += 1
                return name, value

    def _odd(self, topology: Topology, key: bytes, fragments: Fragments) -> Outgoing:
        random = self._random
        sent_key = None if random.random() < 0.1 else key
        partition = self._stray(topology) if sent_key is None else self._place(topology, sent_key)
        kind = self._number(partition, fragments)
        name, make = self._oddities[topology].deal()
        kind = f"oddity: {name}" if kind == "valid" else kind
        headers = random.choice(poison.HEADERS)
        return Outgoing(partition, sent_key, make(random, fragments), headers, kind, is_poison=False)

    def _number(self, partition: PartitionId, fragments: Fragments) -> str:
        if self._plan.source is None:
            return "valid"
        number, kind = self._numbers[partition].of_event()
        fragments |= self._source_seq(number)
        return kind

    def _source_seq(self, number: int) -> Fragments:
        return {"source": fragment(self._plan.source), "seq": fragment(number)}

    def _place(self, topology: Topology, key: bytes) -> PartitionId:
        topic = self._topics[topology]
        place = topic, key
        if place not in self._partition_of_key:
            self._partition_of_key[place] = partition_of(key, self._partitions[topic])
        return PartitionId(topic, self._partition_of_key[place])

    def _stray(self, topology: Topology) -> PartitionId:
        topic = self._topics[topology]
        return PartitionId(topic, self._random.randrange(self._partitions[topic]))
