"""What `tandem verify` recomputes, against another implementation, and what its comparison finds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.console.verification.admission import Headers, InputRecord, as_fields
from services.console.verification.continuity import Continuity, Tally
from services.console.verification.findings import Difference, Findings, Note, Span
from services.console.verification.partitions import BehaviorCheck, PartitionCheck, SensorCheck, Task
from services.console.verification.recompute import BehaviorRecomputation, Origin, SensorRecomputation
from services.console.verification.rules import Rules, RulesHistory
from shared import topics
from shared.changelog import Interval, SourceState
from shared.results import LatencyMilliseconds, LedgerEntry, Progress, SettingSince
from tests.verifier import recompute as other
from tests.verifier.contract import Record as OtherRecord

THRESHOLDS: dict[str, dict[str, float | None]] = {
    "t": {"min": 10.0, "max": 80.0},
    "u": {"min": None, "max": 90.0},
}


@dataclass(frozen=True)
class Stored:
    """A record as the client gives it."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    topic: str = "in"
    partition: int = 0


def event(user: int, action: str = "click", device: str = "mobile", **more: Any) -> bytes:
    return json.dumps({"user_id": user, "action": action, "device": device, **more}).encode()


def purchase(user: int, **more: Any) -> bytes:
    return event(user, "purchase", page="/page/1", timestamp="2026-01-01T00:00:00", **more)


def reading(value: float, sensor: str = "t", at: float = 1.0, **more: Any) -> bytes:
    fields = {"sensor_id": sensor, "value": value, "timestamp": at, "location": "here"}
    return json.dumps(fields | more).encode()


def stored(values: Sequence[bytes | None]) -> list[Stored]:
    return [Stored(offset, value, key=b"k") for offset, value in enumerate(values)]


def history(**values: Any) -> RulesHistory:
    wanted = {"window_size": 2, "alert_mode": "transitions", "thresholds": THRESHOLDS, "hysteresis": 0.0}
    return RulesHistory({name: [SettingSince(value, 0)] for name, value in {**wanted, **values}.items()})


def origin(first: int = 0, start: int | None = None) -> Origin:
    return Origin("in", 0, first, first if start is None else start)


# --- one partition's continuity -------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.booleans()), max_size=60))
def test_accounts_are_those_of_a_model_that_keeps_every_number(heard: list[tuple[str, int, bool]]) -> None:
    tally = Tally()
    continuity = Continuity(tally, beginning_seen=True)
    counted: dict[str, set[int]] = {"a": set(), "b": set()}
    seen: dict[str, set[int]] = {"a": set(), "b": set()}
    late = duplicates = 0
    for source, seq, is_dead in heard:
        if is_dead:
            continuity.bury(source, seq)
        elif seq in counted[source]:
            duplicates += 1
            assert continuity.count(source, seq) == "duplicate"
        else:
            late += seq < max(seen[source], default=-1) and seq not in seen[source]
            assert continuity.count(source, seq) != "duplicate"
            counted[source].add(seq)
        seen[source].add(seq)
    missing = sum(max(numbers, default=-1) + 1 - len(numbers) for numbers in seen.values())
    assert (tally.duplicates, tally.late, tally.gaps) == (duplicates, late, missing)
    assert tally.sourced_events == sum(map(len, counted.values()))
    assert tally.sourced_dead_letters == sum(len(seen[source] - counted[source]) for source in "ab")


def test_a_source_that_was_forgotten_begins_where_it_is_heard_again() -> None:
    tally = Tally()
    continuity = Continuity(tally, beginning_seen=True)
    continuity.count("first", 0)
    for number in range(1_000):
        continuity.count(f"s{number}", 0)
    assert continuity.judge("first", 5) == "next"
    continuity.count("first", 5)
    assert tally.gaps == 0


def test_of_many_gaps_the_oldest_is_given_up() -> None:
    tally = Tally()
    continuity = Continuity(tally, beginning_seen=True)
    for number in range(1_001):
        continuity.count("s", 2 * number + 1)
    assert continuity.judge("s", 0) == "duplicate"
    assert continuity.judge("s", 2) == "late"
    assert tally.gaps == 1_001


# --- one partition's results, against the tests' own verifier ------------------------------------

EVENTS = st.one_of(
    st.builds(
        event,
        st.integers(0, 5),
        st.sampled_from(["click", "login", "purchase", "nonsense"]),
        st.sampled_from(["mobile", "tablet"]),
    ),
    st.builds(lambda user, seq: purchase(user, source="s", seq=seq), st.integers(0, 5), st.integers(0, 8)),
    st.builds(lambda user, seq: event(user, source="s", seq=seq), st.integers(0, 5), st.integers(0, 8)),
    st.sampled_from([None, b"", b"{", b"[]", event(1, source="s"), event(-1), b"\xff"]),
)
READINGS = st.one_of(
    st.builds(reading, st.floats(0, 100), st.sampled_from("tuv"), st.integers(0, 9)),
    st.builds(lambda value, seq: reading(value, source="s", seq=seq), st.floats(0, 100), st.integers(0, 8)),
    st.sampled_from([None, b"{}", reading(1e16), reading(1, at=-1)]),
)


def others(records: Sequence[Stored]) -> list[OtherRecord]:
    return [OtherRecord("in", 0, one.offset, one.key, one.value) for one in records]


def same_accounts(ours: Tally, theirs: dict[str, int]) -> bool:
    # The tests' verifier does not take a number back that a re-driven copy filled.
    left_out = {"sourced_dead_letters"}
    mine = as_fields(ours)
    return all(mine[name] == theirs[name] for name in mine.keys() - left_out)


@given(st.lists(EVENTS, max_size=40))
def test_behaviour_is_recomputed_as_the_tests_own_verifier_does(values: list[bytes | None]) -> None:
    records = stored(values)
    ours = BehaviorRecomputation(origin(), history())
    ours.take(records)
    theirs = other.recompute_behavior(others(records), [len(records)])
    assert same_accounts(ours.admission.tally, theirs.progress[len(records)])
    stats = theirs.stats[len(records)]
    assert ours.total_events == stats["total_events"]
    assert (dict(ours.actions), dict(ours.devices)) == (stats["actions"], stats["devices"])
    assert len(ours.users) == stats["unique_users"]
    assert [one.offset for one in ours.purchases] == [one.fields["offset"] for one in theirs.purchases]
    assert [one.offset for one in ours.admission.dead_letters] == [one.offset for one in theirs.dead_letters]


@given(st.lists(READINGS, max_size=40), st.integers(1, 6), st.sampled_from([0.0, 5.0]))
def test_sensors_are_recomputed_as_the_tests_own_verifier_does(
    values: list[bytes | None], window_size: int, hysteresis: float
) -> None:
    records = stored(values)
    ours = SensorRecomputation(origin(), history(window_size=window_size, hysteresis=hysteresis))
    ours.take(records)
    bounds: Any = {
        sensor: {bound: limit for bound, limit in limits.items() if limit is not None}
        for sensor, limits in THRESHOLDS.items()
    }
    rules = other.SensorRules(window_size, bounds, hysteresis)
    theirs = other.recompute_sensors(others(records), [len(records)], rules=rules)
    assert same_accounts(ours.admission.tally, theirs.progress[len(records)])
    # In which order the bounds of one reading are published is nowhere said.
    ours_fired = [(one.offset, one.alert_id, one.state) for one in ours.alerts]
    theirs_fired = [
        tuple(one.fields[name] for name in ("offset", "alert_id", "state")) for one in theirs.alerts
    ]
    assert sorted(ours_fired) == sorted(theirs_fired)
    assert [offset for offset, *_ in ours_fired] == sorted(offset for offset, *_ in ours_fired)
    for sensor_id, offset in theirs.latest_offsets().items():
        window = ours.window(sensor_id)
        assert window is not None
        expected = theirs.stats_at(sensor_id, offset)
        assert expected is not None
        assert {name: getattr(window, name) for name in expected} == expected


# --- what depends on settings --------------------------------------------------------------------


def changing(**changes: Sequence[tuple[int, Any]]) -> RulesHistory:
    return RulesHistory(
        {name: [SettingSince(value, since) for since, value in values] for name, values in changes.items()}
    )


def alerts_of(values: Sequence[float], rules: RulesHistory) -> list[tuple[str, int, float]]:
    recomputed = SensorRecomputation(origin(), rules)
    recomputed.take(stored([reading(value) for value in values]))
    return [(one.state, one.offset, one.threshold) for one in recomputed.alerts]


def test_rules_hold_from_their_offset_on() -> None:
    rules = changing(window_size=[(0, 10), (5, 3)])
    assert [rules.at(offset)[0].window_size for offset in (0, 4, 5, 9)] == [10, 10, 3, 3]


def test_an_unknown_setting_is_left_alone_and_a_wrong_one_is_not() -> None:
    assert changing(something=[(0, "x")]).at(0)[0] == Rules()
    with pytest.raises(ValueError, match="window_size"):
        changing(window_size=[(0, "ten")])


def test_a_threshold_that_moves_resolves_by_the_new_one() -> None:
    rules = changing(thresholds=[(0, {"t": {"max": 80.0}}), (2, {"t": {"max": 95.0}})])
    assert alerts_of([90, 91, 92], rules) == [("firing", 0, 80.0), ("resolved", 2, 95.0)]


def test_a_bound_that_is_gone_resolves_by_the_old_threshold() -> None:
    rules = changing(thresholds=[(0, {"t": {"max": 80.0}}), (1, {})])
    assert alerts_of([90, 90, 90], rules) == [("firing", 0, 80.0), ("resolved", 1, 80.0)]


def test_every_breach_fires_and_nothing_resolves() -> None:
    rules = changing(thresholds=[(0, {"t": {"max": 80.0}})], alert_mode=[(0, "every_breach")])
    assert alerts_of([90, 91, 5, 92], rules) == [("firing", 0, 80), ("firing", 1, 80), ("firing", 3, 80)]


def test_a_window_is_cut_when_its_size_is_lowered() -> None:
    recomputed = SensorRecomputation(origin(), changing(window_size=[(0, 4), (4, 2)]))
    recomputed.take(stored([reading(value) for value in (1, 2, 3, 4, 5)]))
    window = recomputed.window("t")
    assert window is not None
    assert (window.count, window.min, window.max) == (2, 4, 5)


def test_full_validation_refuses_what_is_not_counted() -> None:
    whole = event(1, page="/page/1", timestamp="2026-01-01T00:00:00", ip="1.2.3.4")
    recomputed = BehaviorRecomputation(origin(), history(validation="full"))
    recomputed.take(stored([event(1), whole]))
    assert [one.offset for one in recomputed.admission.dead_letters] == [0]


def test_a_new_key_beyond_the_bound_is_a_dead_letter_and_a_known_one_is_not() -> None:
    recomputed = BehaviorRecomputation(origin(), history(state_max_keys=2))
    recomputed.take(stored([event(1), event(2), event(3), event(2)]))
    assert [one.offset for one in recomputed.admission.dead_letters] == [2]
    assert recomputed.total_events == 3


# --- the comparison ------------------------------------------------------------------------------


@dataclass
class Scene:
    """Input and what was published of it, all of it right; tests spoil it."""

    check: type[PartitionCheck]
    records: list[Stored]
    progress: Progress
    published: dict[str, list[Stored]]
    first: int = 0
    start: int = 0
    rules: RulesHistory = dataclasses.field(default_factory=history)
    ledger: list[LedgerEntry] = dataclasses.field(default_factory=list)
    # What the processor's own state holds of each source, where its accounts differ.
    sources: dict[str, SourceState] = dataclasses.field(default_factory=dict)

    def differences(self, *, portion: int = 2) -> list[tuple[str, str]]:
        findings = Findings(listed=100)
        names = {
            name: name
            for name in (
                topics.PROGRESS,
                topics.BEHAVIOR_STATS,
                topics.PURCHASES,
                topics.SENSOR_STATS,
                topics.ALERTS,
                topics.DEAD_LETTERS,
            )
        }
        origin = Origin("in", 0, self.first, self.start)
        counts = dict.fromkeys(names, 1)
        task = Task(origin, self.progress, self.rules, names, counts, self.ledger)
        check = self.check(task, findings)
        for name, queue in check.queues.items():
            queue.add(self.published.get(name, []))
        end = self.progress.offset
        wanted: list[InputRecord] = [one for one in self.records if self.start <= one.offset < end]
        for at in range(0, len(wanted), portion):
            part = wanted[at : at + portion]
            check.take(part, part[-1].offset + 1)
        check.finish()
        if check.accounts_differ:
            check.compare_sources(self.sources)
        self.findings = findings
        return [(one.kind, one.topic) for one in findings.differences]


def progress_at(offset: int, **figures: int) -> Progress:
    zero = dict.fromkeys(
        (
            "events", "sourced_events", "sourced_dead_letters", "unsourced_events",
            "duplicates", "gaps", "late", "dead_letters",
        ),
        0,
    )  # fmt: skip
    return Progress(
        topic="in",
        partition=0,
        offset=offset,
        first_offset=0,
        latency_ms=LatencyMilliseconds(0, 0),
        settings={},
        updated_at="2026-01-01T00:00:00+00:00",
        **(zero | figures),
    )


def published(topic: str, key: str, *values: dict[str, Any]) -> list[Stored]:
    return [
        Stored(offset, json.dumps(value).encode(), key=key.encode(), topic=topic)
        for offset, value in enumerate(values)
    ]


def stats(offset: int, total: int, actions: dict[str, int], users: int) -> dict[str, Any]:
    return {
        "partition": 0,
        "offset": offset,
        "total_events": total,
        "actions": actions,
        "devices": {"mobile": total},
        "unique_users": users,
        "updated_at": "2026-01-01T00:00:00+00:00",
    }


def bought(user: int, offset: int) -> dict[str, Any]:
    return {
        "user_id": user,
        "page": "/page/1",
        "timestamp": "2026-01-01T00:00:00",
        "device": "mobile",
        "topic": "in",
        "partition": 0,
        "offset": offset,
    }


def letter(record: Stored, *, value: bytes | None = None, more: Headers = ()) -> Stored:
    why: Headers = (
        ("__streams.errors.exception", b"builtins.ValueError"),
        ("__streams.errors.message", b"no"),
        ("__streams.errors.stacktrace", b"no"),
        ("__streams.errors.topic", b"in"),
        ("__streams.errors.partition", b"0"),
        ("__streams.errors.offset", str(record.offset).encode()),
    )
    return Stored(
        0,
        record.value if value is None else value,
        record.key,
        (*record.headers, *why, *more),
        "dead_letters",
    )


def behaviour_scene() -> Scene:
    records = stored([event(1), purchase(2), b"poison", purchase(2), event(1), purchase(3)])
    return Scene(
        BehaviorCheck,
        records,
        progress_at(6, events=5, unsourced_events=5, dead_letters=1),
        {
            topics.BEHAVIOR_STATS: published(
                topics.BEHAVIOR_STATS,
                "0",
                stats(3, 2, {"click": 1, "purchase": 1}, 2),
                stats(6, 5, {"click": 2, "purchase": 3}, 3),
            ),
            topics.PURCHASES: [
                dataclasses.replace(one, offset=at, key=key)
                for at, (one, key) in enumerate(
                    zip(
                        published(topics.PURCHASES, "", bought(2, 1), bought(2, 3), bought(3, 5)),
                        (b"2", b"2", b"3"),
                        strict=True,
                    )
                )
            ],
            topics.DEAD_LETTERS: [letter(records[2])],
        },
    )


def window(offset: int, low: float, high: float, breaches: int) -> dict[str, Any]:
    middle = round((low + high) / 2, 2)
    return {
        "sensor_id": "t", "count": 2, "avg": middle, "min": low, "max": high, "median": middle,
        "window_start": 1.0, "window_end": 1.0, "breaches": breaches, "partition": 0, "offset": offset,
    }  # fmt: skip


def fired(state: str, offset: int, value: float, of: int) -> dict[str, Any]:
    return {
        "alert_id": f"t:max:0:{of}", "sensor_id": "t", "bound": "max", "threshold": 80.0, "value": value,
        "state": state, "location": "here", "timestamp": 1.0, "partition": 0, "offset": offset,
    }  # fmt: skip


def sensor_scene() -> Scene:
    return Scene(
        SensorCheck,
        stored([reading(value) for value in (20, 90, 30, 95)]),
        progress_at(4, events=4, unsourced_events=4),
        {
            topics.SENSOR_STATS: published(
                topics.SENSOR_STATS, "t", window(1, 20, 90, 1), window(3, 30, 95, 2)
            ),
            topics.ALERTS: published(
                topics.ALERTS,
                "t",
                fired("firing", 1, 90, 1),
                fired("resolved", 2, 30, 1),
                fired("firing", 3, 95, 3),
            ),
        },
    )


@pytest.mark.parametrize("portion", [1, 2, 100])
@pytest.mark.parametrize("scene", [behaviour_scene, sensor_scene])
def test_what_is_right_has_no_differences(scene: Callable[[], Scene], portion: int) -> None:
    assert scene().differences(portion=portion) == []


def test_a_purchase_that_is_missing_is_found() -> None:
    scene = behaviour_scene()
    del scene.published[topics.PURCHASES][1]
    assert scene.differences() == [("missing", topics.PURCHASES)]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_purchase_that_is_there_twice_is_found_wherever_it_stands(at: int) -> None:
    scene = behaviour_scene()
    purchases = scene.published[topics.PURCHASES]
    purchases.insert(at, purchases[0])
    assert scene.differences() == [("doubled", topics.PURCHASES)]


def test_a_purchase_that_nobody_made_is_found() -> None:
    scene = behaviour_scene()
    scene.published[topics.PURCHASES][1:1] = published(topics.PURCHASES, "2", bought(2, 2))
    assert scene.differences() == [("unexpected", topics.PURCHASES)]


def test_a_purchase_with_another_key_or_content_is_found() -> None:
    scene = behaviour_scene()
    purchases = scene.published[topics.PURCHASES]
    purchases[0] = dataclasses.replace(purchases[0], key=b"7")
    purchases[1] = dataclasses.replace(
        purchases[1], value=json.dumps(bought(2, 3) | {"page": "/page/2"}).encode()
    )
    assert scene.differences() == [("wrong", topics.PURCHASES)] * 2


def test_purchases_in_another_order_are_found() -> None:
    scene = behaviour_scene()
    scene.published[topics.PURCHASES].reverse()
    found = scene.differences(portion=100)
    assert {kind for kind, _ in found} == {"disordered"}


def test_what_is_published_beyond_the_committed_offset_is_not_looked_at() -> None:
    scene = behaviour_scene()
    scene.published[topics.PURCHASES] += published(topics.PURCHASES, "9", bought(9, 6))
    assert scene.differences() == []


def test_statistics_that_are_wrong_in_the_middle_are_found() -> None:
    scene = behaviour_scene()
    scene.published[topics.BEHAVIOR_STATS][0] = published(
        topics.BEHAVIOR_STATS, "0", stats(3, 2, {"click": 2}, 2)
    )[0]
    assert scene.differences() == [("wrong", topics.BEHAVIOR_STATS)]


def test_of_wrong_statistics_the_first_say_among_which_records_it_is() -> None:
    scene = behaviour_scene()
    wrong = stats(3, 2, {"click": 2}, 2), stats(6, 5, {"click": 3, "purchase": 2}, 3)
    scene.published[topics.BEHAVIOR_STATS] = published(
        topics.BEHAVIOR_STATS, "0", stats(1, 1, {"click": 1}, 1), *wrong
    )
    assert scene.differences() == [("wrong", topics.BEHAVIOR_STATS)] * 2
    assert [one.input for one in scene.findings.differences] == [Span("in", 0, 1, 2), None]


def test_of_what_differs_in_a_published_record_the_input_record_is_known() -> None:
    scene = behaviour_scene()
    purchases = scene.published[topics.PURCHASES]
    purchases.append(dataclasses.replace(purchases[1], offset=9))
    del purchases[0]
    scene.differences()
    found = {one.kind: one.input for one in scene.findings.differences}
    assert found == {"missing": Span("in", 0, 1, 1), "doubled": Span("in", 0, 3, 3)}


def numbered(*seqs: int) -> list[bytes | None]:
    return [event(1, source="gen", seq=seq) for seq in seqs]


def scene_of(values: Sequence[bytes | None], **figures: int) -> Scene:
    """Return a scene of events without purchases, with the latest statistics alone."""
    figures = {"events": len(values), "sourced_events": len(values)} | figures
    total = figures["events"]
    latest = stats(len(values), total, {"click": total}, 1)
    return Scene(
        BehaviorCheck,
        stored(values),
        progress_at(len(values), **figures),
        {topics.BEHAVIOR_STATS: published(topics.BEHAVIOR_STATS, "0", latest)},
    )


def acknowledged(count: int, last_offset: int) -> list[LedgerEntry]:
    now = "2026-01-01T00:00:00+00:00"
    return [
        LedgerEntry(
            source="gen",
            topic="in",
            partition=0,
            acknowledged=count,
            last_offset=last_offset,
            finished=True,
            updated_at=now,
        )
    ]


def named(of: Sequence[Difference | Note]) -> list[tuple[str, int, int]]:
    return [(numbers.source, numbers.first, numbers.last) for one in of for numbers in one.numbers]


@pytest.mark.parametrize(
    ("seqs", "count", "lost"),
    [
        ((0, 1, 3, 4), 5, [("gen", 2, 2)]),
        ((1, 2, 5), 9, [("gen", 0, 0), ("gen", 3, 4), ("gen", 6, 8)]),
        ((0, 3, 1), 4, [("gen", 2, 2)]),
        ((0, 1, 3), 2, []),
    ],
)
def test_what_was_acknowledged_and_is_not_in_the_log_is_named(
    seqs: tuple[int, ...], count: int, lost: list[tuple[str, int, int]]
) -> None:
    gaps = max(seqs) + 1 - len(seqs)
    scene = scene_of(numbered(*seqs), gaps=gaps, late=int(list(seqs) != sorted(seqs)))
    scene.ledger = acknowledged(count, last_offset=len(seqs) - 1)
    assert scene.differences() == [("lost", "in")] * len(lost)
    assert named(scene.findings.differences) == lost
    # Not before everything that was acknowledged must have been read.
    scene.ledger = acknowledged(count, last_offset=len(seqs))
    assert scene.differences() == []


def test_of_a_source_that_was_never_heard_all_is_lost() -> None:
    scene = scene_of([event(1)], sourced_events=0, unsourced_events=1)
    scene.ledger = acknowledged(3, last_offset=0)
    assert scene.differences() == [("lost", "in")]
    assert named(scene.findings.differences) == [("gen", 0, 2)]


def test_a_dead_letter_is_not_lost() -> None:
    poison = json.dumps({"user_id": -1, "source": "gen", "seq": 1}).encode()
    first, last = numbered(0, 2)
    scene = scene_of([first, poison, last], events=2, sourced_events=2)
    scene.progress.dead_letters = scene.progress.sourced_dead_letters = 1
    scene.published[topics.DEAD_LETTERS] = [letter(scene.records[1])]
    scene.ledger = acknowledged(3, last_offset=2)
    assert scene.differences() == []


def test_numbers_that_no_ledger_speaks_of_are_noted() -> None:
    scene = scene_of(numbered(0, 2, 5), gaps=3)
    assert scene.differences() == []
    assert named(scene.findings.notes) == [("gen", 1, 1), ("gen", 3, 4)]


def test_where_counting_did_not_begin_with_the_log_nothing_is_named_lost() -> None:
    scene = scene_of([None, *numbered(5, 7)], events=2, sourced_events=2, gaps=1)
    scene.first = scene.start = 1
    scene.ledger = acknowledged(9, last_offset=2)
    assert scene.differences() == []
    assert scene.findings.notes == []


def test_an_event_that_is_in_the_log_twice_is_named_and_no_difference() -> None:
    scene = scene_of(numbered(0, 1, 1, 2, 0), events=3, sourced_events=3, duplicates=2)
    assert scene.differences() == []
    assert named(scene.findings.notes) == [("gen", 1, 1), ("gen", 0, 0)]
    assert [one.text.partition(":0@")[2].partition(":")[0] for one in scene.findings.notes] == ["2", "4"]


@pytest.mark.parametrize(
    ("open_there", "lost"),
    [
        ([Interval(4, 4, dead=False)], [("gen", 4, 4)]),
        # 2 is missing in the log too; 3 became a dead letter there; 9 has not been read by us.
        ([Interval(1, 5, dead=False)], [("gen", 1, 1), ("gen", 3, 5)]),
        ([Interval(2, 2, dead=False), Interval(4, 4, dead=True), Interval(9, 12, dead=False)], []),
    ],
)
def test_what_the_processor_has_missed_is_named_by_its_own_state(
    open_there: list[Interval], lost: list[tuple[str, int, int]]
) -> None:
    scene = scene_of(numbered(0, 1, 3, 4, 5), events=4, sourced_events=4, gaps=2)
    scene.sources = {"gen": SourceState(13, 99, open_there)}
    differences = scene.differences()
    assert ("wrong", topics.PROGRESS) in differences
    assert named([one for one in scene.findings.differences if one.kind == "lost"]) == lost


def test_statistics_that_compaction_took_are_not_missed_and_the_latest_are() -> None:
    scene = behaviour_scene()
    del scene.published[topics.BEHAVIOR_STATS][0]
    assert scene.differences() == []
    scene.published[topics.BEHAVIOR_STATS].clear()
    assert scene.differences() == [("missing", topics.BEHAVIOR_STATS)]


def test_accounts_that_are_wrong_are_found() -> None:
    scene = behaviour_scene()
    scene.progress.events = 4
    assert scene.differences() == [("wrong", topics.PROGRESS)]


def test_a_record_that_is_not_as_the_contract_says_is_found() -> None:
    scene = behaviour_scene()
    scene.published[topics.PURCHASES].append(Stored(9, b"{}", topic=topics.PURCHASES))
    assert scene.differences() == [("undecodable", topics.PURCHASES)]


def test_a_result_in_the_wrong_partition_is_found() -> None:
    scene = behaviour_scene()
    purchases = scene.published[topics.PURCHASES]
    purchases[0] = dataclasses.replace(purchases[0], partition=3)
    assert ("misplaced", topics.PURCHASES) in scene.differences()


def test_a_dead_letter_that_is_missing_is_found() -> None:
    scene = behaviour_scene()
    scene.published[topics.DEAD_LETTERS].clear()
    assert scene.differences() == [("missing", topics.DEAD_LETTERS)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: dataclasses.replace(one, value=b"other"),
        lambda one: dataclasses.replace(one, key=b"other"),
        lambda one: dataclasses.replace(one, headers=one.headers[1:]),
        lambda one: dataclasses.replace(one, headers=(*one.headers, ("more", b""))),
    ],
)
def test_a_dead_letter_that_is_not_the_original_is_found(spoil: Callable[[Stored], Stored]) -> None:
    scene = behaviour_scene()
    scene.published[topics.DEAD_LETTERS] = [spoil(one) for one in scene.published[topics.DEAD_LETTERS]]
    assert scene.differences() == [("wrong", topics.DEAD_LETTERS)]


def test_a_dead_letter_may_be_cut_when_it_says_so() -> None:
    scene = behaviour_scene()
    value = b"x" * 70_000
    scene.records[2] = dataclasses.replace(scene.records[2], value=value, headers=(("own", b"1"),))
    digest = hashlib.sha256(value).hexdigest().encode()
    said: Headers = (("tandem.value.length", b"70000"), ("tandem.value.sha256", digest))
    scene.published[topics.DEAD_LETTERS] = [letter(scene.records[2], value=value[:65_536], more=said)]
    assert scene.differences() == []
    lie: Headers = (("tandem.value.length", b"70001"), ("tandem.value.sha256", digest))
    scene.published[topics.DEAD_LETTERS] = [letter(scene.records[2], value=value[:65_536], more=lie)]
    assert scene.differences() == [("wrong", topics.DEAD_LETTERS)]


def test_windows_of_a_transaction_may_stand_in_any_order() -> None:
    scene = sensor_scene()
    scene.records = stored([reading(1, "t"), reading(2, "u"), reading(3, "t"), reading(4, "u")])
    of = {"window_start": 1.0, "window_end": 1.0, "breaches": 1, "partition": 0, "count": 2}
    t = of | {"sensor_id": "t", "avg": 2.0, "min": 1.0, "max": 3.0, "median": 2.0, "offset": 2, "breaches": 2}
    u = of | {"sensor_id": "u", "avg": 3.0, "min": 2.0, "max": 4.0, "median": 3.0, "offset": 3, "breaches": 0}
    scene.published[topics.SENSOR_STATS] = [
        *published(topics.SENSOR_STATS, "u", u),
        *published(topics.SENSOR_STATS, "t", t),
    ]
    scene.published[topics.ALERTS] = published(
        topics.ALERTS,
        "t",
        fired("firing", 0, 1, 0) | {"bound": "min", "threshold": 10.0, "alert_id": "t:min:0:0"},
    )
    assert scene.differences(portion=1) == []


def test_a_window_that_is_wrong_or_too_much_is_found() -> None:
    scene = sensor_scene()
    scene.published[topics.SENSOR_STATS] = published(
        topics.SENSOR_STATS, "t", window(0, 20, 20, 0), window(1, 20, 91, 1), window(3, 30, 95, 2)
    )
    assert scene.differences() == [("unexpected", topics.SENSOR_STATS), ("wrong", topics.SENSOR_STATS)]


def test_a_window_that_is_there_twice_is_found() -> None:
    scene = sensor_scene()
    scene.published[topics.SENSOR_STATS].append(scene.published[topics.SENSOR_STATS][-1])
    assert scene.differences() == [("doubled", topics.SENSOR_STATS)]


def test_the_window_after_the_last_reading_has_to_be_there() -> None:
    scene = sensor_scene()
    del scene.published[topics.SENSOR_STATS][-1]
    assert scene.differences() == [("missing", topics.SENSOR_STATS)]


def test_an_alert_that_is_missing_is_found() -> None:
    scene = sensor_scene()
    del scene.published[topics.ALERTS][1]
    assert scene.differences() == [("missing", topics.ALERTS)]


# --- when retention took the beginning -----------------------------------------------------------


def test_of_a_log_that_lost_its_beginning_what_is_left_is_compared() -> None:
    scene = behaviour_scene()
    scene.start = 3
    scene.progress.events = 1_000  # Counted from the beginning: nobody can say any more.
    assert scene.differences() == []
    assert scene.findings.compared == {topics.PURCHASES: 2}
    del scene.published[topics.PURCHASES][-1]
    assert scene.differences() == [("missing", topics.PURCHASES)]


def test_an_alert_that_may_have_fired_before_the_log_begins_is_left_open() -> None:
    scene = sensor_scene()
    scene.start = 1
    # Whether the reading at 1 fired hangs on what is gone; from 2 on, all is inside and known.
    del scene.published[topics.ALERTS][0]
    scene.published[topics.SENSOR_STATS] = published(topics.SENSOR_STATS, "t", window(3, 30, 95, 77))
    assert scene.differences() == []
    del scene.published[topics.ALERTS][-1]
    assert scene.differences() == [("missing", topics.ALERTS)]


@settings(max_examples=50)
@given(st.lists(READINGS, min_size=4, max_size=40), st.integers(1, 20))
def test_a_log_without_its_beginning_never_shows_a_difference_that_is_none(
    values: list[bytes | None], start: int
) -> None:
    """Readings without numbers: what a copy of a lost record is, nobody can know."""
    plain = [value for value in values if value is None or b"seq" not in value]
    records = stored(plain)
    whole = SensorRecomputation(origin(), history())
    windows = []
    for record in records:
        whole.take([record])
        for sensor_id, sensor in whole.sensors.items():
            if sensor.offset == record.offset and sensor.is_full:
                windows.append((sensor_id, whole.window(sensor_id)))
    scene = sensor_scene()
    scene.records, scene.start = records, min(start, len(records))
    scene.progress = progress_at(len(records), **as_fields(whole.admission.tally))
    encode = json.JSONEncoder().encode
    scene.published = {
        topics.ALERTS: [
            Stored(at, encode(_fields(one)).encode(), one.sensor_id.encode(), topic=topics.ALERTS)
            for at, one in enumerate(whole.alerts)
        ],
        topics.SENSOR_STATS: [
            Stored(at, encode(_fields(one)).encode(), sensor_id.encode(), topic=topics.SENSOR_STATS)
            for at, (sensor_id, one) in enumerate(windows)
        ],
        topics.DEAD_LETTERS: [letter(records[one.offset]) for one in whole.admission.dead_letters],
    }
    assert scene.differences() == []


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
