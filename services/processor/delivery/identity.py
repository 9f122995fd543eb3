"""The idempotency key of a delivery: what the record is, not where it stands. Pure.

A purchase or an alert that is published once more (at_least_once, a group that was set back) has the identity
it had before, and the receiver can tell.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shared import topics


class _PurchasePlace(msgspec.Struct):
    topic: str
    partition: int
    offset: int


class _AlertName(msgspec.Struct):
    alert_id: str
    state: str


_decode_place = msgspec.json.Decoder(_PurchasePlace).decode
_decode_name = msgspec.json.Decoder(_AlertName).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)


def identity(topic: str, record: Any) -> str:
    """Return the idempotency key of a record: printable ASCII, the same for the same event.

    Args:
        topic: its topic's name, without prefix.
        record: with topic, partition, offset and value. What is no purchase and no alert, or can't be read
            as one, is known by its own place.
    """
    value = record.value or b""
    own_place = f"{record.topic}:{record.partition}:{record.offset}"
    try:
        if topic == topics.PURCHASES:
            place = _decode_place(value)
            return f"{topic}:{_plain(place.topic)}:{place.partition}:{place.offset}"
        if topic == topics.ALERTS:
            name = _decode_name(value)
            return f"{topic}:{_plain(name.alert_id)}:{_plain(name.state)}"
    except _UNREADABLE:
        return own_place
    return own_place


def _plain(text: str) -> str:
    """Write out what an HTTP header does not take."""
    return text.encode("unicode_escape").decode("ascii").replace(" ", "\\x20")
