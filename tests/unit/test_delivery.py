"""The pure parts of the delivery: what is next, how far may be committed, when to try again, who is who."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.delivery.identity import identity
from services.processor.delivery.lanes import Lanes, Parcel
from services.processor.delivery.original import original
from services.processor.delivery.retrying import Retrying
from services.processor.delivery.unfinished import Unfinished
from services.processor.delivery.webhook import Answer, Outcome, meaning


@dataclass(frozen=True)
class Made:
    """A record as the client gives it."""

    offset: int
    key: bytes | None = None
    value: bytes | None = b"{}"
    topic: str = "t"
    partition: int = 0


def made(offset: int, key: bytes | None) -> Parcel:
    record = Made(offset, key)
    return Parcel(record, record)


@given(
    keys=st.lists(st.sampled_from([b"a", b"b", b"c", None]), max_size=30),
    workers=st.integers(1, 5),
    chance=st.randoms(use_true_random=False),
)
def test_each_key_keeps_its_order_and_everything_is_delivered(
    keys: list[bytes | None], workers: int, chance: Random
) -> None:
    lanes = Lanes()
    parcels = [made(offset, key) for offset, key in enumerate(keys)]
    to_come = list(parcels)
    under_way: list[Parcel] = []
    done: list[Parcel] = []
    now = 0.0
    while len(done) < len(parcels):
        if to_come and chance.random() < 0.5:
            lanes.put(to_come.pop(0))
        elif len(under_way) < workers and (parcel := lanes.take(now)) is not None:
            keyed = [one.record.key for one in under_way if one.record.key is not None]
            assert parcel.record.key not in keyed, "one of a key at a time"
            under_way.append(parcel)
        elif under_way:
            parcel = under_way.pop(chance.randrange(len(under_way)))
            if chance.random() < 0.3:
                lanes.later(parcel, now + chance.random())
            else:
                lanes.done(parcel)
                done.append(parcel)
        elif (wakes_at := lanes.wakes_at()) is not None:
            now = max(now, wakes_at)
        else:
            assert to_come, "nothing is forgotten"
    for key in (b"a", b"b", b"c"):
        offsets = [one.record.offset for one in done if one.record.key == key]
        assert offsets == sorted(offsets)
    assert (lanes.records, lanes.size_bytes, lanes.take(now), lanes.wakes_at()) == (0, 0, None, None)


def test_who_sleeps_is_not_taken_before_its_time_and_holds_up_its_key_only() -> None:
    lanes = Lanes()
    first, second, other = (made(0, b"k"), made(1, b"k"), made(2, b"o"))
    for parcel in (first, second, other):
        lanes.put(parcel)
    assert lanes.take(0) is first
    lanes.later(first, 5.0)
    assert lanes.take(1.0) is other
    assert lanes.take(4.9) is None
    assert lanes.wakes_at() == 5.0
    assert lanes.take(5.0) is first
    lanes.done(first)
    assert lanes.take(5.0) is second


@given(
    gaps=st.lists(st.integers(1, 4), max_size=30),
    chance=st.randoms(use_true_random=False),
    start=st.integers(0, 100),
)
def test_what_may_be_committed_is_below_the_lowest_that_is_not_finished(
    gaps: list[int], chance: Random, start: int
) -> None:
    unfinished = Unfinished(start)
    assert unfinished.committable == start
    offsets = []
    offset = start - 1
    for gap in gaps:
        offset += gap
        offsets.append(offset)
        unfinished.read(offset)
    unfinished.passed(offset + 3)
    left = set(offsets)
    committed = start
    for one in chance.sample(offsets, len(offsets)):
        assert unfinished.committable == min(left)
        unfinished.finish(one)
        left.discard(one)
        if chance.random() < 0.3:
            committed = unfinished.committable
            unfinished.committed(committed)
        assert len(unfinished) == len([it for it in offsets if it >= committed])
        assert unfinished.uncommitted == len(
            [it for it in offsets if committed <= it < min(left, default=it + 1)]
        )
    assert unfinished.committable == max(offset + 3, start)
    unfinished.committed(unfinished.committable)
    assert len(unfinished) == 0


def test_pauses_double_are_shortened_at_random_and_bounded() -> None:
    retrying = Retrying(attempts=8, first_seconds=1, longest_seconds=10, chance=Random(1))
    for failed, longest in enumerate([1, 2, 4, 8, 10, 10, 10], start=1):
        pauses = [retrying.pause(failed) or 0.0 for _ in range(200)]
        assert longest / 2 <= min(pauses) < longest * 0.55
        assert longest * 0.95 < max(pauses) <= longest
    assert retrying.pause(8) is None
    assert Retrying(attempts=1000, first_seconds=1, longest_seconds=10, chance=Random(1)).pause(999)


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(None, 0.5, 1), (0.1, 0.5, 1), (5, 5, 5), (3600, 10, 10)]
)
def test_a_pause_that_is_asked_for_is_kept_as_far_as_it_is_bearable(
    asked: float | None, least: float, most: float
) -> None:
    retrying = Retrying(attempts=8, first_seconds=1, longest_seconds=10, chance=Random(1))
    pause = retrying.pause(1, asked_seconds=asked)
    assert pause is not None
    assert least <= pause <= most


def test_a_purchase_and_an_alert_are_known_by_what_they_are() -> None:
    purchase = {"topic": "in put", "partition": 3, "offset": 9, "page": "/x"}
    alert = {"alert_id": "kühl\n:max:0:7", "state": "firing"}
    at_two_places = [
        [Made(offset, value=json.dumps(value).encode()) for offset in (1, 2)] for value in (purchase, alert)
    ]
    names = [
        {identity(topic, record) for record in records}
        for topic, records in zip(("purchases", "alerts"), at_two_places, strict=True)
    ]
    assert names == [{"purchases:in\\x20put:3:9"}, {"alerts:k\\xfchl\\n:max:0:7:firing"}]


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\xff", b'{"topic": 1, "partition": 2, "offset": 3}'])
def test_what_can_not_be_read_is_known_by_its_place(value: bytes | None) -> None:
    for topic in ("purchases", "alerts", "another"):
        assert identity(topic, Made(5, value=value)) == "t:0:5"


def test_a_retry_is_known_by_what_it_was_and_carries_no_trace_of_it() -> None:
    place = [("__streams.errors.topic", b"x.alerts"), ("__streams.errors.partition", b"3")]
    own = [("trace", b"1"), ("tandem.retried", b"x.delivery_dead_letters:0:1")]
    retry = Retry(8, (*own, *place, ("__streams.errors.offset", b"12")))
    found = original(retry)
    assert (found.topic, found.partition, found.offset) == ("x.alerts", 3, 12)
    assert found.headers == (("trace", b"1"),)
    assert (found.key, found.value, found.timestamp) == (b"k", b"{}", 77)
    bare = original(Retry(8, (*own, *place)))
    assert (bare.topic, bare.partition, bare.offset) == ("t", 0, 8), "a place is whole, or it is its own"


@dataclass(frozen=True)
class Retry:
    """A record of the retries."""

    offset: int
    headers: tuple[tuple[str, bytes | None], ...]
    key: bytes | None = b"k"
    value: bytes | None = b"{}"
    topic: str = "t"
    partition: int = 0
    timestamp: int = 77


NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.DELIVERED) for status in (200, 201, 202, 204, 299)),
        *((status, Outcome.FAILED) for status in (408, 409, 425, 429, 500, 502, 503, 504, 599)),
        *((status, Outcome.REFUSED) for status in (300, 301, 302, 307, 400, 401, 403, 404, 410, 422)),
    ],
)
def test_what_a_status_means(status: int, outcome: Outcome) -> None:
    assert meaning(status, "Phrase", "", None, NOW) == Answer(outcome, f"{status} Phrase")


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:14:20 -0000", 60.0),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0.0),
        ("soon", None),
        ("Tue, 14 Nov 99999999999999999999 22:13:20 GMT", None),
        ("9" * 400, float("inf")),
        ("-5", None),
        ("", None),
        (None, None),
    ],
)
def test_what_retry_after_means(retry_after: str | None, seconds: float | None) -> None:
    assert meaning(503, "", "x", retry_after, NOW) == Answer(Outcome.FAILED, "503: x", seconds)
