"""The operator's command line on a real Kafka, as its users start it; the records are made by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from shared.topics import definitions
from tests.conftest import Kafka
from tests.integration.commands import COMMAND_SECONDS, Ran, Tandem
from tests.verifier import environment

NOW = "2026-01-01T00:00:00+00:00"


# --- topics ---------------------------------------------------------------------------------------


def test_topics_are_created_once_and_creating_again_changes_nothing(tandem: Tandem, prefix: str) -> None:
    names = [prefix + one.name for one in definitions(partitions=2, retention_hours=168)]
    first = tandem("topics", "create", "--partitions", "2", "--json")
    assert (first.exit_code, first.err) == (0, "")
    assert [(one["topic"], one["state"]) for one in first.objects] == [(name, "created") for name in names]
    again = tandem("topics", "create", "--json")
    assert again.exit_code == 0
    assert [(one["topic"], one["state"]) for one in again.objects] == [(name, "exists") for name in names]
    assert [one["partitions"] for one in again.objects] == [one["partitions"] for one in first.objects]


def test_what_belongs_to_an_input_takes_its_count(tandem: Tandem) -> None:
    assert tandem("topics", "create", "--partitions", "3", "--topic", "user_behavior").exit_code == 0
    made = tandem("topics", "create", "--json", KAFKA_TOPIC_PARTITIONS=2)
    assert made.exit_code == 0
    counts = {one["topic"].rpartition(".")[2]: one["partitions"] for one in made.objects}
    assert (counts["behavior_stats"], counts["sensor_data"], counts["dead_letters"]) == (3, 2, 3)


def test_a_topic_with_other_settings_is_reported_with_the_difference(tandem: Tandem, prefix: str) -> None:
    assert tandem("topics", "create", "--partitions", "2").exit_code == 0
    told = tandem("topics", "create", "--partitions", "4", KAFKA_TOPIC_RETENTION_HOURS=1)
    assert told.exit_code == 1
    assert f"{prefix}user_behavior: partitions is 2, should be 4" in told.out
    assert f"{prefix}user_behavior: retention.ms is 604800000, should be 3600000" in told.out
    assert f"{prefix}purchases: retention.ms" not in told.out


def test_topics_can_be_listed_and_described_without_creating_any(tandem: Tandem, prefix: str) -> None:
    assert tandem("topics", "create", "--partitions", "1", "--topic", "alerts").exit_code == 0
    listed = {one["topic"]: one["exists"] for one in tandem("topics", "list", "--json").objects}
    assert [name for name, exists in listed.items() if exists] == [f"{prefix}alerts"]
    described = tandem("topics", "describe", "--json")
    assert described.exit_code == 1
    states = {one["topic"]: one["state"] for one in described.objects}
    assert [name for name, state in states.items() if state != "missing"] == [f"{prefix}alerts"]


# --- hand-made data -------------------------------------------------------------------------------


@dataclass
class Story:
    """A small input and all that has to be published of it, each as topic → records (key, value, headers)."""

    prefix: str
    records: dict[str, list[tuple[bytes | None, Any, list[tuple[str, bytes]]]]] = field(default_factory=dict)

    def add(self, topic: str, key: str | None, value: Any, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        encoded = None if key is None else key.encode()
        self.records.setdefault(topic, []).append((encoded, value, list(headers)))

    def publish(self, bootstrap_servers: str) -> None:
        producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 0})
        for topic, records in self.records.items():
            for key, value, headers in records:
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
                producer.produce(self.prefix + topic, key=key, value=content, headers=headers, partition=0)
        assert producer.flush(30) == 0


def user_event(user: int, action: str, seq: int | None = None) -> dict[str, Any]:
    sourced = {} if seq is None else {"source": "g", "seq": seq}
    return {
        "user_id": user,
        "action": action,
        "page": "/page/1",
        "timestamp": "2026-01-01T00:00:00",
        "ip": "192.168.1.1",
        "device": "mobile",
        **sourced,
    }


def a_story(prefix: str) -> Story:
    """Four user events, one of them poison and one a duplicate; three readings, of which one fires."""
    story = Story(prefix)
    story.add("user_behavior", "1", user_event(1, "login", 0))
    story.add("user_behavior", "2", user_event(2, "purchase", 1))
    story.add("user_behavior", "9", b"poison")
    story.add("user_behavior", "2", user_event(2, "purchase", 1))
    story.add("user_behavior", "1", user_event(1, "click", 2))
    for value in (50.0, 90.0, 60.0):
        reading = {"sensor_id": "temperature", "value": value, "timestamp": value, "location": "server1"}
        story.add("sensor_data", "temperature", reading)
    where = {"topic": f"{prefix}user_behavior", "partition": 0, "offset": 1}
    bought = {"user_id": 2, "page": "/page/1", "timestamp": "2026-01-01T00:00:00", "device": "mobile"}
    story.add("purchases", "2", bought | where)
    stats = {"total_events": 3, "actions": {"login": 1, "purchase": 1, "click": 1}, "devices": {"mobile": 3}}
    story.add(
        "behavior_stats", "0", {"partition": 0, "offset": 5, "unique_users": 2, "updated_at": NOW, **stats}
    )
    why = {"exception": "E", "message": "no", "stacktrace": "s", "partition": "0", "offset": "2"}
    why["topic"] = f"{prefix}user_behavior"
    headers = [(f"__streams.errors.{name}", text.encode()) for name, text in why.items()]
    story.add("dead_letters", "9", b"poison", headers)
    window = {
        "sensor_id": "temperature", "count": 2, "avg": 75.0, "min": 60.0, "max": 90.0, "median": 75.0,
        "window_start": 90.0, "window_end": 60.0, "breaches": 1, "partition": 0, "offset": 2,
    }  # fmt: skip
    story.add("sensor_stats", "temperature", window)
    for state, offset, value in (("firing", 1, 90.0), ("resolved", 2, 60.0)):
        alert = {
            "alert_id": "temperature:max:0:1", "sensor_id": "temperature", "bound": "max", "threshold": 80.0,
            "value": value, "state": state, "location": "server1", "timestamp": value, "partition": 0,
            "offset": offset,
        }  # fmt: skip
        story.add("alerts", "temperature", alert)
    add_progress(story, "user_behavior", 5, events=3, sourced_events=3, duplicates=1, dead_letters=1)
    add_progress(story, "sensor_data", 3, events=3, unsourced_events=3)
    add_ledger(story, acknowledged=3)
    return story


def add_progress(story: Story, topic: str, offset: int, **figures: int) -> None:
    names = (
        "events",
        "sourced_events",
        "sourced_dead_letters",
        "unsourced_events",
        "duplicates",
        "gaps",
        "late",
    )
    settings = {
        "window_size": 2,
        "alert_mode": "transitions",
        "thresholds": {"temperature": {"min": 10.0, "max": 80.0}},
        "hysteresis": 0.0,
        "validation": "counted",
        "state_max_keys": 1000,
    }
    full = f"{story.prefix}{topic}"
    value = {
        "topic": full,
        "partition": 0,
        "offset": offset,
        "first_offset": 0,
        **dict.fromkeys((*names, "dead_letters"), 0),
        **figures,
        "latency_ms": {"p50": 2.5, "p99": 9.5},
        "settings": {name: [{"value": value, "since": 0}] for name, value in settings.items()},
        "updated_at": NOW,
    }
    story.add("progress", f"{full}:0", value)


def add_ledger(story: Story, *, acknowledged: int) -> None:
    topic = f"{story.prefix}user_behavior"
    entry = {"source": "g", "topic": topic, "partition": 0, "acknowledged": acknowledged, "last_offset": 4}
    story.add("generator_ledger", f"g:{topic}:0", {**entry, "finished": True, "updated_at": NOW})


@pytest.fixture
def story(make_topics: Callable[..., None], prefix: str) -> Story:
    make_topics(prefix, partitions=1)
    return a_story(prefix)


def differences(ran: Ran) -> list[tuple[str, str]]:
    return [
        (one["kind"], one["topic"].rpartition(".")[2]) for one in ran.objects if one["type"] == "difference"
    ]


def test_stats_show_the_global_view(tandem: Tandem, story: Story, kafka: Kafka) -> None:
    story.publish(kafka.bootstrap_servers)
    ran = tandem("stats", "--json")
    assert ran.exit_code == 0
    (view,) = ran.objects
    assert view["behavior"] == {
        "total_events": 3,
        "unique_users": 2,
        "purchases": 1,
        "actions": {"click": 1, "login": 1, "purchase": 1},
        "devices": {"mobile": 3},
    }
    account = view["account"]
    assert (account["sent"], account["counted"], account["lost"], account["duplicated"]) == (3, 6, 0, 1)
    assert (account["dead_lettered"], account["unsourced"]) == (1, 3)
    assert view["firing"] == []
    assert [one["state"] for one in view["recent_alerts"]] == ["firing", "resolved"]
    assert [one["user_id"] for one in view["recent_purchases"]] == [2]
    assert [one["sensor_id"] for one in view["sensors"]] == ["temperature"]
    assert view["lag"] == {f"{story.prefix}sensor_data": 0, f"{story.prefix}user_behavior": 0}
    assert view["latency_ms"] == {"p50": 2.5, "p99": 9.5}
    text = tandem("stats")
    assert text.exit_code == 0
    assert "events 3" in text.out
    assert "purchases 1" in text.out


def test_what_is_right_verifies(tandem: Tandem, story: Story, kafka: Kafka) -> None:
    story.publish(kafka.bootstrap_servers)
    ran = tandem("verify", "--json")
    assert differences(ran) == []
    assert ran.exit_code == 0
    summary = ran.objects[-1]
    assert (summary["equal"], summary["records"], summary["behind"]) == (True, 8, 0)
    compared = {name.rpartition(".")[2]: count for name, count in summary["compared"].items()}
    assert compared == {
        "alerts": 2,
        "behavior_stats": 1,
        "dead_letters": 1,
        "progress": 2,
        "purchases": 1,
        "sensor_stats": 1,
    }
    assert "all equal" in tandem("verify").out


def test_a_planted_loss_is_found(tandem: Tandem, story: Story, kafka: Kafka) -> None:
    add_ledger(story, acknowledged=4)
    story.publish(kafka.bootstrap_servers)
    ran = tandem("verify", "--json")
    assert ran.exit_code == 1
    assert differences(ran) == [("lost", "user_behavior")]
    assert ran.objects[-1]["account"]["lost"] == 1
    [lost] = [one for one in ran.objects if one["type"] == "difference"]
    assert [(one["partition"], one["first"], one["last"]) for one in lost["numbers"]] == [(0, 3, 3)]


def test_a_planted_double_is_found(tandem: Tandem, story: Story, kafka: Kafka) -> None:
    story.records["purchases"] *= 2
    story.publish(kafka.bootstrap_servers)
    ran = tandem("verify", "--json")
    assert ran.exit_code == 1
    assert differences(ran) == [("doubled", "purchases")]


def test_everything_that_is_wrong_is_found_at_once(tandem: Tandem, story: Story, kafka: Kafka) -> None:
    story.records["behavior_stats"][0][1]["unique_users"] = 3
    story.records["sensor_stats"][0][1]["avg"] = 75.01
    story.records["alerts"].pop()
    story.records["dead_letters"].clear()
    story.publish(kafka.bootstrap_servers)
    ran = tandem("verify", "--json")
    assert ran.exit_code == 1
    assert sorted(differences(ran)) == [
        ("missing", "alerts"),
        ("missing", "dead_letters"),
        ("wrong", "behavior_stats"),
        ("wrong", "sensor_stats"),
    ]


def test_what_is_not_counted_yet_is_behind_and_no_difference(
    tandem: Tandem, story: Story, kafka: Kafka
) -> None:
    story.add("user_behavior", "1", user_event(1, "login", 3))
    story.publish(kafka.bootstrap_servers)
    ran = tandem("verify", "--json")
    assert ran.exit_code == 0
    assert ran.objects[-1]["behind"] == 1


def test_without_topics_it_says_how_to_make_them(tandem: Tandem) -> None:
    ran = tandem("stats")
    assert ran.exit_code == 1
    assert "`tandem topics create` makes them" in ran.err
    assert ran.err.count("\n") == 1


# --- configuration --------------------------------------------------------------------------------


def test_the_configuration_masks_secrets_and_says_where_each_value_came_from(
    tandem: Tandem, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("geheim\n")
    (tmp_path / ".env").write_text("GENERATOR_RATE=17\n")
    ran = tandem(
        "config",
        "--json",
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_USERNAME="somebody",
        KAFKA_SASL_PASSWORD_FILE=tmp_path / "password",
    )
    assert ran.exit_code == 0
    assert "geheim" not in ran.out + ran.err
    by_variable = {one["variable"]: one for one in ran.objects}
    password = by_variable["KAFKA_SASL_PASSWORD"]
    assert password["value"] == "********"
    assert password["source"] == f"file {tmp_path / 'password'}"
    assert password["used_by"] == ["console", "generator", "processor"]
    assert (by_variable["GENERATOR_RATE"]["value"], by_variable["GENERATOR_RATE"]["source"]) == (
        "17.0",
        ".env",
    )
    assert by_variable["PROCESSOR_WINDOW_SIZE"]["source"] == "default"
    assert by_variable["CONSOLE_REFRESH_SECONDS"]["used_by"] == ["console"]


def test_wrong_settings_of_both_services_are_all_said(tandem: Tandem) -> None:
    ran = tandem("config", GENERATOR_RATE="fast", PROCESSOR_WINDOW_SIZE=0, PROCESSOR_WINDOW_SICE=3)
    assert ran.exit_code == 2
    assert all(
        name in ran.err for name in ("GENERATOR_RATE", "PROCESSOR_WINDOW_SIZE", "PROCESSOR_WINDOW_SICE")
    )
    assert ran.out == ""


def test_a_closed_pipe_ends_a_command_quietly(kafka: Kafka, prefix: str, story: Story) -> None:
    story.publish(kafka.bootstrap_servers)
    variables = environment(KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers, KAFKA_TOPIC_PREFIX=prefix)
    variables |= {"CONSOLE_REFRESH_SECONDS": "0.1"}
    watching = subprocess.Popen(
        [sys.executable, "-m", "services.console", "stats", "--watch", "--json"],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watching.stdout is not None
    assert watching.stderr is not None
    assert (
        json.loads(os.read(watching.stdout.fileno(), 1 << 20).splitlines()[0])["behavior"]["total_events"]
        == 3
    )
    watching.stdout.close()
    assert watching.wait(COMMAND_SECONDS) == 1
    assert watching.stderr.read() == b""
    watching.stderr.close()
