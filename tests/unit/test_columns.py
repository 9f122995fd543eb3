"""The compiled part against those whose word counts: msgspec for events, the client for record batches."""

from __future__ import annotations

import ctypes
import json
import struct
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from random import Random
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pytest
from aiokafka.consumer.fetcher import MemoryRecords
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from services.processor.columns import (
    TIME,
    Columns,
    Demand,
    NotPlainError,
    Reader,
    TextOf,
    fields_of,
    plain_text,
)
from services.processor.native.library import installed, location
from services.processor.records import Located
from shared.events import (
    MAX_INT64,
    UNDECODABLE,
    Page,
    SensorReadingCounted,
    Sourced,
    UserEventCounted,
    UserId,
    decoder,
    is_iso_8601,
)
from shared.results import Purchase
from tests.located import located

Raw = dict[str, str]
Value = bytes | None

TOPIC, PARTITION, FIRST_OFFSET = "p.user_behavior", 3, 10**12
TOKENS: dict[Any, tuple[str, ...]] = {UserEventCounted: ("page", "timestamp"), SensorReadingCounted: ()}
ACTIONS = ["login", "logout", "click", "view", "purchase", "search"]
DEVICES = ["mobile", "desktop", "tablet"]
REPEATABLE = settings(deadline=None, derandomize=True, max_examples=300)


def library() -> ctypes.CDLL:
    found = installed()
    assert isinstance(found, ctypes.CDLL), found
    return found


@cache
def reader(event: Any, tokens: tuple[str, ...] | None = None) -> Reader:
    """One for all tests, as a process has it: what is left of one read must not show in another."""
    return Reader(library(), fields_of(event, TOKENS[event] if tokens is None else tokens))


def read(values: Sequence[Value], event: Any = UserEventCounted) -> Columns | None:
    return reader(event).read(located(values), range(FIRST_OFFSET, FIRST_OFFSET + len(values)))


def all_of(columns: Columns) -> array[int]:
    return array("i", range(len(columns)))


def bits(numbers: Iterable[float]) -> list[bytes]:
    return [struct.pack("<d", number) for number in numbers]


def member(name: str, raw: str) -> str:
    return f'"{name}":{raw}'


def value_of(fields: Raw, *more: str) -> bytes:
    """An object whose values are given as they are to stand there."""
    members = [*(member(name, raw) for name, raw in fields.items()), *more]
    return ("{" + ",".join(members) + "}").encode(errors="surrogateescape")


# What is plain, and what it says

SEQS = [7, 8, 9]
EVENTS: list[dict[str, Any]] = [
    {"user_id": 1, "action": "purchase", "device": "mobile", "source": "gen-1", "seq": 7},
    {"user_id": 999_999_999_999_999_999, "action": "login", "device": "tablet", "source": "gen-1", "seq": 8},
    {"user_id": 0, "action": "purchase", "device": "mobile", "source": "gen-1", "seq": 9},
]
for _event in EVENTS:
    _event |= {"page": "/größe/€/😀", "timestamp": "2023-11-14T22:13:20.5Z"}
UNKNOWN: dict[str, str] = {
    "a text": '"plain"',
    "an empty text": '""',
    "a text that is not ASCII": '"ü€😀"',
    "escapes": r'"\"\\\/\b\f\n\r\t"',
    "escapes by number": r'"\u00e9\u0041\uABcd\ud83d\ude00\uE000\udbff\udfff\u0000"',
    "an escaped quote at the end": r'"\\\""',
    "a whole number": "-17",
    "a number": "1.50",
    "true": "true",
    "false": "false",
    "null": "null",
    "an empty object": "{ }",
    "an empty array": "[ ]",
    "an array": '[1 , "two", [3.5], null]',
    "an object": r'{"a" : {"b":[{"c":"\n"}]} , "ü":{}}',
    "as deep as it goes": "[" * 33 + "]" * 33,
    "what looks like a field": '{"user_id":5,"seq":"x"}',
}


def dumped(**how: Any) -> list[bytes]:
    return [json.dumps(one, ensure_ascii=False, **how).encode() for one in EVENTS]


def with_more(*more: str, first: bool = False) -> list[bytes]:
    made = []
    for one in EVENTS:
        fields = [member(name, json.dumps(value, ensure_ascii=False)) for name, value in one.items()]
        members = [*more, *fields] if first else [*fields, *more]
        made.append(("{" + ",".join(members) + "}").encode())
    return made


def turned(by: Callable[[int], int]) -> list[bytes]:
    made = []
    for number, one in enumerate(EVENTS):
        names = list(one)
        names = names[by(number) :] + names[: by(number)]
        made.append(json.dumps({name: one[name] for name in names}, ensure_ascii=False).encode())
    return made


PLAIN: dict[str, list[bytes]] = {
    "no whitespace": dumped(separators=(",", ":")),
    "whitespace as json.dumps writes it": dumped(),
    "indented": dumped(indent=2),
    "all kinds of whitespace": [b"\r\n\t " + one.replace(b",", b" \t,\r\n") + b"\n\r\t " for one in dumped()],
    "sorted": dumped(sort_keys=True),
    "another order": turned(lambda _: 3),
    "an order that changes": turned(lambda number: number),
    "an order that changes back": turned(lambda number: number % 2 * 4),
    "different whitespace each": [dumped(indent=1)[0], dumped()[1], dumped(separators=(",", ":"))[2]],
    "more in some": [with_more('"x":1')[0], dumped()[1], with_more('"y":[2]', first=True)[2]],
    "unknown ones twice": with_more('"x":1', '"x":2'),
    "an unknown one whose name begins like a known one": with_more('"user_i":1', '"user_id2":2', '"":3'),
    "more than are remembered": with_more(*[f'"f{number}":{number}' for number in range(70)], first=True),
    "as many and they change": [
        with_more(*[f'"f{number + shift}":{number}' for number in range(70)], first=True)[shift]
        for shift in range(3)
    ],
} | {f"unknown: {name}": with_more(member("more", raw)) for name, raw in UNKNOWN.items()}


@pytest.mark.parametrize("values", PLAIN.values(), ids=list(PLAIN))
def test_plain_events_are_read_whatever_they_look_like(values: list[bytes]) -> None:
    columns = read(values)
    assert columns is not None
    assert len(columns) == 3
    assert columns.run == ("gen-1", 7)
    assert columns.whole("user_id").tolist() == [1, 999_999_999_999_999_999, 0]
    assert columns.whole("seq").tolist() == SEQS
    assert columns.tally("action") == {"purchase": 2, "login": 1}
    assert columns.tally("device") == {"mobile": 2, "tablet": 1}
    assert columns.indexes("action", "purchase").tolist() == [0, 2]
    assert columns.indexes("action", "login").tolist() == [1]
    assert columns.indexes("action", "view").tolist() == []
    assert [columns.text("source", index) for index in range(3)] == ["gen-1"] * 3
    for name in ("page", "timestamp"):
        assert [json.loads(one) for one in columns.tokens(name, all_of(columns))] == [
            one[name] for one in EVENTS
        ]
    assert_as_decoded(columns, values, UserEventCounted)


USER_EVENT: Raw = {
    "user_id": "1000",
    "action": '"click"',
    "device": '"mobile"',
    "source": '"gen-1"',
    "seq": "5",
    "page": '"/page/1"',
    "timestamp": '"2023-11-14T22:13:20"',
}
READING: Raw = {
    "sensor_id": '"temperature"',
    "value": "21.5",
    "timestamp": "1700000000.25",
    "location": '"server1"',
}


def user_event(changes: Raw | None = None, *more: str) -> bytes:
    return value_of(USER_EVENT | (changes or {}), *more)


def reading(changes: Raw | None = None, *more: str) -> bytes:
    return value_of(READING | (changes or {}), *more)


def without(*names: str) -> bytes:
    return value_of({name: raw for name, raw in USER_EVENT.items() if name not in names})


def test_events_without_a_source_are_such_a_run_and_some_without_are_none() -> None:
    bare = without("source", "seq")
    columns = read([bare, bare])
    assert columns is not None
    assert columns.run == (UNSET, UNSET)
    for odd in ([bare, user_event()], [user_event(), bare], [without("seq")] * 2, [without("source")] * 2):
        columns = read(odd)
        assert columns is not None
        assert columns.run is None


@pytest.mark.parametrize(
    ("changes", "run"),
    [
        ([("a", 5), ("a", 6), ("a", 7)], ("a", 5)),
        ([("a", 999_999_999_999_999_998), ("a", 999_999_999_999_999_999)], ("a", 999_999_999_999_999_998)),
        ([("😀" * 64, 0)], ("😀" * 64, 0)),
        ([("a", 5), ("a", 7)], None),
        ([("a", 5), ("a", 5)], None),
        ([("a", 5), ("a", 4)], None),
        ([("a", 5), ("b", 6)], None),
        ([("a", 5), ("aa", 6)], None),
        ([("aa", 5), ("a", 6)], None),
        ([("long-enough-a", 5), ("long-enough-b", 6), ("long-enough-a", 7)], None),
        ([("a", 5), ("b", 6), ("a", 7)], None),
    ],
)
def test_a_run_is_one_source_with_consecutive_numbers(
    changes: list[tuple[str, int]], run: tuple[str, int] | None
) -> None:
    columns = read([user_event({"source": f'"{source}"', "seq": str(seq)}) for source, seq in changes])
    assert columns is not None
    assert columns.run == run


@pytest.mark.parametrize(
    ("field", "raw"),
    [
        *[
            ("value", raw)
            for raw in ["0", "5", "-5", "21.5", "-273.15", "0.1", "0.30", "1.797693134862315", "-0.001"]
        ],
        *[("value", raw) for raw in ["1000000000000000", "-1000000000000000", "0.00000000000000001"]],
        *[("value", raw) for raw in ["0.00000000000000000", "900719925474098.9", "0.9007199254740989"]],
        *[("timestamp", raw) for raw in ["0", "1700000000", "1700000000.123456", "9007199254740992"]],
        # As time.time() has it, and half-way between two doubles, or next to it.
        *[("timestamp", raw) for raw in ["1721234567.1234567", "0.12345678901234567", "999999999999999999"]],
        *[("timestamp", f"900719925474099{rest}") for rest in ["3", "3.0", "3.1", "2.9", "5", "4.9", "5.01"]],
        *[("timestamp", f"4503599627370497.{rest}") for rest in ["5", "49", "51", "0", "25"]],
    ],
)
def test_a_number_is_the_double_that_msgspec_reads(field: str, raw: str) -> None:
    columns = read([reading({field: raw})], SensorReadingCounted)
    assert columns is not None
    (found,) = columns.number(field, columns.groups("sensor_id"))
    assert bits([found]) == bits([float(raw)])
    assert_as_decoded(columns, [reading({field: raw})], SensorReadingCounted)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("sensor_id", "s"),
        ("sensor_id", "😀" * 128),
        ("location", ""),
        ("location", "é€" * 64),
        ("location", "\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"),
    ],
)
def test_texts_are_as_long_as_they_may_be_in_characters(field: str, text: str) -> None:
    columns = read([reading({field: f'"{text}"'})], SensorReadingCounted)
    assert columns is not None
    assert columns.text(field, 0) == text


# What is not

NUMBERS_THAT_ARE_NONE = [
    "",
    "-",
    "+1",
    "--1",
    "01",
    "-01",
    "00",
    ".5",
    "5.",
    "1.e1",
    "0x10",
    "1_0",
    "1 0",
    "٣",
]
NO_NUMBER_AT_ALL = ["null", "true", '"1"', "[1]", "{}", "NaN", "nan", "Infinity", "-Infinity", "inf"]
NO_TEXT = ["null", "5", "true", '["click"]', "{}", "click", "'click'", '"click', 'click"', '"']
# How bytes that are no UTF-8 stand in the tables.
NOT_UTF8 = [
    bytes.fromhex(one).decode(errors="surrogateescape")
    for one in (
        "80",
        "ff",
        "c080",
        "c1bf",
        "c3",
        "e282",
        "e08080",
        "eda080",
        "f0808080",
        "f4908080",
        "f8888080",
    )
]
ODD_TEXTS = [
    *[r'"cl\u0069ck"', r'"\n"', r'"\""', '"\x00"', '"\n"', '"\x1f"', '"\t"', '"eight ch\x1f"'],
    *[f'"{bad}"' for bad in NOT_UTF8],
]
CONTROL = "\x00\x01\x08\x0a\x1f"

ODD_FIELDS: dict[Any, dict[str, list[str]]] = {
    UserEventCounted: {
        "user_id": [
            *NUMBERS_THAT_ARE_NONE,
            *NO_NUMBER_AT_ALL,
            *["-1", "-0", "1.0", "1e3", "1E3", "1e0", "0.0", "1.5", "1000000000000000000"],
            *[str(MAX_INT64), str(2**63), str(2**64), str(10**30), "9" * 400],
        ],
        "seq": ["null", "-1", "-0", "01", "1.0", '"5"', "5e0", str(2**63), "true"],
        "action": [
            *NO_TEXT,
            *ODD_TEXTS,
            *['""', '"buy"', '"Click"', '"clic"', '"clicks"', '"click "', '"mobile"'],
        ],
        "device": [*NO_TEXT, *ODD_TEXTS, '""', '"watch"', '"mobil"', '"mobiles"', '"tablet\x00"'],
        "source": [*NO_TEXT, *ODD_TEXTS, '""', f'"{"s" * 65}"', f'"{"é" * 65}"'],
        "page": [
            *["", "nul", "tru", "falsey", "-", "01", "1e5"],
            *["[", "[1,]", "[,]", "{,}", '{"a"}', "{1:2}", '{"a":}'],
        ],
        "timestamp": [
            *['"', '"a', r'"\x"', r'"\u004"', r'"\ud800"', '"\n"'],
            *[f'"{bad}"' for bad in NOT_UTF8],
        ],
    },
    SensorReadingCounted: {
        "value": [
            *NUMBERS_THAT_ARE_NONE,
            *NO_NUMBER_AT_ALL,
            *["-0", "-0.0", "1e3", "1.5e3", "1.5E-3", "1.5.5", "01.5", "1.-5"],
            *["1000000000000001", "-1000000000000001"],
            *[
                "1000000000000000.1",
                "9007199254740993",
                "0.1234567890123456789",
                "1.8446744073709551616",
                f"0.{'0' * 23}",
                "9" * 400,
            ],
        ],
        "timestamp": ["-1", "-0.001", "null", "-0", "1e9", '"2023-11-14T22:13:20"', "1.000000000000000000"],
        "sensor_id": [*NO_TEXT, *ODD_TEXTS, '""', f'"{"s" * 129}"', f'"{"😀" * 129}"'],
        "location": [*NO_TEXT, *ODD_TEXTS, f'"{"l" * 129}"'],
    },
}


def is_refused_among_plain_ones(odd: Value, event: Any, plain: Sequence[Value]) -> bool:
    """Say whether it is so at each place; the rest is read."""
    assert read(plain, event) is not None
    return all(read([*plain[:place], odd, *plain[place:]], event) is None for place in range(len(plain) + 1))


@pytest.mark.parametrize(
    ("event", "field", "raw"),
    [(event, field, raw) for event, odd in ODD_FIELDS.items() for field, raws in odd.items() for raw in raws],
    ids=ascii,
)
def test_a_field_that_is_odd_is_left_to_msgspec(event: Any, field: str, raw: str) -> None:
    plain = USER_EVENT if event is UserEventCounted else READING
    odd = value_of(plain | {field: raw})
    assert is_refused_among_plain_ones(odd, event, [value_of(plain)] * 2)


ODD_VALUES: dict[str, Value] = {
    "null": None,
    "nothing": b"",
    "whitespace": b" \n",
    "an empty object": b"{}",
    "an empty array": b"[]",
    "an object in an array": b"[" + user_event() + b"]",
    "a text": b'"text"',
    "a number": b"1",
    "the word null": b"null",
    "no JSON": b"not json",
    "a mark of the byte order": b"\xef\xbb\xbf" + user_event(),
    "UTF-16": user_event().decode().encode("utf-16-le"),
    "a zero before it": b"\x00" + user_event(),
    "a zero behind it": user_event() + b"\x00",
    "a letter behind it": user_event() + b" x",
    "a brace behind it": user_event() + b"}",
    "a comma behind it": user_event() + b",",
    "another behind it": user_event() + b"\n" + user_event(),
    "a form feed before it": b"\x0c" + user_event(),
    "a space that is not JSON's": user_event().replace(b":", b"\xc2\xa0:", 1),
    "a vertical tab": user_event().replace(b",", b"\x0b,", 1),
    "a comma before the first": b"{," + user_event()[1:],
    "a comma behind the last": user_event()[:-1] + b",}",
    "two commas": user_event().replace(b",", b",,", 1),
    "no comma": user_event().replace(b",", b" ", 1),
    "no colon": user_event().replace(b":", b" ", 1),
    "two colons": user_event().replace(b":", b"::", 1),
    "a comma for a colon": user_event().replace(b":", b",", 1),
    "another bracket at the end": user_event()[:-1] + b"]",
    "a comment": user_event().replace(b",", b",/**/", 1),
    "a name without quotes": user_event().replace(b'"seq"', b"seq"),
    "a name in other quotes": user_event().replace(b'"seq"', b"'seq'"),
    "a name that is a number": user_event().replace(b'"seq"', b"5"),
    "no name": user_event().replace(b'"seq":', b""),
    "an escape in a name": user_event({}, r'"x\n":1'),
    "an escape in a field's name": user_event().replace(b"user_id", rb"user\u005fid"),
    "a name that is not ASCII": user_event({}, '"ü":1'),
    "a name that is not UTF-8": user_event({}, '"\udcff":1'),
    "a control character in a name": user_event({}, '"x\x01":1'),
    "a field's name with a space": user_event().replace(b'"user_id"', b'"user_id "'),
    "a field's name in another case": user_event().replace(b'"user_id"', b'"User_id"'),
    "user_id is missing": without("user_id"),
    "action is missing": without("action"),
    "device is missing": without("device"),
    "all are missing": b'{"x":1}',
    "a field is null": user_event({"user_id": "null"}),
} | {f"{name} twice": user_event({}, member(name, raw)) for name, raw in USER_EVENT.items()}
for _name, _raw in {
    "escaped by too few digits": r'"\u00e"',
    "escaped by what is no digit": r'"\u00g9"',
    "half a pair": r'"\ud83d"',
    "half a pair and more": r'"\ud83d\u0041"',
    "half a pair and another escape": r'"\ud83d\n1234"',
    "the other half": r'"\ude00"',
    "escaped as nobody does": r'"\x41"',
    "a backslash at the end": '"\\"',
    "a number with an exponent": "1e5",
    "a number that ends too early": "1.",
    "zero below zero": "-0",
    "a number too large": "9" * 30,
    "NaN": "NaN",
    "too deep": "[" * 34 + "]" * 34,
    "far too deep": "[" * 100_000,
    "objects too deep": '{"a":' * 34 + "1" + "}" * 34,
    "brackets that do not match": "[1}",
    "braces that do not match": '{"a":1]',
    "a comma too many": "[1,]",
    "a member without a value": '{"a"}',
    "half a word": "tru",
    "a word and more": "nulls",
    "a word in another case": "True",
    **{f"control character {ord(one)}": f'"{one}"' for one in CONTROL},
    **{f"control character {ord(one)} in a name": f'{{"{one}":1}}' for one in CONTROL},
    **{f"not UTF-8: {one!a}": f'"{one}"' for one in NOT_UTF8},
    **{f"not UTF-8 far in: {one!a}": f'"a long text before it {one} and behind"' for one in NOT_UTF8},
}.items():
    ODD_VALUES[f"unknown: {_name}"] = user_event({}, member("more", _raw))


@pytest.mark.parametrize("odd", ODD_VALUES.values(), ids=list(ODD_VALUES))
def test_a_value_that_is_odd_is_left_to_msgspec(odd: Value) -> None:
    assert is_refused_among_plain_ones(odd, UserEventCounted, [user_event(), user_event()])


def test_null_is_no_event_whatever_stands_there() -> None:
    for starts in ([0], [0, 0]):
        lengths = array("i", [len(user_event()), -1][-len(starts) :])
        found = Located(user_event(), array("q", starts), lengths)
        assert reader(UserEventCounted).read(found, range(len(starts))) is None


def test_no_event_is_read_before_its_last_byte() -> None:
    for values in (*PLAIN.values(), [reading()]):
        event = SensorReadingCounted if values == [reading()] else UserEventCounted
        whole = values[-1].rstrip()
        for length in range(len(whole)):
            assert read([whole[:length]], event) is None
            assert read([whole, whole[:length]], event) is None


# Any events, in any form


def assert_as_decoded(columns: Columns, values: Sequence[bytes], event: Any) -> None:
    """What is read of all these values is what msgspec decodes of each."""
    decode = decoder(event)
    events = [decode(value) for value in values]
    for field in fields_of(event, ()):
        name = field.name
        decoded = [getattr(one, name) for one in events]
        present = [index for index, one in enumerate(decoded) if one is not UNSET]
        lengths = reader(event).places(name)[1]
        assert [index for index in range(len(events)) if lengths[index]] == present
        tokens = columns.tokens(name, array("i", present))
        found = [
            msgspec.json.decode(token, type=type(decoded[index]))
            for token, index in zip(tokens, present, strict=True)
        ]
        assert found == [decoded[index] for index in present], name
        if field.choices:
            assert columns.tally(name) == Counter(decoded[index] for index in present)
        if len(present) < len(events):
            continue
        for choice in field.choices:
            assert columns.indexes(name, choice).tolist() == [
                index for index, one in enumerate(decoded) if one == choice
            ]
        if isinstance(decoded[0], int):
            assert columns.whole(name).tolist() == decoded
        elif isinstance(decoded[0], float):
            groups = columns.groups("sensor_id")
            due = [decoded[index] for index in groups.order]
            assert bits(columns.number(name, groups)) == bits(due)
        elif not field.choices:
            assert [columns.text(name, index) for index in range(len(events))] == decoded
            assert_grouped(columns, name, decoded)
    for name in TOKENS[event]:
        whole = [msgspec.json.decode(value) for value in values]
        with_it = array("i", [index for index, one in enumerate(whole) if name in one])
        tokens = columns.tokens(name, with_it)
        assert [msgspec.json.decode(token) for token in tokens] == [whole[index][name] for index in with_it]
    assert columns.run == run_of(events)


def assert_grouped(columns: Columns, name: str, decoded: Sequence[str]) -> None:
    groups = columns.groups(name)
    due: dict[str, list[int]] = {}
    for index, text in enumerate(decoded):
        due.setdefault(text, []).append(index)
    begins = [0, *groups.ends]
    found = [groups.order[begin:end].tolist() for begin, end in zip(begins, groups.ends, strict=False)]
    assert list(zip(columns.texts(name, groups), found, strict=True)) == list(due.items())


def run_of(events: Sequence[Any]) -> tuple[Any, Any] | None:
    sources, seqs = {one.source for one in events}, [one.seq for one in events]
    if sources == {UNSET} == set(seqs):
        return UNSET, UNSET
    if len(sources) > 1 or UNSET in sources or UNSET in seqs:
        return None
    first = seqs[0]
    return (events[0].source, first) if seqs == [first + place for place in range(len(seqs))] else None


CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters='"\\')


def plain_texts(min_size: int = 0, max_size: int | None = None) -> st.SearchStrategy[str]:
    return st.text(CHARACTERS, min_size=min_size, max_size=max_size).map('"{}"'.format)


def texts(max_size: int | None = None) -> st.SearchStrategy[str]:
    return st.builds(json.dumps, st.text(max_size=max_size), ensure_ascii=st.booleans())


def numbers(values: st.SearchStrategy[float]) -> st.SearchStrategy[str]:
    """In all the ways that a number is written, some of which are none."""
    ways = ["{!r}", "{:.0f}", "{:.1f}", "{:.6f}", "{:.17g}", "{:e}", "{:.30f}", "0{!r}", "-{!r}"]
    return st.builds(str.format, st.sampled_from(ways), values)


def choices(of: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(of).map(json.dumps)


UNKNOWN_VALUES = st.recursive(
    st.one_of(st.sampled_from(list(UNKNOWN.values())), texts(max_size=12), numbers(st.floats())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda found: "[" + ", ".join(found) + "]"),
        st.lists(st.tuples(texts(max_size=4), inner), max_size=3).map(
            lambda found: "{" + " ,".join(" :".join(pair) for pair in found) + "}"
        ),
    ),
    max_leaves=6,
)
TIMES = st.builds(
    lambda at, spec, zone: json.dumps(at.replace(tzinfo=zone).isoformat(timespec=spec)),
    st.datetimes(),
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
    st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=23))]),
)
# As most are.
PLAIN_FIELDS: dict[Any, dict[str, st.SearchStrategy[str]]] = {
    UserEventCounted: {
        "user_id": st.integers(0, 10**18 - 1).map(str),
        "action": choices(ACTIONS),
        "device": choices(DEVICES),
        "page": plain_texts(max_size=30),
        "timestamp": TIMES,
    },
    SensorReadingCounted: {
        "sensor_id": st.one_of(choices(["a", "b", "temperature"]), plain_texts(min_size=1, max_size=20)),
        "value": st.one_of(
            st.integers(-(10**15), -1).map(str),
            st.decimals(-(10**9), 10**9, places=3).map(lambda one: str(abs(one))),
            st.floats(1, 1e9).map("{:.2f}".format),
        ),
        "timestamp": st.floats(1, 1e9).map("{:.6f}".format),
        "location": plain_texts(max_size=20),
    },
}
# And as they may be.
ANY_FIELDS: dict[Any, dict[str, st.SearchStrategy[str]]] = {
    UserEventCounted: {
        "user_id": st.one_of(
            st.integers(0, 2_000).map(str), st.integers(-2, 2**64).map(str), numbers(st.integers(0, 99))
        ),
        "action": choices([*ACTIONS, "purchase", "purchase", "buy"]),
        "device": choices([*DEVICES, "watch"]),
        "page": st.one_of(plain_texts(max_size=30), texts(), UNKNOWN_VALUES),
        "timestamp": st.one_of(TIMES, TIMES, texts()),
    },
    SensorReadingCounted: {
        "sensor_id": texts(max_size=129),
        "value": numbers(st.one_of(st.floats(-1e3, 1e3), st.floats(), st.integers(-(10**17), 10**17))),
        "timestamp": numbers(st.one_of(st.floats(0, 2e9), st.floats(), st.integers(0, 2**60))),
        "location": texts(max_size=129),
    },
}
SOURCES = st.one_of(st.sampled_from(["gen-1", "ü" * 64]), st.text(CHARACTERS, min_size=1, max_size=64))
SPACES = ["", "", " ", "  ", "\n", "\r\n\t "]


class Form(NamedTuple):
    """How events are written: members of all, which are few, and a seed for order and whitespace."""

    more: dict[str, str]
    seed: int
    is_ordered: bool
    has_spaces: bool


def forms(unknown: st.SearchStrategy[str]) -> st.SearchStrategy[Form]:
    names = st.sampled_from(["ip", "x", "user", "y2", "a rather long name of a field"])
    return st.builds(
        Form, st.dictionaries(names, unknown, max_size=2), st.integers(0, 2**32), st.booleans(), st.booleans()
    )


def written(events: Sequence[Raw], form: Form) -> list[bytes]:
    random = Random(form.seed)
    made = []
    for one in events:
        members = list((one | form.more).items())
        if not form.is_ordered:
            random.shuffle(members)

        def space() -> str:
            return random.choice(SPACES) if form.has_spaces else ""

        inner = ",".join(f'{space()}"{name}"{space()}:{space()}{raw}{space()}' for name, raw in members)
        made.append(f"{space()}{{{inner}}}{space()}".encode())
    return made


def numbered(events: list[Raw], source: str | None, first: int) -> list[Raw]:
    if source is None:
        return events
    return [one | {"source": f'"{source}"', "seq": str(first + place)} for place, one in enumerate(events)]


def events_of(
    fields: dict[Any, dict[str, st.SearchStrategy[str]]],
    event: Any,
    unknown: st.SearchStrategy[str],
) -> st.SearchStrategy[list[bytes]]:
    raw = st.lists(st.fixed_dictionaries(fields[event]), min_size=1, max_size=4)
    runs = st.builds(numbered, raw, st.one_of(st.none(), SOURCES), st.integers(0, 10**17))
    return st.builds(written, runs, forms(unknown))


SPOILING = b'"\\{}[]:, \t\n\r0123456789-+.eEunTZ/'
SPOILING += b"\x00\x1f\x7f\x80\xc0\xc3\xa9\xed\xa0\xf0\x9f\xf4\x90\xff\xef\xbb\xbf"


def spoiled(values: Sequence[bytes], random: Random) -> list[bytes]:
    """Change a byte here and there: put another in its place, leave some out, have some twice."""
    changed = [bytearray(one) for one in values]
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        one = random.choice(changed)
        at, way = random.randrange(len(one)), random.randrange(6)
        if way < 2:
            one[at] ^= random.choice([1, 2, 4, 8, 16, 32])
        elif way < 4:
            one[at : at + way % 2] = bytes([random.choice(SPOILING)])
        elif way == 4:
            del one[at : at + random.randrange(1, 6)]
        else:
            begin = random.randrange(len(one) + 1)
            one[at:at] = one[begin : begin + random.randrange(1, 24)]
        one += b"" if one else b" "
    return [bytes(one) for one in changed]


def both(kinds: Callable[[Any], st.SearchStrategy[list[bytes]]]) -> st.SearchStrategy[Any]:
    return st.one_of(
        [st.tuples(st.just(event), kinds(event)) for event in (UserEventCounted, SensorReadingCounted)]
    )


@REPEATABLE
@given(both(lambda event: events_of(PLAIN_FIELDS, event, st.sampled_from(list(UNKNOWN.values())))))
def test_all_that_is_plain_is_read_as_msgspec_decodes_it(drawn: tuple[Any, list[bytes]]) -> None:
    event, values = drawn
    columns = read(values, event)
    assert columns is not None
    assert_as_decoded(columns, values, event)


@REPEATABLE
@given(
    drawn=both(
        lambda event: st.one_of(
            events_of(ANY_FIELDS, event, UNKNOWN_VALUES), events_of(PLAIN_FIELDS, event, UNKNOWN_VALUES)
        )
    ),
    seed=st.integers(0, 2**32),
)
def test_whatever_is_read_msgspec_decodes_to_the_same(drawn: tuple[Any, list[bytes]], seed: int) -> None:
    event, values = drawn
    random = Random(seed)
    for some in (values, *(spoiled(values, random) for _ in range(30))):
        columns = read(some, event)
        if columns is not None:
            assert_as_decoded(columns, some, event)


# Groups


def test_groups_are_those_of_the_same_text_in_the_order_of_their_first_events() -> None:
    names = ["b", "a", "b", "c" * 9, "c" * 8, "a", "c" * 9, "c" * 10, "b"]
    values = [reading({"sensor_id": f'"{name}"', "value": str(place)}) for place, name in enumerate(names)]
    columns = read(values, SensorReadingCounted)
    assert columns is not None
    groups = columns.groups("sensor_id")
    assert groups.order.tolist() == [0, 2, 8, 1, 5, 3, 6, 4, 7]
    assert groups.ends.tolist() == [3, 5, 7, 8, 9]
    assert columns.texts("sensor_id", groups) == ["b", "a", "c" * 9, "c" * 8, "c" * 10]
    assert columns.number("value", groups) == [0.0, 2.0, 8.0, 1.0, 5.0, 3.0, 6.0, 4.0, 7.0]


@REPEATABLE
@given(
    st.lists(st.one_of(st.sampled_from(["a", "b"]), st.text(CHARACTERS, min_size=1, max_size=30)), min_size=1)
)
def test_groups_hold_each_event_once_whatever_the_texts(names: list[str]) -> None:
    columns = read([reading({"sensor_id": f'"{name}"'}) for name in names], SensorReadingCounted)
    assert columns is not None
    assert_grouped(columns, "sensor_id", names)


# Texts


class Bought(msgspec.Struct):
    """What a purchase has to have, whichever way it goes."""

    user_id: UserId
    page: Page
    timestamp: str
    device: str


def purchase_text(demands: dict[str, Demand] | None = None) -> TextOf:
    return TextOf(
        Purchase,
        constants={"topic": TOPIC, "partition": PARTITION},
        offset="offset",
        demands={"page": plain_text(2_048), "timestamp": TIME} if demands is None else demands,
    )


PURCHASE = purchase_text()


def purchase_of(value: Value, index: int) -> bytes | None:
    """Return the text that is published where objects are made, or None where it is a dead letter."""
    try:
        bought: Bought = decoder(Bought)(value or b"")
    except UNDECODABLE:
        return None
    if not is_iso_8601(bought.timestamp):
        return None
    fields = msgspec.structs.asdict(bought)
    return msgspec.json.encode(
        Purchase(**fields, topic=TOPIC, partition=PARTITION, offset=FIRST_OFFSET + index)
    )


def written_of(changes: Raw) -> bytes | None:
    """Return the text of one event with these fields; what is written is what is published otherwise."""
    value = user_event(changes)
    columns = read([user_event(), value])
    assert columns is not None
    found = columns.write(PURCHASE, array("i", [1]))
    if found is None:
        return None
    assert found == [purchase_of(value, 1)]
    return found[0]


@REPEATABLE
@given(events_of(PLAIN_FIELDS, UserEventCounted, st.sampled_from(list(UNKNOWN.values()))))
def test_every_plain_purchase_is_written_as_msgspec_encodes_it(values: list[bytes]) -> None:
    columns = read(values)
    assert columns is not None
    due = [purchase_of(value, index) for index, value in enumerate(values)]
    assert columns.write(PURCHASE, all_of(columns)) == due
    some = columns.indexes("action", "purchase")
    assert columns.write(PURCHASE, some) == [due[index] for index in some]
    assert columns.write(PURCHASE, array("i")) == []


@REPEATABLE
@given(
    values=st.one_of(
        events_of(ANY_FIELDS, UserEventCounted, UNKNOWN_VALUES),
        events_of(PLAIN_FIELDS, UserEventCounted, UNKNOWN_VALUES),
    ),
    seed=st.integers(0, 2**32),
)
def test_whatever_is_written_is_what_msgspec_encodes(values: list[bytes], seed: int) -> None:
    random = Random(seed)
    for some in (values, *(spoiled(values, random) for _ in range(30))):
        columns = read(some)
        found = columns and columns.write(PURCHASE, all_of(columns))
        if found is not None:
            assert found == [purchase_of(value, index) for index, value in enumerate(some)]


@pytest.mark.parametrize(
    "page",
    ['""', '"/"', '"\x7f"', '"\u2028</>&"', f'"{"p" * 2_048}"', f'"{"é" * 1_024}"', f'"{"😀" * 512}"'],
    ids=ascii,
)
def test_a_page_of_as_many_bytes_as_it_may_have_characters_is_written(page: str) -> None:
    assert written_of({"page": page}) is not None


@pytest.mark.parametrize(
    "page",
    [
        *[r'"\n"', r'"a\/b"', r'"\\"', f'"{"p" * 2_049}"', f'"{"é" * 1_025}"'],
        *["5", "null", "true", '["/"]', '{"/":1}'],
    ],
    ids=ascii,
)
def test_a_page_with_escapes_too_many_bytes_or_no_text_is_not_written(page: str) -> None:
    assert written_of({"page": page}) is None


@pytest.mark.parametrize("name", ["page", "timestamp"])
def test_a_purchase_without_one_of_its_fields_is_not_written(name: str) -> None:
    columns = read([user_event(), without(name), user_event()])
    assert columns is not None
    assert columns.write(PURCHASE, all_of(columns)) is None
    assert columns.write(PURCHASE, array("i", [0, 2])) == [purchase_of(user_event(), at) for at in (0, 2)]


def test_there_is_room_for_the_longest_texts() -> None:
    longest = user_event(
        {
            "user_id": "9" * 18,
            "page": f'"{"p" * 2_048}"',
            "timestamp": '"2023-11-14T22:13:20.123456+05:30"',
            "device": '"desktop"',
        }
    )
    first = MAX_INT64 - 4
    columns = reader(UserEventCounted).read(located([longest] * 5), range(first, first + 5))
    assert columns is not None
    found = columns.write(PURCHASE, all_of(columns))
    assert found is not None
    assert [json.loads(one)["offset"] for one in found] == [first + place for place in range(5)]


def test_texts_of_one_kind_come_from_any_reader() -> None:
    text = purchase_text()
    for tokens in (("page", "timestamp"), ("timestamp", "ip", "page")):
        read_by = reader(UserEventCounted, tokens)
        columns = read_by.read(located([user_event()]), range(FIRST_OFFSET, FIRST_OFFSET + 1))
        assert columns is not None
        assert columns.write(text, array("i", [0])) == [purchase_of(user_event(), 0)]


def test_what_was_not_checked_is_not_written() -> None:
    columns = read([user_event()])
    assert columns is not None
    with pytest.raises(NotPlainError, match="page"):
        columns.write(purchase_text({"timestamp": TIME}), array("i", [0]))


# Times


@pytest.mark.parametrize("zone", ["", "Z", "+00:00", "-00:00", "+05:30", "-23:59", "+23:59"])
@pytest.mark.parametrize("fraction", ["", ".000", ".123", ".000000", ".999999"])
def test_a_time_of_the_usual_forms_is_written(fraction: str, zone: str) -> None:
    assert written_of({"timestamp": f'"2024-02-29T23:59:59{fraction}{zone}"'}) is not None


@pytest.mark.parametrize(
    "time",
    [
        *["", "yesterday", "2024-02-29", "2024-02-29T00:00", "20240229T000000", "2024-W09-4T00:00:00"],
        *["2024-02-29 00:00:00", "2024-02-29t00:00:00", "2024-02-29T00.00.00", "٢024-02-29T00:00:00"],
        *[f"2024-02-29T00:00:00{more}" for more in (".", ".5", ".1234", ".1234567", ",123", ".12Z", ".Z")],
        *[f"2024-02-29T00:00:00{more}" for more in ("z", "ZZ", "Z ", " ", "+", "+05", "+0530", "+05:30:15")],
        *[f"2024-02-29T00:00:00{more}" for more in (" 05:30", "+05:3", "+05:300", "+5:30", "Z+05:30")],
    ],
    ids=ascii,
)
def test_a_time_of_another_form_is_not_written(time: str) -> None:
    assert written_of({"timestamp": json.dumps(time, ensure_ascii=False)}) is None


def test_days_and_times_are_those_that_there_are() -> None:
    def is_day(year: int, month: int, day: int) -> bool:
        try:
            return bool(date(year, month, day))
        except ValueError:
            return False

    due = {}
    for year in (0, 1, 4, 100, 400, 1900, 2000, 2023, 2024, 2100, 9999):
        for month in range(14):
            for day in range(33):
                due[f"{year:04}-{month:02}-{day:02}T00:00:00"] = is_day(year, month, day)
    for part in range(100):
        due[f"2024-02-29T{part:02}:00:00"] = part < 24
        due[f"2024-02-29T00:{part:02}:00"] = part < 60
        due[f"2024-02-29T00:00:{part:02}"] = part < 60
        due[f"2024-02-29T00:00:00+{part:02}:00"] = part < 24
        due[f"2024-02-29T00:00:00.000-00:{part:02}"] = part < 60
    found = {text: written_of({"timestamp": f'"{text}"'}) is not None for text in due}
    assert found == due


TIME_CHARACTERS = "0123456789" * 3 + "-:.,TtZz+ W/٣"


@REPEATABLE
@given(
    time=TIMES, zone=st.sampled_from(["", "", "Z", "+0530", "+05", "+05:30:15"]), seed=st.integers(0, 2**32)
)
def test_no_time_is_written_that_is_not_iso_8601(time: str, zone: str, seed: int) -> None:
    random = Random(seed)
    for number in range(30):
        text = list(time[1:-1] + zone)
        for _ in range(number and random.randrange(1, 3)):
            at = random.randrange(len(text) + 1)
            text[at : at + random.randrange(2)] = random.choice(["", *TIME_CHARACTERS])
        written_of({"timestamp": json.dumps("".join(text), ensure_ascii=False)})


# Record batches

Headers = list[tuple[str, bytes | None]]


class Kept(NamedTuple):
    """What a record batch is made of; None for null."""

    key: bytes | None
    value: bytes | None
    headers: Headers


FIRST_TIMESTAMP = 1_700_000_000_000
HEADER = struct.Struct(">qiibIhiqqqhii")
LENGTH, LENGTH_AT, LENGTH_COUNTS_FROM = struct.Struct(">i"), 8, 12


def answer(records: Sequence[Kept], offsets: Sequence[int] | None = None) -> bytes:
    """A batch as a broker sends it."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**24)
    for offset, one in zip(offsets or range(len(records)), records, strict=True):
        builder.append(offset, FIRST_TIMESTAMP + 1_000 * offset, one.key, one.value, one.headers)
    return bytes(builder.build())


class Found(NamedTuple):
    """What the compiled part says of records: where they end, or -1; their values; of the first, the time."""

    end: int
    values: list[Value]
    first_timestamp: int


def locate(
    data: bytes, count: int, *, start: int = HEADER.size, end: int | None = None, first: int = 0
) -> Found:
    starts, lengths, delta = array("q", [0] * count), array("i", [0] * count), ctypes.c_int64()
    found = library().tandem_locate(
        data,
        start,
        len(data) if end is None else end,
        first,
        count,
        starts.buffer_info()[0],
        lengths.buffer_info()[0],
        ctypes.addressof(delta),
    )
    values = Located(data, starts, lengths).values() if found >= 0 else []
    return Found(found, values, FIRST_TIMESTAMP + delta.value)


def by_the_client(data: bytes) -> list[Any] | None:
    """Return what the client unpacks, or None where it raises."""
    try:
        return list(MemoryRecords(data).next_batch())
    except (KafkaError, UnicodeDecodeError):
        return None


LOCATED: dict[str, list[Kept]] = {
    "a value": [Kept(b"key", b"value", [])],
    "no key": [Kept(None, b"value", [])],
    "no value": [Kept(b"key", None, [])],
    "neither": [Kept(None, None, [])],
    "empty ones": [Kept(b"", b"", [])],
    "headers": [Kept(b"key", b"value", [("name", b"value"), ("other", None), ("third", b"")])],
    "a header without a name": [Kept(b"key", b"value", [("", b"value")])],
    "long ones": [Kept(b"k" * 200, b"v" * 70_000, [("n" * 200, b"h" * 9_000)])],
    "all of them": [Kept(b"k", b"v", []), Kept(None, None, [("n", b"h")]), Kept(b"", b"", [])],
    "many": [Kept(str(number).encode(), b"v" * number, []) for number in range(300)],
}


@pytest.mark.parametrize("records", LOCATED.values(), ids=list(LOCATED))
def test_values_are_located_where_the_client_finds_them(records: list[Kept]) -> None:
    data = answer(records)
    unpacked = by_the_client(data)
    assert unpacked is not None
    due = [record.value for record in unpacked]
    assert due == [one.value for one in records]
    assert locate(data, len(records)) == (len(data), due, FIRST_TIMESTAMP)
    # With other bytes behind them, and piece by piece.
    assert locate(data + b"\x20more", len(records), end=len(data)) == (len(data), due, FIRST_TIMESTAMP)
    at = HEADER.size
    values: list[Value] = []
    for number, record in enumerate(unpacked):
        found = locate(data, 1, start=at, first=number)
        assert found.first_timestamp == record.timestamp
        at, values = found.end, values + found.values
    assert (at, values) == (len(data), due)


@pytest.mark.parametrize("name", ["ü", "eight or more ü", "名"])
def test_a_header_whose_name_is_not_ascii_is_left_to_the_client(name: str) -> None:
    records = [Kept(b"k", b"v", []), Kept(b"k", b"v", [("n", b"h"), (name, b"h")]), Kept(b"k", b"v", [])]
    assert by_the_client(answer(records)) is not None
    assert locate(answer(records), 3).end == -1


@pytest.mark.parametrize("offsets", [[0, 2, 3], [1, 2, 3], [0, 1, 3], [0, 0, 1], [0, 2, 1]])
def test_records_whose_offsets_have_a_gap_are_left_to_the_client(offsets: list[int]) -> None:
    data = answer([Kept(b"k", b"v", [])] * 3, offsets)
    assert locate(data, 3).end == -1


def test_records_are_counted_from_the_first_that_is_asked_for() -> None:
    data = answer([Kept(b"k", b"v", [])] * 3, [7, 8, 9])
    assert locate(data, 3, first=7).end == len(data)
    assert [locate(data, 3, first=first).end for first in (0, 6, 8, -7)] == [-1] * 4


@pytest.mark.parametrize("records", list(LOCATED.values())[:-3], ids=list(LOCATED)[:-3])
def test_no_record_is_located_before_its_last_byte(records: list[Kept]) -> None:
    data = answer(records)
    for end in range(HEADER.size, len(data)):
        assert locate(data, len(records), end=end).end == -1
        assert locate(data[:end], len(records)).end == -1
    assert locate(data, len(records) + 1).end == -1


@pytest.mark.parametrize(
    "record",
    [
        "",
        "80",
        "ff" * 12,
        "00",  # A record of no bytes,
        "01",  # and of fewer.
        "0c 00 00 00 01 01",  # Of fewer than it says,
        "0a 00 00 00 01 01 00",  # of more,
        "0e 00 00 00 01 01 00 00",  # and with something left over.
        "0c 00 00 00 02 01 00",  # A key that is longer than the record,
        "0c 00 00 00 01 02 00",  # and a value.
        "0c 00 00 00 01 01 01",  # Fewer headers than none,
        "0c 00 00 00 01 01 02",  # and one that is missing.
        "10 00 00 00 01 01 02 01 01",  # A header whose name is null.
        "1e 00 00 00 fe ff ff ff ff ff ff ff ff 01 01 00",  # Lengths that no memory has,
        "1e 00 00 00 01 fe ff ff ff ff ff ff ff ff 01 00",
        "20 00 00 00 01 01 fe ff ff ff ff ff ff ff ff 01",  # and as many headers.
        "2a 00 ff ff ff ff ff ff ff ff ff ff ff ff 01 00 01 01 00",  # A number of more than 64 bits.
    ],
)
def test_what_is_no_record_is_not_located(record: str) -> None:
    sound = bytes.fromhex("0c 00 00 00 01 01 00")
    assert locate(sound, 1, start=0) == (len(sound), [None], FIRST_TIMESTAMP)
    assert locate(bytes.fromhex(record), 1, start=0).end == -1


def test_attributes_of_a_record_that_the_client_would_take_for_more_are_left_to_it() -> None:
    data = answer([Kept(b"k", b"v", [])])
    for attributes, due in ((0, len(data)), (0x7F, len(data)), (0x80, -1), (0xFF, -1)):
        changed = bytearray(data)
        changed[HEADER.size + 1] = attributes
        assert locate(bytes(changed), 1).end == due


def respoiled(data: bytes, random: Random) -> bytes:
    """Change some of a batch's records, but not its header, which has a checksum and is the client's."""
    changed = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        at, way = random.randrange(HEADER.size, len(changed)), random.randrange(5)
        if way == 0:
            changed[at] ^= 1 << random.randrange(8)
        elif way == 1:
            changed[at] = random.choice([0, 1, 2, 3, 0x7F, 0x80, 0xFF])
        elif way == 2:  # The same number in more bytes.
            changed[at : at + 1] = bytes([changed[at] | 0x80, random.choice([0, 0x80, 1])])
        elif way == 3:
            changed[at:at] = bytes([random.choice([0, 1, 2])])
        elif at > HEADER.size:
            del changed[at]
    LENGTH.pack_into(changed, LENGTH_AT, len(changed) - LENGTH_COUNTS_FROM)
    return bytes(changed)


BYTES = st.one_of(st.none(), st.binary(max_size=12), st.binary(min_size=60, max_size=70))
RECORDS = st.lists(
    st.builds(
        Kept,
        BYTES,
        BYTES,
        st.lists(st.tuples(st.one_of(st.text("abc", max_size=5), st.text(max_size=5)), BYTES), max_size=2),
    ),
    min_size=1,
    max_size=5,
)


@REPEATABLE
@given(records=RECORDS, seed=st.integers(0, 2**32))
def test_whatever_is_located_the_client_unpacks_to_the_same(records: list[Kept], seed: int) -> None:
    random, data = Random(seed), answer(records)
    is_plain = all(name.isascii() for one in records for name, _ in one.headers)
    assert locate(data, len(records)).end == (len(data) if is_plain else -1)
    for some in (data, *(respoiled(data, random) for _ in range(50))):
        found = locate(some, len(records))
        if found.end != len(some):
            continue
        unpacked = by_the_client(some)
        assert unpacked is not None
        assert [(one.offset, one.value) for one in unpacked] == list(enumerate(found.values))
        assert unpacked[0].timestamp == found.first_timestamp


# Memory


def at_the_edge(what: str) -> int:
    command = [sys.executable, "-m", "tests.unit.at_the_edge", what, str(location())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode <= 0, done.stderr
    return done.returncode


def test_nothing_is_touched_beyond_the_bytes_that_were_given() -> None:
    library()
    assert at_the_edge("walk") == 0
    assert at_the_edge("touch") < 0, "who touches it is ended"


# Which structs are read


class TwoFields(Sourced):
    number: int
    text: str


class Renamed(Sourced, rename={"number": "n", "text": "the text"}):
    number: int
    text: str


class AsArray(Sourced, array_like=True):
    number: int


class Tagged(Sourced, tag="it"):
    number: int


class Strict(Sourced, forbid_unknown_fields=True):
    number: int


class Looking(Sourced):
    number: int

    def __post_init__(self) -> None:
        """Have a look."""


class WithoutSource(msgspec.Struct):
    number: int
    seq: int | UnsetType = UNSET


class WithoutSeq(msgspec.Struct):
    number: int
    source: str | UnsetType = UNSET


class OtherSource(msgspec.Struct, rename={"source": "from"}):
    source: str | UnsetType = UNSET
    seq: int | UnsetType = UNSET


def struct_of(annotation: Any, *default: Any) -> type[msgspec.Struct]:
    field = ("field", annotation, *default)
    return msgspec.defstruct("Made", [field], bases=(Sourced,), kw_only=True)


def struct_with(count: int) -> type[msgspec.Struct]:
    return msgspec.defstruct("Made", [(f"field{number}", int) for number in range(count)], bases=(Sourced,))


@pytest.mark.parametrize(
    "event", [AsArray, Tagged, Strict, Looking, WithoutSource, WithoutSeq, OtherSource, struct_with(63)]
)
def test_a_struct_that_is_more_than_its_fields_is_not_read(event: Any) -> None:
    with pytest.raises(NotPlainError):
        fields_of(event, ())


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[int, Meta(gt=0)],
        Annotated[int, Meta(lt=10)],
        Annotated[int, Meta(multiple_of=2)],
        Annotated[float, Meta(gt=0)],
        Annotated[float, Meta(lt=1.5)],
        Annotated[float, Meta(multiple_of=0.5)],
        Annotated[str, Meta(pattern="^a")],
        Literal[1, 2],
        Literal['a"b'],
        Literal["a\\b"],
        Literal["ü"],
        Literal["a\n"],
        Literal[tuple(map(str, range(256)))],
        int | None,
        str | None,
        int | str,
        int | float,
        int | None | UnsetType,
        bool,
        bytes,
        datetime,
        Any,
        None,
        list[int],
        tuple[int, ...],
        dict[str, int],
        TwoFields,
        msgspec.Raw,
    ],
    ids=repr,
)
def test_a_field_of_a_type_that_has_no_column_is_not_read(annotation: Any) -> None:
    fields_of(struct_of(int), ())
    with pytest.raises(NotPlainError):
        fields_of(struct_of(annotation), ())


@pytest.mark.parametrize("default", [0, None, msgspec.field(default=5), msgspec.field(default_factory=int)])
def test_a_field_with_a_default_is_not_read(default: Any) -> None:
    with pytest.raises(NotPlainError, match="missing"):
        fields_of(struct_of(int, default), ())


@pytest.mark.parametrize("name", ["ü", "\x7f"])
def test_a_field_whose_name_does_not_stand_in_json_as_it_is_is_not_read(name: str) -> None:
    event = msgspec.defstruct("Made", [("field", int, msgspec.field(name=name))], bases=(Sourced,))
    with pytest.raises(NotPlainError):
        fields_of(event, ())


@pytest.mark.parametrize("name", ["ü", 'a"b', "a\\b", "a\n", "\x7f"])
def test_nor_is_such_a_token(name: str) -> None:
    with pytest.raises(NotPlainError):
        fields_of(TwoFields, (name,))


@pytest.mark.parametrize(
    "fields",
    [
        [("source", int), ("seq", int)],
        [("source", str), ("seq", str)],
        [("source", str)],
        [("seq", int)],
        [("field", int)],
    ],
)
def test_an_event_without_a_source_and_its_numbers_is_not_read(fields: list[tuple[str, Any]]) -> None:
    with pytest.raises(NotPlainError, match="source"):
        fields_of(msgspec.defstruct("Made", fields), ())


def test_texts_are_written_of_events_that_were_read_and_as_often_as_they_are_named() -> None:
    event = user_event({"action": '"purchase"'})
    columns = read([event, event])
    assert columns is not None
    text = text_of()
    once = columns.write(text, array("i", [1]))
    assert once is not None
    assert columns.write(text, array("i", [1, 1])) == once * 2
    for beyond in (2, -1, 2**31 - 1):
        assert columns.write(text, array("i", [0, beyond])) is None


def text_of(struct: Any = Purchase, **changes: Any) -> TextOf:
    demands = {"page": plain_text(2_048), "timestamp": TIME}
    how = {"constants": {"topic": "t", "partition": 3}, "offset": "offset", "demands": demands}
    return TextOf(struct, **(how | changes))


class LeavesOut(msgspec.Struct, omit_defaults=True):
    user_id: int = 0


class PublishedAsArray(msgspec.Struct, array_like=True):
    user_id: int


class WithTag(msgspec.Struct, tag="x"):
    user_id: int


class AsFraction(msgspec.Struct):
    user_id: float


class OfNobody(msgspec.Struct):
    stranger: int


@pytest.mark.parametrize("struct", [LeavesOut, PublishedAsArray, WithTag])
def test_what_is_no_object_with_all_its_fields_is_not_written(struct: Any) -> None:
    with pytest.raises(NotPlainError):
        text_of(struct)


@pytest.mark.parametrize(
    "text",
    [
        text_of(AsFraction),
        text_of(OfNobody),
        text_of(demands={"timestamp": TIME}),  # A page that nobody looks at.
        text_of(demands={"page": plain_text(9), "timestamp": TIME, "user_id": plain_text(9)}),
    ],
)
def test_what_would_not_be_as_msgspec_has_it_is_not_written(text: TextOf) -> None:
    columns = read([user_event({"action": '"purchase"'})])
    assert columns is not None
    with pytest.raises(NotPlainError):
        columns.write(text, array("i", [0]))


def test_nothing_is_no_run() -> None:
    columns = read([])
    assert columns is not None
    assert (len(columns), columns.run) == (0, None)


def test_tokens_count_among_the_fields_unless_they_are_fields() -> None:
    event = struct_with(61)
    assert len(fields_of(event, ("token",))) == 64
    assert len(fields_of(event, ("token", "field1"))) == 64
    with pytest.raises(NotPlainError):
        fields_of(event, ("token", "another"))


def test_all_of_64_fields_are_read_and_missed() -> None:
    event = struct_with(62)
    read_by = Reader(library(), fields_of(event, ()))
    whole = {f"field{number}": number for number in range(62)} | {"source": "s", "seq": 0}
    for missing in (None, "field0", "field31", "field32", "field61"):
        value = json.dumps({name: one for name, one in whole.items() if name != missing}).encode()
        columns = read_by.read(located([value, value]), range(2))
        assert (columns is None) == (missing is not None)
        if columns is not None:
            assert [columns.whole(f"field{number}")[1] for number in range(62)] == list(range(62))


def test_renamed_fields_are_read_by_the_names_they_have_in_json() -> None:
    assert [field.name for field in fields_of(Renamed, ())] == ["n", "the text", "source", "seq"]
    read_by = Reader(library(), fields_of(Renamed, ()))
    columns = read_by.read(located([b'{"n":5,"number":"x","the text":"y"}']), range(1))
    assert columns is not None
    assert columns.whole("n").tolist() == [5]
    assert columns.text("the text", 0) == "y"
    assert read_by.read(located([b'{"number":5,"text":"y"}']), range(1)) is None


BOUNDED = struct_of(Annotated[int, Meta(ge=-5, le=7)])
UNBOUNDED = struct_of(int)
FLOATS = struct_of(Annotated[float, Meta(ge=-0.5, le=7)])
SHORT = struct_of(Annotated[str, Meta(min_length=2, max_length=3)])
EMPTY = struct_of(Literal["", "a"])
MOST_CHOICES = struct_of(Literal[tuple(map(str, range(255)))])


@pytest.mark.parametrize(
    ("event", "taken", "left"),
    [
        (BOUNDED, ["-5", "0", "7"], ["-6", "8", "-0"]),
        (UNBOUNDED, ["9" * 18, "-" + "9" * 18], [str(2**63), str(-(2**63) - 1)]),
        (FLOATS, ["-0.5", "-0.4", "7", "7.0"], ["-0.51", "7.01", "8"]),
        (SHORT, ['"ab"', '"äöü"'], ['"a"', '"ä"', '"abcd"', '""']),
        (EMPTY, ['""', '"a"'], ['"b"', '"aa"']),
        (MOST_CHOICES, [f'"{number}"' for number in range(255)], ['"255"', '""']),
    ],
    ids=["whole", "unbounded", "number", "text", "choice", "choices"],
)
def test_bounds_are_those_of_the_struct(event: Any, taken: list[str], left: list[str]) -> None:
    read_by, decode = Reader(library(), fields_of(event, ())), decoder(event)
    for raw in taken:
        value = value_of({"field": raw})
        assert read_by.read(located([value]), range(1)) is not None, raw
        decode(value)
    for raw in left:
        assert read_by.read(located([value_of({"field": raw})]), range(1)) is None, raw
    if event is MOST_CHOICES:
        columns = read_by.read(located([value_of({"field": raw}) for raw in taken]), range(255))
        assert columns is not None
        assert [columns.indexes("field", str(number)).tolist() for number in range(255)] == [
            [number] for number in range(255)
        ]


@pytest.mark.parametrize("annotation", [int, str, float, Literal["a", "b"]])
def test_a_field_that_may_be_missing_is_not_read_unless_it_is_source_and_seq(annotation: Any) -> None:
    with pytest.raises(NotPlainError, match="missing"):
        fields_of(struct_of(annotation | UnsetType, UNSET), ())
