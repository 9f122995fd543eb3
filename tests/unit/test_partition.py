"""The processing of one partition as a whole: the same results however its input is cut and what crashes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.processor import partition as under_test
from services.processor.columns import Columns, Reader
from services.processor.continuity import MAX_SOURCES
from services.processor.partition import Partition, Transaction
from services.processor.records import RecordBatch, values_of
from services.processor.settings import ProcessorSettings
from services.processor.state import State
from services.processor.topologies.behavior import BehaviorPartition, BehaviorTopology
from services.processor.topologies.sensors import SensorTopology
from services.processor.topology import Batch, OutputRecord, Outputs, Place
from shared.changelog import FORMAT, OFFSET_KEY, OffsetRecord
from shared.errors import RejectedError
from shared.results import Alert, Progress, Purchase, SensorStats, SettingSince
from tests.located import as_located
from tests.verifier import SensorRules, oddities, poison
from tests.verifier.contract import Record as KafkaRecord
from tests.verifier.contract import Topology as TopologyName
from tests.verifier.fragments import event as valid_event
from tests.verifier.fragments import join
from tests.verifier.recompute import Output, Results, recompute_behavior, recompute_sensors

NOW = "2025-11-23T06:40:00.000+00:00"
GROUP = "p.group"
PARTITION = 3
DEAD_LETTER_BYTES = 2 * 1_048_588
PURCHASED_AT = "2023-11-14T22:13:20+05:30"

TopologyType = type[BehaviorTopology] | type[SensorTopology]
Fields = dict[str, Any]


@pytest.fixture(scope="module", params=[True, False], ids=["by columns", "event by event"], autouse=True)
def by_columns(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run every test of this module both ways; each batch is tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_test, "_MOST_UNTRIED", 0)
        patch.setattr(Engine, "by_columns", request.param)
        yield


@dataclass(frozen=True)
class Read:
    """A record as the client gives it."""

    offset: int
    value: bytes | None
    key: bytes | None = b"k"
    headers: tuple[tuple[str, bytes | None], ...] = (("trace", b"1"),)
    timestamp: int = 1_700_000_000_000


@dataclass
class Kafka:
    """What would stand in Kafka: the results by topic, the compacted changelog, the committed offset."""

    results: dict[str, list[OutputRecord]] = field(default_factory=dict)
    changelog: dict[bytes, bytes] = field(default_factory=dict)
    committed: int = 0

    def take(self, transaction: Transaction) -> None:
        for topic, records in transaction.outputs.by_topic.items():
            self.results.setdefault(topic, []).extend(OutputRecord(*one) for one in records)
        for key, value in transaction.changelog:
            if value is None:
                self.changelog.pop(key, None)
            else:
                self.changelog[key] = value
        self.committed = transaction.next_offset

    def values(self, topic: str) -> list[Fields]:
        return [msgspec.json.decode(record.value or b"null") for record in self.results.get(topic, [])]

    def progress(self) -> Progress:
        return msgspec.json.decode(self.results["progress"][-1].value or b"", type=Progress)

    def dead_offsets(self) -> list[int]:
        return [offset_of(letter) for letter in self.results.get("dead_letters", [])]


def offset_of(letter: OutputRecord) -> int:
    return int(dict(letter.headers)["__streams.errors.offset"] or b"")


class Engine:
    """A partition of one topology; what it commits goes to `kafka`."""

    # Whether records are handed over as the processor has them, or as the client's public way gives them.
    by_columns: ClassVar[bool] = False

    def __init__(
        self, topology: TopologyType, kafka: Kafka | None = None, *, begin: int = 0, **changes: Any
    ) -> None:
        self.topology = topology
        self.kafka = kafka or Kafka()
        self._settings = ProcessorSettings(**changes)
        self.partition = self._empty()
        if self.kafka.changelog:
            self._restore()
        else:
            self.partition.begin(begin)

    def _empty(self) -> Partition:
        return Partition(
            self.topology(self._settings),
            Place(f"p.{self.topology.input}", PARTITION),
            group=GROUP,
            max_keys=self._settings.state_max_keys,
            full_validation=self._settings.validation == "full",
            dead_letter_bytes=DEAD_LETTER_BYTES,
        )

    def _restore(self) -> None:
        for key, value in self.kafka.changelog.items():
            if key != OFFSET_KEY:
                self.partition.state.restore(key, value)
        assert self.partition.state.live_keys == self.offset_record().live_keys
        self.partition.restored(self.kafka.committed)

    def offset_record(self) -> OffsetRecord:
        return msgspec.json.decode(self.kafka.changelog[OFFSET_KEY], type=OffsetRecord)

    def reopen(self, **changes: Any) -> Engine:
        """Return what comes after a crash: what was not committed is forgotten."""
        return Engine(self.topology, self.kafka, **(self._settings.model_dump() | changes))

    def process(self, records: Sequence[Read], *, by_columns: bool | None = None) -> None:
        end = records[-1].offset + 1 if records else self.partition.next_offset
        is_located = self.by_columns if by_columns is None else by_columns
        batch = as_located(records) if records and is_located else list(records)
        self.partition.process(RecordBatch(batch, end))

    def commit(self) -> Transaction:
        transaction = self.partition.seal(NOW)
        self.kafka.take(transaction)
        return transaction


def records(values: Sequence[bytes | Fields | None], first: int = 0) -> list[Read]:
    encoded = [json.dumps(value).encode() if isinstance(value, dict) else value for value in values]
    return [Read(first + place, value, str(place).encode()) for place, value in enumerate(encoded)]


def results_of(topology: TopologyType, inputs: Sequence[Read], **changes: Any) -> Kafka:
    """Return what comes of an input that is read at once."""
    engine = Engine(topology, **changes)
    engine.process(inputs)
    engine.commit()
    return engine.kafka


# How an input may be cut

Step = tuple[int, str]
PLANS = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from(["go on", "commit", "restart", "crash"])), max_size=12
)


def results_in_pieces(
    topology: TopologyType, inputs: Sequence[Read], plan: Sequence[Step], **changes: Any
) -> Kafka:
    """Return what comes of an input that is read in batches, with commits and crashes in between."""
    engine = Engine(topology, **changes)
    at = 0
    for count, then in plan:
        engine.process(inputs[at : at + count])
        at = min(at + count, len(inputs))
        if then in ("commit", "restart"):
            engine.commit()
        if then in ("restart", "crash"):
            engine = engine.reopen()
            at = engine.kafka.committed
    engine.process(inputs[at:])
    engine.commit()
    return engine.kafka


def comparable(kafka: Kafka) -> dict[str, Any]:
    """Return what has to be the same however the input was cut."""
    results = kafka.results
    progress = msgspec.to_builtins(kafka.progress())
    letters = [
        letter._replace(headers=tuple(one for one in letter.headers if "stacktrace" not in one[0]))
        for letter in results.get("dead_letters", [])
    ]
    stats = dict(
        zip(
            [record.key for record in results.get("sensor_stats", [])],
            kafka.values("sensor_stats"),
            strict=True,
        )
    )
    return {
        "state": {
            key: msgspec.json.decode(value.removeprefix(b"v1 ")) for key, value in kafka.changelog.items()
        },
        "purchases": results.get("purchases", []),
        "alerts": results.get("alerts", []),
        "dead letters": letters,
        "progress": {name: value for name, value in progress.items() if name != "latency_ms"},
        "behavior stats": kafka.values("behavior_stats")[-1:],
        "sensor stats": stats,
    }


# Inputs: stretches of consecutive numbers of a source, records without one, and poison

SOURCES = st.sampled_from(["a", "b"])
USER_EVENTS = st.fixed_dictionaries(
    {
        "user_id": st.integers(1, 8),
        "action": st.sampled_from(["click", "view", "purchase", "login"]),
        "device": st.sampled_from(["mobile", "desktop"]),
        "page": st.just("/page/1"),
        "timestamp": st.just(PURCHASED_AT),
        "ip": st.just("192.168.1.1"),
    }
)
READINGS = st.fixed_dictionaries(
    {
        "sensor_id": st.sampled_from(["temperature", "cpu_usage", "humidity", "rack/7"]),
        "value": st.sampled_from([5.0, 10.0, 50.0, 80.0, 80.5, 90.0, 95.0]),
        "timestamp": st.integers(1_700_000_000, 1_700_000_100),
        "location": st.just("server1"),
    }
)
WHOLE_POISON = st.sampled_from([None, b"", b"not json", b"[]", b"\xff\xfe", b"[" * 5_000])


def spoiled(event: Fields) -> st.SearchStrategy[Fields]:
    """Make an event that has to be a dead letter, with its source and number still to be read."""
    changes: list[Fields] = [{"source": None}, {"seq": -1}, {"source": "only"}]
    if "user_id" in event:
        changes += [{"user_id": -1}, {"action": "purchase", "timestamp": "yesterday"}, {"device": None}]
    else:
        changes += [{"value": 2e15}, {"sensor_id": ""}, {"timestamp": "now"}]
    return st.sampled_from(changes).map(lambda change: event | change)


def stretches(events: st.SearchStrategy[Fields]) -> st.SearchStrategy[list[Any]]:
    def numbered(drawn: tuple[str | None, int, list[Fields]]) -> list[Fields]:
        source, first, found = drawn
        if source is None:
            return found
        return [one | {"source": source, "seq": first + place} for place, one in enumerate(found)]

    good = st.tuples(
        st.one_of(st.none(), SOURCES), st.integers(0, 12), st.lists(events, min_size=1, max_size=6)
    ).map(numbered)
    bad = st.one_of(
        WHOLE_POISON,
        events.flatmap(spoiled),
        st.tuples(events, SOURCES, st.integers(0, 12)).flatmap(
            lambda drawn: spoiled(drawn[0] | {"source": drawn[1], "seq": drawn[2]})
        ),
    ).map(lambda one: [one])
    return st.one_of(good, good, bad)


def inputs_of(events: st.SearchStrategy[Fields]) -> st.SearchStrategy[list[Read]]:
    return st.lists(stretches(events), max_size=12).map(
        lambda drawn: records([one for stretch in drawn for one in stretch])
    )


BEHAVIOR_INPUTS = inputs_of(USER_EVENTS)
SENSOR_INPUTS = inputs_of(READINGS)
FEW_OR_MANY_KEYS = st.one_of(st.integers(1, 6), st.just(1_000))


@settings(max_examples=200)
@given(inputs=BEHAVIOR_INPUTS, plan=PLANS, state_max_keys=FEW_OR_MANY_KEYS)
def test_user_events_lead_to_the_same_however_they_are_cut_and_whatever_crashes(
    inputs: list[Read], plan: list[Step], state_max_keys: int
) -> None:
    whole = results_of(BehaviorTopology, inputs, state_max_keys=state_max_keys)
    pieces = results_in_pieces(BehaviorTopology, inputs, plan, state_max_keys=state_max_keys)
    assert comparable(pieces) == comparable(whole)


@settings(max_examples=200)
@given(
    inputs=SENSOR_INPUTS,
    plan=PLANS,
    changes=st.fixed_dictionaries(
        {
            "state_max_keys": FEW_OR_MANY_KEYS,
            "window_size": st.integers(1, 4),
            "alert_mode": st.sampled_from(["transitions", "every_breach"]),
            "alert_hysteresis": st.sampled_from([0.0, 20.0]),
        }
    ),
)
def test_readings_lead_to_the_same_however_they_are_cut_and_whatever_crashes(
    inputs: list[Read], plan: list[Step], changes: dict[str, Any]
) -> None:
    whole = results_of(SensorTopology, inputs, **changes)
    pieces = results_in_pieces(SensorTopology, inputs, plan, **changes)
    assert comparable(pieces) == comparable(whole)


# Against a recomputation that shares no code


def as_kafka_has_it(topology: TopologyType, inputs: Sequence[Read]) -> list[KafkaRecord]:
    topic = f"p.{topology.input}"
    return [KafkaRecord(topic, PARTITION, one.offset, one.key, one.value, one.headers) for one in inputs]


def assert_accounts(kafka: Kafka, expected: Results, end: int) -> None:
    progress = msgspec.to_builtins(kafka.progress())
    due = expected.progress[end]
    assert {name: progress[name] for name in due} == due
    assert (progress["topic"], progress["partition"], progress["offset"]) == (
        kafka.progress().topic,
        PARTITION,
        end,
    )
    letters = kafka.results.get("dead_letters", [])
    assert [(letter.key, letter.value) for letter in letters] == [
        (one.key, one.value) for one in expected.dead_letters
    ]
    assert kafka.dead_offsets() == [one.offset for one in expected.dead_letters]


def assert_outputs(kafka: Kafka, topic: str, expected: Sequence[Output]) -> None:
    assert [record.key for record in kafka.results.get(topic, [])] == [output.key for output in expected]
    assert kafka.values(topic) == [output.fields for output in expected]


@given(inputs=BEHAVIOR_INPUTS, plan=PLANS, state_max_keys=st.sampled_from([8, 1_000]))
def test_statistics_and_purchases_are_those_of_an_independent_recomputation(
    inputs: list[Read], plan: list[Step], state_max_keys: int
) -> None:
    # There is room for all of them, and with 8 keys it is never clear beforehand.
    kafka = results_in_pieces(BehaviorTopology, inputs, plan, state_max_keys=state_max_keys)
    checkpoints = [one["offset"] for one in kafka.values("behavior_stats")]
    expected = recompute_behavior(as_kafka_has_it(BehaviorTopology, inputs), checkpoints)
    assert_accounts(kafka, expected, len(inputs))
    assert_outputs(kafka, "purchases", expected.purchases)
    for published in kafka.values("behavior_stats"):
        assert published == expected.stats[published["offset"]] | {
            "partition": PARTITION,
            "offset": published["offset"],
            "updated_at": NOW,
        }


@given(
    inputs=SENSOR_INPUTS,
    plan=PLANS,
    window_size=st.integers(1, 4),
    hysteresis=st.sampled_from([0.0, 5.0, 20.0]),
    alert_mode=st.sampled_from(["transitions", "every_breach"]),
    state_max_keys=st.sampled_from([4, 1_000]),
)
def test_windows_and_alerts_are_those_of_an_independent_recomputation(
    *,
    inputs: list[Read],
    plan: list[Step],
    window_size: int,
    hysteresis: float,
    alert_mode: Any,
    state_max_keys: int,
) -> None:
    rules = SensorRules(window_size=window_size, hysteresis=hysteresis, alert_mode=alert_mode)
    kafka = results_in_pieces(
        SensorTopology,
        inputs,
        plan,
        window_size=window_size,
        alert_hysteresis=hysteresis,
        alert_mode=alert_mode,
        state_max_keys=state_max_keys,
    )
    expected = recompute_sensors(as_kafka_has_it(SensorTopology, inputs), rules=rules)
    assert_accounts(kafka, expected, len(inputs))
    offsets = [one["offset"] for one in kafka.values("alerts")]
    assert offsets == sorted(offsets)
    # The contract does not say which bound of one reading comes first.
    assert Counter(map(json.dumps, kafka.values("alerts"))) == Counter(
        json.dumps(msgspec.to_builtins(msgspec.convert(one.fields, Alert))) for one in expected.alerts
    )
    for published in kafka.values("sensor_stats"):
        due = expected.stats_at(published["sensor_id"], published["offset"])
        assert published == (due or {}) | {"partition": PARTITION}
    latest = {one["sensor_id"]: one["offset"] for one in kafka.values("sensor_stats")}
    assert latest == expected.latest_offsets()


# Bad input, row by row

TOPOLOGIES: dict[TopologyName, TopologyType] = {"behavior": BehaviorTopology, "sensors": SensorTopology}


def each(kinds: Callable[[TopologyName], dict[str, Any]]) -> list[Any]:
    return [
        pytest.param(name, make, id=f"{name}-{kind}")
        for name in TOPOLOGIES
        for kind, make in kinds(name).items()
    ]


def among_good_ones(
    name: TopologyName, make: Callable[[Random, dict[str, bytes]], bytes | None]
) -> list[Read]:
    """Return five records, the third of them of this kind."""
    random = Random(1)
    values: list[bytes | None] = []
    for number in range(5):
        _, fragments = valid_event(name, random, number, users=9_000, sensors=25)
        values.append(make(random, fragments) if number == 2 else join(fragments))
    return records(values)


@pytest.mark.parametrize("validation", ["counted", "full"])
@pytest.mark.parametrize(("name", "make"), each(poison.kinds))
def test_every_kind_of_bad_input_becomes_a_dead_letter_and_nothing_else_does(
    name: TopologyName, make: Any, validation: str
) -> None:
    inputs = among_good_ones(name, make)
    kafka = results_of(TOPOLOGIES[name], inputs, validation=validation)
    (letter,) = kafka.results["dead_letters"]
    headers = dict(letter.headers)
    assert (letter.key, letter.value, offset_of(letter)) == (b"2", inputs[2].value, 2)
    assert headers["trace"] == b"1"
    assert headers["__streams.errors.message"]
    assert headers["__streams.errors.topic"] == f"p.{TOPOLOGIES[name].input}".encode()
    assert headers["__streams.errors.partition"] == str(PARTITION).encode()
    progress = kafka.progress()
    assert (progress.events, progress.dead_letters, progress.offset) == (4, 1, 5)


@pytest.mark.parametrize(("name", "make"), each(oddities.kinds))
def test_every_odd_but_valid_input_is_counted(name: TopologyName, make: Any) -> None:
    kafka = results_of(TOPOLOGIES[name], among_good_ones(name, make))
    assert "dead_letters" not in kafka.results
    assert kafka.progress().events == 5


def user_event(user_id: int = 1, action: str = "click", **more: object) -> Fields:
    return {
        "user_id": user_id,
        "action": action,
        "device": "mobile",
        "page": "/page/7",
        "timestamp": PURCHASED_AT,
        "ip": "192.168.1.1",
    } | more


def reading(value: float, sensor_id: str = "temperature", **more: object) -> Fields:
    return {"sensor_id": sensor_id, "value": value, "timestamp": 1.5, "location": "server1"} | more


def reasons(kafka: Kafka) -> list[str]:
    return [
        (dict(letter.headers)["__streams.errors.message"] or b"").decode()
        for letter in kafka.results["dead_letters"]
    ]


def test_a_dead_letter_says_what_was_wrong() -> None:
    inputs = records(
        [
            None,
            user_event(-1),
            user_event(action="buy"),
            user_event(action="purchase", timestamp="yesterday"),
            user_event(source="gen"),
            user_event(action="purchase", page=None),
        ]
    )
    assert reasons(results_of(BehaviorTopology, inputs)) == [
        "the record has no value",
        "Expected `int` >= 0 - at `$.user_id`",
        "Invalid enum value 'buy' - at `$.action`",
        "the timestamp of a purchase is not ISO 8601",
        "source and seq go together: one of them is missing",
        "ValidationError: Expected `str`, got `null` - at `$.page`",
    ]


@pytest.mark.parametrize("bad", [user_event(action="purchase", timestamp="x"), user_event(seq=1)])
def test_a_batch_of_nothing_but_bad_records_is_nothing_but_dead_letters(bad: Fields) -> None:
    kafka = results_of(BehaviorTopology, records([bad] * 50))
    assert kafka.dead_offsets() == list(range(50))
    assert kafka.progress().events == 0


def test_full_validation_refuses_what_is_not_counted() -> None:
    inputs = records([user_event(ip="999.1.1.1"), user_event(timestamp="yesterday"), user_event()])
    assert results_of(BehaviorTopology, inputs).progress().dead_letters == 0
    assert results_of(BehaviorTopology, inputs, validation="full").dead_offsets() == [0, 1]


# Purchases


@pytest.mark.parametrize(
    "timestamp",
    ["2023-11-14T22:13:20", "2023-11-14T22:13:20.5Z", "2023-11-14T22:13:20+05:30", "2023-11-14 22:13:20"],
)
def test_a_purchase_keeps_the_text_of_its_timestamp(timestamp: str) -> None:
    kafka = results_of(
        BehaviorTopology, records([user_event(), user_event(7, "purchase", timestamp=timestamp)])
    )
    (record,) = kafka.results["purchases"]
    assert record.key == b"7"
    assert msgspec.json.decode(record.value or b"", type=Purchase) == Purchase(
        user_id=7,
        page="/page/7",
        timestamp=timestamp,
        device="mobile",
        topic="p.user_behavior",
        partition=PARTITION,
        offset=1,
    )


def test_a_duplicate_purchase_is_published_once() -> None:
    bought = user_event(7, "purchase", source="gen", seq=0)
    kafka = results_of(BehaviorTopology, records([bought, bought, bought]))
    assert len(kafka.results["purchases"]) == 1
    assert (kafka.progress().duplicates, kafka.progress().events) == (2, 1)


# A state that is full


@settings(max_examples=200)
@given(users=st.lists(st.integers(1, 8), max_size=30), plan=PLANS, state_max_keys=st.integers(1, 9))
def test_users_beyond_the_bound_become_dead_letters_and_those_known_are_counted(
    users: list[int], plan: list[Step], state_max_keys: int
) -> None:
    inputs = records([user_event(user, "purchase") for user in users])
    kafka = results_in_pieces(BehaviorTopology, inputs, plan, state_max_keys=state_max_keys)
    known: set[int] = set()
    dead = []
    for offset, user in enumerate(users):
        if user in known or len(known) < state_max_keys:
            known.add(user)
        else:
            dead.append(offset)
    assert kafka.dead_offsets() == dead
    (stats,) = kafka.values("behavior_stats")[-1:]
    assert (stats["unique_users"], stats["total_events"]) == (len(known), len(users) - len(dead))
    assert [one["offset"] for one in kafka.values("purchases")] == [
        offset for offset in range(len(users)) if offset not in dead
    ]


@given(sensors=st.lists(st.sampled_from("abcdef"), max_size=30), plan=PLANS, state_max_keys=st.integers(1, 7))
def test_sensors_beyond_the_bound_become_dead_letters_and_those_known_are_counted(
    sensors: list[str], plan: list[Step], state_max_keys: int
) -> None:
    inputs = records([reading(1.0, sensor) for sensor in sensors])
    kafka = results_in_pieces(SensorTopology, inputs, plan, state_max_keys=state_max_keys, window_size=1)
    known = list(dict.fromkeys(sensors))[:state_max_keys]
    assert kafka.dead_offsets() == [place for place, sensor in enumerate(sensors) if sensor not in known]
    assert {one["sensor_id"] for one in kafka.values("sensor_stats")} == set(known)


def test_a_record_without_room_says_so_and_is_counted_when_it_comes_again_with_room() -> None:
    engine = Engine(SensorTopology, state_max_keys=1)
    engine.process(records([reading(1.0, "a", source="g", seq=0), reading(1.0, "b", source="g", seq=1)]))
    engine.commit()
    assert reasons(engine.kafka) == ["the state is full: PROCESSOR_STATE_MAX_KEYS=1"]
    progress = engine.kafka.progress()
    assert (progress.events, progress.sourced_dead_letters, progress.gaps) == (1, 1, 0)
    engine = engine.reopen(state_max_keys=2)
    engine.process(records([reading(1.0, "b", source="g", seq=1)], first=2))
    engine.commit()
    progress = engine.kafka.progress()
    assert (progress.events, progress.sourced_dead_letters, progress.dead_letters) == (2, 0, 1)


# Alerts and windows across changes of settings


def alert_states(kafka: Kafka) -> list[tuple[str, str, int]]:
    return [(one["bound"], one["state"], one["offset"]) for one in kafka.values("alerts")]


def test_an_alert_keeps_its_id_across_a_restart() -> None:
    engine = Engine(SensorTopology)
    engine.process(records([reading(50.0), reading(81.0)]))
    engine.commit()
    engine = engine.reopen()
    engine.process(records([reading(90.0), reading(80.0)], first=2))
    engine.commit()
    assert alert_states(engine.kafka) == [("max", "firing", 1), ("max", "resolved", 3)]
    assert {one["alert_id"] for one in engine.kafka.values("alerts")} == {f"temperature:max:{PARTITION}:1"}


def test_an_alert_says_all_of_the_reading_that_fired_it() -> None:
    kafka = results_of(SensorTopology, records([reading(81.5, location="server2", timestamp=7)]))
    (record,) = kafka.results["alerts"]
    assert record.key == b"temperature"
    assert msgspec.json.decode(record.value or b"", type=Alert) == Alert(
        alert_id=f"temperature:max:{PARTITION}:0",
        sensor_id="temperature",
        bound="max",
        threshold=80.0,
        value=81.5,
        state="firing",
        location="server2",
        timestamp=7.0,
        partition=PARTITION,
        offset=0,
    )


def test_a_firing_alert_whose_bound_is_gone_resolves_with_the_next_reading() -> None:
    engine = Engine(SensorTopology)
    engine.process(records([reading(81.0)]))
    engine.commit()
    engine = engine.reopen(thresholds={})
    engine.process(records([reading(99.0)], first=1))
    engine.commit()
    assert alert_states(engine.kafka) == [("max", "firing", 0), ("max", "resolved", 1)]


def test_every_breach_tells_each_and_forgets_what_fired_before() -> None:
    engine = Engine(SensorTopology)
    engine.process(records([reading(81.0)]))
    engine.commit()
    engine = engine.reopen(alert_mode="every_breach")
    engine.process(records([reading(82.0), reading(83.0), reading(50.0)], first=1))
    engine.commit()
    assert alert_states(engine.kafka) == [("max", "firing", offset) for offset in (0, 1, 2)]
    engine = engine.reopen(alert_mode="transitions")
    engine.process(records([reading(50.0), reading(84.0)], first=4))
    engine.commit()
    assert alert_states(engine.kafka)[3:] == [("max", "firing", 5)]


@pytest.mark.parametrize(("size", "expected"), [(2, [4.0, 5.0]), (4, [2.0, 3.0, 4.0, 5.0]), (6, None)])
def test_windows_are_cut_to_a_new_size(size: int, expected: list[float] | None) -> None:
    engine = Engine(SensorTopology, window_size=4)
    engine.process(records([reading(float(value)) for value in range(1, 5)]))
    engine.commit()
    before = len(engine.kafka.values("sensor_stats"))
    engine = engine.reopen(window_size=size)
    engine.process(records([reading(5.0)], first=4))
    engine.commit()
    found = [one["avg"] for one in engine.kafka.values("sensor_stats")[before:]]
    assert found == ([] if expected is None else [sum(expected) / len(expected)])


def test_one_window_a_sensor_and_transaction_is_published_and_only_a_full_one() -> None:
    engine = Engine(SensorTopology, window_size=2)
    engine.process(records([reading(1.0, "a"), reading(2.0, "a"), reading(4.0, "a"), reading(1.0, "b")]))
    engine.commit()
    (record,) = engine.kafka.results["sensor_stats"]
    stats = msgspec.json.decode(record.value or b"", type=SensorStats)
    assert (stats.sensor_id, stats.avg, stats.offset, stats.count) == ("a", 3.0, 2, 2)
    engine.process(records([reading(1.0, "b")], first=4))
    engine.commit()
    assert [one["sensor_id"] for one in engine.kafka.values("sensor_stats")] == ["a", "b"]


def test_a_transaction_in_which_nothing_was_read_publishes_nothing_again() -> None:
    engine = Engine(SensorTopology, window_size=1)
    engine.process(records([reading(1.0)]))
    engine.commit()
    results = {topic: len(found) for topic, found in engine.kafka.results.items()}
    engine.commit()
    engine = engine.reopen()
    engine.commit()
    assert {topic: len(found) for topic, found in engine.kafka.results.items()} == results


# What a transaction holds


def test_a_transaction_ends_its_changelog_with_the_offset_and_the_number_of_live_keys() -> None:
    engine = Engine(BehaviorTopology)
    engine.process(records([user_event(1), user_event(2, source="gen", seq=0)]))
    transaction = engine.commit()
    assert transaction.changelog[-1][0] == OFFSET_KEY
    assert engine.offset_record() == OffsetRecord(
        FORMAT, "p.user_behavior", GROUP, offset=2, live_keys=len(engine.kafka.changelog) - 1
    )
    assert {key for key, _ in transaction.changelog} == {
        b"users/1",
        b"users/2",
        b"totals/all",
        b"accounts/partition",
        b"sources/gen",
        OFFSET_KEY,
    }


def test_a_transaction_holds_only_what_changed() -> None:
    engine = Engine(BehaviorTopology)
    engine.process(records([user_event(1), user_event(2)]))
    engine.commit()
    engine.process(records([user_event(2)], first=2))
    assert {key for key, _ in engine.commit().changelog} == {b"totals/all", b"accounts/partition", OFFSET_KEY}


def test_a_transaction_tells_records_and_their_age_batch_by_batch() -> None:
    engine = Engine(BehaviorTopology)
    engine.process([Read(0, None, timestamp=5), Read(1, b"{}", timestamp=6)])
    engine.process([Read(2, json.dumps(user_event()).encode(), timestamp=9)])
    assert (engine.partition.records, engine.partition.next_offset) == (3, 3)
    transaction = engine.commit()
    assert (transaction.records, transaction.oldest, transaction.next_offset) == (3, [(5, 2), (9, 1)], 3)
    assert (engine.partition.records, engine.partition.size_bytes) == (0, 0)
    engine.process([Read(3, None, timestamp=12)])
    transaction = engine.commit()
    assert (transaction.records, transaction.oldest, transaction.next_offset) == (1, [(12, 1)], 4)


def test_a_batch_without_records_moves_the_offset() -> None:
    engine = Engine(BehaviorTopology)
    engine.partition.process(RecordBatch([], 17))
    assert engine.commit().next_offset == engine.offset_record().offset == 17


def test_offsets_with_holes_are_taken_as_they_are() -> None:
    engine = Engine(BehaviorTopology)
    value = json.dumps(user_event(7, "purchase")).encode()
    engine.partition.process(RecordBatch([Read(3, value), Read(10, value)], 15))
    engine.commit()
    assert [one["offset"] for one in engine.kafka.values("purchases")] == [3, 10]
    assert engine.kafka.committed == 15


def test_pending_results_have_a_size_that_grows() -> None:
    engine = Engine(BehaviorTopology)
    engine.process(records([user_event()]))
    assert engine.partition.size_bytes == 0, "nothing is published before the end of the transaction"
    engine.process(records([b"x" * 1_000, user_event(1, "purchase")], first=1))
    assert engine.partition.size_bytes > 1_000


def test_a_partition_that_begins_after_0_takes_sources_as_they_come() -> None:
    engine = Engine(BehaviorTopology, begin=100)
    engine.process(records([user_event(source="gen", seq=40), user_event(source="gen", seq=42)], first=100))
    engine.commit()
    progress = engine.kafka.progress()
    assert (progress.first_offset, progress.gaps, progress.sourced_events) == (100, 1, 2)


def test_the_source_heard_longest_ago_is_the_one_forgotten_also_after_a_restart() -> None:
    engine = Engine(BehaviorTopology)
    first = [user_event(source=f"s{number}", seq=0) for number in range(MAX_SOURCES)]
    engine.process(records([*first, user_event(source="s0", seq=1)]))
    engine.commit()
    engine = engine.reopen()
    again = [user_event(source=source, seq=seq) for source, seq in (("new", 0), ("s1", 0), ("s0", 1))]
    engine.process(records(again, first=2_000))
    engine.commit()
    assert engine.kafka.progress().duplicates == 1, "s1 is forgotten, and s0 is still known"


def test_what_retention_took_is_skipped_and_makes_no_gap_of_an_unknown_source() -> None:
    engine = Engine(BehaviorTopology)
    engine.partition.skip_to(50)
    engine.process(records([user_event(source="gen", seq=9)], first=50))
    engine.commit()
    assert engine.kafka.progress().gaps == 0
    assert engine.partition.figures()["accounts"]["skipped"] == 50


def test_settings_that_results_depend_on_are_told_with_the_offset_from_which_they_hold() -> None:
    engine = Engine(SensorTopology, begin=5)
    engine.process(records([reading(1.0)], first=5))
    engine.commit()
    engine = engine.reopen(window_size=3)
    engine.process(records([reading(1.0)], first=6))
    engine.commit()
    told = engine.kafka.progress().settings
    assert told["window_size"] == [SettingSince(10, 5), SettingSince(3, 6)]
    assert told["alert_mode"] == [SettingSince("transitions", 5)]
    assert told["thresholds"][0].value["cpu_usage"] == {"min": None, "max": 90.0}


def test_figures_are_those_of_all_that_was_processed() -> None:
    engine = Engine(BehaviorTopology)
    engine.process(records([user_event(1), user_event(2, "purchase"), b"junk"]))
    figures = engine.partition.figures()
    assert figures["results"] == {
        "total_events": 2,
        "unique_users": 2,
        "actions": {"click": 1, "purchase": 1},
        "devices": {"mobile": 2},
    }
    assert figures["accounts"]["dead_letters"] == 1
    assert figures["offset"] == 3
    assert json.dumps(figures)


def test_a_dead_letter_too_large_for_its_topic_is_cut() -> None:
    engine = Engine(BehaviorTopology)
    engine.partition.dead_letter_bytes = 80_000
    engine.process(records([b"x" * 100_000]))
    engine.commit()
    (letter,) = engine.kafka.results["dead_letters"]
    assert letter.value == b"x" * 65_536


# What is counted by columns, and what is not


def click(seq: int, **changes: Any) -> Fields:
    plain = {"user_id": seq % 5, "action": "click", "device": "mobile", "source": "a", "seq": seq}
    return plain | changes


def by_columns_of(engine: Engine) -> int:
    return engine.commit().columnar_events


def runs_of(events: st.SearchStrategy[Fields]) -> st.SearchStrategy[list[Read]]:
    return st.lists(events, min_size=1, max_size=40).map(
        lambda found: records([one | {"source": "a", "seq": seq} for seq, one in enumerate(found)])
    )


PIECES = st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), max_size=12)


@pytest.mark.parametrize(
    ("topology", "events"), [(BehaviorTopology, USER_EVENTS), (SensorTopology, READINGS)]
)
@given(data=st.data(), plan=PIECES, alert_mode=st.sampled_from(["transitions", "every_breach"]))
def test_the_two_ways_come_to_the_same_also_in_turns(
    topology: TopologyType,
    events: st.SearchStrategy[Fields],
    data: st.DataObject,
    plan: list[tuple[int, bool, bool]],
    alert_mode: Any,
) -> None:
    inputs = data.draw(runs_of(events))
    changes = {"alert_mode": alert_mode, "window_size": 3}
    whole: dict[bool, Kafka] = {}
    for by_columns in (True, False):
        engine = Engine(topology, **changes)
        engine.process(inputs, by_columns=by_columns)
        assert by_columns_of(engine) == (len(inputs) if by_columns else 0)
        whole[by_columns] = engine.kafka
    assert comparable(whole[True]) == comparable(whole[False])
    engine = Engine(topology, **changes)
    at = 0
    for count, by_columns, restarts in plan:
        engine.process(inputs[at : at + count], by_columns=by_columns)
        at = min(at + count, len(inputs))
        if restarts:
            engine.commit()
            engine = engine.reopen()
    engine.process(inputs[at:], by_columns=True)
    engine.commit()
    assert comparable(engine.kafka) == comparable(whole[False])


@pytest.mark.parametrize(
    ("odd", "counted", "letters"),
    [
        ({"action": "purchase"}, 12, 1),  # Without a page and a time.
        ({"action": "purchase", "page": "/", "timestamp": "yesterday"}, 12, 1),
        ({"action": "purchase", "page": "x" * 2_049, "timestamp": PURCHASED_AT}, 12, 1),
        ({"user_id": -1}, 12, 1),
        ({"source": "other"}, 13, 0),
        ({"seq": 7}, 12, 0),  # A duplicate.
    ],
)
def test_one_odd_event_among_others_takes_its_batch_the_other_way(
    odd: Fields, counted: int, letters: int
) -> None:
    engine = Engine(BehaviorTopology)
    engine.process(records([click(seq) for seq in range(6)]))
    assert by_columns_of(engine) == (6 if engine.by_columns else 0)
    fresh = [click(seq) for seq in range(6, 12)]
    fresh[3] = click(9) | odd
    engine.process(records(fresh, 6))
    assert by_columns_of(engine) == 0
    engine.process(records([click(12)], 12))
    engine.commit()
    accounts = engine.partition.figures()["accounts"]
    assert (accounts["events"], accounts["dead_letters"]) == (counted, letters)
    assert accounts["events"] + accounts["dead_letters"] + accounts["duplicates"] == 13


def test_numbers_that_were_counted_before_and_numbers_that_are_missing_go_the_other_way() -> None:
    engine = Engine(BehaviorTopology)
    for first_seq, due in ((0, 3), (1, 0), (3, 0), (9, 0), (12, 3)):
        engine.process(records([click(first_seq + n) for n in range(3)], engine.partition.next_offset))
        assert by_columns_of(engine) == (due if engine.by_columns else 0), first_seq
    counts = engine.partition.figures()["accounts"]
    assert (counts["events"], counts["duplicates"], counts["gaps"]) == (12, 3, 3)


def test_a_batch_that_may_not_fit_the_state_goes_the_other_way() -> None:
    engine = Engine(BehaviorTopology, state_max_keys=9)
    engine.process(records([click(seq, user_id=1) for seq in range(4)]))
    engine.process(records([click(4 + seq, user_id=1) for seq in range(5)], 4))
    assert by_columns_of(engine) == (4 if engine.by_columns else 0)


def test_full_validation_looks_at_every_field_of_every_event() -> None:
    engine = Engine(BehaviorTopology, validation="full")
    event = click(0, page="/", timestamp=PURCHASED_AT, ip="10.0.0.1")
    engine.process(records([event]))
    assert by_columns_of(engine) == 0
    assert engine.partition.figures()["accounts"]["events"] == 1


class OwnWay(BehaviorPartition):
    """Counts the half of what its base counts, event by event; says nothing of columns."""

    def process(self, batch: Batch[Any], outputs: Outputs) -> None:
        super().process(batch.only([place for place in range(len(batch.events)) if place % 2]), outputs)


class OwnTopology(BehaviorTopology):
    def open(self, place: Place, state: State) -> BehaviorPartition:
        return OwnWay(place, state, check_all=False)


def test_a_subclass_with_a_way_of_its_own_is_not_passed_by() -> None:
    engine = Engine(OwnTopology)
    engine.process(records([click(seq) for seq in range(6)]))
    assert by_columns_of(engine) == 0
    assert engine.partition.figures()["results"]["total_events"] == 3


def test_what_examining_columns_rejects_is_examined_event_by_event(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(_self: BehaviorPartition, _columns: Columns) -> bool:
        raise RejectedError("not here", 0)

    monkeypatch.setattr(BehaviorPartition, "examine_columns", reject)
    engine = Engine(BehaviorTopology)
    engine.process(records([click(seq) for seq in range(6)]))
    assert by_columns_of(engine) == 0
    assert engine.partition.figures()["accounts"]["events"] == 6


def test_sensors_go_by_columns_with_full_validation_too() -> None:
    engine = Engine(SensorTopology, validation="full")
    one = {"sensor_id": "a", "value": 1.5, "timestamp": 1_700_000_000.1234567, "location": "server1"}
    engine.process(records([one | {"source": "a", "seq": 0}]))
    assert by_columns_of(engine) == (1 if engine.by_columns else 0)


def test_a_batch_can_be_split_record_by_record_and_unpacked_all_the_same() -> None:
    left = RecordBatch(as_located(records([click(seq) for seq in range(2_000)])), 2_000, 7)
    heads = []
    while len(left.records) > 1:
        head, left = left.split(1)
        heads.append(head)
    assert [head.next_offset for head in heads] == list(range(1, 2_000))
    assert (heads[0].size_bytes, heads[1].size_bytes) == (7, 0)
    assert values_of(heads[1_500].records) == [json.dumps(click(1_500)).encode()]
    assert [heads[1_998].records[0].offset, left.records[0].offset] == [1_998, 1_999]


def test_columns_are_tried_ever_more_seldom_where_they_do_not_come_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Engine, "by_columns", True)
    monkeypatch.setattr(under_test, "_MOST_UNTRIED", 4)
    tried: list[bool] = []
    read = Reader.read

    def noted(self: Reader, *arguments: Any) -> Columns | None:
        tried[-1] = True
        return read(self, *arguments)

    monkeypatch.setattr(Reader, "read", noted)
    engine = Engine(BehaviorTopology)

    def take(value: Fields) -> None:
        tried.append(False)
        engine.process(records([value], engine.partition.next_offset))

    for seq in range(17):
        take(click(seq, user_id=-1))
    assert [number for number, was in enumerate(tried) if was] == [0, 2, 5, 10, 15]
    tried.clear()
    for seq in range(17, 23):
        take(click(seq))
    assert tried == [False, False, False, True, True, True]
