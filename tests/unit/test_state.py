"""The stores of one partition against plain sets and dicts, with restarts from the changelog anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.formats import UnknownFormatError, Upgrades
from services.processor.state import KeySet, State, Table
from shared.errors import StateFullError

MAX_KEYS = 12
USERS = st.integers(0, 15)
SENSORS = st.sampled_from(["temperature", "rack/7", "größe", "a:b", " "])


class Reading(msgspec.Struct):
    value: float
    seen: int = 0


class Stores:
    """A state with one store of each kind."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self.state = State(max_keys=max_keys)
        self.users: KeySet[int] = self.state.key_set("users", int)
        self.sensors: Table[Reading] = self.state.table("sensors", Reading)

    def contents(self) -> tuple[int, dict[str, Reading | None]]:
        return len(self.users), {key: self.sensors.get(key) for key in sorted(self.sensors)}


Step = tuple[str, object]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(USERS, max_size=6)),
        st.tuples(st.just("put"), st.tuples(SENSORS, st.floats(allow_nan=False, allow_infinity=False))),
        st.tuples(st.just("delete"), SENSORS),
        st.tuples(st.just("commit"), st.none()),
    ),
    max_size=30,
)


def apply(step: Step, stores: Stores, users: set[int], sensors: dict[str, Reading]) -> bool:
    """Let both take a step; return whether it was refused for want of room, and then changed nothing."""
    kind, what = step
    live = len(users) + len(sensors)
    if kind == "add":
        assert isinstance(what, list)
        if live + len(set(what) - users) > MAX_KEYS:
            with pytest.raises(StateFullError):
                stores.users.add(what)
            return True
        stores.users.add(what)
        users |= set(what)
    elif kind == "put":
        assert isinstance(what, tuple)
        sensor, value = what
        if live + (sensor not in sensors) > MAX_KEYS:
            with pytest.raises(StateFullError):
                stores.sensors.put(sensor, Reading(value))
            return True
        stores.sensors.put(sensor, Reading(value))
        sensors[sensor] = Reading(value)
    elif kind == "delete":
        assert isinstance(what, str)
        stores.sensors.delete(what)
        sensors.pop(what, None)
    return False


def replayed(log: Iterator[tuple[bytes, bytes | None]] | list[tuple[bytes, bytes | None]]) -> Stores:
    stores = Stores()
    for key, value in log:
        stores.state.restore(key, value)
    return stores


@given(STEPS)
def test_stores_hold_what_plain_sets_and_dicts_hold_within_the_budget(steps: list[Step]) -> None:
    stores, users, sensors = Stores(), set[int](), dict[str, Reading]()
    for step in steps:
        apply(step, stores, users, sensors)
        assert stores.contents() == (len(users), dict(sorted(sensors.items())))
        assert stores.state.live_keys == len(users) + len(sensors)
        assert stores.state.budget.left == MAX_KEYS - len(users) - len(sensors)


@given(STEPS)
def test_what_the_changelog_brings_back_equals_what_was_there(steps: list[Step]) -> None:
    stores, users, sensors = Stores(), set[int](), dict[str, Reading]()
    log: list[tuple[bytes, bytes | None]] = []
    for step in [*steps, ("commit", None)]:
        apply(step, stores, users, sensors)
        if step[0] == "commit":
            log += stores.state.take_changes()
    compacted = {key: value for key, value in dict(log).items() if value is not None}
    for restored in (replayed(log), replayed(list(compacted.items())), replayed([*log, *log])):
        assert restored.contents() == stores.contents()
        assert restored.state.live_keys == stores.state.live_keys == len(compacted)
        assert restored.state.budget.left == stores.state.budget.left
        with pytest.raises(StateFullError):
            restored.users.add(range(100, 100 + stores.state.budget.left + 1))
        restored.users.add(users)  # What was seen before needs no room.


@given(STEPS)
def test_only_what_changed_since_the_last_time_is_written(steps: list[Step]) -> None:
    stores, users, sensors = Stores(), set[int](), dict[str, Reading]()
    touched: set[bytes] = set()
    for step in steps:
        before = set(users)
        known = set(sensors)
        refused = apply(step, stores, users, sensors)
        kind, what = step
        touched |= {f"users/{user}".encode() for user in users - before}
        if kind == "put" and not refused:
            assert isinstance(what, tuple)
            touched.add(f"sensors/{what[0]}".encode())
        if kind == "delete" and what in known:
            touched.add(f"sensors/{what}".encode())
        if kind == "commit":
            changes = stores.state.take_changes()
            assert {key for key, _ in changes} == touched
            assert len(changes) == len(touched), "a key that changed twice is written once"
            touched = set()


def test_nothing_changed_is_nothing_to_write() -> None:
    stores = Stores()
    stores.users.add([1, 2])
    stores.state.take_changes()
    stores.users.add([1, 2])
    assert stores.state.take_changes() == []


def test_a_value_changed_in_place_is_written_when_it_is_put_again() -> None:
    stores = Stores()
    reading = Reading(1.0)
    stores.sensors.put("s", reading)
    stores.state.take_changes()
    reading.seen = 7
    stores.sensors.put("s", reading)
    assert stores.state.take_changes() == [(b"sensors/s", b'v1 {"value":1.0,"seen":7}')]


def test_a_deleted_key_is_a_tombstone_once_and_gives_its_room_back() -> None:
    stores = Stores(max_keys=1)
    stores.sensors.put("s", Reading(1.0))
    stores.state.take_changes()
    stores.sensors.delete("s")
    stores.sensors.delete("s")
    assert stores.state.take_changes() == [(b"sensors/s", None)]
    stores.sensors.put("other", Reading(1.0))


def test_keys_that_do_not_all_fit_are_none_of_them_added() -> None:
    stores = Stores(max_keys=3)
    stores.users.add([1, 2])
    with pytest.raises(StateFullError, match="PROCESSOR_STATE_MAX_KEYS=3"):
        stores.users.add([2, 3, 4])
    assert (len(stores.users), stores.state.budget.left) == (2, 1)
    stores.users.add([2, 3])


def test_a_full_table_still_takes_new_values_of_the_keys_it_has() -> None:
    stores = Stores(max_keys=1)
    stores.sensors.put("s", Reading(1.0))
    with pytest.raises(StateFullError):
        stores.sensors.put("other", Reading(1.0))
    stores.sensors.put("s", Reading(2.0))
    assert stores.sensors.get("s") == Reading(2.0)
    assert stores.sensors.get("other") is None


def test_an_unbounded_table_takes_no_room_and_counts_as_live_all_the_same() -> None:
    state = State(max_keys=1)
    users: KeySet[int] = state.key_set("users", int)
    totals = state.table("totals", Reading, bounded=False)
    for key in ("one", "two"):
        totals.put(key, Reading(1.0))
    users.add([7])
    assert state.live_keys == 3
    with pytest.raises(StateFullError):
        users.add([8])


def test_a_state_larger_than_a_lowered_bound_is_kept_and_takes_no_more() -> None:
    log = [(f"users/{user}".encode(), b"1") for user in range(5)]
    stores = Stores(max_keys=3)
    for key, value in log:
        stores.state.restore(key, value)
    stores.users.add(range(5))
    with pytest.raises(StateFullError):
        stores.users.add([5])


@pytest.mark.parametrize("key", [b"users/1", b"sensors/s"])
def test_a_tombstone_of_a_key_that_is_not_there_makes_no_room(key: bytes) -> None:
    stores = Stores(max_keys=2)
    stores.state.restore(key, None)
    assert stores.state.budget.left == 2


def test_a_record_of_a_store_that_does_not_exist_is_another_topologys() -> None:
    with pytest.raises(KeyError):
        Stores().state.restore(b"windows/s", b"{}")


def test_a_record_that_does_not_fit_its_store_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected"):
        Stores().state.restore(b"sensors/s", b'{"value":"x"}')
    with pytest.raises(ValueError, match="invalid literal"):
        Stores().state.restore(b"users/x", b"1")


class Measured(msgspec.Struct):
    """`Reading` two formats later."""

    celsius: float
    seen: int
    unit: str


def measured_table(state: State, upgrades: Upgrades) -> Table[Measured]:
    return state.table("sensors", Measured, format_number=3, upgrades=upgrades)


UPGRADES: Upgrades = {
    1: lambda old: {"celsius": old["value"], "seen": old.get("seen", 0)},
    2: lambda old: old | {"unit": "C"},
}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (b'{"value":1.5}', Measured(1.5, 0, "C")),
        (b'v1 {"value":1.5,"seen":4}', Measured(1.5, 4, "C")),
        (b'v2 {"celsius":2.5,"seen":5}', Measured(2.5, 5, "C")),
        (b'v3 {"celsius":3.5,"seen":6,"unit":"K"}', Measured(3.5, 6, "K")),
    ],
    ids=["without a number", "1", "2", "3"],
)
def test_values_of_older_formats_are_upgraded_step_by_step_and_written_as_the_newest(
    stored: bytes, expected: Measured
) -> None:
    state = State(max_keys=9)
    table = measured_table(state, UPGRADES)
    state.restore(b"sensors/s", stored)
    state.restore(b"sensors/other", b'v3 {"celsius":0.0,"seen":0,"unit":"C"}')
    assert table.get("s") == expected
    assert state.take_changes() == [], "what did not change is not written"
    table.put("s", expected)
    assert state.take_changes() == [(b"sensors/s", b"v3 " + msgspec.json.encode(expected))]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (b'v4 {"anything":1}', "a value of store sensors has format 4, this version knows 2 and 3"),
        (b'v30 {"celsius":3.5,"seen":6,"unit":"K"}', "has format 30, this version knows 2 and 3"),
        (b'v1 {"value":1.5}', "has format 1, this version knows 2 and 3"),
        (b'{"value":1.5}', "has format 1, this version knows 2 and 3"),
    ],
)
def test_a_value_of_a_format_that_is_not_known_is_refused(stored: bytes, said: str) -> None:
    state = State(max_keys=9)
    table = measured_table(state, {2: UPGRADES[2]})
    with pytest.raises(UnknownFormatError, match=said):
        state.restore(b"sensors/s", stored)
    assert len(table) == 0


def test_a_key_of_another_format_is_refused_and_one_without_a_number_is_of_the_first() -> None:
    old = Stores()
    old.state.restore(b"users/7", b"1")
    old.state.restore(b"users/8", b"v1 1")
    assert len(old.users) == 2
    old.users.add([7, 8, 9])
    assert old.state.take_changes() == [(b"users/9", b"v1 1")]
    with pytest.raises(UnknownFormatError, match="store users has format 2, this version knows 1"):
        old.state.restore(b"users/10", b"v2 1")
    new = State(max_keys=9)
    users = new.key_set("users", int, format_number=2)
    with pytest.raises(UnknownFormatError, match="has format 1, this version knows 2"):
        new.restore(b"users/7", b"1")
    assert len(users) == 0


@pytest.mark.parametrize("upgrades", [{1: UPGRADES[1]}, {0: UPGRADES[1], 1: UPGRADES[1]}, {3: UPGRADES[1]}])
def test_upgrades_that_leave_a_gap_are_refused_at_once(upgrades: Upgrades) -> None:
    with pytest.raises(ValueError, match="format 3 needs upgrades from consecutive formats"):
        measured_table(State(max_keys=9), upgrades)


def test_an_upgrade_that_fails_names_store_and_format() -> None:
    state = State(max_keys=9)
    measured_table(state, UPGRADES)
    with pytest.raises(ValueError, match="store sensors: a value of format 1 can't be upgraded: KeyError"):
        state.restore(b"sensors/s", b"v1 {}")


@pytest.mark.parametrize("name", ["users", "a/b"])
def test_a_store_needs_a_name_of_its_own_without_a_slash(name: str) -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        Stores().state.table(name, Reading)
