"""`python -m tests.unit.at_the_edge LIBRARY`: the compiled part on bytes that lie beside forbidden pages.

Ends with 0. Where a function touches what is not its own the process is ended by a signal instead.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from services.processor.columns import TIME, Reader, fields_of, plain_text
from services.processor.native.library import Column, Part, load
from services.processor.records import Located
from shared.events import SensorReadingCounted, UserEventCounted

PAGES = 4
BATCH_HEADER_BYTES = 61
ANY_BYTES = 20_000
SPOILED = 10_000
LONGEST_ANY = 80
OFFSET = 2**63 - 1
STRUCTURE = b'{}[]",:\\0123456789.-\x00\x80\xff\xe2\x82'


class Island:
    """Memory between two pages that nobody may touch."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, (PAGES + 2) * mmap.PAGESIZE)
        self._first = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + mmap.PAGESIZE
        self._behind = self._first + PAGES * mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for forbidden in (self._first - mmap.PAGESIZE, self._behind):
            assert libc.mprotect(forbidden, mmap.PAGESIZE, 0) == 0, "pages can be forbidden"

    def at_its_ends(self, data: bytes) -> Iterator[int]:
        """Yield the address of `data`, which begins where the memory does, and then ends where it does."""
        for address in (self._first, self._behind - len(data)):
            ctypes.memmove(address, data, len(data))
            yield address

    def before_its_end(self, size: int) -> int:
        """Return where the last `size` bytes begin."""
        return self._behind - size

    def at_both_ends(self, first: bytes, last: bytes) -> tuple[int, int]:
        """Put these where the memory begins and ends; return the first address and how far the other is."""
        ctypes.memmove(self._first, first, len(first))
        ctypes.memmove(self._behind - len(last), last, len(last))
        return self._first, self._behind - len(last) - self._first


def user_event(seq: int, **more: object) -> dict[str, Any]:
    return {
        "source": "gen-1",
        "seq": seq,
        "user_id": 10**17 + seq,
        "action": "purchase",
        "page": "/seite/größe/€/😀",
        "timestamp": "2023-11-14T22:13:20.123456+05:30",
        "device": "mobile",
    } | more


def text(fields: dict[str, Any], *, is_compact: bool = True) -> bytes:
    separators = (",", ":") if is_compact else (" , ", " : ")
    return json.dumps(fields, ensure_ascii=False, separators=separators).encode()


UNKNOWN = {"x": [1, -2.5, {"y": None, "z": [True, False, 'q\n"', {}]}, []], "ü".encode().hex(): "ü"}
USER_EVENTS = [
    text(user_event(0)),
    text(user_event(1), is_compact=False),
    text(UNKNOWN | user_event(2) | {"tail": [[["é", 1.5]]]}),
    text({"action": "view", "device": "tablet", "user_id": 0}),
    text({f"f{number}": number for number in range(70)} | user_event(3)),
]
READINGS = [
    text({"sensor_id": "temperature", "value": -21.125, "timestamp": 1_700_000_000.25, "location": "süd"}),
    text({"timestamp": 0, "value": 5, "location": "", "sensor_id": "ß", "seq": 1, "source": "s"}),
]


def spoiled(random: Random, value: bytes) -> bytes:
    changed = bytearray(value[: random.randrange(len(value) + 1)] if random.random() < 0.3 else value)
    for _ in range(random.randrange(4)):
        at = random.randrange(len(changed) + 1)
        if random.random() < 0.5:
            changed[at : at + 1] = bytes([random.choice(STRUCTURE)])
        else:
            changed[at : at + random.randrange(9)] = random.randbytes(random.randrange(9))
    return bytes(changed)


def any_bytes(random: Random) -> bytes:
    made = random.choices(STRUCTURE, k=random.randrange(LONGEST_ANY))
    return random.choice([b"", b"{", b'{"', b'{"user_id":', b'{"x":"']) + bytes(made)


def is_read(reader: Reader, address: int, starts: Sequence[int], lengths: Sequence[int]) -> bool:
    data: Any = ctypes.c_char_p(address)
    located = Located(data, array("q", starts), array("i", lengths))
    return reader.read(located, range(len(starts))) is not None


def walk_values(island: Island, reader: Reader, values: Sequence[bytes], random: Random) -> None:
    for value in values:
        for length in range(len(value) + 1):
            for address in island.at_its_ends(value[:length]):
                assert is_read(reader, address, [0], [length]) == (length == len(value)), (value, length)
            # Its members are known from the one before.
            first, far = island.at_both_ends(value, value[:length])
            is_whole = length == len(value)
            assert is_read(reader, first, [0, far], [len(value), length]) == is_whole, (value, length)
    for address in island.at_its_ends(b""):
        assert not is_read(reader, address, [0], [-1])
    for number in range(SPOILED + ANY_BYTES):
        made = spoiled(random, random.choice(values)) if number < SPOILED else any_bytes(random)
        for address in island.at_its_ends(made):
            is_read(reader, address, [0], [len(made)])
        first, far = island.at_both_ends(values[0], made)
        is_read(reader, first, [0, far], [len(values[0]), len(made)])


def walk_batches(island: Island, library: ctypes.CDLL, random: Random) -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**20)
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
        (b"key", text(user_event(0)), []),
        (None, None, [("name", b"value"), ("", None), ("other", b"")]),
        (b"", b"", [("name", b"x" * 200)]),
    ]
    for offset, (key, value, headers) in enumerate(records):
        builder.append(offset, 1_700_000_000_000 + offset * 1_000_000, key, value, headers)
    batch = bytes(builder.build())[BATCH_HEADER_BYTES:]

    def locate(data: bytes, count: int) -> Iterator[int]:
        starts, lengths, delta = array("q", [0] * count), array("i", [0] * count), ctypes.c_int64()
        for address in island.at_its_ends(data):
            yield library.tandem_locate(
                ctypes.c_char_p(address),
                0,
                len(data),
                0,
                count,
                starts.buffer_info()[0],
                lengths.buffer_info()[0],
                ctypes.addressof(delta),
            )

    for length in range(len(batch) + 1):
        due = length if length == len(batch) else -1
        assert set(locate(batch[:length], len(records))) == {due}, length
    for number in range(SPOILED + ANY_BYTES):
        made = spoiled(random, batch) if number < SPOILED else random.randbytes(random.randrange(LONGEST_ANY))
        for found in locate(made, random.randrange(1, 5)):
            assert found <= len(made)


def walk_texts(island: Island, library: ctypes.CDLL) -> None:
    """Write what ends at the edge, whole and cut anywhere, and into room that ends there."""
    out = Island()
    page, time = '"/seite/größe"'.encode(), b'"2023-11-14T22:13:20.123456+05:30"'
    start, lengths, events, ends = (
        (ctypes.c_int64 * 1)(),
        (ctypes.c_int32 * 1)(),
        array("i", [0]),
        array("q", [0]),
    )
    column = Column(start=ctypes.addressof(start), length=ctypes.addressof(lengths))

    def written(address: int, kind: int, room: int) -> int:
        parts = (Part * 2)(
            Part(b"{a:", 3, ctypes.addressof(column), kind, 2_048), Part(b",b:", 3, None, 0, 0)
        )
        found: int = library.tandem_write(
            ctypes.c_char_p(address),
            1,
            events.buffer_info()[0],
            1,
            OFFSET,
            parts,
            len(parts),
            b",}",
            2,
            out.before_its_end(room),
            room,
            ends.buffer_info()[0],
        )
        return found

    for token, kind in ((page, 0), (page, plain_text(1).kind), (time, TIME.kind)):
        most = 3 + len(token) + 3 + 20 + 2
        for length in range(len(token) + 1):
            lengths[0] = length
            for address in island.at_its_ends(token[:length]):
                found = written(address, kind, most)
                assert found or length < len(token), (token, length)
        for room in range(most + 1):
            for address in island.at_its_ends(token):
                # Room for a number is room for its most digits; this one has one less.
                assert written(address, kind, room) == (room >= most - 1), (token, room)
                if room >= most - 1:
                    made = ctypes.string_at(out.before_its_end(room), ends[0])
                    assert made == b"{a:" + token + b",b:" + str(OFFSET).encode() + b",}"


def walk_groups(island: Island, library: ctypes.CDLL) -> None:
    """Hold a token at one edge against the same at the other, cut anywhere."""
    token = b'"a token of more than sixteen bytes"'
    for length in range(len(token) + 1):
        first, far = island.at_both_ends(token[:length], token[:length])
        starts, lengths = array("q", [0, far]), array("i", [length, length])
        table, numbers, order, ends = (array("i", [0] * size) for size in (4, 2, 2, 2))
        found = library.tandem_group(
            ctypes.c_char_p(first),
            starts.buffer_info()[0],
            lengths.buffer_info()[0],
            2,
            table.buffer_info()[0],
            len(table),
            numbers.buffer_info()[0],
            order.buffer_info()[0],
            ends.buffer_info()[0],
        )
        assert (found, order.tolist(), ends[0]) == (1, [0, 1], 2), length


def main(path: str) -> None:
    library, island, random = load(Path(path)), Island(), Random(1)
    walk_values(
        island, Reader(library, fields_of(UserEventCounted, ("page", "timestamp"))), USER_EVENTS, random
    )
    walk_values(island, Reader(library, fields_of(SensorReadingCounted, ())), READINGS, random)
    walk_batches(island, library, random)
    walk_texts(island, library)
    walk_groups(island, library)


def touch(path: str) -> None:
    """Touch what lies behind the island: to show what becomes of who does."""
    del path
    (address, *_) = Island().at_its_ends(b"")
    ctypes.string_at(address - 1, 1)


if __name__ == "__main__":
    {"walk": main, "touch": touch}[sys.argv[1]](sys.argv[2])
