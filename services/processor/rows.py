"""A table whose values lie in columns of their own, one row for each key. Pure.

What `Table` is for values that are objects, this is for many small ones of which nearly all change all the
time: a row is found without an object for its key, and many rows are changed by one call.
"""

from __future__ import annotations

import ctypes
import secrets
from array import array
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from services.processor.columns import Columns
from services.processor.formats import Upgrades, ValueFormat
from services.processor.native.library import Texts, address_of
from services.processor.records import indexes_of
from services.processor.state import KeyBudget, State

ValueT = TypeVar("ValueT")

_FIRST_SLOTS = 64


class Rows(Protocol[ValueT]):
    """Where the values lie. Rows are numbered from 0."""

    def add(self, row: int, key: str) -> None:
        """Make a row of a new key, without a value: the next row, or one that was removed."""

    def remove(self, row: int) -> None:
        """Forget the value of a row."""

    def value(self, row: int) -> ValueT:
        """Return what is stored of a row, as a new object."""

    def put(self, row: int, value: ValueT) -> None:
        """Take back what was stored.

        Raises:
            ValueError: it is not what `value` returns; the row is as before.
        """


def row_table(
    state: State,
    name: str,
    value_type: type[ValueT],
    rows: Rows[ValueT],
    *,
    format_number: int = 1,
    upgrades: Upgrades | None = None,
) -> RowTable[ValueT]:
    """Return a new store of a state: as `State.table` does, with `rows` for where the values lie; empty.

    Raises:
        ValueError: the name is taken or holds a slash, or the upgrades leave a gap.
    """
    value_format = ValueFormat(name, value_type, number=format_number, upgrades=upgrades)
    return state.attach(RowTable(name, value_format, state.budget, rows))


class RowTable(Generic[ValueT]):
    """A row for each key; made by `row_table`. Whoever changes the value of a row says so by `touch`.

    Args:
        name: of the store.
        value_format: of what `rows` returns as a value.
        budget: that of the state.
        rows: where the values lie; empty.

    Attributes:
        touched: the rows that were touched since the last `take_changes`, the first one first.
    """

    def __init__(
        self, name: str, value_format: ValueFormat[ValueT], budget: KeyBudget, rows: Rows[ValueT]
    ) -> None:
        self.name = name
        self.touched = array("i")
        self._format = value_format
        self._budget = budget
        self._rows = rows
        self._row_of: dict[str, int] = {}
        self._keys: list[str] = []
        self._removed: list[int] = []
        self._is_touched = array("B")
        self._rewritten: set[str] = set()
        self._known = _Known()

    def __len__(self) -> int:
        return len(self._row_of)

    def key(self, row: int) -> str:
        """Return the key of a row."""
        return self._keys[row]

    def row(self, key: str) -> int:
        """Return the row of a key: a new one, if it has none.

        Raises:
            StateFullError: the key is new and there is no room; nothing is changed.
        """
        row = self._row_of.get(key)
        if row is None:
            self._budget.take(1)
            row = self._add(key)
        return row

    def touch(self, row: int) -> None:
        """Mark a row as changed."""
        if not self._is_touched[row]:
            self._is_touched[row] = 1
            self.touched.append(row)

    def rows(self, columns: Columns, name: str) -> array[int]:
        """Return the row of each event by the text of a field, and mark all of them as changed.

        Raises:
            StateFullError: there is no room for a new key. Some may have been added, without a value.
        """
        rows, unknown = self._known.find(columns, name)
        if unknown:
            self._learn(columns, name, rows)
        marked = array("i", bytes(4 * len(rows)))
        found = columns.library.tandem_mark(
            address_of(rows), len(rows), address_of(self._is_touched), address_of(marked)
        )
        self.touched += marked[:found]
        return rows

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield what changed since the last call."""
        changed = dict.fromkeys([self._keys[row] for row in self.touched])
        changed.update(dict.fromkeys(self._rewritten))
        for row in self.touched:
            self._is_touched[row] = 0
        self.touched, self._rewritten = array("i"), set()
        for key in changed:
            of_key = self._row_of.get(key)
            value = None if of_key is None else self._format.encode(self._rows.value(of_key))
            yield f"{self.name}/{key}".encode(), value

    def restore(self, key: str, value: bytes | None) -> None:
        """Take one changelog record back in, before any row is touched."""
        row = self._row_of.get(key)
        if value is None:
            if row is not None:
                del self._row_of[key]
                self._rows.remove(row)
                self._removed.append(row)
                self._known = _Known()
                self._budget.left += 1
            return
        decoded = self._format.decode(value)
        if row is None:
            row = self._add(key)
            self._budget.left -= 1
        self._rows.put(row, decoded)

    def rewrite(self, key: str) -> None:
        """Let the next `take_changes` yield this key, or its tombstone."""
        self._rewritten.add(key)

    def _add(self, key: str) -> int:
        if self._removed:
            row = self._removed.pop()
            self._keys[row] = key
        else:
            row = len(self._keys)
            self._keys.append(key)
            self._is_touched.append(0)
        self._row_of[key] = row
        self._rows.add(row, key)
        return row

    def _learn(self, columns: Columns, name: str, rows: array[int]) -> None:
        """Fill in the rows that are not known yet."""
        tokens: dict[int, bytes] = {}
        unknown = indexes_of(-1, rows)
        for index, token in zip(unknown, columns.tokens(name, unknown), strict=True):
            row = self.row(columns.text(name, index))
            rows[index], tokens[row] = row, token
        self._known.learn(columns.library, tokens, len(self._keys))


class _Known:
    """The rows that the compiled part finds by their texts: those whose keys have been in columns."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._text = array("B")
        self._starts = array("q")
        self._lengths = array("i")
        self._rows = array("i")
        self._learnt = 0
        self._texts = Texts(seed=secrets.randbits(64))

    def find(self, columns: Columns, name: str) -> tuple[array[int], int]:
        """Return the row of each event, -1 where it is not known, and how many of those there are."""
        self._point()
        return columns.find(name, self._texts)

    def learn(self, library: ctypes.CDLL, tokens: dict[int, bytes], rows: int) -> None:
        """Let rows be found whose keys stand like this in JSON; `rows` is how many there are at all."""
        more = rows - len(self._starts)
        self._starts.frombytes(bytes(8 * more))
        self._lengths.frombytes(bytes(4 * more))
        for row, token in tokens.items():
            self._starts[row], self._lengths[row] = len(self._text), len(token)
            self._text.frombytes(token)
            self._rows.append(row)
        if 2 * len(self._rows) > len(self._slots):
            size = 1 << (4 * len(self._rows)).bit_length()
            self._slots = array("Q", bytes(8 * size))
            self._learnt = 0
        self._point()
        new = self._rows[self._learnt :]
        library.tandem_learn(ctypes.addressof(self._texts), address_of(new), len(new))
        self._learnt = len(self._rows)

    def _point(self) -> None:
        texts = self._texts
        texts.slot, texts.size = address_of(self._slots), len(self._slots)
        texts.text = address_of(self._text)
        texts.start, texts.length = address_of(self._starts), address_of(self._lengths)
