"""The reader of whole batches against the client's public way of reading, on a real Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import aiokafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from services.processor import membership, record_batches, task
from services.processor.answer_reader import AnswerReader
from services.processor.native.library import UnusableError
from services.processor.record_batches import CHECKED_VERSION, batches, read_whole_batches
from services.processor.records import (
    LeanRecords,
    RecordBatch,
    first_timestamp_of,
    offsets_of,
    values_of,
)
from shared.header_names import RawRecords, read_any_header_name
from shared.waiting import unless_ended, watched
from tests.conftest import Kafka, create
from tests.header_names import FIRST_TIMESTAMP, send_any_names
from tests.verifier.broker import Broker, wait_until_settled

# key, value, headers
Content = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]
# offset, timestamp, key, value, headers
Flat = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]

# What is made of a batch: nothing yet, with the compiled part; the values alone, without it; or its records.
Way = Literal["located", "values", "records"]
EACH_WAY = pytest.mark.parametrize("way", get_args(Way))
LEAN_WAYS = pytest.mark.parametrize("way", ["located", "values"])
WAYS = pytest.mark.parametrize("whole", [True, False], ids=["whole batches", "the client's own"])
POLL_MILLISECONDS = 100
DEADLINE_SECONDS = 15.0

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def place(kafka: Kafka, prefix: str) -> TopicPartition:
    # The records' timestamps are years old: the broker would remove them whenever it next looks.
    create(kafka.admin, [NewTopic(f"{prefix}input", 1, 1, config={"retention.ms": "-1"})])
    return TopicPartition(f"{prefix}input", 0)


@contextlib.asynccontextmanager
async def producing(kafka: Kafka, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, **options) as producer:
        yield producer


async def send(
    producer: AIOKafkaProducer,
    place: TopicPartition,
    contents: Sequence[Content],
    *,
    since: int = 1_700_000_000_000,
) -> None:
    """Send records as one batch, timestamps from `since` on, and wait for its acknowledgement."""
    batch = producer.create_batch()
    for number, (key, value, headers) in enumerate(contents):
        stamp = since + number
        assert batch.append(timestamp=stamp, key=key, value=value, headers=headers) is not None
    batch.close()
    await (await producer.send_batch(batch, place.topic, partition=place.partition))


@contextlib.asynccontextmanager
async def consuming(
    kafka: Kafka,
    place: TopicPartition,
    *,
    whole: bool,
    any_name: bool = False,
    offset: int = 0,
    **options: Any,
) -> AsyncIterator[AIOKafkaConsumer]:
    settings: dict[str, Any] = {
        "isolation_level": "read_committed",
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
    }
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, **settings | options)
    async with consumer:
        if whole:
            assert read_whole_batches(consumer)
        if any_name:
            assert read_any_header_name(consumer)
        consumer.assign([place])
        consumer.seek(place, offset)
        yield consumer


async def read(
    kafka: Kafka,
    place: TopicPartition,
    *,
    whole: bool,
    way: Way = "records",
    offset: int = 0,
    **options: Any,
) -> tuple[list[RecordBatch], int]:
    """Return what is read from `offset` to the end, and the position after it."""
    found: list[RecordBatch] = []
    async with consuming(kafka, place, whole=whole, offset=offset, **options) as consumer:
        end = (await consumer.end_offsets([place]))[place]
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await consumer.position(place) < end:
                fetched = await consumer.getmany(place, timeout_ms=POLL_MILLISECONDS)
                taken = taken_out(fetched.get(place, []), way)
                for batch in taken:
                    assert_parts_fit(batch)
                found += taken
                if whole and taken:
                    assert await consumer.position(place) == taken[-1].next_offset
        return found, await consumer.position(place)


def taken_out(fetched: list[Any], way: Way) -> list[RecordBatch]:
    with pytest.MonkeyPatch.context() as patch:
        if way == "values":
            patch.setattr(record_batches, "installed", lambda: UnusableError("not in this test"))
        return list(batches(fetched, lean=way != "records"))


def assert_parts_fit(batch: RecordBatch) -> None:
    """Compare what is at hand of each record with the records, which may be unpacked only now."""
    if batch.records:
        values, offsets = values_of(batch.records), offsets_of(batch.records)
        first_timestamp, count = first_timestamp_of(batch.records), len(batch.records)
        assert list(values) == [one.value for one in batch.records]
        assert list(offsets) == [one.offset for one in batch.records]
        assert first_timestamp == batch.records[0].timestamp
        assert count == len(list(batch.records))


def flat(found: Sequence[RecordBatch]) -> list[Flat]:
    return [
        (one.offset, one.timestamp, one.key, one.value, tuple(one.headers))
        for batch in found
        for one in batch.records
    ]


async def read_both_ways(
    kafka: Kafka, place: TopicPartition, offset: int = 0, **options: Any
) -> list[RecordBatch]:
    """Return what is read in whole batches, located ones; it has to be what the client's own way gives."""
    theirs, their_position = await read(kafka, place, whole=False, offset=offset, **options)
    found: dict[Way, list[RecordBatch]] = {}
    for way in get_args(Way):
        found[way], position = await read(kafka, place, whole=True, way=way, offset=offset, **options)
        assert (flat(found[way]), position) == (flat(theirs), their_position)
    return found["located"]


def some(count: int, start: int = 0) -> list[Content]:
    """Return records of every shape: with and without key, value and headers, small and large."""
    shapes: list[Callable[[int], Content]] = [
        lambda n: (str(n).encode(), b"value %d" % n, []),
        lambda n: (None, b"x" * (n * 37 % 3_000), [("trace", b"%d" % n)]),
        lambda n: (b"", None, [("a", b""), ("a", None), (f"ünïcode {n}", b"\xff")]),
        lambda n: (b"\xff\x00%d" % n, b"", []),
    ]
    return [shapes[number % len(shapes)](number) for number in range(start, start + count)]


ANY_NAMES: list[tuple[bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]] = [
    (b"k0", b"before", [(b"trace", b"1")]),
    (None, b"v" * 3_000, [(b"tr\xffce", b"\xfe"), ("größe".encode(), None), (b"", b"")]),
    (b"", None, [(b"\xff\xfe\xc3(", None)] * 2),
    (b"k3", b"", []),
    (b"k4", b"behind", [(b"trace", b"")]),
]


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("offset", [0, 2, 5])
@EACH_WAY
async def test_a_header_name_that_is_not_utf8_is_written_out_and_all_else_is_read_as_it_is(
    kafka: Kafka, place: TopicPartition, compression: str | None, offset: int, way: Way
) -> None:
    async with producing(kafka) as producer:
        await send(producer, place, [(None, b"first", [])])
    await send_any_names(
        kafka.bootstrap_servers, place.topic, place.partition, ANY_NAMES, compression=compression
    )
    async with producing(kafka) as producer:
        await send(producer, place, [(None, b"last", [])])
    found, position = await read(kafka, place, whole=True, way=way, offset=offset)
    expected = [
        (1 + number, FIRST_TIMESTAMP + number, key, value, names)
        for number, ((key, value, _), names) in enumerate(
            zip(
                ANY_NAMES,
                [
                    (("trace", b"1"),),
                    (("tr\\xffce", b"\xfe"), ("größe", None), ("", b"")),
                    (("\\xff\\xfe\\xc3(", None),) * 2,
                    (),
                    (("trace", b""),),
                ],
                strict=True,
            )
        )
    ]
    assert [one for one in flat(found) if 0 < one[0] < 6] == [one for one in expected if one[0] >= offset]
    assert [one[0] for one in flat(found)] == list(range(offset, 7))
    assert position == 7
    tolerant, their_position = await read(kafka, place, whole=False, any_name=True, offset=offset)
    assert (flat(tolerant), their_position) == (flat(found), position)


@EACH_WAY
async def test_a_header_name_that_is_not_utf8_changes_nothing_about_transactions_and_append_times(
    kafka: Kafka, prefix: str, way: Way
) -> None:
    place = TopicPartition(f"{prefix}appended", 0)
    configs = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
    create(kafka.admin, [NewTopic(place.topic, 1, 1, config=configs)])
    async with producing(kafka, transactional_id=f"{prefix}one") as producer:
        await transaction(kafka, producer, place, some(2), commit=False)
        await transaction(kafka, producer, place, some(2), commit=True)
    await send_any_names(kafka.bootstrap_servers, place.topic, place.partition, ANY_NAMES)
    found, position = await read(kafka, place, whole=True, way=way)
    tolerant, their_position = await read(kafka, place, whole=False, any_name=True)
    assert (flat(tolerant), their_position) == (flat(found), position)
    assert [one[0] for one in flat(found)] == [3, 4, 6, 7, 8, 9, 10]
    stamps = {one[1] for one in flat(found) if one[0] >= 6}
    assert len(stamps) == 1, "a batch is appended at one time"
    assert stamps.pop() > FIRST_TIMESTAMP + 10**9


@pytest.mark.parametrize("whole", [True, False], ids=["whole batches", "record by record"])
async def test_a_corrupt_batch_with_such_a_name_is_refused_as_any_other(
    kafka: Kafka, place: TopicPartition, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_on_the_way(monkeypatch, lambda received: received.replace(b"behind", b"beh1nd"))
    await send_any_names(kafka.bootstrap_servers, place.topic, place.partition, ANY_NAMES)
    async with consuming(kafka, place, whole=whole, any_name=not whole) as consumer:
        with pytest.raises(CorruptRecordException, match="CRC"):
            await fetch(consumer, place)
        assert await consumer.position(place) == 0


async def test_what_can_not_be_unpacked_is_raised_as_what_the_reader_makes_of_it(
    kafka: Kafka, place: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A value that is longer than its batch, and a checksum that nobody compares.
    spoil_on_the_way(monkeypatch, lambda received: received.replace(b"\x0cbehind", b"\x7ebehind"))
    async with producing(kafka) as producer:
        await send(producer, place, [(None, b"behind", [])])
    async with consuming(kafka, place, whole=True, check_crcs=False) as consumer:
        fetched = (await consumer.getmany(place, timeout_ms=5_000))[place]
    with pytest.raises(LookupError, match="CorruptRecord"):
        list(record_batches.unpacked(fetched, lambda error: LookupError(repr(error))))


def spoil_on_the_way(monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]) -> None:
    """Let every reader of fetch answers, the client's and ours, get them as `change` makes them."""
    stock, ours = fetcher.MemoryRecords, RawRecords.__init__
    monkeypatch.setattr(fetcher, "MemoryRecords", lambda answer: stock(change(bytes(answer))))
    monkeypatch.setattr(RawRecords, "__init__", lambda self, answer: ours(self, change(bytes(answer))))


def values(found: Sequence[RecordBatch]) -> list[bytes | None]:
    return [one[3] for one in flat(found)]


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_the_same_records_are_read_in_order_whatever_the_compression(
    kafka: Kafka, place: TopicPartition, compression: str | None
) -> None:
    async with producing(kafka, compression_type=compression, max_batch_size=2**20) as producer:
        for start in range(0, 200, 40):
            await send(producer, place, some(40, start))
    found = await read_both_ways(kafka, place)
    assert [(key, value, headers) for _, _, key, value, headers in flat(found)] == [
        (key, value, tuple(headers)) for key, value, headers in some(200)
    ]
    assert [one[0] for one in flat(found)] == list(range(200))
    assert [len(batch.records) for batch in found] == [40] * 5, "batches stay as they were sent"


async def test_batches_of_different_make_are_read_from_one_partition(
    kafka: Kafka, place: TopicPartition
) -> None:
    for number, compression in enumerate([None, "zstd", "gzip", None, "lz4", "snappy"]):
        async with producing(kafka, compression_type=compression) as producer:
            await send(producer, place, some(number + 1, 10 * number))
    found = await read_both_ways(kafka, place)
    assert [len(batch.records) for batch in found] == [1, 2, 3, 4, 5, 6]
    assert [batch.next_offset for batch in found] == [1, 3, 6, 10, 15, 21]


async def test_reading_in_small_fetches_finds_the_same(kafka: Kafka, place: TopicPartition) -> None:
    async with producing(kafka, max_batch_size=2**20) as producer:
        for start in range(0, 120, 20):
            await send(producer, place, some(20, start))
    # Smaller than any batch: the broker still answers with one whole batch.
    found = await read_both_ways(kafka, place, max_partition_fetch_bytes=100)
    assert len(flat(found)) == 120


@pytest.mark.parametrize("offset", [0, 1, 13, 24, 25, 26, 49])
@pytest.mark.parametrize("compression", [None, "lz4"])
async def test_a_position_in_the_middle_of_a_batch_leaves_out_what_is_before_it(
    kafka: Kafka, place: TopicPartition, offset: int, compression: str | None
) -> None:
    async with producing(kafka, compression_type=compression) as producer:
        await send(producer, place, some(25))
        await send(producer, place, some(25, 25))
    found = await read_both_ways(kafka, place, offset)
    assert [one[0] for one in flat(found)] == list(range(offset, 50))


def cut(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(record_batches, "PIECE_RECORDS", piece)
    monkeypatch.setattr(record_batches, "LOCATED_RECORDS", piece)


@pytest.mark.parametrize("piece", [1, 7, 25, 26])
@pytest.mark.parametrize("compression", [None, "lz4"])
async def test_a_large_batch_is_unpacked_in_pieces_and_no_position_goes_back(
    kafka: Kafka,
    place: TopicPartition,
    monkeypatch: pytest.MonkeyPatch,
    compression: str | None,
    piece: int,
) -> None:
    cut(monkeypatch, piece)
    async with producing(kafka, compression_type=compression) as producer:
        await send(producer, place, some(25))
        await send(producer, place, some(25, 25))
    for offset in (0, 7, 13, 24, 25, 38):
        found = await read_both_ways(kafka, place, offset)
        assert [one[0] for one in flat(found)] == list(range(offset, 50))
        assert max(len(batch.records) for batch in found) <= piece
        positions = [offset, *(batch.next_offset for batch in found)]
        assert positions == sorted(positions)
        for batch in found:
            assert not batch.records or batch.next_offset == batch.records[-1].offset + 1
        assert positions[-1] == 50


@pytest.mark.parametrize("piece", [1, 2, 3, 100])
@EACH_WAY
async def test_a_header_name_that_is_not_utf8_is_read_wherever_its_batch_is_cut(
    kafka: Kafka, place: TopicPartition, monkeypatch: pytest.MonkeyPatch, piece: int, way: Way
) -> None:
    cut(monkeypatch, piece)
    await send_any_names(kafka.bootstrap_servers, place.topic, place.partition, ANY_NAMES)
    for offset in (0, 3):
        found = await read(kafka, place, whole=True, way=way, offset=offset)
        tolerant = await read(kafka, place, whole=False, any_name=True, offset=offset)
        assert (flat(found[0]), found[1]) == (flat(tolerant[0]), tolerant[1])
        assert [one[0] for one in flat(found[0])] == list(range(offset, 5))


async def test_a_seek_back_while_records_are_waiting_reads_them_again(
    kafka: Kafka, place: TopicPartition
) -> None:
    async with producing(kafka) as producer:
        await send(producer, place, some(10))
    async with consuming(kafka, place, whole=True) as consumer:
        first = await fetch(consumer, place)
        consumer.seek(place, 4)
        again = await fetch(consumer, place)
    assert [one[0] for one in flat(first)] == list(range(10))
    assert [one[0] for one in flat(again)] == list(range(4, 10))


async def fetch(consumer: AIOKafkaConsumer, place: TopicPartition) -> list[RecordBatch]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (fetched := await consumer.getmany(place, timeout_ms=POLL_MILLISECONDS)):
            pass
    return list(batches(fetched[place]))


async def transaction(
    kafka: Kafka,
    producer: AIOKafkaProducer,
    place: TopicPartition,
    contents: Sequence[Content],
    *,
    commit: bool,
) -> None:
    """Send in a transaction of its own; when this returns, its marker is there."""
    await producer.begin_transaction()
    await send(producer, place, contents)
    await (producer.commit_transaction() if commit else producer.abort_transaction())
    await settled(kafka, place)


async def settled(kafka: Kafka, place: TopicPartition) -> None:
    broker = Broker(kafka.bootstrap_servers)
    await asyncio.to_thread(wait_until_settled, broker, [place.topic], DEADLINE_SECONDS)


async def test_control_batches_and_aborted_transactions_are_left_out_and_the_position_moves_past_them(
    kafka: Kafka, place: TopicPartition, prefix: str
) -> None:
    async with producing(kafka, transactional_id=f"{prefix}one") as producer:
        for number, commit in enumerate([True, False, False, True, False]):
            await transaction(kafka, producer, place, some(3, 3 * number), commit=commit)
    found = await read_both_ways(kafka, place)
    # Three records and a marker each.
    assert [one[0] for one in flat(found)] == [0, 1, 2, 12, 13, 14]
    assert [batch.next_offset for batch in found] == [3, 4, 7, 8, 11, 12, 15, 16, 19, 20]
    assert [len(batch.records) for batch in found] == [3, 0, 0, 0, 0, 0, 3, 0, 0, 0]


async def test_transactions_that_overlap_are_told_apart(
    kafka: Kafka, place: TopicPartition, prefix: str
) -> None:
    async with (
        producing(kafka, transactional_id=f"{prefix}aborts") as aborts,
        producing(kafka, transactional_id=f"{prefix}commits") as commits,
        producing(kafka) as plain,
    ):
        for _ in range(3):
            await aborts.begin_transaction()
            await commits.begin_transaction()
            for number in range(3):
                await send(aborts, place, [(None, b"aborted", [])] * 2)
                await send(commits, place, [(None, b"committed %d" % number, [])])
                await send(plain, place, [(None, b"plain", [])])
            await aborts.abort_transaction()
            await commits.commit_transaction()
    await settled(kafka, place)
    found = await read_both_ways(kafka, place)
    assert values(found) == [b"committed 0", b"plain", b"committed 1", b"plain", b"committed 2", b"plain"] * 3


@pytest.mark.parametrize("offset", [1, 2, 3, 4, 5])
async def test_reading_may_begin_inside_an_aborted_transaction(
    kafka: Kafka, place: TopicPartition, prefix: str, offset: int
) -> None:
    async with producing(kafka, transactional_id=f"{prefix}one") as producer:
        await transaction(kafka, producer, place, some(4), commit=False)
        await transaction(kafka, producer, place, some(1, 4), commit=True)
    assert [one[0] for one in flat(await read_both_ways(kafka, place, offset))] == [5]


async def test_what_is_still_open_is_not_read(kafka: Kafka, place: TopicPartition, prefix: str) -> None:
    async with producing(kafka, transactional_id=f"{prefix}one") as producer:
        await transaction(kafka, producer, place, some(2), commit=True)
        await producer.begin_transaction()
        await send(producer, place, some(2))
        found, position = await read(kafka, place, whole=True)
        assert (len(flat(found)), position) == (2, 3)
        await producer.abort_transaction()


async def test_a_reader_of_everything_is_given_aborted_records_and_no_markers(
    kafka: Kafka, place: TopicPartition, prefix: str
) -> None:
    async with producing(kafka, transactional_id=f"{prefix}one") as producer:
        for number, commit in enumerate([True, False]):
            await transaction(kafka, producer, place, some(3, 3 * number), commit=commit)
    found = await read_both_ways(kafka, place, isolation_level="read_uncommitted")
    assert [one[0] for one in flat(found)] == [0, 1, 2, 4, 5, 6]


@WAYS
async def test_an_offset_out_of_range_is_raised(kafka: Kafka, place: TopicPartition, whole: bool) -> None:
    async with producing(kafka) as producer:
        await send(producer, place, some(3))
    async with consuming(kafka, place, whole=whole, offset=100) as consumer:
        with pytest.raises(OffsetOutOfRangeError):
            await fetch(consumer, place)


@WAYS
async def test_a_corrupt_batch_is_refused_and_nothing_of_it_is_read(
    kafka: Kafka, place: TopicPartition, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_on_the_way(monkeypatch, lambda received: received.replace(b"to be spoiled", b"to be sp0iled"))
    async with producing(kafka) as producer:
        await send(producer, place, [(b"k", b"value to be spoiled", [])])
    async with consuming(kafka, place, whole=whole) as consumer:
        with pytest.raises(CorruptRecordException):
            await fetch(consumer, place)
        assert await consumer.position(place) == 0


@WAYS
async def test_a_corrupt_batch_behind_a_good_one_costs_neither(
    kafka: Kafka, place: TopicPartition, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil = True
    async with producing(kafka) as producer:
        await send(producer, place, [(None, b"first", [])])
        await send(producer, place, [(None, b"second", [])])
    spoil_on_the_way(
        monkeypatch, lambda received: received.replace(b"second", b"sec0nd") if spoil else received
    )
    async with consuming(kafka, place, whole=whole) as consumer:
        with pytest.raises(CorruptRecordException):
            await fetch(consumer, place)
        spoil = False  # It was on the way that it was spoilt.
        found = await fetch(consumer, place)
        while len(values(found)) < 2:
            found += await fetch(consumer, place)
    assert values(found) == [b"first", b"second"]


@pytest.fixture
def quick_cleaner(kafka: Kafka) -> Iterator[None]:
    """Let the log cleaner look for work often, for the length of a test."""

    def alter(operation: AlterConfigOpType) -> None:
        entry = ConfigEntry("log.cleaner.backoff.ms", "100", incremental_operation=operation)
        brokers = [
            ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=[entry])
            for broker in kafka.admin.list_topics(timeout=20).brokers
        ]
        for done in kafka.admin.incremental_alter_configs(brokers).values():
            done.result(20)

    alter(AlterConfigOpType.SET)
    yield
    alter(AlterConfigOpType.DELETE)


async def read_when_cleaned(
    kafka: Kafka, place: TopicPartition, producer: AIOKafkaProducer
) -> list[RecordBatch]:
    """Let the key `c` be written until its record at offset 2 is gone, and return what is left."""
    # Each is made so much later than the last one that it rolls a segment: what lies before can be cleaned.
    for later in itertools.count(1_700_000_001_000, 1_000):
        await send(producer, place, [(b"c", b"later", [])], since=later)
        found, _ = await read(kafka, place, whole=False)
        if 2 not in [one[0] for one in flat(found)]:
            return found
    raise AssertionError("counting has no end")


@pytest.mark.usefixtures("quick_cleaner")
async def test_a_compacted_batch_whose_last_record_is_gone_is_passed_as_a_whole(
    kafka: Kafka, prefix: str
) -> None:
    place = TopicPartition(f"{prefix}compacted", 0)
    configs = {
        "cleanup.policy": "compact",
        "segment.ms": "1",
        "min.cleanable.dirty.ratio": "0.001",
        "delete.retention.ms": "60000",
    }
    create(kafka.admin, [NewTopic(place.topic, 1, 1, config=configs)])
    async with producing(kafka) as producer, asyncio.timeout(DEADLINE_SECONDS):
        await send(producer, place, [(key, b"first", []) for key in (b"a", b"b", b"c")])
        found = await read_when_cleaned(kafka, place, producer)
    # The cleaner goes on behind this batch: only this batch can be compared.
    ours, _ = await read(kafka, place, whole=True, way="located")
    assert not isinstance(ours[0].records, LeanRecords), "offsets with a gap are not counted through"
    assert [one for one in flat(ours) if one[0] < 3] == [one for one in flat(found) if one[0] < 3]
    assert [one.offset for one in ours[0].records] == [0, 1]
    assert ours[0].next_offset == 3, "the offset of the record that is gone is not asked for again"
    from_the_gap, _ = await read(kafka, place, whole=True, offset=2)
    assert flat(from_the_gap)[0][0] >= 3


@LEAN_WAYS
async def test_a_value_does_not_cost_the_rest_of_its_record(
    kafka: Kafka, place: TopicPartition, way: Way
) -> None:
    most = {"located": record_batches.LOCATED_RECORDS, "values": record_batches.PIECE_RECORDS}[way]
    async with producing(kafka, max_batch_size=2**22) as producer:
        await send(producer, place, [(b"k", b"v%d" % number, []) for number in range(most * 2 + 5)])
    async with consuming(kafka, place, whole=True) as consumer:
        fetched = (await consumer.getmany(place, timeout_ms=5_000))[place]
    pieces = taken_out(fetched, way)
    assert [len(piece.records) for piece in pieces] == [most] * 2 + [5]
    for piece in pieces:
        assert isinstance(piece.records, LeanRecords)
        assert (piece.records.located is not None) == (way == "located")
        assert len(values_of(piece.records)) == len(offsets_of(piece.records))
        assert not piece.records.is_unpacked
        assert piece.records[-1].offset == piece.next_offset - 1
        assert piece.records.is_unpacked


@LEAN_WAYS
async def test_who_asks_for_records_has_a_batch_unpacked_three_times_at_most(
    kafka: Kafka, place: TopicPartition, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    cut(monkeypatch, 2)
    if way == "values":
        monkeypatch.setattr(record_batches, "installed", lambda: UnusableError("not in this test"))
    async with producing(kafka) as producer:
        await send(producer, place, [(b"k", b"v%d" % number, []) for number in range(21)])
    async with consuming(kafka, place, whole=True) as consumer:
        fetched = (await consumer.getmany(place, timeout_ms=5_000))[place]
    unpacked_again = []
    again = RawRecords.again

    def counted(self: RawRecords, where: slice) -> Any:
        unpacked_again.append(where)
        return again(self, where)

    monkeypatch.setattr(RawRecords, "again", counted)
    pieces = batches(fetched, lean=True)
    assert [record.offset for piece in pieces for record in piece.records] == list(range(21))
    # The batch that the client made is unpacked as well, once.
    assert len(unpacked_again) == {"located": 1, "values": 2}[way]


async def test_a_wait_that_ends_by_itself_leaves_nothing_in_the_client(
    kafka: Kafka, place: TopicPartition
) -> None:
    async with consuming(kafka, place, whole=True) as consumer, watched(asyncio.Event()) as ends:
        for _ in range(5):
            found = await unless_ended(
                consumer.getmany(place, timeout_ms=POLL_MILLISECONDS), ends, seconds=DEADLINE_SECONDS
            )
            assert found == {}
        assert not consumer._fetcher._fetch_waiters


def test_waits_of_the_processor_are_left_to_end_by_themselves() -> None:
    assert task._CUT_OFF_SECONDS >= task._IDLE_POLL_SECONDS + 1
    assert membership._CUT_OFF_SECONDS >= membership._POLL_SECONDS + 1


async def test_answers_are_read_whole(kafka: Kafka, place: TopicPartition) -> None:
    async with producing(kafka) as producer:
        await send(producer, place, some(3))
    async with consuming(kafka, place, whole=True) as consumer:
        await consumer.getmany(place, timeout_ms=5_000)
        readers = [type(one._reader) for (_, _), one in consumer._client._conns.items()]
    assert AnswerReader in readers


async def test_only_the_consumer_that_was_asked_is_changed(kafka: Kafka, place: TopicPartition) -> None:
    async with producing(kafka) as producer:
        await send(producer, place, some(3))
    async with (
        consuming(kafka, place, whole=True) as ours,
        consuming(kafka, place, whole=False) as theirs,
    ):
        packed = (await ours.getmany(place, timeout_ms=5_000))[place]
        records = (await theirs.getmany(place, timeout_ms=5_000))[place]
    assert not isinstance(packed[0], ConsumerRecord)
    (batch,) = batches(packed)
    assert [record.offset for record in batch.records] == [0, 1, 2]
    assert all(isinstance(record, ConsumerRecord) for record in records)


async def test_a_client_that_was_not_checked_is_left_as_it_is(
    kafka: Kafka, place: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with producing(kafka) as producer:
        await send(producer, place, some(3))
    async with consuming(kafka, place, whole=False) as consumer:
        monkeypatch.setattr(aiokafka, "__version__", "0.99.0")
        assert not read_whole_batches(consumer)
        records = (await consumer.getmany(place, timeout_ms=5_000))[place]
        assert AnswerReader not in [type(one._reader) for one in consumer._client._conns.values()]
    assert all(isinstance(record, ConsumerRecord) for record in records)
    (batch,) = batches(records)
    assert (len(batch.records), batch.next_offset) == (3, 3)


def test_the_client_that_is_installed_is_the_one_that_was_checked() -> None:
    assert aiokafka.__version__ == CHECKED_VERSION


def test_nothing_fetched_is_no_batch() -> None:
    assert list(batches([])) == []
