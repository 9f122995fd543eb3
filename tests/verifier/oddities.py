"""Records that look strange and are valid all the same: they must be counted, and be no dead letters."""

from collections.abc import Callable
from random import Random
from typing import Final

from tests.verifier.contract import Topology
from tests.verifier.fragments import Fragments, fragment, join

Kind = Callable[[Random, Fragments], bytes]

JUNK: Final = {
    "null": b"null",
    "a huge integer": b"9" * 5000,
    "1e400": b"1e400",
    "invalid UTF-8": b'"\xff\xfe\xc3("',
    "an object": b'{"a": [1, {"b": null}], "": ""}',
    "twenty brackets": b"[" * 20 + b"]" * 20,
    "a long text": fragment("x" * 20_000),
}
UNUSED_FIELDS: Final[dict[Topology, tuple[str, ...]]] = {
    "behavior": ("ip", "note", "größe"),
    "sensors": ("ip", "note", "größe"),
}
CHANGES: Final[dict[Topology, dict[str, Fragments]]] = {
    "behavior": {
        "user 0": {"user_id": b"0"},
        "the largest user": {"user_id": b"9223372036854775807"},
        "an escaped action": {"action": b'"\\u0063lick"'},
        "a click with a number as page": {"action": b'"click"', "page": b"17"},
        "a view with null as timestamp": {"action": b'"view"', "timestamp": b"null"},
        "a login at no time": {"action": b'"login"', "timestamp": b'"yesterday"'},
        "a purchase with an offset": {"action": b'"purchase"', "timestamp": b'"2023-11-14T22:13:20+05:30"'},
        "a purchase in UTC": {"action": b'"purchase"', "timestamp": b'"2023-11-14T22:13:20.5Z"'},
        "a purchase without an offset": {"action": b'"purchase"', "timestamp": b'"2023-11-14T22:13:20"'},
        "a purchase on a long page": {"action": b'"purchase"', "page": fragment("/" + "p" * 2047)},
        "a purchase on an odd page": {"action": b'"purchase"', "page": fragment('/pägé/"\\\n\u2028💶')},
    },
    "sensors": {
        "an integer": {"value": b"42"},
        "the largest value": {"value": b"1e15"},
        "the smallest value": {"value": b"-1000000000000000"},
        "an exponent": {"value": b"2.5E+1"},
        "many digits": {"value": b"33.333333333333333333333333333"},
        "time 0": {"timestamp": b"0"},
        "an integer as time": {"timestamp": b"1700000000"},
        "no location": {"location": b'""'},
        "a long location": {"location": fragment("l" * 128)},
        "a long sensor_id": {"sensor_id": fragment("s" * 128)},
        "a sensor_id of 128 wide characters": {"sensor_id": fragment("🌡" * 128)},
        "a sensor_id with a colon": {"sensor_id": b'"rack:7:min"'},
    },
}


def kinds(topology: Topology) -> dict[str, Kind]:
    """Return every kind of oddity for a topology's input, by name."""
    found: dict[str, Kind] = {}
    for field in UNUSED_FIELDS[topology]:
        found |= {f"{field}: {name}": replaced({field: raw}) for name, raw in JUNK.items()}
    found |= {name: replaced(fragments) for name, fragments in CHANGES[topology].items()}
    found["whitespace"] = spaced_out
    found["another order"] = shuffled
    found["an escaped name"] = lambda _, event: join(event).replace(b'"timestamp"', b'"time\\u0073tamp"')
    if topology == "behavior":
        found["a search without page and timestamp"] = bare_search
    return found


def replaced(fragments: Fragments) -> Kind:
    """Return the kind that has these fragments in place of the event's own, or in addition."""
    return lambda _, event: join(event | fragments)


def spaced_out(_: Random, event: Fragments) -> bytes:
    """Return the event with all the whitespace that JSON allows."""
    inside = b" ,\r\n\t".join(b' "%b"\t:\n %b ' % (name.encode(), raw) for name, raw in event.items())
    return b" \r\n\t{" + inside + b"}\n\n "


def shuffled(random: Random, event: Fragments) -> bytes:
    """Return the event with its fields in another order."""
    names = sorted(event)
    random.shuffle(names)
    return join({name: event[name] for name in names})


def bare_search(_: Random, event: Fragments) -> bytes:
    """Return a search with none of the fields that are not used."""
    kept = {name: raw for name, raw in event.items() if name not in {"page", "timestamp", "ip"}}
    return join(kept | {"action": b'"search"'})
