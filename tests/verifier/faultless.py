"""What a faultless processor publishes for a tiny input in partition 0, for tests of the verifier itself."""

import json
from typing import Any, Final

from tests.verifier.contract import ERROR_HEADER_PREFIX, Record
from tests.verifier.recompute import (
    BehaviorResults,
    SensorResults,
    SensorRules,
    recompute_behavior,
    recompute_sensors,
)

NOW: Final = "2024-05-01T12:00:00+00:00"


def faultless_behavior(inputs: list[Record]) -> dict[str, list[Record]]:
    """Return all results by topic, a transaction for every two records."""
    end = len(inputs)
    results = recompute_behavior(inputs, range(0, end + 1, 2))
    stats = {"partition": 0, "updated_at": NOW}
    return {
        "t-behavior_stats": [
            result("t-behavior_stats", "0", results.stats[offset] | stats | {"offset": offset})
            for offset in sorted(results.stats)
        ],
        "t-purchases": [
            result("t-purchases", purchase.key.decode(), purchase.fields) for purchase in results.purchases
        ],
        "t-progress": progress_of("t-user_behavior", results),
        "t-dead_letters": [dead_letter(record) for record in results.dead_letters],
    }


def faultless_sensors(inputs: list[Record], rules: SensorRules) -> dict[str, list[Record]]:
    """Return all results by topic, every full window among them."""
    results = recompute_sensors(inputs, rules=rules)
    windows = [
        (sensor, window)
        for sensor, seen in results.readings.items()
        for one in seen
        if (window := results.stats_at(sensor, one.offset)) is not None
    ]
    return {
        "t-sensor_stats": [
            result("t-sensor_stats", sensor, window | {"partition": 0}) for sensor, window in windows
        ],
        "t-alerts": [result("t-alerts", alert.key.decode(), alert.fields) for alert in results.alerts],
        "t-progress": progress_of("t-sensor_data", results),
        "t-dead_letters": [dead_letter(record) for record in results.dead_letters],
    }


def progress_of(topic: str, results: BehaviorResults | SensorResults) -> list[Record]:
    named = {
        "topic": topic,
        "partition": 0,
        "first_offset": 0,
        "latency_ms": {},
        "settings": {},
        "updated_at": NOW,
    }
    return [
        result("t-progress", f"{topic}:0", accounts | named | {"offset": offset})
        for offset, accounts in sorted(results.progress.items())
    ]


def result(topic: str, key: str, fields: dict[str, Any]) -> Record:
    return Record(topic, 0, 0, key.encode(), json.dumps(fields).encode())


def dead_letter(record: Record) -> Record:
    headers = [
        *record.headers,
        (ERROR_HEADER_PREFIX + "exception", b"Refused"),
        (ERROR_HEADER_PREFIX + "message", b"user_id: missing"),
        (ERROR_HEADER_PREFIX + "stacktrace", b""),
        (ERROR_HEADER_PREFIX + "topic", record.topic.encode()),
        (ERROR_HEADER_PREFIX + "partition", str(record.partition).encode()),
        (ERROR_HEADER_PREFIX + "offset", str(record.offset).encode()),
    ]
    return Record("t-dead_letters", 0, 0, record.key, record.value, headers)
