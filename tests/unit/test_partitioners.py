"""Which partition a key belongs to."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.partition_table import PartitionTable
from shared.partitioners import SHIPPED, by_md5, by_murmur2, murmur2, partitioner_of

# From Kafka's own UtilsTest.testMurmur2.
JAVA = [
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
]


@pytest.mark.parametrize(("data", "expected"), JAVA)
def test_murmur2_gives_what_java_gives(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected


@pytest.mark.parametrize(("data", "hashed"), JAVA)
def test_the_murmur2_partition_drops_the_sign_bit_before_the_modulo(data: bytes, hashed: int) -> None:
    assert by_murmur2(data, 7) == (hashed & 0x7FFFFFFF) % 7


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_murmur2_is_a_signed_32_bit_number(data: bytes) -> None:
    assert -(2**31) <= murmur2(data) < 2**31


@pytest.mark.parametrize("name", sorted(SHIPPED))
@settings(deadline=None)
@given(key=st.one_of(st.none(), st.binary(max_size=64)), partitions=st.integers(1, 10_000))
def test_every_key_has_a_partition_that_there_is(name: str, key: bytes | None, partitions: int) -> None:
    partition = SHIPPED[name](key, partitions)
    assert 0 <= partition < partitions
    assert partition == SHIPPED[name](key, partitions)


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(1, 500))
def test_md5_is_the_key_s_digest_modulo_the_count(key: str, partitions: int) -> None:
    digest = hashlib.md5(key.encode()).hexdigest()
    assert by_md5(key.encode(), partitions) == int(digest, 16) % partitions


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_events_without_a_key_go_to_partition_0(name: str) -> None:
    assert SHIPPED[name](None, 12) == 0


@pytest.mark.parametrize("partitioner", SHIPPED.values(), ids=SHIPPED)
def test_the_users_spread_evenly(partitioner: object) -> None:
    assert callable(partitioner)
    counts = [0] * 6
    for user in range(1_000, 10_000):
        counts[partitioner(str(user).encode(), 6)] += 1
    assert max(counts) < 1.1 * 9_000 / 6
    assert min(counts) > 0.9 * 9_000 / 6


@settings(deadline=None)
@given(st.lists(st.binary(max_size=8), max_size=60), st.integers(1, 12), st.integers(0, 20))
def test_the_table_says_what_the_partitioner_says_and_keeps_to_its_bound(
    keys: list[bytes], partitions: int, max_keys: int
) -> None:
    table = PartitionTable(by_murmur2, partitions, max_keys=max_keys)
    assert [table[key] for key in keys] == [by_murmur2(key, partitions) for key in keys]
    assert len(table) <= max_keys


def test_the_table_asks_once_for_each_key() -> None:
    asked: list[bytes | None] = []

    def partitioner(key: bytes | None, partitions: int) -> int:
        asked.append(key)
        return by_md5(key, partitions)

    table = PartitionTable(partitioner, 4, max_keys=10)
    assert table[b"a"] == table[b"a"] == table[b"a"]
    assert asked == [b"a"]


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_partition_that_there_is_not_is_refused(wrong: int) -> None:
    table = PartitionTable(lambda _key, _partitions: wrong, 4, max_keys=10)
    with pytest.raises(ValueError, match="put key b'a' on"):
        table[b"a"]


@pytest.mark.parametrize("name", ["shared.partitioners.by_md5", "shared.partitioners:by_md5", "md5"])
def test_a_partitioner_has_a_name_or_a_dotted_path(name: str) -> None:
    assert partitioner_of(name) is by_md5


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("murmur3", "has to be one of murmur2, md5, or the dotted path"),
        ("", "has to be one of"),
        ("no_such_module.function", "can't be loaded"),
        ("shared.partitioners.no_such", "can't be loaded"),
        ("shared.partitioners.SHIPPED", "is no function"),
        (".by_md5", "has to be one of"),
    ],
)
def test_what_is_no_partitioner_is_refused_with_why(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        partitioner_of(name)
