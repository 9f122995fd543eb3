"""A dead letter against the record it was made of: key, bytes, headers. Pure.

https://cwiki.apache.org/confluence/display/KAFKA/KIP-1034 names the headers.
"""

from __future__ import annotations

import hashlib

from services.console.verification.admission import Headers, InputRecord
from services.console.verification.matching import shown
from services.console.verification.queues import Place, Published, PublishedRecord

PREFIX = "__streams.errors."
WHY = ("exception", "message", "stacktrace")
WHERE = ("topic", "partition", "offset")
LENGTH = "tandem.value.length"
SHA256 = "tandem.value.sha256"
CUT_BYTES = 64 * 1024
_TEXT_BYTES = 4 * 1024
_ALWAYS = tuple(PREFIX + name for name in (*WHY, *WHERE))


def origin(record: PublishedRecord) -> Place:
    """Return what the headers of a dead letter say of where it comes from.

    Raises:
        ValueError: such a header is missing or is no number.
    """
    # The last of each name: a letter that was re-driven and failed again carries the earlier ones too.
    headers = dict(record.headers)
    texts = []
    for name in WHERE:
        value = headers.get(PREFIX + name)
        if value is None:
            raise ValueError(f"no header {PREFIX}{name}")
        texts.append(value.decode())
    return Place(texts[0], int(texts[1]), int(texts[2]))


def says_full(record: PublishedRecord) -> bool:
    """Say whether a dead letter is there because the state had no room for a new key."""
    return (dict(record.headers).get(PREFIX + "exception") or b"").endswith(b"StateFullError")


def describe(record: InputRecord | PublishedRecord) -> str:
    """Return a record, or a dead letter, as one short piece of text."""
    size = "no value" if record.value is None else f"a value of {len(record.value)} bytes"
    message = dict(record.headers).get(PREFIX + "message")
    return f"{size}, key {shown(record.key)}" + (f", because: {shown(message)}" if message else "")


def unequal(expected: InputRecord, one: Published[PublishedRecord]) -> str | None:
    """Say what is wrong with a dead letter; None where nothing is."""
    letter = one.record
    if letter.key != expected.key:
        return "the key is not the original one"
    added = _without(letter.headers, expected.headers)
    if added is None:
        return "the original headers are not all there"
    own = dict(added)
    is_cut = letter.value != expected.value
    wanted = sorted((*_ALWAYS, LENGTH, SHA256) if is_cut else _ALWAYS)
    if sorted(name for name, _ in added) != wanted:
        return f"the headers beside the original ones are {', '.join(sorted(own))}, not {', '.join(wanted)}"
    for name in WHY:
        value = own[PREFIX + name]
        if value is None or not _is_text(value) or (name != "exception" and len(value) > _TEXT_BYTES):
            return f"the header {PREFIX}{name} is not text of at most {_TEXT_BYTES} bytes"
    return _wrongly_cut(expected.value, letter.value, own) if is_cut else None


def _wrongly_cut(original: bytes | None, value: bytes | None, own: dict[str, bytes | None]) -> str | None:
    # Less than 64 KiB is what a topic got that takes less, which can have been another limit at the time.
    if original is None or value is None or len(value) > CUT_BYTES or not original.startswith(value):
        return "the value is not the original bytes"
    if own[LENGTH] != str(len(original)).encode():
        return f"the value is cut, and {LENGTH} is not {len(original)}"
    if own[SHA256] != hashlib.sha256(original).hexdigest().encode():
        return f"the value is cut, and {SHA256} is not that of the original"
    return None


def _without(headers: Headers, original: Headers) -> list[tuple[str, bytes | None]] | None:
    """Return `headers` without the original ones, each taken away once; None where one is not there."""
    rest = [(name, value) for name, value in headers]
    for name, value in original:
        if (name, value) not in rest:
            return None
        rest.remove((name, value))
    return rest


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
