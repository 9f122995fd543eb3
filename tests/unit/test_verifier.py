"""The verifier can fail: what is planted here must be found, and what is right must pass."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.verifier import oddities, poison
from tests.verifier.accounts import compare_ledger
from tests.verifier.contract import TOPOLOGIES, Names, PartitionId, Record, Topology
from tests.verifier.events import RefusedError, read_object, read_sensor_reading, read_user_event
from tests.verifier.faultless import NOW, faultless_behavior, faultless_sensors
from tests.verifier.fragments import Fragments, event
from tests.verifier.murmur2 import murmur2, partition_of
from tests.verifier.processes import Service, ServiceError, environment
from tests.verifier.recompute import (
    BehaviorResults,
    SensorResults,
    SensorRules,
    recompute_behavior,
    recompute_sensors,
)
from tests.verifier.records import LoadPlan, Outgoing, Records
from tests.verifier.report import Report
from tests.verifier.topologies import Inputs, Outputs, compare_behavior, compare_refused, compare_sensors

NAMES = Names("t-")
Tamper = Callable[[dict[str, list[Record]]], None]


# What input records are made of


def user_records(*events: dict[str, Any] | bytes | None) -> list[Record]:
    defaults = {"user_id": 1, "action": "click", "device": "mobile"}
    return records(
        "t-user_behavior", [one if isinstance(one, bytes | None) else defaults | one for one in events]
    )


def sensor_records(*values: float, sensor_id: str = "temperature") -> list[Record]:
    return records(
        "t-sensor_data",
        [
            {"sensor_id": sensor_id, "value": value, "timestamp": 100.0 + n, "location": "server1"}
            for n, value in enumerate(values)
        ],
    )


def records(topic: str, values: Iterable[dict[str, Any] | bytes | None], partition: int = 0) -> list[Record]:
    return [
        Record(
            topic, partition, offset, b"key", json.dumps(value).encode() if isinstance(value, dict) else value
        )
        for offset, value in enumerate(values)
    ]


def numbered(*numbers: int) -> list[dict[str, Any] | bytes | None]:
    return [{"source": "s", "seq": number} for number in numbers]


def states(results: SensorResults) -> list[tuple[str, str, int]]:
    alerts = [alert.fields for alert in results.alerts]
    return [(alert["bound"], alert["state"], alert["offset"]) for alert in alerts]


# Checks without a broker


def check_behavior(inputs: list[Record], outputs: dict[str, list[Record]]) -> Report:
    report = Report()
    read = Inputs("t-user_behavior", {0: inputs}, {0: len(inputs)}, {0: 0})
    written = Outputs(NAMES, outputs, dict.fromkeys(outputs, 1))
    recomputed = compare_behavior(read, written, report)
    report.differences += compare_refused([read], written, recomputed)
    return report


def check_sensors(inputs: list[Record], outputs: dict[str, list[Record]], rules: SensorRules) -> Report:
    report = Report()
    read = Inputs("t-sensor_data", {0: inputs}, {0: len(inputs)}, {0: 0})
    written = Outputs(NAMES, outputs, dict.fromkeys(outputs, 1))
    recomputed = compare_sensors(read, written, report, rules)
    report.differences += compare_refused([read], written, recomputed)
    return report


def change(topic: str, index: int, **fields: Any) -> Tamper:
    def tamper(outputs: dict[str, list[Record]]) -> None:
        record = outputs[topic][index]
        outputs[topic][index] = record._replace(
            value=json.dumps(json.loads(record.value or b"") | fields).encode()
        )

    return tamper


def drop(topic: str, index: int) -> Tamper:
    return lambda outputs: outputs[topic].__delitem__(index)


def double(topic: str, index: int) -> Tamper:
    return lambda outputs: outputs[topic].insert(index, outputs[topic][index])


def swap(topic: str) -> Tamper:
    return lambda outputs: outputs[topic].reverse()


def replace(topic: str, index: int, **parts: Any) -> Tamper:
    def tamper(outputs: dict[str, list[Record]]) -> None:
        outputs[topic][index] = outputs[topic][index]._replace(**parts)

    return tamper


BUY = {"action": "purchase", "page": "/page/3", "timestamp": "2024-05-01T12:00:00"}
BEHAVIOR_INPUT = user_records(
    BUY | {"user_id": 7}, {"user_id": 8}, b"junk", {"user_id": 7}, BUY | {"user_id": 9}, {"action": "buy"}, {}
)
SENSOR_INPUT = sensor_records(20, 81, 79, 9, 50, 50, 95)
SMALL_WINDOWS = SensorRules(window_size=3)


# Recomputed behaviour


def test_totals_actions_devices_and_users_are_counted_up_to_each_checkpoint() -> None:
    inputs = user_records({"user_id": 1}, {"user_id": 2, "device": "tablet"}, BUY | {"user_id": 1})

    stats = recompute_behavior(inputs, [2]).stats

    assert stats[2] == {
        "total_events": 2,
        "actions": {"click": 2},
        "devices": {"mobile": 1, "tablet": 1},
        "unique_users": 2,
    }
    assert stats[3]["total_events"] == 3
    assert stats[3]["unique_users"] == 2


def test_a_purchase_tells_what_the_input_says_and_where_it_stands() -> None:
    [purchase] = recompute_behavior(user_records({}, BUY | {"user_id": 7})).purchases

    assert purchase.key == b"7"
    assert purchase.fields == {
        "user_id": 7,
        "page": "/page/3",
        "timestamp": "2024-05-01T12:00:00",
        "device": "mobile",
        "topic": "t-user_behavior",
        "partition": 0,
        "offset": 1,
    }


# Recomputed windows and alerts


def test_a_window_holds_the_last_readings_once_it_is_full() -> None:
    results = recompute_sensors(sensor_records(1, 2, 30, 4, 50), rules=SMALL_WINDOWS)

    assert results.stats_at("temperature", 1) is None
    assert results.stats_at("temperature", 4) == {
        "sensor_id": "temperature",
        "count": 3,
        "avg": 28.0,
        "min": 4,
        "max": 50,
        "median": 30,
        "window_start": 102.0,
        "window_end": 104.0,
        "breaches": 3,
        "offset": 4,
    }


def test_an_alert_fires_strictly_beyond_the_threshold_and_resolves_on_it() -> None:
    results = recompute_sensors(sensor_records(80, 80.01, 99, 80, 10, 9.99, 10))

    assert states(results) == [
        ("max", "firing", 1),
        ("max", "resolved", 3),
        ("min", "firing", 5),
        ("min", "resolved", 6),
    ]
    assert [alert.fields["alert_id"] for alert in results.alerts] == [
        "temperature:max:0:1",
        "temperature:max:0:1",
        "temperature:min:0:5",
        "temperature:min:0:5",
    ]


def test_with_hysteresis_an_alert_resolves_only_when_the_value_is_well_inside() -> None:
    results = recompute_sensors(
        sensor_records(81, 80, 78.01, 81, 78, 9, 11.99, 12), rules=SensorRules(hysteresis=2)
    )

    assert states(results) == [
        ("max", "firing", 0),
        ("max", "resolved", 4),
        ("min", "firing", 5),
        ("min", "resolved", 7),
    ]


def test_one_reading_can_resolve_one_bound_and_fire_the_other() -> None:
    assert states(recompute_sensors(sensor_records(81, 9))) == [
        ("max", "firing", 0),
        ("max", "resolved", 1),
        ("min", "firing", 1),
    ]


def test_every_breach_fires_for_each_reading_beyond_and_never_resolves() -> None:
    results = recompute_sensors(sensor_records(81, 82, 50), rules=SensorRules(alert_mode="every_breach"))

    assert states(results) == [("max", "firing", 0), ("max", "firing", 1)]
    assert [alert.fields["alert_id"] for alert in results.alerts] == [
        "temperature:max:0:0",
        "temperature:max:0:1",
    ]


def test_a_sensor_without_thresholds_never_fires() -> None:
    assert recompute_sensors(sensor_records(-1e15, 1e15, sensor_id="humidity")).alerts == []


# Recomputed accounts


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        pytest.param([0, 1, 2], {"sourced_events": 3}, id="consecutive"),
        pytest.param([0, 1, 1, 0], {"sourced_events": 2, "duplicates": 2}, id="duplicates"),
        pytest.param([0, 3], {"sourced_events": 2, "gaps": 2}, id="a gap"),
        pytest.param([2], {"sourced_events": 1, "gaps": 2}, id="an unknown source expects 0"),
        pytest.param([0, 3, 1], {"sourced_events": 3, "gaps": 1, "late": 1}, id="a late one closes its gap"),
        pytest.param(
            [0, 2, 1, 1], {"sourced_events": 3, "late": 1, "duplicates": 1}, id="late, then doubled"
        ),
    ],
)
def test_continuity_tells_duplicates_gaps_and_late_ones(numbers: list[int], expected: dict[str, int]) -> None:
    results = recompute_behavior(user_records(*numbered(*numbers)))

    nothing = dict.fromkeys(
        (
            "sourced_events",
            "sourced_dead_letters",
            "unsourced_events",
            "duplicates",
            "gaps",
            "late",
            "dead_letters",
        ),
        0,
    )
    counted = expected["sourced_events"]
    assert results.progress[len(numbers)] == nothing | expected | {"events": counted}
    assert results.stats[len(numbers)]["total_events"] == counted


def test_a_readable_dead_letter_is_no_gap_and_its_number_can_be_filled() -> None:
    refused: dict[str, Any] = {"action": "buy", "source": "s", "seq": 1}
    inputs = user_records(*numbered(0), refused, *numbered(2, 1, 1))

    progress = recompute_behavior(inputs, [3]).progress

    assert (progress[3]["gaps"], progress[3]["sourced_dead_letters"], progress[3]["sourced_events"]) == (
        0,
        1,
        2,
    )
    assert (progress[5]["sourced_events"], progress[5]["duplicates"], progress[5]["gaps"]) == (3, 1, 0)


def test_an_unreadable_dead_letter_is_a_gap() -> None:
    progress = recompute_behavior(user_records(*numbered(0), b"junk", *numbered(2))).progress[3]

    assert (progress["gaps"], progress["dead_letters"], progress["sourced_dead_letters"]) == (1, 1, 0)


def test_a_duplicate_is_in_no_window_and_fires_no_alert() -> None:
    readings = [
        {
            "sensor_id": "temperature",
            "value": value,
            "timestamp": 1,
            "location": "",
            "source": "s",
            "seq": seq,
        }
        for seq, value in ((0, 20), (0, 99), (1, 30))
    ]

    results = recompute_sensors(records("t-sensor_data", readings), rules=SensorRules(window_size=2))

    assert results.alerts == []
    assert results.stats_at("temperature", 1) is None
    window = results.stats_at("temperature", 2)
    assert window is not None
    assert window["avg"] == 25


# Poison and oddities


def every_kind(made_by: Callable[[Topology], Any]) -> list[Any]:
    return [pytest.param(one, name, id=f"{one}: {name}") for one in TOPOLOGIES for name in made_by(one)]


def judge(topology: Topology, value: bytes | None) -> None:
    fields = read_object(value)
    if topology == "behavior":
        read_user_event(fields)
    else:
        read_sensor_reading(fields)


def some_event(topology: Topology) -> Fragments:
    return event(topology, Random(1), 0, users=10, sensors=5)[1]


@pytest.mark.parametrize(("topology", "name"), every_kind(poison.kinds))
def test_poison_is_refused(topology: Topology, name: str) -> None:
    value = poison.kinds(topology)[name](Random(1), some_event(topology))

    with pytest.raises(RefusedError):
        judge(topology, value)


@pytest.mark.parametrize(("topology", "name"), every_kind(oddities.kinds))
def test_an_oddity_is_accepted(topology: Topology, name: str) -> None:
    judge(topology, oddities.kinds(topology)[name](Random(1), some_event(topology)))


# Comparisons


def test_what_a_faultless_processor_publishes_passes() -> None:
    report = check_behavior(BEHAVIOR_INPUT, faultless_behavior(BEHAVIOR_INPUT))
    assert report.ok, report.text
    assert report.counts["purchases"] == 2
    assert report.counts["dead letters"] == 2

    report = check_sensors(SENSOR_INPUT, faultless_sensors(SENSOR_INPUT, SMALL_WINDOWS), SMALL_WINDOWS)
    assert report.ok, report.text
    assert report.counts["alerts"] == 5


def test_older_statistics_may_have_been_compacted_away() -> None:
    outputs = faultless_behavior(BEHAVIOR_INPUT)
    del outputs["t-behavior_stats"][:-1]
    del outputs["t-progress"][:-1]

    assert check_behavior(BEHAVIOR_INPUT, outputs).ok


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        pytest.param(drop("t-purchases", 0), "lost", id="a purchase lost"),
        pytest.param(double("t-purchases", 0), "doubled", id="a purchase doubled"),
        pytest.param(swap("t-purchases"), "disordered", id="purchases out of order"),
        pytest.param(change("t-purchases", 0, page="/page/4"), "wrong", id="another page"),
        pytest.param(change("t-purchases", 0, offset=1), "invented", id="a purchase of nothing"),
        pytest.param(replace("t-purchases", 0, key=b"8"), "wrong", id="another key"),
        pytest.param(replace("t-purchases", 0, partition=1), "wrong", id="another partition"),
        pytest.param(replace("t-purchases", 0, value=b"junk"), "wrong", id="no JSON"),
        pytest.param(change("t-purchases", 0, partition=4), "wrong", id="a partition that there is not"),
        pytest.param(drop("t-behavior_stats", -1), "lost", id="the latest statistics lost"),
        pytest.param(double("t-behavior_stats", 1), "doubled", id="statistics doubled"),
        pytest.param(change("t-behavior_stats", 1, total_events=9), "wrong", id="a total too high"),
        pytest.param(change("t-behavior_stats", 1, unique_users=1), "wrong", id="too few users"),
        pytest.param(change("t-behavior_stats", 1, actions={"click": 9}), "wrong", id="other actions"),
        pytest.param(change("t-behavior_stats", 1, updated_at="noon"), "wrong", id="no time"),
        pytest.param(change("t-behavior_stats", 1, offset=99), "wrong", id="ahead of what is committed"),
        pytest.param(change("t-progress", 1, dead_letters=3), "wrong", id="other accounts"),
        pytest.param(change("t-progress", 1, events=True), "wrong", id="true for 1"),
        pytest.param(drop("t-progress", -1), "lost", id="the latest accounts lost"),
        pytest.param(drop("t-dead_letters", 0), "lost", id="a dead letter lost"),
        pytest.param(double("t-dead_letters", 0), "doubled", id="a dead letter doubled"),
        pytest.param(swap("t-dead_letters"), "disordered", id="dead letters out of order"),
        pytest.param(replace("t-dead_letters", 0, value=b"yunk"), "wrong", id="other bytes"),
        pytest.param(replace("t-dead_letters", 0, key=None), "wrong", id="no key"),
        pytest.param(replace("t-dead_letters", 0, headers=()), "invented", id="no headers"),
    ],
)
def test_what_is_planted_in_behavior_results_is_found(tamper: Tamper, kind: str) -> None:
    outputs = faultless_behavior(BEHAVIOR_INPUT)
    tamper(outputs)

    report = check_behavior(BEHAVIOR_INPUT, outputs)

    assert kind in report.kinds(), report.text


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        pytest.param(drop("t-alerts", 1), "lost", id="an alert lost"),
        pytest.param(double("t-alerts", 1), "doubled", id="an alert doubled"),
        pytest.param(change("t-alerts", 1, alert_id="temperature:max:0:2"), "wrong", id="another id"),
        pytest.param(change("t-alerts", 0, state="resolved"), "invented", id="another state"),
        pytest.param(change("t-alerts", 0, threshold=81), "wrong", id="another threshold"),
        pytest.param(drop("t-sensor_stats", -1), "lost", id="the latest window lost"),
        pytest.param(double("t-sensor_stats", 0), "doubled", id="a window doubled"),
        pytest.param(change("t-sensor_stats", 0, avg=60.01), "wrong", id="an average off by a hundredth"),
        pytest.param(change("t-sensor_stats", 0, breaches=2), "wrong", id="a breach too many"),
        pytest.param(change("t-sensor_stats", 0, offset=1), "invented", id="a window not yet full"),
        pytest.param(change("t-sensor_stats", 0, sensor_id="humidity"), "invented", id="another sensor"),
    ],
)
def test_what_is_planted_in_sensor_results_is_found(tamper: Tamper, kind: str) -> None:
    outputs = faultless_sensors(SENSOR_INPUT, SMALL_WINDOWS)
    tamper(outputs)

    report = check_sensors(SENSOR_INPUT, outputs, SMALL_WINDOWS)

    assert kind in report.kinds(), report.text


def test_the_alerts_of_one_reading_may_stand_in_either_order() -> None:
    inputs = sensor_records(81, 9)
    outputs = faultless_sensors(inputs, SMALL_WINDOWS)
    alerts = outputs["t-alerts"]
    alerts[1], alerts[2] = alerts[2], alerts[1]

    assert check_sensors(inputs, outputs, SMALL_WINDOWS).ok


def test_original_headers_must_stay_with_a_dead_letter_in_their_order() -> None:
    original = BEHAVIOR_INPUT[2]._replace(headers=(("a", b"1"), ("b", None), ("a", b"")))
    inputs = [*BEHAVIOR_INPUT[:2], original, *BEHAVIOR_INPUT[3:]]
    outputs = faultless_behavior(inputs)
    assert check_behavior(inputs, outputs).ok

    first = outputs["t-dead_letters"][0]
    outputs["t-dead_letters"][0] = first._replace(headers=[*first.headers[1:], first.headers[0]])

    assert check_behavior(inputs, outputs).kinds() == {"wrong": 1}


# The ledger


def ledger_entry(acknowledged: int, **fields: Any) -> Record:
    entry = {
        "source": "s",
        "topic": "t-user_behavior",
        "partition": 0,
        "acknowledged": acknowledged,
        "last_offset": 2,
    }
    value = json.dumps(entry | {"finished": True, "updated_at": NOW} | fields).encode()
    return Record("t-generator_ledger", 0, 0, b"s:t-user_behavior:0", value)


def check_ledger(ledger: Sequence[Record], numbers: Sequence[int], **progress: int) -> Report:
    report = Report()
    partition = PartitionId("t-user_behavior", 0)
    results = recompute_behavior(user_records(*numbered(*numbers)))
    accounts = {"offset": 3, **results.progress[len(numbers)], **progress}
    compare_ledger("t-generator_ledger", ledger, {partition: accounts}, {partition: results}, report)
    return report


def test_a_ledger_that_agrees_with_input_and_accounts_passes() -> None:
    report = check_ledger([ledger_entry(2), ledger_entry(3)], [0, 1, 2])

    assert report.ok, report.text
    assert report.counts["acknowledged"] == 3


@pytest.mark.parametrize(
    ("ledger", "numbers", "progress", "kind"),
    [
        pytest.param([ledger_entry(3)], [0, 1, 2], {"sourced_events": 2}, "lost", id="counted too few"),
        pytest.param([ledger_entry(4)], [0, 1, 2], {"sourced_events": 4}, "lost", id="not in the input"),
        pytest.param([ledger_entry(3)], [0, 1, 1, 2], {}, "doubled", id="in the input twice"),
        pytest.param([ledger_entry(3)], [0, 1, 2], {"offset": 2}, "behind", id="not yet counted"),
        pytest.param([ledger_entry(3, source="x")], [0, 1, 2], {}, "wrong", id="under another key"),
        pytest.param([ledger_entry(3, last_offset="3")], [0, 1, 2], {}, "wrong", id="no number"),
    ],
)
def test_what_is_planted_in_the_ledger_is_found(
    ledger: list[Record], numbers: list[int], progress: dict[str, int], kind: str
) -> None:
    report = check_ledger(ledger, numbers, **progress)

    assert kind in report.kinds(), report.text


# The load


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_agrees_with_the_vectors_of_kafka_itself(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected % 2**32
    assert partition_of(key, 7) == (expected & 0x7FFFFFFF) % 7


def some_records(plan: LoadPlan, count: int) -> list[Outgoing]:
    return list(islice(Records(plan, NAMES, {"t-user_behavior": 4, "t-sensor_data": 3}), count))


def test_the_same_seed_makes_the_same_records() -> None:
    plan = LoadPlan(seed=3, poison_rate=0.1, oddity_rate=0.1, stray_rate=0.1, source="s", gap_rate=0.1)

    assert some_records(plan, 500) == some_records(plan, 500)
    assert some_records(plan, 50) != some_records(LoadPlan(seed=4), 50)


def test_recomputing_a_load_finds_the_poison_and_the_duplicates_that_were_put_in() -> None:
    plan = LoadPlan(poison_rate=0.2, oddity_rate=0.1, source="s", duplicate_rate=0.05, gap_rate=0.02)
    sent = some_records(plan, 3_000)

    results = recompute_all(sent)

    kinds = Counter(one.kind for one in sent)
    accounts: Counter[str] = Counter()
    for one in results:
        accounts.update(one.progress[max(one.progress)])
    assert accounts["dead_letters"] == sum(one.is_poison for one in sent) > 500
    assert accounts["duplicates"] == kinds["duplicate"] > 50
    assert accounts["late"] == kinds["late"] > 10
    assert accounts["gaps"] > 10


def recompute_all(sent: Sequence[Outgoing]) -> list[BehaviorResults | SensorResults]:
    by_partition: dict[PartitionId, list[Record]] = {}
    for one in sent:
        held = by_partition.setdefault(one.partition, [])
        held.append(Record(*one.partition, len(held), one.key, one.value, one.headers))
    return [
        recompute_behavior(held) if partition.topic == "t-user_behavior" else recompute_sensors(held)
        for partition, held in by_partition.items()
    ]


# Processes


TALKER = """
import json, time
print(json.dumps({"event": "HTTP server listens", "port": 8123}), flush=True)
time.sleep(60)
"""


def test_a_process_is_waited_for_and_killed(tmp_path: Path) -> None:
    with Service([sys.executable, "-c", TALKER], environment(), tmp_path / "log") as service:
        assert service.port() == 8123
        service.kill()
        assert not service.is_running


def test_a_process_that_is_left_running_is_ended(tmp_path: Path) -> None:
    with Service([sys.executable, "-c", TALKER], environment(), tmp_path / "log") as service:
        service.wait_for_line("listens")
        service.pause()

    assert not service.is_running


def test_a_process_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no broker'); raise SystemExit(1)"]

    with (
        Service(command, environment(), tmp_path / "log") as service,
        pytest.raises(ServiceError, match=r"ended with 1: no line with 'ready'(.|\n)*no broker"),
    ):
        service.wait_for_line("ready")


def test_killing_a_process_that_has_ended_is_an_error(tmp_path: Path) -> None:
    with Service([sys.executable, "-c", ""], environment(), tmp_path / "log") as service:
        assert service.wait() == 0
        with pytest.raises(ServiceError, match="before SIGKILL"):
            service.kill()


def test_only_what_is_handed_in_reaches_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", "of-the-caller")
    command = [sys.executable, "-c", "import os; print(sorted(n for n in os.environ if n[:6] == 'KAFKA_'))"]

    with Service(command, environment(KAFKA_CLIENT_ID="me"), tmp_path / "log") as service:
        assert service.wait_for_line("KAFKA_") == "['KAFKA_CLIENT_ID']"
