"""What the generator's events look like."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.workloads import Workload
from services.generator.workloads.behavior import BehaviorWorkload
from services.generator.workloads.pieces import Endings
from services.generator.workloads.sensors import SensorsWorkload
from shared.events import Action, Device, SensorReading, UserEvent, decoder

NOW = 1_763_880_000.25
SENSORS = ("temperature", "humidity", "pressure", "cpu_usage", "memory_usage")


def behavior(seed: int = 7, source: str = "gen-1") -> BehaviorWorkload:
    return BehaviorWorkload(
        seed=seed, source=source, user_id_min=1000, user_id_max=9999, pages=10, ip_prefix="192.168.1"
    )


def sensors(seed: int = 7, source: str = "gen-1") -> SensorsWorkload:
    return SensorsWorkload(
        seed=seed,
        source=source,
        sensors=SENSORS,
        value_min=0,
        value_max=100,
        locations=("server1", "server2", "server3"),
    )


Make = Callable[..., Workload]
BOTH = pytest.mark.parametrize("make", [behavior, sensors])


def events(workload: Workload, count: int) -> list[bytes]:
    _, bodies = workload.take(count)
    return Endings().finish(bodies, workload.stamp(NOW), 0)


@BOTH
def test_the_same_seed_gives_the_same_events_byte_for_byte(make: Make) -> None:
    one, other = make(), make()
    assert one.take(5_000) == other.take(5_000)
    assert one.stamp(NOW) == other.stamp(NOW)


@BOTH
@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 3_000), max_size=8))
def test_events_do_not_depend_on_how_many_are_taken_at_once(make: Make, sizes: list[int]) -> None:
    in_parts, at_once = make(), make()
    keys: list[bytes] = []
    bodies: list[bytes] = []
    for size in sizes:
        more_keys, more_bodies = in_parts.take(size)
        keys += more_keys
        bodies += more_bodies
    assert (keys, bodies) == at_once.take(sum(sizes))


@pytest.mark.parametrize(
    ("make", "digest"),
    [
        (behavior, "9317f64db5b8a40c5b565dce3f3b0b3f"),
        (sensors, "98617e8b7998020d64e4ac4d323132a5"),
    ],
)
def test_a_seed_gives_the_events_it_has_always_given(make: Make, digest: str) -> None:
    # Changes of this are for CHANGELOG.md: who replays a seed gets other events.
    keys, bodies = make(seed=42).take(10_000)
    assert hashlib.sha256(b"\n".join(keys + bodies)).hexdigest()[:32] == digest


@BOTH
def test_another_seed_gives_other_events(make: Make) -> None:
    assert make(seed=1).take(100)[1] != make(seed=2).take(100)[1]


@BOTH
def test_the_source_and_the_time_change_nothing_but_themselves(make: Make) -> None:
    one, other = make(source="gen-a"), make(source="gen-b")
    assert one.take(1_000) == other.take(1_000)
    assert one.stamp(NOW).replace(b"gen-a", b"gen-b") == other.stamp(NOW)


def test_user_events_are_what_the_schema_asks_for() -> None:
    workload = behavior()
    keys, bodies = workload.take(5_000)
    values = Endings().finish(bodies, workload.stamp(NOW), 990)
    decode = decoder(UserEvent)
    for seq, (key, value) in enumerate(zip(keys, values, strict=True), start=990):
        event: UserEvent = decode(value)
        assert key == str(event.user_id).encode()
        assert 1000 <= event.user_id <= 9999
        assert 1 <= int(event.page.removeprefix("/page/")) <= 10
        network, last = event.ip.rsplit(".", 1)
        assert network == "192.168.1"
        assert 1 <= int(last) <= 255
        assert (event.source, event.seq) == ("gen-1", seq)
        assert datetime.fromisoformat(event.timestamp) == datetime.fromtimestamp(NOW, UTC)


def test_readings_are_what_the_schema_asks_for() -> None:
    workload = sensors()
    keys, bodies = workload.take(5_000)
    values = Endings().finish(bodies, workload.stamp(NOW), 0)
    decode = decoder(SensorReading)
    for seq, (key, value) in enumerate(zip(keys, values, strict=True)):
        reading: SensorReading = decode(value)
        assert key == reading.sensor_id.encode()
        assert reading.sensor_id == SENSORS[seq % 5], "one of each, round and round"
        assert 0 <= reading.value <= 100
        assert reading.value == round(reading.value, 2)
        assert reading.location in {"server1", "server2", "server3"}
        assert reading.timestamp == NOW
        assert (reading.source, reading.seq) == ("gen-1", seq)


def test_users_actions_devices_pages_and_addresses_are_drawn_evenly() -> None:
    decode = decoder(UserEvent)
    decoded: list[UserEvent] = [decode(value) for value in events(behavior(), 90_000)]
    for field, expected in (
        ("action", set(get_args(Action))),
        ("device", set(get_args(Device))),
        ("page", {f"/page/{i}" for i in range(1, 11)}),
        ("ip", {f"192.168.1.{i}" for i in range(1, 256)}),
        ("user_id", set(range(1000, 10_000))),
    ):
        counts = Counter(getattr(event, field) for event in decoded)
        share = len(decoded) / len(expected)
        # Within six standard deviations.
        assert set(counts) <= expected
        assert all(abs(counts[value] - share) < 6 * share**0.5 for value in expected), field


def test_values_and_locations_of_readings_are_drawn_evenly() -> None:
    decode = decoder(SensorReading)
    decoded: list[SensorReading] = [decode(value) for value in events(sensors(), 50_000)]
    tens = Counter(min(int(reading.value // 10), 9) for reading in decoded)
    locations = Counter(reading.location for reading in decoded)
    assert all(abs(tens[i] - 5_000) < 6 * 5_000**0.5 for i in range(10))
    assert all(abs(count - 50_000 / 3) < 6 * (50_000 / 3) ** 0.5 for count in locations.values())
    assert min(reading.value for reading in decoded) < 0.1
    assert max(reading.value for reading in decoded) > 99.9


def test_names_with_quotes_and_umlauts_are_json_and_keys_are_their_utf_8() -> None:
    names = ('a"b', "größe")
    workload = SensorsWorkload(
        seed=1, source='s"1', sensors=names, value_min=-1.5, value_max=-1.5, locations=("Köln",)
    )
    keys, bodies = workload.take(2)
    values = Endings().finish(bodies, workload.stamp(NOW), 0)
    readings: list[SensorReading] = [decoder(SensorReading)(value) for value in values]
    assert [reading.sensor_id for reading in readings] == list(names)
    assert keys == [name.encode() for name in names]
    assert {(reading.value, reading.location, reading.source) for reading in readings} == {
        (-1.5, "Köln", 's"1')
    }


def test_a_domain_too_large_for_a_table_is_made_as_it_comes() -> None:
    workload = BehaviorWorkload(
        seed=1, source="s", user_id_min=5, user_id_max=2**32 + 4, pages=200_000, ip_prefix="10.0.0"
    )
    decode = decoder(UserEvent)
    users = [decode(value).user_id for value in events(workload, 1_000)]
    assert len(set(users)) > 990
    assert min(users) >= 5


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(0, 2_500))
def test_the_number_ends_the_event_whatever_its_length(first: int, count: int) -> None:
    assert Endings().finish([b"b"] * count, b"s", first) == [b"bs%d}" % (first + i) for i in range(count)]
