"""Loads what `compile` made of columns.c. Where there is none, or another one, the processor does without.

It lies beside the interpreter's packages and not among the sources: a checkout is not written to, and each
environment has its own. It is called by ctypes: it knows nothing of Python, and needs none of its headers.
"""

from __future__ import annotations

import ctypes
import hashlib
import sysconfig
from array import array
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("columns.c")
NAME = "_tandem_columns.so"


class UnusableError(Exception):
    """There is no compiled part that can be used; the message says why, and what to do."""


class Column(ctypes.Structure):
    """`struct column`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_int64),
        ("kind", ctypes.c_int64),
        ("may_be_missing", ctypes.c_int64),
        ("least", ctypes.c_int64),
        ("most", ctypes.c_int64),
        ("least_number", ctypes.c_double),
        ("most_number", ctypes.c_double),
        ("choices", ctypes.c_int64),
        ("choice", ctypes.c_void_p),
        ("choice_length", ctypes.c_void_p),
        ("whole", ctypes.c_void_p),
        ("number", ctypes.c_void_p),
        ("code", ctypes.c_void_p),
        ("tally", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("length", ctypes.c_void_p),
        ("missing", ctypes.c_int64),
        ("is_run", ctypes.c_int64),
    )


class Part(ctypes.Structure):
    """`struct part`."""

    _fields_ = (
        ("text", ctypes.c_char_p),
        ("text_length", ctypes.c_int64),
        ("column", ctypes.c_void_p),
        ("demand", ctypes.c_int64),
        ("most_bytes", ctypes.c_int64),
    )


class Texts(ctypes.Structure):
    """`struct texts`."""

    _fields_ = (
        ("slot", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("text", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("length", ctypes.c_void_p),
    )


class Rings(ctypes.Structure):
    """`struct rings`."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("time", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("room", ctypes.c_void_p),
        ("held", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("size", ctypes.c_int64),
    )


def address_of(numbers: array[Any]) -> int:
    """Return where an array's numbers lie, for as long as it keeps its length."""
    return numbers.buffer_info()[0]


def source_hash() -> int:
    """Return what tells one columns.c from another: 64 bits."""
    return int.from_bytes(hashlib.sha256(SOURCE.read_bytes()).digest()[:8], "big")


def location() -> Path:
    """Return where this interpreter's compiled part lies, or would."""
    return Path(sysconfig.get_path("platlib")) / NAME


def load(path: Path) -> ctypes.CDLL:
    """Return the compiled part at `path`, its functions declared.

    Raises:
        UnusableError: it is not there, can't be loaded, or was compiled from another columns.c.
    """
    advice = "`python -m services.processor.native.compile` makes it"
    if not path.exists():
        raise UnusableError(f"{path} is not there; {advice}")
    try:
        library = ctypes.CDLL(str(path.absolute()))  # a bare name is looked for elsewhere
        library.tandem_source_hash.restype = ctypes.c_uint64
        is_current = library.tandem_source_hash() == source_hash()
    except (OSError, AttributeError) as error:
        raise UnusableError(f"{path} can't be loaded: {error}; {advice} anew") from error
    if not is_current:
        raise UnusableError(f"{path} was made of another version of {SOURCE.name}; {advice} anew")
    integer, address = ctypes.c_int64, ctypes.c_void_p
    data = ctypes.c_char_p
    library.tandem_locate.argtypes = (data, integer, integer, integer, integer, address, address, address)
    library.tandem_locate.restype = integer
    library.tandem_read.argtypes = (data, address, address, integer, address, integer)
    library.tandem_read.restype = integer
    library.tandem_select.argtypes = (address, integer, ctypes.c_uint8, address)
    library.tandem_select.restype = integer
    library.tandem_group.argtypes = (
        data, address, address, integer, address, integer, address, address, address,
    )  # fmt: skip
    library.tandem_group.restype = integer
    library.tandem_gather.argtypes = (address, address, integer, address)
    library.tandem_gather.restype = None
    library.tandem_write.argtypes = (
        data, integer, address, integer, integer, address, integer, data, integer, address, integer, address,
    )  # fmt: skip
    library.tandem_write.restype = integer
    library.tandem_learn.argtypes = (address, address, integer)
    library.tandem_learn.restype = None
    library.tandem_find.argtypes = (data, address, address, integer, address, address)
    library.tandem_find.restype = integer
    library.tandem_mark.argtypes = (address, integer, address, address)
    library.tandem_mark.restype = integer
    library.tandem_marked.argtypes = (address, integer, address, address)
    library.tandem_marked.restype = integer
    library.tandem_number.argtypes = (address, integer, integer, address)
    library.tandem_number.restype = None
    library.tandem_push.argtypes = (address, address, integer, integer, address, address)
    library.tandem_push.restype = integer
    return library


@cache
def installed() -> ctypes.CDLL | UnusableError:
    """Return this interpreter's compiled part, or why there is none. Looked for once."""
    try:
        return load(location())
    except UnusableError as error:
        return error
