"""Events as columns: what is counted of many of them, without an object for any. Pure.

A reader is made for a struct of msgspec. It turns the values of consecutive records into `Columns`, or says
that one of them is not plain. Who asked goes the usual way then, through msgspec, which alone says what is an
event and what is not. What is plain is said in `native/columns.c`: JSON without escapes in the texts that are
used, without exponents, and with each field once.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec
from msgspec import UNSET, inspect

from services.processor.native.library import Column, Part, Texts, address_of, installed
from services.processor.records import Located
from services.processor.topology import Outputs

_MAX_INT64 = 2**63 - 1
_MIN_INT64 = -(2**63)
_MOST_COLUMNS = 64
_MOST_CHOICES = 255
_ACCOUNTS = ("source", "seq")
_WHOLE, _NUMBER, _CHOICE, _TEXT, _TOKEN = range(5)
_ANYTHING, _PLAIN_TEXT, _TIME = range(3)
# A date, a time of day with microseconds, an offset.
_TIME_BYTES = 32
# The digits of an offset.
_NUMBER_BYTES = 20


class NotPlainError(Exception):
    """A struct has a field that is not read as a column; the message says which, and why."""


@dataclass(frozen=True)
class Field:
    """How one field is read: its kind, and its domain."""

    name: str
    kind: int
    may_be_missing: bool = False
    least: int = 0
    most: int = _MAX_INT64
    least_number: float = 0.0
    most_number: float = 0.0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demand:
    """What a token has to be before it is written into a text."""

    kind: int
    most_bytes: int


def plain_text(most_bytes: int) -> Demand:
    """Return the demand for a text without escapes, of at most this many bytes."""
    return Demand(_PLAIN_TEXT, most_bytes)


TIME = Demand(_TIME, _TIME_BYTES)
_NO_DEMAND = Demand(_ANYTHING, 0)


@dataclass
class TextOf:
    """The JSON of a struct, to be written of an event's fields by `Columns.write`.

    Args:
        struct: its fields, in order, are those of the event of the same name, unless named below.
        constants: values that are the same in each.
        offset: the field that is the event's offset.
        demands: by field, for texts; whole numbers and choices are known to be valid.

    Raises:
        NotPlainError: the struct is encoded as something else than an object with all its fields.
    """

    struct: type[msgspec.Struct]
    constants: Mapping[str, Any]
    offset: str
    demands: Mapping[str, Demand]
    fields: dict[str, inspect.Type] = field(init=False, repr=False, compare=False)
    prepared: tuple[Reader, _Template] | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.fields = {one.encode_name: one.type for one in _object_of(self.struct).fields}
        if self.struct.__struct_config__.omit_defaults:
            raise NotPlainError(f"{self.struct.__name__}: it leaves fields out")


@dataclass(frozen=True)
class _Template:
    """`struct part`s, the texts they point to, what stands behind; how long all that is without tokens."""

    parts: Any
    literals: list[bytes]
    last: bytes
    least_bytes: int


class Groups(NamedTuple):
    """Which events have the same text: groups in the order of their first events.

    Attributes:
        order: the indexes of the events, group by group, in each group as they came.
        ends: where in `order` each group ends.
    """

    order: array[int]
    ends: array[int]


class Columns:
    """The fields of consecutive events, until the reader reads the next ones."""

    def __init__(self, reader: Reader, located: Located, offsets: Sequence[int]) -> None:
        self._reader = reader
        self._located = located
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def library(self) -> ctypes.CDLL:
        """The compiled part that has read them: see `native.library`."""
        return self._reader.library

    @property
    def run(self) -> tuple[Any, Any] | None:
        """Source and first number of one source with consecutive numbers; UNSET twice without; else None."""
        source, seq = map(self._reader.column, _ACCOUNTS)
        if not self.offsets:
            return None
        if source.is_run and seq.is_run:
            return self.text("source", 0), self._reader.whole("seq")[0]
        if source.missing == seq.missing == len(self):
            return UNSET, UNSET
        return None

    def whole(self, name: str) -> array[int]:
        """Return the values of a field of whole numbers that is in each event."""
        return self._reader.whole(name)[: len(self)]

    def tally(self, name: str) -> dict[str, int]:
        """Return how many events have each choice of a field, those that none has left out."""
        return self._reader.tally(name)

    def indexes(self, name: str, choice: str) -> array[int]:
        """Return which events have this choice."""
        return self._reader.select(name, choice, len(self))

    def groups(self, name: str) -> Groups:
        """Return which events have the same text in this field."""
        return self._reader.groups(self._located.data, name, len(self))

    def numbers(self, name: str) -> array[float]:
        """Return the values of a field of numbers, in the order of the events."""
        return self._reader.numbers(name)[: len(self)]

    def number(self, name: str, groups: Groups) -> list[float]:
        """Return the values of a field of numbers, in the order of the groups."""
        return self._reader.gather(name, groups)

    def texts(self, name: str, groups: Groups) -> list[str]:
        """Return the text of each group."""
        first = [groups.order[place] for place in (0, *groups.ends[:-1])]
        return [token[1:-1].decode() for token in self.tokens(name, first)]

    def text(self, name: str, index: int) -> str:
        """Return the text of one event."""
        [token] = self.tokens(name, [index])
        return token[1:-1].decode()

    def find(self, name: str, texts: Texts) -> tuple[array[int], int]:
        """Return the row of each event by its text, -1 for one that is not known, and how many those are.

        Raises:
            NotPlainError: the field is no text, or may be missing.
        """
        if not self._reader.has_text(name):
            raise NotPlainError(f"{name}: not a text that is in each event")
        starts, lengths = self._reader.places(name)
        rows = array("i", bytes(4 * len(self)))
        unknown = self.library.tandem_find(
            self._located.data,
            address_of(starts),
            address_of(lengths),
            len(self),
            ctypes.addressof(texts),
            address_of(rows),
        )
        return rows, unknown

    def marked(self, rows: array[int], mark: array[int]) -> array[int]:
        """Return which events are of a row that is marked.

        Args:
            rows: of each event.
            mark: by row, a byte that is not 0 ("B").
        """
        events = array("i", bytes(4 * len(rows)))
        found = self.library.tandem_marked(address_of(rows), len(rows), address_of(mark), address_of(events))
        return events[:found]

    def last(self, rows: array[int], offsets: array[int]) -> None:
        """Put the offset of the last event of each row into `offsets`, by row ("q")."""
        self.library.tandem_number(address_of(rows), len(rows), self.offsets[0], address_of(offsets))

    def write(self, text: TextOf, indexes: array[int]) -> list[bytes] | None:
        """Return a text for each of these events, or None where one has not what is demanded."""
        return self._reader.write(self._located, text, indexes, self.offsets)

    def tokens(self, name: str, indexes: Sequence[int]) -> list[bytes]:
        """Return a field of these events as it stands in their JSON, quotes and all."""
        data = self._located.data
        starts, lengths = self._reader.places(name)
        return [data[starts[index] : starts[index] + lengths[index]] for index in indexes]


@runtime_checkable
class ColumnarPartition(Protocol):
    """What a `PartitionTopology` has beside, if it can count columns.

    The two are to come to the same: which one is called is a matter of speed.

    Attributes:
        tokens: fields that are not in the topology's `event`, of which `TextOf` makes use.
    """

    tokens: tuple[str, ...]

    def examine_columns(self, columns: Columns) -> bool:
        """Say whether nothing is odd about any event; where something is, all go the other way."""

    def process_columns(self, columns: Columns, outputs: Outputs) -> None:
        """Count all of them."""


class Reader:
    """Reads a struct's fields, and further tokens.

    Its columns are its own, used again by each read: for one thread, and for what doesn't wait in between.

    Args:
        library: see `native.library`.
        fields: at most 64.
    """

    def __init__(self, library: ctypes.CDLL, fields: Sequence[Field]) -> None:
        self.library = library
        self._fields = {one.name: (number, one) for number, one in enumerate(fields)}
        self._columns = (Column * len(fields))()
        self._room = 0
        self._kept: list[Any] = []  # What the columns point to.
        self._whole: dict[str, array[int]] = {}
        self._numbers: dict[str, array[float]] = {}
        self._codes: dict[str, array[int]] = {}
        self._tallies: dict[str, array[int]] = {}
        self._places: dict[str, tuple[array[int], array[int]]] = {}
        self._selected = array("i")
        self._written = bytearray()
        for column, one in zip(self._columns, fields, strict=True):
            self._describe(column, one)

    def read(self, located: Located, offsets: Sequence[int]) -> Columns | None:
        """Return the columns of the events in these values, or None where one is not plain."""
        count = len(offsets)
        assert len(located.starts) == len(located.lengths) == count, "each value has its place"
        if count > self._room:
            self._make_room(count)
        for tally in self._tallies.values():
            ctypes.memset(address_of(tally), 0, len(tally) * tally.itemsize)
        read = self.library.tandem_read(
            located.data,
            address_of(located.starts),
            address_of(located.lengths),
            count,
            self._columns,
            len(self._columns),
        )
        return Columns(self, located, offsets) if read == count else None

    def column(self, name: str) -> Any:
        """Return the `struct column` of a field."""
        return self._columns[self._fields[name][0]]

    def whole(self, name: str) -> array[int]:
        """Return the values of a field of whole numbers, and room behind them."""
        return self._whole[name]

    def has_text(self, name: str) -> bool:
        """Say whether a field is a text that is in each event."""
        found = self._fields[name][1]
        return found.kind == _TEXT and not found.may_be_missing

    def numbers(self, name: str) -> array[float]:
        """Return the values of a field of numbers, and room behind them."""
        return self._numbers[name]

    def places(self, name: str) -> tuple[array[int], array[int]]:
        """Return where a field's tokens begin, and how long they are; and room behind them."""
        return self._places[name]

    def tally(self, name: str) -> dict[str, int]:
        """Return how many events have each choice of a field, those that none has left out."""
        choices = self._fields[name][1].choices
        return {one: count for one, count in zip(choices, self._tallies[name], strict=True) if count}

    def select(self, name: str, choice: str, count: int) -> array[int]:
        """Return which of the first `count` events have this choice."""
        code = self._fields[name][1].choices.index(choice)
        found = self.library.tandem_select(
            address_of(self._codes[name]), count, code, address_of(self._selected)
        )
        return self._selected[:found]

    def groups(self, data: bytes, name: str, count: int) -> Groups:
        """Return which of the first `count` events have the same token, which is in each of them."""
        starts, lengths = self._places[name]
        size = 1 << (2 * count).bit_length()
        table, group = array("i", bytes(4 * size)), array("i", bytes(4 * count))
        order, ends = array("i", bytes(4 * count)), array("i", bytes(4 * count))
        found = self.library.tandem_group(
            data,
            address_of(starts),
            address_of(lengths),
            count,
            address_of(table),
            size,
            address_of(group),
            address_of(order),
            address_of(ends),
        )
        return Groups(order, ends[:found])

    def gather(self, name: str, groups: Groups) -> list[float]:
        """Return the values of a field of numbers, in the order of the groups."""
        count = len(groups.order)
        found = array("d", bytes(8 * count))
        self.library.tandem_gather(
            address_of(self._numbers[name]), address_of(groups.order), count, address_of(found)
        )
        return found.tolist()

    def write(
        self, located: Located, text: TextOf, indexes: array[int], offsets: Sequence[int]
    ) -> list[bytes] | None:
        """Return a text for each of these events, or None where one has not what is demanded."""
        count = len(indexes)
        if not count:
            return []
        if text.prepared is None or text.prepared[0] is not self:
            text.prepared = self, self._template(text)
        template = text.prepared[1]
        # All tokens together are no longer than what they stand in, as long as no event comes twice.
        room = count * template.least_bytes + len(located.data)
        if room > len(self._written):
            self._written = bytearray(room)
        out = ctypes.addressof(ctypes.c_char.from_buffer(self._written))
        ends = array("q", bytes(8 * count))
        written = self.library.tandem_write(
            located.data,
            len(offsets),
            address_of(indexes),
            count,
            offsets[0],
            template.parts,
            len(template.parts),
            template.last,
            len(template.last),
            out,
            len(self._written),
            address_of(ends),
        )
        if written < count:
            return None
        whole = ctypes.string_at(out, ends[-1])
        return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _template(self, text: TextOf) -> _Template:
        parts: list[Part] = []
        literals: list[bytes] = []
        literal = b"{"
        for number, (name, kind) in enumerate(text.fields.items()):
            literal += (b"," if number else b"") + msgspec.json.encode(name) + b":"
            if name in text.constants:
                literal += msgspec.json.encode(text.constants[name])
                continue
            part = Part(text=literal, text_length=len(literal))
            literals.append(literal)
            literal = b""
            if name != text.offset:
                demand = text.demands.get(name, _NO_DEMAND)
                self._check_written(name, kind, demand)
                place, _ = self._fields[name]
                part.column = ctypes.addressof(self._columns) + place * ctypes.sizeof(Column)
                part.demand, part.most_bytes = demand.kind, demand.most_bytes
            parts.append(part)
        last = literal + b"}"
        least_bytes = sum(map(len, literals)) + len(last) + _NUMBER_BYTES
        return _Template((Part * len(parts))(*parts), literals, last, least_bytes)

    def _check_written(self, name: str, kind: inspect.Type, demand: Demand) -> None:
        """Refuse what would not stand in the text as msgspec encodes it."""
        if name not in self._fields:
            raise NotPlainError(f"{name}: neither a field of the event nor a token, a constant or the offset")
        read = self._fields[name][1].kind
        if demand.kind == _ANYTHING:
            is_right = (read == _WHOLE and isinstance(kind, inspect.IntType)) or (
                read == _CHOICE and isinstance(kind, inspect.StrType | inspect.LiteralType)
            )
        else:
            is_right = read in (_TEXT, _TOKEN) and isinstance(kind, inspect.StrType | inspect.LiteralType)
        if not is_right:
            raise NotPlainError(
                f"{name}: what the event has is not what is published, or nothing is demanded"
            )

    def _describe(self, column: Column, one: Field) -> None:
        name = one.name.encode()
        column.name, column.name_length, column.kind = name, len(name), one.kind
        column.may_be_missing = one.may_be_missing
        column.least, column.most = one.least, one.most
        column.least_number, column.most_number = one.least_number, one.most_number
        self._kept.append(name)
        if one.choices:
            choices = [choice.encode() for choice in one.choices]
            texts = (ctypes.c_char_p * len(choices))(*choices)
            lengths = (ctypes.c_int64 * len(choices))(*map(len, choices))
            column.choices = len(choices)
            column.choice, column.choice_length = ctypes.addressof(texts), ctypes.addressof(lengths)
            self._tallies[one.name] = tally = array("q", bytes(8 * len(choices)))
            column.tally = address_of(tally)
            self._kept += [choices, texts, lengths]

    def _make_room(self, count: int) -> None:
        self._room = count
        self._selected = array("i", bytes(4 * count))
        for name, (number, one) in self._fields.items():
            column = self._columns[number]
            starts, lengths = array("q", bytes(8 * count)), array("i", bytes(4 * count))
            self._places[name] = starts, lengths
            column.start, column.length = address_of(starts), address_of(lengths)
            if one.kind == _WHOLE:
                self._whole[name] = whole = array("q", bytes(8 * count))
                column.whole = address_of(whole)
            elif one.kind == _NUMBER:
                self._numbers[name] = numbers = array("d", bytes(8 * count))
                column.number = address_of(numbers)
            elif one.kind == _CHOICE:
                self._codes[name] = codes = array("B", bytes(count))
                column.code = address_of(codes)


@cache
def reader_of(event: Hashable, tokens: tuple[str, ...]) -> Reader | None:
    """Return this process's reader of a struct, or None: it can't be read so, or nothing is compiled."""
    library = installed()
    if not isinstance(library, ctypes.CDLL):
        return None
    try:
        return Reader(library, fields_of(event, tokens))
    except NotPlainError:
        return None


def fields_of(event: Any, tokens: Sequence[str]) -> list[Field]:
    """Return how the fields of a struct are read, and the tokens beside them.

    Raises:
        NotPlainError: there is something that this module does not know, `source` and `seq` are not among
            them or something else than they are, or there are too many.
    """
    described = _object_of(event)
    config = event.__struct_config__
    if config.forbid_unknown_fields or hasattr(event, "__post_init__"):
        raise NotPlainError(f"{event.__name__}: it refuses unknown fields, or has a look at each event")
    defaults = {one.encode_name: one.default for one in msgspec.structs.fields(event)}
    found = [_field(one, defaults[one.encode_name]) for one in described.fields]
    known = {one.name: one.kind for one in found}
    if tuple(map(known.get, _ACCOUNTS)) != (_TEXT, _WHOLE):
        raise NotPlainError(f"{event.__name__}: it has no source that is a text, or no seq that is a number")
    found += [Field(_plain(name), _TOKEN, may_be_missing=True) for name in tokens if name not in known]
    if len(found) > _MOST_COLUMNS:
        raise NotPlainError(f"{event.__name__}: more than {_MOST_COLUMNS} fields")
    return found


def _object_of(struct: Any) -> inspect.StructType:
    described = inspect.type_info(struct)
    if not isinstance(described, inspect.StructType) or described.array_like or described.tag is not None:
        raise NotPlainError(f"{struct}: not a struct that is an object without a tag")
    return described


def _field(one: inspect.Field, default: Any) -> Field:
    name, kind = _plain(one.encode_name), one.type
    # `inspect` shows the type of what may be UNSET without that. Both or neither are missing, in all events.
    may_be_missing = default is UNSET and name in _ACCOUNTS
    if not (one.required or may_be_missing):
        raise NotPlainError(f"{name}: it may be missing")
    if isinstance(kind, inspect.IntType) and (kind.gt, kind.lt, kind.multiple_of) == (None, None, None):
        least = _MIN_INT64 if kind.ge is None else kind.ge
        most = _MAX_INT64 if kind.le is None else kind.le
        return Field(name, _WHOLE, may_be_missing, least=max(least, _MIN_INT64), most=min(most, _MAX_INT64))
    if isinstance(kind, inspect.FloatType) and (kind.gt, kind.lt, kind.multiple_of) == (None, None, None):
        least_number = float("-inf") if kind.ge is None else float(kind.ge)
        most_number = float("inf") if kind.le is None else float(kind.le)
        return Field(name, _NUMBER, may_be_missing, least_number=least_number, most_number=most_number)
    if isinstance(kind, inspect.StrType) and kind.pattern is None:
        return Field(
            name,
            _TEXT,
            may_be_missing,
            least=kind.min_length or 0,
            most=_MAX_INT64 if kind.max_length is None else kind.max_length,
        )
    if isinstance(kind, inspect.LiteralType) and 0 < len(kind.values) <= _MOST_CHOICES:
        return Field(name, _CHOICE, may_be_missing, choices=tuple(_plain(each) for each in kind.values))
    raise NotPlainError(f"{name}: {kind}")


def _plain(text: object) -> str:
    """Return a name or choice that stands in JSON as it is."""
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or set(text) & {'"', "\\"}:
        raise NotPlainError(f"{text!r}: not a text that stands in JSON as it is")
    return text
