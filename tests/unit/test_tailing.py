"""Which records `tandem tail` shows, and how."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from services.console.merge import Ends
from services.console.tailing import Start, Wanted, as_fields, as_line, last_of, parse_condition, parse_start

ENDS = Ends(100, 200)


@dataclass(frozen=True)
class Seen:
    """A record as the client gives it."""

    value: bytes | None = b'{"action":"view","user_id":7}'
    key: bytes | None = b"7"
    headers: tuple[tuple[str, bytes | None], ...] = ()
    topic: str = "user_behavior"
    partition: int = 2
    offset: int = 42
    timestamp: int = 1_700_000_000_123


@pytest.mark.parametrize(
    ("text", "offset"),
    [("beginning", 100), ("end", 200), ("150", 150), ("7", 100), ("900", 200), ("-10", 160), ("-1000", 100)],
)
def test_a_start_lies_within_what_the_partition_holds(text: str, offset: int) -> None:
    assert parse_start(text).offset(ENDS) == offset


@pytest.mark.parametrize(
    "text",
    ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20", "2023-11-14T23:13:20+01:00", "2023-11-14 22:13:20"],
)
def test_a_time_without_an_offset_is_in_utc(text: str) -> None:
    assert parse_start(text) == Start("time", 1_700_000_000_000)


def test_by_time_it_begins_at_the_record_found_and_without_one_at_the_end() -> None:
    start = parse_start("2023-11-14T22:13:20Z")
    assert (start.offset(ENDS, 120), start.offset(ENDS, None)) == (120, 200)


@pytest.mark.parametrize("text", ["", "start", "--5", "1.5", "-", "12:00", "٣"])
def test_what_is_no_start_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="is not beginning, end, an offset"):
        parse_start(text)


@pytest.mark.parametrize("text", ["", "field", "=value"])
def test_a_condition_has_a_field_and_a_value(text: str) -> None:
    with pytest.raises(ValueError, match="FIELD=VALUE"):
        parse_condition(text)


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Wanted(), True),
        (Wanted(keys=frozenset({b"7", b"8"})), True),
        (Wanted(keys=frozenset({b"8"})), False),
        (Wanted(fields=[("action", "view")]), True),
        (Wanted(fields=[("action", "view"), ("user_id", "7")]), True),
        (Wanted(fields=[("action", "view"), ("user_id", "8")]), False),
        (Wanted(fields=[("page", "")]), False),
    ],
)
def test_records_are_chosen_by_key_and_by_fields(wanted: Wanted, shown: bool) -> None:
    assert wanted.has(Seen()) is shown


@pytest.mark.parametrize("value", [None, b"", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_has_no_fields(value: bytes | None) -> None:
    assert not Wanted(fields=[("action", "view")]).has(Seen(value))
    assert Wanted().has(Seen(value))


def test_a_line_says_where_and_when_and_what() -> None:
    assert as_line(Seen(), headers=False) == (
        'user_behavior:2:42  2023-11-14T22:13:20.123+00:00  7  {"action":"view","user_id":7}'
    )


def test_nothing_that_is_shown_steers_the_terminal() -> None:
    line = as_line(Seen(b"\x1b[2J\nnext", b"a\tb", (("h", b"\x07"),)), headers=True)
    assert line == ("user_behavior:2:42  2023-11-14T22:13:20.123+00:00  a\\tb  \\x1b[2J\\nnext\n    h: \\x07")


def test_bytes_that_are_no_text_are_shown_as_digits_and_what_is_missing_as_that() -> None:
    assert as_line(Seen(None, b"\xff\x00"), headers=False).endswith("0xff00  -")
    fields = as_fields(Seen(b"\xfe", None, (("h", None),)), headers=True)
    assert (fields["key"], fields["value"], fields["headers"]) == (None, "0xfe", [["h", None]])
    assert as_fields(Seen(None), headers=False)["value"] is None


def test_machines_get_json_as_json() -> None:
    assert as_fields(Seen(), headers=False) == {
        "topic": "user_behavior",
        "partition": 2,
        "offset": 42,
        "timestamp": "2023-11-14T22:13:20.123+00:00",
        "key": "7",
        "value": {"action": "view", "user_id": 7},
    }


def test_the_last_ones_are_those_of_each_partition() -> None:
    records = [Seen(partition=number % 2, offset=number) for number in range(10)]
    assert [(one.partition, one.offset) for one in last_of(records, 2)] == [(0, 6), (0, 8), (1, 7), (1, 9)]
