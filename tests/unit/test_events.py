"""The input schema: which records are events, field by field, and what can be read of those that are not."""

from __future__ import annotations

import ipaddress
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from shared.events import (
    MAX_INT64,
    UNDECODABLE,
    SensorReading,
    UserEvent,
    UserEventCounted,
    decoder,
    is_iso_8601,
    readable_source,
)

USER_EVENT: dict[str, Any] = {
    "user_id": 1000,
    "action": "click",
    "page": "/page/1",
    "timestamp": "2023-11-14T22:13:20",
    "ip": "192.168.1.7",
    "device": "mobile",
}
READING: dict[str, Any] = {
    "sensor_id": "temperature",
    "value": 21.5,
    "timestamp": 1_700_000_000.25,
    "location": "server1",
}
SOURCE: dict[str, Any] = {"source": "gen-1", "seq": 0}
STRUCTS = [(UserEventCounted, USER_EVENT), (UserEvent, USER_EVENT), (SensorReading, READING)]
NUMBERED = st.fixed_dictionaries(
    {}, optional={"source": st.text(min_size=1, max_size=64), "seq": st.integers(0, MAX_INT64)}
)


def encoded(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode(errors="surrogatepass")


def is_refused(struct: type[Any], value: Any) -> bool:
    try:
        decoder(struct)(value)
    except UNDECODABLE:
        return True
    return False


def accepts(struct: type[Any], fields: dict[str, Any]) -> bool:
    return not is_refused(struct, encoded(fields))


@given(
    user_id=st.integers(0, MAX_INT64),
    action=st.sampled_from(["login", "logout", "click", "view", "purchase", "search"]),
    device=st.sampled_from(["mobile", "desktop", "tablet"]),
    page=st.text(max_size=2048),
    address=st.ip_addresses(v=4),
    numbered=NUMBERED,
)
def test_every_user_event_of_the_schema_is_decoded_as_it_was_made(
    *, user_id: int, action: str, device: str, page: str, address: object, numbered: dict[str, Any]
) -> None:
    fields = {
        "user_id": user_id,
        "action": action,
        "device": device,
        "page": page,
        "ip": str(address),
        "timestamp": "2023-11-14T22:13:20Z",
    } | numbered
    event = decoder(UserEvent)(encoded(fields))
    assert msgspec.to_builtins(event) == fields
    counted = decoder(UserEventCounted)(encoded(fields))
    assert (counted.user_id, counted.action, counted.device) == (user_id, action, device)
    assert (counted.source, counted.seq) == (numbered.get("source", UNSET), numbered.get("seq", UNSET))


@given(
    sensor_id=st.text(min_size=1, max_size=128),
    value=st.floats(-1e15, 1e15),
    timestamp=st.floats(0, 1e12),
    location=st.text(max_size=128),
    numbered=NUMBERED,
)
def test_every_reading_of_the_schema_is_decoded_as_it_was_made(
    sensor_id: str, value: float, timestamp: float, location: str, numbered: dict[str, Any]
) -> None:
    fields = {
        "sensor_id": sensor_id,
        "value": value,
        "timestamp": timestamp,
        "location": location,
    } | numbered
    assert msgspec.to_builtins(decoder(SensorReading)(encoded(fields))) == fields


USER_ID_IS_WRONG: list[Any] = [-1, 2**63, 1.5, 1000.0, True, None, "1000", [], {}]
SEQ_IS_WRONG: list[Any] = [-1, 2**63, 1.5, 0.0, True, None, "0"]
SOURCE_IS_WRONG: list[Any] = ["", "s" * 65, None, 7, True]


@pytest.mark.parametrize("struct", [UserEventCounted, UserEvent])
@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *[("user_id", wrong) for wrong in USER_ID_IS_WRONG],
        *[("action", wrong) for wrong in ["buy", "Click", "", None, 1, True]],
        *[("device", wrong) for wrong in ["watch", "Mobile", "", None, 1]],
        *[("source", wrong) for wrong in SOURCE_IS_WRONG],
        *[("seq", wrong) for wrong in SEQ_IS_WRONG],
    ],
    ids=repr,
)
def test_a_counted_field_of_a_user_event_outside_its_domain_is_refused(
    struct: type[Any], field: str, wrong: Any
) -> None:
    assert accepts(struct, USER_EVENT | SOURCE)
    assert not accepts(struct, USER_EVENT | SOURCE | {field: wrong})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *[("sensor_id", wrong) for wrong in ["", "s" * 129, None, 7]],
        *[("value", wrong) for wrong in [1.1e15, -1.1e15, 10**15 + 1, None, "21.5", True, [1.5]]],
        *[("timestamp", wrong) for wrong in [-1, -0.001, None, "2023-11-14T22:13:20", True]],
        *[("location", wrong) for wrong in ["l" * 129, None, 7]],
        *[("source", wrong) for wrong in SOURCE_IS_WRONG],
        *[("seq", wrong) for wrong in SEQ_IS_WRONG],
    ],
    ids=repr,
)
def test_a_field_of_a_reading_outside_its_domain_is_refused(field: str, wrong: Any) -> None:
    assert accepts(SensorReading, READING | SOURCE)
    assert not accepts(SensorReading, READING | SOURCE | {field: wrong})


@pytest.mark.parametrize("field", ["value", "timestamp"])
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5_000])
def test_a_number_that_is_not_finite_is_refused(field: str, text: str) -> None:
    value = encoded(READING | {field: "here"}).replace(b'"here"', text.encode())
    assert is_refused(SensorReading, value)


@pytest.mark.parametrize(("struct", "fields"), STRUCTS)
def test_every_field_that_is_used_has_to_be_there(struct: type[Any], fields: dict[str, Any]) -> None:
    for field in set(struct.__struct_fields__) - {"source", "seq"}:
        assert not accepts(struct, {name: value for name, value in fields.items() if name != field})


@pytest.mark.parametrize(("struct", "fields"), STRUCTS)
@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b" \n",
        b"null",
        b"17",
        b"[]",
        b'"text"',
        b"{}",
        b"\x00\xff\xfe",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"\xff" * 500_000,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_json_object_is_refused_by_an_error_that_is_known(
    struct: type[Any], fields: dict[str, Any], value: bytes | None
) -> None:
    assert accepts(struct, fields)
    assert is_refused(struct, value)


@given(value=st.binary(max_size=60))
def test_no_bytes_raise_anything_but_the_known_errors(value: bytes) -> None:
    for struct, _ in STRUCTS:
        is_refused(struct, value)
    readable_source(value)


@pytest.mark.parametrize(
    "extra",
    [
        {"page": 17},
        {"timestamp": None},
        {"ip": ["x"]},
        {"note": {"a": [1, {"b": None}]}},
        {"huge": 10**4_000},
        {"größe": "x" * 20_000},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_fields_that_are_not_counted_may_be_anything(extra: dict[str, Any]) -> None:
    assert accepts(UserEventCounted, USER_EVENT | extra)


@pytest.mark.parametrize(
    "wrong", [{"page": "p" * 2049}, {"page": 17}, {"timestamp": None}, {"ip": "1.2.3"}, {"ip": 7}], ids=repr
)
def test_full_validation_refuses_what_counting_does_not_look_at(wrong: dict[str, Any]) -> None:
    assert accepts(UserEventCounted, USER_EVENT | wrong)
    assert not accepts(UserEvent, USER_EVENT | wrong)


@given(
    st.one_of(
        st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", fullmatch=True),
        st.sampled_from(
            ["256.1.1.1", "1.2.3", "1.2.3.4.5", "1.2.3.4 ", "1.2.3.4\n", "::1", "", "\u0661.1.1.1"]
        ),
    )
)
def test_full_validation_takes_the_ipv4_addresses_that_python_takes(text: str) -> None:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        valid = False
    else:
        valid = True
    assert accepts(UserEvent, USER_EVENT | {"ip": text}) == valid


@given(
    moment=st.datetimes(min_value=datetime(1970, 1, 1)),  # noqa: DTZ001
    minutes=st.integers(-14 * 60, 14 * 60),
)
def test_iso_8601_is_taken_with_and_without_an_offset(moment: datetime, minutes: int) -> None:
    assert is_iso_8601(moment.isoformat())
    assert is_iso_8601(moment.replace(tzinfo=UTC).isoformat())
    assert is_iso_8601(moment.replace(tzinfo=timezone(timedelta(minutes=minutes))).isoformat())
    assert is_iso_8601(moment.strftime("%Y-%m-%dT%H:%M:%SZ"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "1700000000",
        "2023-13-01T00:00:00",
        "2023-02-29T00:00:00",
        "2023-01-01T25:00:00Z",
        "2023-01-01T00:00:61",
        "2023-11-14T22:13:20+25:00",
        "2023-11-14T22:13:20\n",
        " 2023-11-14T22:13:20",
        "14.11.2023 22:13",
    ],
)
def test_what_is_no_moment_in_iso_8601_is_refused(text: str) -> None:
    assert not is_iso_8601(text)


@given(source=st.text(min_size=1, max_size=64), seq=st.integers(0, MAX_INT64))
def test_source_and_seq_of_a_dead_letter_are_read_whatever_else_is_wrong(source: str, seq: int) -> None:
    value = encoded({"user_id": None, "nested": [{}], "source": source, "seq": seq})
    assert readable_source(value) == (source, seq)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"not json",
        b'{"source": "gen", "seq": 1',
        b'{"source": "gen"}',
        b'{"seq": 1}',
        b'["gen", 1]',
        b"[" * 100_000,
        *[encoded(SOURCE | {"seq": wrong}) for wrong in SEQ_IS_WRONG],
        *[encoded(SOURCE | {"source": wrong}) for wrong in SOURCE_IS_WRONG],
    ],
    ids=lambda value: repr(value)[:40],
)
def test_no_source_is_read_where_it_is_not_whole(value: bytes | None) -> None:
    assert readable_source(value) is None
