"""What `tandem send` makes of the lines of a file."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.console.lines import Format, Keys, Malformed, Outgoing, format_of, records, wrong_with

EVENT = {
    "user_id": 7,
    "action": "view",
    "page": "/page/1",
    "timestamp": "2026-01-01T00:00:00",
    "ip": "192.168.1.7",
    "device": "mobile",
}
LINE = json.dumps(EVENT).encode()
CSV = b"user_id,action,page,timestamp,ip,device\n7,view,/page/1,2026-01-01T00:00:00,192.168.1.7,mobile\n"


def read(
    content: bytes,
    form: Format = "jsonl",
    topic: str = "user_behavior",
    keys: Keys | None = None,
    *,
    raw: bool = False,
) -> list[Outgoing | Malformed]:
    return list(records(content.splitlines(keepends=True), form, topic, keys or Keys(topic), raw=raw))


def why(found: Iterable[Outgoing | Malformed]) -> list[tuple[int, str]]:
    return [(one.line, one.why) for one in found if isinstance(one, Malformed)]


def test_a_json_line_is_a_record_with_the_key_of_its_schema() -> None:
    assert read(LINE + b"\r\n\n  \n" + LINE) == [Outgoing(1, b"7", LINE), Outgoing(4, b"7", LINE)]


def test_the_value_goes_out_byte_for_byte() -> None:
    spaced = b"  " + LINE.replace(b":", b" : ", 1) + b" "
    (one,) = read(spaced)
    assert isinstance(one, Outgoing)
    assert one.value == spaced


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"user_id": "7"}, "user_id"),
        ({"action": "dance"}, "action"),
        ({"device": None}, "device"),
        ({"timestamp": "yesterday"}, "timestamp is not ISO 8601"),
        ({"ip": "300.1.1.1"}, "ip"),
        ({"source": "s"}, "source and seq go together"),
        ({"seq": 1}, "source and seq go together"),
    ],
)
def test_what_is_no_record_of_its_topic_is_named_with_its_line(change: dict[str, object], said: str) -> None:
    bad = json.dumps(EVENT | change).encode()
    found = read(LINE + b"\n" + bad + b"\n" + LINE)
    assert isinstance(found[0], Outgoing)
    assert isinstance(found[2], Outgoing)
    ((line, reason),) = why(found)
    assert line == 2
    assert said in reason
    assert [type(one) for one in read(bad, raw=True)] == [Outgoing]


@pytest.mark.parametrize("bad", [b"{", b"[1]", b"7", b"\xff", b"[" * 100_000, b'{"user_id":1}'])
def test_no_bytes_break_the_check(bad: bytes) -> None:
    assert wrong_with(bad, "user_behavior")


def test_a_topic_of_somebody_else_takes_any_json() -> None:
    assert why(read(b'{"a": 1}\n[2]\n"three"', topic="mine")) == []
    assert [line for line, _ in why(read(b'{"a": 1}\n{a}', topic="mine"))] == [2]


def test_a_dead_letter_may_be_anything() -> None:
    assert why(read(b"no json\n\xff\xfe", topic="dead_letters")) == []


def test_key_and_value_are_parted_by_the_first_tab() -> None:
    found = read(b"k\t" + LINE + b"\nno tab\n\t" + LINE + b"\n", "kv")
    assert found == [
        Outgoing(1, b"k", LINE),
        Malformed(2, "no tab between key and value"),
        Outgoing(3, b"", LINE),
    ]


def test_csv_takes_the_types_of_the_schema() -> None:
    (one,) = read(CSV, "csv")
    assert isinstance(one, Outgoing)
    assert (one.line, one.key, json.loads(one.value)) == (2, b"7", EVENT)


def test_csv_may_have_keys_and_topics_without_a_schema_text() -> None:
    found = read(b'\xef\xbb\xbfkey,a,b\nk1,1,x\n,2,"y\nz"\n', "csv", "mine")
    assert found == [
        Outgoing(2, b"k1", b'{"a":"1","b":"x"}'),
        Outgoing(4, None, b'{"a":"2","b":"y\\nz"}'),
    ]


def test_csv_says_which_line_is_wrong_and_goes_on() -> None:
    row = CSV.splitlines()[1]
    found = read(CSV + b"1,2\n" + row.replace(b"view", b"dance") + b"\n" + row + b"\n", "csv")
    assert [type(one) for one in found] == [Outgoing, Malformed, Malformed, Outgoing]
    (short, other) = why(found)
    assert short == (3, "2 fields, and the first line names 6")
    assert other[0] == 4
    assert "action" in other[1]


def test_csv_that_can_not_be_read_on_says_so() -> None:
    ((line, reason),) = why(read(CSV + b"\xff\n", "csv"))
    assert line == 3
    assert "the rest of the file is left out" in reason


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (Keys("user_behavior"), [b"7", b"7"]),
        (Keys("user_behavior", constant="k"), [b"k", b"k"]),
        (Keys("user_behavior", automatic=True), [b"key-0", b"key-1"]),
        (Keys("mine"), [None, None]),
    ],
)
def test_records_without_a_key_get_one(keys: Keys, wanted: list[bytes | None]) -> None:
    assert [one.key for one in read(LINE + b"\n" + LINE, keys=keys) if isinstance(one, Outgoing)] == wanted


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.jsonl", "jsonl"), ("A.CSV", "csv"), ("b.tsv", "kv"), ("-", "jsonl"), ("x.txt", "jsonl")],
)
def test_a_file_s_name_says_how_it_is_written(name: str, form: str) -> None:
    assert format_of(name) == form


@given(content=st.binary(max_size=200), form=st.sampled_from(["jsonl", "kv", "csv"]), raw=st.booleans())
def test_no_file_raises(content: bytes, form: Format, raw: bool) -> None:
    found = read(content, form, raw=raw)
    assert all(one.line >= 1 for one in found)
