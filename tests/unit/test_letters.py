"""Dead letters as operators see them: from headers, by reason, and which of them are meant."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.console.letters import (
    Groups,
    Letter,
    Mark,
    Selection,
    as_fields,
    hexdump,
    letter_of,
    parse_name,
    stopped_at,
)

ABOUT = {
    "exception": b"msgspec.ValidationError",
    "message": b"Invalid enum value 'dance' - at `$.action`",
    "stacktrace": b"Traceback",
    "topic": b"t.user_behavior",
    "partition": b"3",
    "offset": b"17",
}
Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Made:
    """A record as the client gives it."""

    headers: Headers = field(
        default_factory=lambda: [(f"__streams.errors.{name}", value) for name, value in ABOUT.items()]
    )
    partition: int = 1
    offset: int = 5
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"k"
    value: bytes | None = b"{}"


def test_a_letter_is_what_its_headers_say_and_keeps_those_it_had() -> None:
    own: Headers = [("trace", b"1"), ("trace", None)]
    cut: Headers = [("tandem.value.length", b"70000"), ("tandem.value.sha256", b"ab")]
    letter = letter_of(replace(Made(), headers=own + Made().headers + cut))
    assert letter.headers == (("trace", b"1"), ("trace", None))
    assert (letter.name, letter.source) == ("1:5", "t.user_behavior:3:17")
    assert letter.full_bytes == 70_000
    assert letter.reason == "Invalid enum value … - at `$.action`"
    assert letter.origin_headers == (
        ("__streams.errors.topic", b"t.user_behavior"),
        ("__streams.errors.partition", b"3"),
        ("__streams.errors.offset", b"17"),
    )


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([f"__streams.errors.{name}" for name in ABOUT] + ["tandem.value.length", "x"]),
            st.none() | st.binary(max_size=8),
        ),
        max_size=8,
    ),
    value=st.none() | st.binary(max_size=60),
)
def test_whatever_a_record_is_it_is_shown(headers: Headers, value: bytes | None) -> None:
    letter = letter_of(replace(Made(), headers=headers, value=value))
    assert letter.reason
    assert as_fields(letter, None, whole=True)["status"] == "open"
    groups = Groups()
    groups.add(letter, Mark("dropped", "now", 0))
    [group] = groups.ordered()
    assert (group.count, group.open, group.handled) == (1, 0, {"dropped": 1})


def made(message: str, value: bytes | None = b"{}", **changes: object) -> Letter:
    headers: Headers = [
        ("__streams.errors.message", message.encode()),
        *((f"__streams.errors.{name}", str(change).encode()) for name, change in changes.items()),
    ]
    return letter_of(replace(Made(), headers=headers, value=value))


def test_letters_that_differ_in_what_is_theirs_are_of_one_reason() -> None:
    messages = ("it has 3 of 'a b'", "it has 40 of 'c'", 'it has 5 of "d"')
    assert {made(message).reason for message in messages} == {"it has … of …"}
    assert made("a\nb\t c").reason == "a b c"
    assert len(made("x" * 500).reason) == 100
    assert made("", exception="a.b.SomeError").reason == "SomeError"
    assert made("").reason == "unknown"


@pytest.mark.parametrize(
    ("message", "value", "shown"),
    [
        ("invalid character (byte 3)", b"abcdef", "abc ▶ def"),
        ("invalid character (byte 0)", b"\xffab", " ▶ \\xffab"),
        ("truncated (byte 6)", b"abc\n\x1bf", "abc\\n\\x1bf ▶ "),
        ("beyond (byte 7)", b"abcdef", None),
        ("no place", b"abcdef", None),
        ("(byte 1)", None, None),
    ],
)
def test_where_the_decoder_stopped(message: str, value: bytes | None, shown: str | None) -> None:
    assert stopped_at(made(message, value)) == shown


def test_a_selection_is_all_of_its_conditions() -> None:
    letter = letter_of(Made())
    assert Selection().has(letter)
    assert Selection(reason="ENUM value").has(letter)
    assert Selection(reason="validationerror").has(letter)
    assert not Selection(reason="malformed").has(letter)
    assert Selection(names=frozenset([(1, 5), (0, 0)]), topic="t.user_behavior").has(letter)
    assert not Selection(names=frozenset([(5, 1)])).has(letter)
    assert not Selection(topic="user_behavior").has(letter)
    assert Selection(since=letter.timestamp, until=letter.timestamp + 1).has(letter)
    assert not Selection(since=letter.timestamp + 1).has(letter)
    assert not Selection(until=letter.timestamp).has(letter)


@pytest.mark.parametrize("text", ["", "1", ":", "1:", ":1", "a:1", "1:-1", "1:2:3", "1: 2"])
def test_what_is_no_name_of_a_letter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not PARTITION:OFFSET"):
        parse_name(text)


def test_bytes_are_shown_sixteen_a_line() -> None:
    lines = list(hexdump(b"0123456789abcdef\x00\xffz"))
    assert lines[0] == "00000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef"
    assert lines[1].startswith("00000010  00 ff 7a ")
    assert lines[1].endswith("..z")


def test_the_most_open_reason_comes_first() -> None:
    groups = Groups()
    for _ in range(3):
        groups.add(made("often, and done"), Mark("retried", "now", 0))
    groups.add(made("open"), None)
    groups.add(replace(made("open"), timestamp=5), Mark("edited", "now", 0))
    first, second = groups.ordered()
    assert (first.reason, first.open, first.count, first.first) == ("open", 1, 2, 5)
    assert (second.open, second.handled) == (0, {"retried": 3})
