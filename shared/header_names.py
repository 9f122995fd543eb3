r"""Reads record batches with a header name that is not UTF-8, which the client can't unpack.

Kafka says that a header's name is UTF-8 and checks nothing. The client raises in the middle of such a batch,
at each try. Here the batch is unpacked again, by us; in its names each byte that is not UTF-8 is written out,
as `\xff`. Where nothing is wrong this costs nothing: the client's own unpacking comes first.

The format is https://kafka.apache.org/documentation/#recordbatch. This reaches into the client's internals;
it was checked with the client version below.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import aiokafka
import google_crc32c
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException

CHECKED_VERSION = "0.14.0"

_OFFSET_AND_LENGTH = struct.Struct(">qi")
# Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and maximal timestamp,
# producer id and epoch, base sequence, number of records.
_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH, _LENGTH_AT = struct.Struct(">i"), 8
_MAGIC, _MAGIC_AT = 2, 16
_CRC, _CRC_AT = struct.Struct(">I"), 17
_ATTRIBUTES, _ATTRIBUTES_AT = struct.Struct(">h"), 21
_COUNT, _COUNT_AT = struct.Struct(">i"), 57
# Where there is no wheel for the platform it is Python code, and the client's own is faster.
_HAS_FAST_CHECKSUM = google_crc32c.implementation == "c"
_CODEC_BITS = 0x07
_LOG_APPEND_TIME_BIT = 0x08
_DECOMPRESS: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}


@dataclass(frozen=True, slots=True)
class RereadRecord:
    """A record as the client's own unpacking would give it."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


class RawRecords:
    """Stands in for the client's reader of a fetch answer, and keeps the bytes for a second look."""

    def __init__(self, answer: bytes) -> None:
        records = fetcher.MemoryRecords(answer)
        self._answer = answer
        self._position = 0
        self.has_next: Callable[[], bool] = records.has_next
        self.next_batch: Callable[[], Any] = records.next_batch
        self.size_in_bytes: Callable[[], int] = records.size_in_bytes

    def next_located(self, subject: object, *, check: bool) -> tuple[Any, slice]:
        """Return the next batch and where it stands in the answer, its checksum compared if `check`.

        The client compares it too, at a tenth of the speed.

        Raises:
            CorruptRecordException: the checksum is another one; the message names `subject`.
        """
        start = self._position
        (length,) = _LENGTH.unpack_from(self._answer, start + _LENGTH_AT)
        self._position = start + _OFFSET_AND_LENGTH.size + length
        batch = self.next_batch()
        if not check:
            is_sound = True
        elif _HAS_FAST_CHECKSUM and self._answer[start + _MAGIC_AT] == _MAGIC:
            (written,) = _CRC.unpack_from(self._answer, start + _CRC_AT)
            checked = self._answer[start + _CRC_AT + _CRC.size : self._position]
            is_sound = written == google_crc32c.value(checked)
        else:
            is_sound = batch.validate_crc()
        if not is_sound:
            raise CorruptRecordException(f"Invalid CRC - {subject}")
        return batch, slice(start, self._position)

    def is_dense(self, batch: Any, where: slice) -> bool:
        """Say whether the offsets of a batch are consecutive: its format says so, and none was removed."""
        if self._answer[where.start + _MAGIC_AT] != _MAGIC:
            return False
        (count,) = _COUNT.unpack_from(self._answer, where.start + _COUNT_AT)
        return bool(0 < count == batch.last_offset_delta + 1)

    def content(self, where: slice) -> tuple[bytes, int, int]:
        """Return the records of the batch that stands there, decompressed: bytes, and where in them.

        Raises:
            CorruptRecordException: nobody knows how they are compressed.
        """
        (attributes,) = _ATTRIBUTES.unpack_from(self._answer, where.start + _ATTRIBUTES_AT)
        begin = where.start + _HEADER.size
        if not attributes & _CODEC_BITS:
            return self._answer, begin, where.stop
        data = _decompressed(attributes, self._answer[begin : where.stop])
        return data, 0, len(data)

    def again(self, where: slice) -> Any:
        """Return the batch that stands there once more: the client's can be gone through only once."""
        return fetcher.MemoryRecords(self._answer[where]).next_batch()

    def reread(self, batch: Any) -> list[RereadRecord]:
        """Unpack a batch of this answer that the client could not, its CRC checked before.

        Raises:
            CorruptRecordException: more is wrong with it than the names of headers.
        """
        position = 0
        while True:
            base_offset, length = _OFFSET_AND_LENGTH.unpack_from(self._answer, position)
            end = position + _OFFSET_AND_LENGTH.size + length
            if base_offset == batch.base_offset:
                return _unpack(bytes(self._answer[position:end]))
            position = end


class _TolerantRecords(RawRecords):
    """The same for readers record by record: its batches take the second look by themselves."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        stock = self.next_batch
        self.next_batch = lambda: _TolerantBatch(stock(), self)


class _TolerantBatch:
    def __init__(self, batch: Any, records: RawRecords) -> None:
        self._batch = batch
        self._records = records

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            return iter(self._records.reread(self._batch))


def read_any_header_name(consumer: aiokafka.AIOKafkaConsumer) -> bool:
    """Make `consumer` (started, nothing assigned yet) give out records whatever their headers are called.

    Returns:
        False where this client version was not checked: the consumer is left as it is.
    """
    return replace_in_fetcher(consumer, MemoryRecords=_TolerantRecords)


def replace_in_fetcher(consumer: aiokafka.AIOKafkaConsumer, **classes: type[Any]) -> bool:
    """Let `consumer`, and no other, unpack fetch answers with these classes in place of the client's.

    Returns:
        False where this client version was not checked: the consumer is left as it is.
    """
    stock = fetcher.Fetcher._proc_fetch_request  # noqa: SLF001 — see the module's docstring
    if aiokafka.__version__ != CHECKED_VERSION or stock.__closure__ is not None:
        return False
    # Classes are looked up among the function's globals: a copy of the function with globals of its own
    # changes them for this consumer alone.
    swapped = FunctionType(stock.__code__, {**stock.__globals__, **classes}, stock.__name__)
    consumer._fetcher._proc_fetch_request = MethodType(swapped, consumer._fetcher)  # noqa: SLF001
    return True


def _unpack(batch: bytes) -> list[RereadRecord]:
    header = _HEADER.unpack_from(batch)
    base_offset, attributes, first_timestamp, max_timestamp, count = (header[i] for i in (0, 5, 7, 8, 12))
    cursor = _Cursor(_decompressed(attributes, batch[_HEADER.size :]))
    appended = bool(attributes & _LOG_APPEND_TIME_BIT)
    found = []
    try:
        for _ in range(count):
            end = cursor.varint() + cursor.position
            cursor.position += 1  # The record's own attributes: none are used.
            timestamp = first_timestamp + cursor.varint()
            offset = base_offset + cursor.varint()
            key, value = cursor.sized(), cursor.sized()
            headers = [(_name(cursor.sized()), cursor.sized()) for _ in range(cursor.varint())]
            if cursor.position != end:
                raise CorruptRecordException(f"the record at offset {offset} has another length than it says")
            timestamp = max_timestamp if appended else timestamp
            found.append(RereadRecord(offset, timestamp, int(appended), key, value, headers))
    except IndexError as error:
        raise CorruptRecordException(f"the batch at offset {base_offset} ends within a record") from error
    return found


def _decompressed(attributes: int, packed: bytes) -> bytes:
    number = attributes & _CODEC_BITS
    if number not in _DECOMPRESS:
        raise CorruptRecordException(f"a batch is compressed in a way that is not known: {number}")
    return bytes(_DECOMPRESS[number](packed))


def _name(name: bytes | None) -> str:
    if name is None:
        raise CorruptRecordException("a header has no name")
    return name.decode(errors="backslashreplace")


class _Cursor:
    """Reads the fields of records one after the other; IndexError beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def varint(self) -> int:
        """Return a zigzag-encoded number."""
        number = shift = 0
        while True:
            byte = self._data[self.position]
            self.position += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (number >> 1) ^ -(number & 1)
            shift += 7

    def sized(self) -> bytes | None:
        """Return bytes with their length before them; None where that is negative."""
        length = self.varint()
        if length < 0:
            return None
        start = self.position
        self.position += length
        if self.position > len(self._data):
            raise IndexError
        return self._data[start : self.position]
