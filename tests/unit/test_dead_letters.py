"""What a record carries when it is put aside: its own bytes, and why and from where as KIP-1034 spells it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.dead_letters import CUT_VALUE_BYTES, LENGTH_HEADER, SHA256_HEADER, dead_letter
from services.processor.topology import OutputRecord, Place
from shared.errors import RejectedError
from shared.events import UNDECODABLE, UserEventCounted, decoder

PLACE = Place("p.user_behavior", 3)
LIMIT_BYTES = 2 * 1_048_588
TEXT_BYTES = 4096
PREFIX = "__streams.errors."
OUR_NAMES = [
    f"{PREFIX}{name}" for name in ("exception", "message", "stacktrace", "topic", "partition", "offset")
]
HEADERS = st.lists(
    st.tuples(st.text(max_size=10), st.one_of(st.none(), st.binary(max_size=20))), max_size=4
).map(tuple)


@dataclass(frozen=True)
class Bad:
    """A record as the client gives it."""

    value: bytes | None = b"not json"
    key: bytes | None = b"1000"
    headers: tuple[tuple[str, bytes | None], ...] = ()
    offset: int = 42
    timestamp: int = 1_700_000_000_000


def put_aside(record: Bad, error: Exception, limit_bytes: int = LIMIT_BYTES) -> OutputRecord:
    return dead_letter(record, PLACE, error, limit_bytes=limit_bytes)


def header(letter: OutputRecord, name: str) -> bytes:
    (value,) = [value for found, value in letter.headers if found == name]
    assert value is not None
    return value


def raised_by_decoding(value: bytes) -> Exception:
    try:
        decoder(UserEventCounted)(value)
    except UNDECODABLE as error:
        return error
    raise AssertionError("it was to be refused")


def test_the_headers_are_those_of_kafka_streams() -> None:
    letter = put_aside(Bad(), RejectedError("the reason"))
    assert [name for name, _ in letter.headers] == OUR_NAMES
    assert header(letter, "__streams.errors.exception") == b"shared.errors.RejectedError"
    assert header(letter, "__streams.errors.message") == b"the reason"
    assert header(letter, "__streams.errors.topic") == b"p.user_behavior"
    assert header(letter, "__streams.errors.partition") == b"3"
    assert header(letter, "__streams.errors.offset") == b"42"


def test_the_stack_trace_shows_where_decoding_failed() -> None:
    letter = put_aside(Bad(), raised_by_decoding(b"{}"))
    stack = header(letter, "__streams.errors.stacktrace").decode()
    assert stack.startswith("Traceback")
    assert "raised_by_decoding" in stack


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"\xff\xfe", b'{"user_id": "1"}', b"[" * 100_000, b'{"action": "\xff"}']
)
def test_whatever_decoding_raises_makes_headers_of_text(value: bytes) -> None:
    letter = put_aside(Bad(value), raised_by_decoding(value))
    for name in OUR_NAMES:
        assert header(letter, name).decode(), f"{name} is not to be empty"
    assert letter.value == value


@given(key=st.one_of(st.none(), st.binary()), value=st.one_of(st.none(), st.binary()), headers=HEADERS)
def test_key_value_and_headers_are_kept_as_they_were(
    key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes | None], ...]
) -> None:
    letter = put_aside(Bad(value, key, headers), RejectedError("no"))
    assert (letter.key, letter.value) == (key, value)
    assert letter.headers[: len(headers)] == headers
    assert [name for name, _ in letter.headers[len(headers) :]] == OUR_NAMES


@pytest.mark.parametrize("character", "aä€💶")
@pytest.mark.parametrize("before", range(4))
def test_a_long_message_is_cut_to_4_kib_of_whole_characters(character: str, before: int) -> None:
    text = "x" * before + character * TEXT_BYTES
    message = header(put_aside(Bad(), RejectedError(text)), "__streams.errors.message").decode()
    assert text.startswith(message)
    assert len(message.encode()) <= TEXT_BYTES < len((message + character).encode())


def test_a_long_stack_trace_is_cut_to_4_kib() -> None:
    letter = put_aside(Bad(), RejectedError("€" * 100_000))
    stack = header(letter, "__streams.errors.stacktrace")
    assert TEXT_BYTES - 4 < len(stack) <= TEXT_BYTES
    assert stack.decode()


def test_a_message_that_is_no_valid_text_is_told_all_the_same() -> None:
    letter = put_aside(Bad(), RejectedError("lone \ud800 surrogate"))
    assert header(letter, "__streams.errors.message") == b"lone ? surrogate"


def test_a_value_that_fits_is_not_cut_however_long() -> None:
    value = b"x" * 1_000_000
    letter = put_aside(Bad(value), RejectedError("no"))
    assert letter.value == value
    assert LENGTH_HEADER not in dict(letter.headers)


def test_a_value_that_does_not_fit_goes_as_its_first_64_kib_with_length_and_sha_256() -> None:
    value = bytes(range(256)) * 4_000
    letter = put_aside(Bad(value), RejectedError("no"), limit_bytes=len(value))
    assert letter.value == value[:65_536]
    assert header(letter, LENGTH_HEADER) == str(len(value)).encode()
    assert header(letter, SHA256_HEADER) == hashlib.sha256(value).hexdigest().encode()


def test_headers_count_towards_what_fits() -> None:
    value, headers = b"x" * 900_000, (("big", b"y" * 200_000),)
    assert put_aside(Bad(value), RejectedError("no"), limit_bytes=1_000_000).value == value
    cut = put_aside(Bad(value, headers=headers), RejectedError("no"), limit_bytes=1_000_000)
    assert cut.value == value[:CUT_VALUE_BYTES]
    assert cut.headers[0] == headers[0]


def size_of(letter: OutputRecord) -> int:
    size = len(letter.value or b"") + len(letter.key or b"")
    return size + sum(len(name) + len(content or b"") for name, content in letter.headers)


@given(value=st.integers(0, 3 * CUT_VALUE_BYTES), limit=st.integers(1_300, 250_000))
def test_a_letter_is_within_the_limit_and_says_what_it_is_short_of(value: int, limit: int) -> None:
    original = b"x" * value
    letter = put_aside(Bad(original), RejectedError("no" * 3_000), limit_bytes=limit)
    assert size_of(letter) <= limit
    assert letter.value is not None
    if letter.value != original:
        assert original.startswith(letter.value)
        assert len(letter.value) <= CUT_VALUE_BYTES
        assert header(letter, LENGTH_HEADER) == str(value).encode()
        assert header(letter, SHA256_HEADER) == hashlib.sha256(original).hexdigest().encode()


def test_of_what_fits_as_64_kib_not_a_byte_less_is_kept() -> None:
    letter = put_aside(Bad(b"x" * 900_000), RejectedError("no"), limit_bytes=CUT_VALUE_BYTES + 10_000)
    assert letter.value == b"x" * CUT_VALUE_BYTES


def test_the_key_the_headers_and_the_place_are_kept_whatever_the_limit() -> None:
    headers = (("trace", b"t" * 500),)
    letter = put_aside(Bad(b"x" * 100, b"k" * 300, headers), RejectedError("no" * 3_000), limit_bytes=0)
    assert (letter.key, letter.value, letter.headers[0]) == (b"k" * 300, b"", headers[0])
    assert header(letter, "__streams.errors.offset") == b"42"
    assert header(letter, "__streams.errors.message") == b"no" * 20
    assert header(letter, LENGTH_HEADER) == b"100"


@pytest.mark.parametrize("value", [None, b""])
def test_where_there_is_nothing_to_cut_nothing_is_said_to_be_cut(value: bytes | None) -> None:
    letter = put_aside(Bad(value), RejectedError("no"), limit_bytes=0)
    assert letter.value == value
    assert LENGTH_HEADER not in dict(letter.headers)
