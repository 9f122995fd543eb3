"""A table with its values in rows, changed event by event or many at once, against a dict of lists."""

from __future__ import annotations

import ctypes
import json
import struct
from array import array
from collections.abc import Sequence
from functools import cache
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.processor.columns import Columns, NotPlainError, Reader, fields_of
from services.processor.formats import UnknownFormatError, ValueFormat
from services.processor.native.library import installed
from services.processor.rows import row_table
from services.processor.state import State
from services.processor.windows import Window, Windows
from shared.errors import StateFullError
from shared.events import SensorReadingCounted
from tests.located import located

SIZE = 3
FIRST_OFFSET = 10**12
REPEATABLE = settings(deadline=None, derandomize=True, max_examples=150)


class Kept(msgspec.Struct):
    """What is stored of a key."""

    window: Window
    offset: int


class Values:
    """The values: windows, and the offset of the last reading."""

    def __init__(self, size: int) -> None:
        self.windows = Windows(size)
        self.offsets = array("q")

    def add(self, row: int, key: str) -> None:
        assert key
        self.windows.add(row)
        if row == len(self.offsets):
            self.offsets.append(-1)

    def remove(self, row: int) -> None:
        self.offsets[row] = -2

    def value(self, row: int) -> Kept:
        return Kept(self.windows.window(row), self.offsets[row])

    def put(self, row: int, value: Kept) -> None:
        self.windows.put(row, value.window)
        self.offsets[row] = value.offset


class Tried:
    """A table in a state of its own."""

    def __init__(self, *, size: int = SIZE, max_keys: int = 10_000) -> None:
        self.state = State(max_keys=max_keys)
        self.values = Values(size)
        self.table = row_table(self.state, "kept", Kept, self.values)

    def take(self, key: str, offset: int) -> None:
        """Take a reading in, event by event."""
        row = self.table.row(key)
        self.table.touch(row)
        self.values.windows.push(row, float(offset), offset / 2)
        self.values.offsets[row] = offset

    def take_all(self, keys: Sequence[str], first_offset: int) -> None:
        """Take readings in, all at once."""
        columns = read(keys, first_offset)
        rows = self.table.rows(columns, "sensor_id")
        assert [self.table.key(row) for row in rows] == list(keys)
        self.values.windows.push_all(columns, rows, columns.numbers("value"), columns.numbers("timestamp"))
        columns.last(rows, self.values.offsets)

    def changes(self) -> dict[bytes, Kept | None]:
        """Return what the changelog is given; each key once."""
        taken = self.state.take_changes()
        assert len({key for key, _ in taken}) == len(taken)
        decode = ValueFormat("kept", Kept).decode
        return {key: None if value is None else decode(value) for key, value in taken}

    def restored(self, **how: int) -> Tried:
        """Return another one that was restored from what this one has written, older records first."""
        made = Tried(**how)
        for key, value in self.state.take_changes():
            made.state.restore(key, value)
        return made


@cache
def reader() -> Reader:
    library = installed()
    assert isinstance(library, ctypes.CDLL), library
    return Reader(library, fields_of(SensorReadingCounted, ()))


def read(keys: Sequence[str], first_offset: int = FIRST_OFFSET) -> Columns:
    values = [
        json.dumps(
            {"sensor_id": key, "value": float(offset), "timestamp": offset / 2, "location": ""},
            ensure_ascii=False,
        ).encode()
        for offset, key in enumerate(keys, first_offset)
    ]
    columns = reader().read(located(values), range(first_offset, first_offset + len(values)))
    assert columns is not None
    return columns


def kept(offsets: Sequence[int]) -> Kept:
    window = Window([float(one) for one in offsets], [one / 2 for one in offsets])
    return Kept(window, offsets[-1])


# Of one and of many words of the hash, alike at the beginning and at the end, and not only ASCII.
KEYS = [
    *[f"s{number}" for number in range(300)],
    *["a", "aa", "a" * 8, "a" * 9, "a" * 15 + "b", "a" * 16, "b" + "a" * 15, "a" * 128],
    *["é", "😀" * 32, "é" * 64],
]


@REPEATABLE
@given(seed=st.integers(0, 2**32), size=st.sampled_from([1, 2, 3, 10, 16, 17, 70]))
def test_both_ways_keep_what_a_dict_of_lists_does(seed: int, size: int) -> None:
    random = Random(seed)
    tried, due = Tried(size=size), dict[str, list[int]]()
    touched: list[str] = []
    offset = 0
    for _ in range(40):
        keys = random.choices(KEYS[: random.choice([1, 5, len(KEYS)])], k=random.choice([1, 2, 30, 400]))
        if random.random() < 0.7:
            tried.take_all(keys, offset)
        else:
            for number, key in enumerate(keys, offset):
                tried.take(key, number)
        for number, key in enumerate(keys, offset):
            due[key] = [*due.get(key, []), number][-size:]
        offset += len(keys)
        touched = list(dict.fromkeys([*touched, *keys]))
        assert [tried.table.key(row) for row in tried.table.touched] == touched
        assert len(tried.table) == len(due)
        assert tried.state.budget.left == 10_000 - len(due)
        if random.random() < 0.4:
            assert tried.changes() == {f"kept/{key}".encode(): kept(due[key]) for key in touched}
            touched = []
            assert tried.state.take_changes() == []
    values = {key: tried.values.value(tried.table.row(key)) for key in due}
    assert values == {key: kept(offsets) for key, offsets in due.items()}


def test_keys_that_were_restored_or_came_one_by_one_are_found_in_columns() -> None:
    first = Tried()
    first.take_all(["a", "b", "a"], 0)
    second = first.restored()
    second.take("c", 3)
    second.take_all(["b", "c", "d", "b"], 4)
    assert len(second.table) == 4
    assert second.changes() == {
        b"kept/c": kept([3, 5]),
        b"kept/b": kept([1, 4, 7]),
        b"kept/d": kept([6]),
    }


def test_many_keys_are_found_again_when_there_are_more_than_there_was_room_for() -> None:
    tried = Tried()
    keys = [f"sensor-{number}" for number in range(5_000)]
    for begin in range(0, len(keys), 700):
        tried.take_all(keys[begin : begin + 700], begin)
    tried.take_all(keys, 5_000)
    assert len(tried.table) == 5_000
    assert {key: tried.values.value(tried.table.row(key)) for key in keys} == {
        key: kept([number, 5_000 + number]) for number, key in enumerate(keys)
    }


def test_a_key_that_was_removed_in_a_changelog_is_gone_and_its_row_another_ones() -> None:
    tried = Tried()
    tried.take_all(["a", "b"], 0)
    restored = tried.restored()
    restored.state.restore(b"kept/a", None)
    restored.state.restore(b"kept/a", None)
    restored.state.restore(b"kept/never", None)
    assert len(restored.table) == 1
    assert restored.state.budget.left == 9_999
    assert restored.values.offsets.tolist() == [-2, 1]
    restored.take_all(["c", "b", "a"], 2)
    assert restored.values.offsets.tolist() == [2, 3, 4]
    assert restored.changes() == {b"kept/c": kept([2]), b"kept/b": kept([1, 3]), b"kept/a": kept([4])}


def test_a_later_record_of_a_changelog_takes_the_place_of_an_earlier_one() -> None:
    tried = Tried()
    for offsets in ([1, 2, 3], [4], [5, 6]):
        stored = ValueFormat("kept", Kept).encode(kept(offsets))
        tried.state.restore(b"kept/a", stored)
    assert len(tried.table) == 1
    assert tried.state.budget.left == 9_999
    tried.take("a", 7)
    assert tried.changes() == {b"kept/a": kept([5, 6, 7])}


@pytest.mark.parametrize("value", [b"v1 {}", b"v1 ", b"v1 5", b'v1 {"window":[[1],[]],"offset":1}'])
def test_what_this_store_does_not_write_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Tried().state.restore(b"kept/a", value)


def test_what_a_later_version_has_written_is_refused() -> None:
    with pytest.raises(UnknownFormatError, match="kept"):
        Tried().state.restore(b"kept/a", b"v2 {}")


def test_keys_are_rewritten_as_they_are_or_as_gone_and_are_not_touched_by_it() -> None:
    tried = Tried()
    tried.take_all(["a", "b"], 0)
    tried.changes()
    tried.take("b", 2)
    tried.state.rewrite([b"kept/a", b"kept/b", b"kept/never"])
    assert [tried.table.key(row) for row in tried.table.touched] == ["b"]
    assert tried.changes() == {b"kept/a": kept([0]), b"kept/b": kept([1, 2]), b"kept/never": None}
    assert tried.changes() == {}


def test_a_key_that_has_no_room_changes_nothing() -> None:
    tried = Tried(max_keys=2)
    tried.take_all(["a", "b"], 0)
    tried.changes()
    with pytest.raises(StateFullError, match="PROCESSOR_STATE_MAX_KEYS=2"):
        tried.take("c", 2)
    assert tried.changes() == {}
    assert len(tried.table) == 2
    tried.take("a", 3)
    assert tried.changes() == {b"kept/a": kept([0, 3])}


@pytest.mark.parametrize("name", ["value", "seq", "source"])
def test_only_a_text_that_is_in_each_event_is_a_key(name: str) -> None:
    with pytest.raises(NotPlainError, match=name):
        Tried().table.rows(read(["a"]), name)


def test_events_of_marked_rows_are_told_in_their_order() -> None:
    columns = read(["a"] * 6)
    rows, mark = array("i", [2, 0, 1, 2, 3, 2]), array("B", [0, 0, 1, 7])
    assert columns.marked(rows, mark).tolist() == [0, 3, 4, 5]
    assert columns.marked(rows, array("B", bytes(4))).tolist() == []


def test_numbers_are_those_of_the_events_in_their_order() -> None:
    keys = ["b", "a", "b"]
    read(["x"] * 5)  # What stands behind is left from this one.
    columns = read(keys, 7)
    numbers = columns.numbers("value")
    assert struct.pack("<3d", *numbers) == struct.pack("<3d", 7.0, 8.0, 9.0)
    assert len(columns.numbers("timestamp")) == 3


def test_a_key_is_looked_up_in_python_once_and_found_by_the_compiled_part_from_then_on() -> None:
    tried = Tried()
    keys = KEYS + [f"sensor-{number}" for number in range(3_000)]
    for begin in range(0, len(keys), 500):
        tried.take_all(keys[begin : begin + 500], begin)
    rows, unknown = tried.table._known.find(read(keys), "sensor_id")
    assert unknown == 0
    assert rows.tolist() == list(range(len(keys)))


def test_a_text_is_found_by_all_of_its_bytes_and_not_by_its_hash() -> None:
    tried = Tried()
    tried.take_all(["abcdefghi", "b"], 0)
    known = tried.table._known
    assert known.find(read(["b", "abcdefghi"]), "sensor_id")[0].tolist() == [1, 0]
    known._text[3] ^= 1  # Now the slot is right, and what stands in it is not.
    assert known.find(read(["abcdefghi"]), "sensor_id")[0].tolist() == [-1]
    known._text[3] ^= 1
    known._lengths[0] += 1
    assert known.find(read(["abcdefghi"]), "sensor_id")[0].tolist() == [-1]
