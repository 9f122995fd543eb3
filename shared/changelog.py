"""What a changelog says of itself, and the transactional id of whoever writes it. Pure.

Known to the processor, which writes it, and to the console, which can take a state back to nothing and can
say which events it has missed.
"""

from __future__ import annotations

import msgspec

# What is written. The state values of 1 had no numbers of their own.
FORMAT = 2
KNOWN_FORMATS = (1, 2)
OFFSET_KEY = b"!offset"
WRITER_KEY = b"!writer"
# Records of the changelog that are no part of the state.
OWN_KEYS = frozenset({OFFSET_KEY, WRITER_KEY})
# The store of the sources, whose keys are `{SOURCES}/{source}`, and the format of its values.
SOURCES = "sources"
SOURCES_FORMAT = 1
_SOURCES_MARK = b"v%d " % SOURCES_FORMAT


class Interval(msgspec.Struct, array_like=True):
    """Open numbers `first` … `last`; `dead` where their records are dead letters rather than missing."""

    first: int
    last: int
    dead: bool


class SourceState(msgspec.Struct, array_like=True):
    """What is known of one source. `heard_at` is the input offset of its latest record."""

    next_seq: int
    heard_at: int
    open: list[Interval]


_decode_source = msgspec.json.Decoder(SourceState).decode


def read_source(key: bytes | None, value: bytes | None) -> tuple[str, SourceState | None] | None:
    """Return a source and what is stored of it (None: it is forgotten); None for any other record.

    Raises:
        ValueError: it is not as this version writes it.
    """
    name, _, source = (key or b"").decode(errors="replace").partition("/")
    if name != SOURCES:
        return None
    if value is None:
        return source, None
    if not value.startswith(_SOURCES_MARK):
        raise ValueError(f"source {source} is not stored in format {SOURCES_FORMAT}")
    return source, _decode_source(value[len(_SOURCES_MARK) :])


class OffsetRecord(msgspec.Struct):
    """What a changelog says of itself: the state is that of `offset`, and has `live_keys` keys.

    `input` and `group` are full names. Without live keys nothing has been counted since `offset`: a processor
    that has counted anything has its accounts in the state.
    """

    format: int
    input: str
    group: str
    offset: int
    live_keys: int


def transactional_id_of(group: str, input_topic: str, partition: int) -> str:
    """Return the transactional id of an input partition's task; the next owner has to come up with it too.

    Args:
        group: full name.
        input_topic: without the prefix, which is in the group's name.
        partition: of the input.
    """
    return f"{group}-{input_topic}-{partition}"
