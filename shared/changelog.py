"""What a changelog says of itself, and the transactional id of whoever writes it. Pure.

Known to the processor, which writes it, and to the console, which can take a state back to nothing.
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
