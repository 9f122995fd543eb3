"""Records as JSON fragments by field, so that a fragment can be what no JSON writer would write."""

import json
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final

from tests.verifier.contract import Topology

Fragments = dict[str, bytes]

FIRST_MOMENT: Final = datetime(2023, 11, 14, 22, 13, 20)  # noqa: DTZ001  # the contract allows none; means UTC
FIRST_TIMESTAMP: Final = 1_700_000_000
"""Events tell this time and later, so that the same seed makes the same bytes."""

SENSORS: Final = ("temperature", "humidity", "pressure", "cpu_usage", "memory_usage")
DEVICES: Final = ("mobile", "desktop", "tablet")
ACTIONS: Final = ("login", "logout", "click", "view", "purchase", "search")
LOCATIONS: Final = ("server1", "server2", "server3")
ON_THE_BOUND: Final = (10, 80, 85, 90)


def fragment(value: Any) -> bytes:
    """Return one JSON value as bytes."""
    return json.dumps(value, ensure_ascii=False).encode()


def join(fragments: Fragments) -> bytes:
    """Return the JSON object that the fragments make."""
    return b"{" + b", ".join(b'"%b": %b' % (name.encode(), raw) for name, raw in fragments.items()) + b"}"


def user_event(random: Random, number: int, *, users: int) -> tuple[bytes, Fragments]:
    """Return key and fragments of a valid user event."""
    user_id = 1000 + random.randrange(users)
    moment = FIRST_MOMENT + timedelta(milliseconds=number)
    return str(user_id).encode(), {
        "user_id": fragment(user_id),
        "action": fragment(random.choice(ACTIONS)),
        "page": fragment(f"/page/{random.randint(1, 10)}"),
        "timestamp": fragment(moment.isoformat()),
        "ip": fragment(f"192.168.1.{random.randint(1, 255)}"),
        "device": fragment(random.choice(DEVICES)),
    }


def sensor_reading(random: Random, number: int, *, sensors: int) -> tuple[bytes, Fragments]:
    """Return key and fragments of a valid sensor reading; one in twenty lies exactly on a threshold."""
    chosen = random.randrange(sensors)
    sensor_id = SENSORS[chosen] if chosen < len(SENSORS) else f"sensor-{chosen}"
    value = random.choice(ON_THE_BOUND) if random.random() < 0.05 else round(random.uniform(0, 100), 2)
    return sensor_id.encode(), {
        "sensor_id": fragment(sensor_id),
        "value": fragment(float(value)),
        "timestamp": fragment(FIRST_TIMESTAMP + number / 1000),
        "location": fragment(random.choice(LOCATIONS)),
    }


def event(
    topology: Topology, random: Random, number: int, *, users: int, sensors: int
) -> tuple[bytes, Fragments]:
    """Return key and fragments of a valid event of a topology's input."""
    if topology == "behavior":
        return user_event(random, number, users=users)
    return sensor_reading(random, number, sensors=sensors)
