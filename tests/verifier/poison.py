"""Records that must become dead letters: every kind that the contract names.

A kind is a function from the fragments of a valid event to the bytes of a poisoned record.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from tests.verifier.contract import Headers, Topology
from tests.verifier.fragments import Fragments, fragment, join

Kind = Callable[[Random, Fragments], bytes | None]

HUGE_BYTES: Final = 900_000
DEEP_BRACKETS: Final = 100_000
INVALID_UTF8: Final = b'"cli\xff\xfeck"'

NO_INTEGER: Final = {
    "null": b"null",
    "string": b'"1234"',
    "float": b"1234.5",
    "whole float": b"1234.0",
    "true": b"true",
    "negative": b"-1",
    "beyond 64 bits": b"9223372036854775808",
    "5000 digits": b"9" * 5000,
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "1e400": b"1e400",
    "array": b"[1]",
    "object": b"{}",
}
NO_NUMBER: Final = {
    "null": b"null",
    "string": b'"21.5"',
    "true": b"true",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "5000 digits": b"9" * 5000,
    "array": b"[21.5]",
}
NO_STRING: Final = {
    "null": b"null",
    "number": b"7",
    "true": b"true",
    "array": b'["x"]',
    "object": b"{}",
    "invalid UTF-8": INVALID_UTF8,
}
BAD_FIELDS: Final[dict[Topology, dict[str, dict[str, bytes]]]] = {
    "behavior": {
        "user_id": NO_INTEGER,
        "action": NO_STRING | {"unknown": b'"buy"', "upper case": b'"CLICK"', "empty": b'""'},
        "device": NO_STRING | {"unknown": b'"watch"', "empty": b'""'},
    },
    "sensors": {
        "sensor_id": NO_STRING | {"empty": b'""', "129 characters": fragment("s" * 129)},
        "value": NO_NUMBER | {"above 1e15": b"1000000000000001", "below -1e15": b"-1.1e15"},
        "timestamp": NO_NUMBER | {"negative": b"-1", "barely negative": b"-0.001"},
        "location": NO_STRING | {"129 characters": fragment("l" * 129)},
    },
}
BAD_PURCHASE: Final = {
    "page": NO_STRING | {"2049 characters": fragment("/" + "p" * 2048)},
    "timestamp": NO_STRING
    | {
        "words": b'"yesterday"',
        "empty": b'""',
        "13th month": b'"2023-13-01T00:00:00"',
        "25 hours": b'"2023-01-01T25:00:00Z"',
    },
}
BAD_SOURCE_SEQ: Final[dict[str, Fragments]] = {
    "source without seq": {"source": b'"one"'},
    "seq without source": {"seq": b"0"},
    "null source": {"source": b"null", "seq": b"0"},
    "null seq": {"source": b'"one"', "seq": b"null"},
    "both null": {"source": b"null", "seq": b"null"},
    "empty source": {"source": b'""', "seq": b"0"},
    "source of 65": {"source": fragment("s" * 65), "seq": b"0"},
    "number as source": {"source": b"7", "seq": b"0"},
    "negative seq": {"source": b'"one"', "seq": b"-1"},
    "float seq": {"source": b'"one"', "seq": b"1.5"},
    "string seq": {"source": b'"one"', "seq": b'"1"'},
    "true seq": {"source": b'"one"', "seq": b"true"},
}
WHOLE_VALUES: Final[dict[str, bytes | None]] = {
    "null value": None,
    "empty value": b"",
    "only whitespace": b" \n",
    "undecodable bytes": b"\x00\xff\xfe\x80\xc3\x28",
    "text": b"not json",
    "array": b'[{"user_id": 1}]',
    "string": b'"user_id"',
    "number": b"17",
    "true": b"true",
    "JSON null": b"null",
    "empty object": b"{}",
    "NaN alone": b"NaN",
    "deep arrays": b"[" * DEEP_BRACKETS + b"]" * DEEP_BRACKETS,
    "deep, never closed": b"[" * DEEP_BRACKETS,
    "deep objects": b'{"a":' * DEEP_BRACKETS + b"1" + b"}" * DEEP_BRACKETS,
    "huge junk": b"\xfe" * HUGE_BYTES,
    "huge array": b"[" + b"0," * (HUGE_BYTES // 2 - 1) + b"0]",
}
HEADERS: Final[tuple[Headers, ...]] = (
    (),
    (("trace", b"0af7651916cd43dd"),),
    (("trace", b"first"), ("trace", b"second"), ("empty", b"")),
    (("bytes", b"\x00\xff\xfe"), ("no value", None), ("ünïcode", "wörld".encode())),
)
KEYS: Final[tuple[bytes | None, ...]] = (None, b"", b"\xff\x00\xfe")
"""What stands in place of the right key now and then."""


def kinds(topology: Topology) -> dict[str, Kind]:
    """Return every kind of poison for a topology's input, by name."""
    found: dict[str, Kind] = {name: whole(value) for name, value in WHOLE_VALUES.items()}
    for field, fragments in BAD_FIELDS[topology].items():
        found[f"{field} missing"] = without(field)
        found |= {f"{field} {name}": replaced({field: raw}) for name, raw in fragments.items()}
    if topology == "behavior":
        for field, fragments in BAD_PURCHASE.items():
            found[f"purchase: {field} missing"] = without(field, purchase=True)
            for name, raw in fragments.items():
                found[f"purchase: {field} {name}"] = replaced({"action": b'"purchase"', field: raw})
        found["huge action"] = replaced({"action": fragment("x" * HUGE_BYTES)})
    else:
        found["huge location"] = replaced({"location": fragment("x" * HUGE_BYTES)})
    found |= {name: with_source_seq(fragments) for name, fragments in BAD_SOURCE_SEQ.items()}
    found["NaN in an unused field"] = replaced({"note": b"NaN"})
    deep = b"[" * DEEP_BRACKETS + b"]" * DEEP_BRACKETS
    found["deep in an unused field"] = replaced({"note": deep})
    found["cut off"] = lambda _, event: join(event)[:-1]
    found["something after it"] = lambda _, event: join(event) + b"}"
    found["twice"] = lambda _, event: join(event) + join(event)
    found["byte-order mark"] = lambda _, event: b"\xef\xbb\xbf" + join(event)
    found["UTF-16"] = lambda _, event: join(event).decode().encode("utf-16")
    found["single quotes"] = lambda _, event: join(event).replace(b'"', b"'")
    return found


def whole(value: bytes | None) -> Kind:
    """Return the kind that is always these bytes."""
    return lambda _, __: value


def without(field: str, *, purchase: bool = False) -> Kind:
    """Return the kind that lacks a field."""

    def make(_: Random, event: Fragments) -> bytes:
        changed = event | {"action": b'"purchase"'} if purchase else event
        return join({name: raw for name, raw in changed.items() if name != field})

    return make


def replaced(fragments: Fragments) -> Kind:
    """Return the kind that has these fragments in place of the event's own."""
    return lambda _, event: join(event | fragments)


def with_source_seq(fragments: Fragments) -> Kind:
    """Return the kind that has this for `source` and `seq`, whatever the event had."""

    def make(_: Random, event: Fragments) -> bytes:
        rest = {name: raw for name, raw in event.items() if name not in {"source", "seq"}}
        return join(rest | fragments)

    return make
