"""The schema of everything the services publish beside the input events.

Field by field as the outside contract has it; `updated_at` is ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Bound: TypeAlias = Literal["min", "max"]
AlertState: TypeAlias = Literal["firing", "resolved"]

encode = msgspec.json.Encoder().encode


class BehaviorStats(msgspec.Struct, kw_only=True):
    """What the behaviour topology has counted of one input partition, up to `offset` (the next to read)."""

    partition: int
    offset: int
    total_events: int
    actions: dict[str, int]
    devices: dict[str, int]
    unique_users: int
    updated_at: str


class SensorStats(msgspec.Struct, kw_only=True):
    """The window of one sensor after the reading at `offset`; times in seconds since the epoch."""

    sensor_id: str
    count: int
    avg: float
    min: float
    max: float
    median: float
    window_start: float
    window_end: float
    breaches: int
    partition: int
    offset: int


class Alert(msgspec.Struct, kw_only=True):
    """A sensor went beyond a bound, or came back. `offset` is the reading's that made it so."""

    alert_id: str
    sensor_id: str
    bound: Bound
    threshold: float
    value: float
    state: AlertState
    location: str
    timestamp: float
    partition: int
    offset: int


class Purchase(msgspec.Struct, kw_only=True):
    """A purchase that was counted, with the place of its event."""

    user_id: int
    page: str
    timestamp: str
    device: str
    topic: str
    partition: int
    offset: int


class LatencyMilliseconds(msgspec.Struct):
    """Kafka record timestamp to commit, over the interval before this transaction."""

    p50: float
    p99: float


class SettingSince(msgspec.Struct):
    """A setting that results depend on, and the input offset from which it holds."""

    value: Any
    since: int


class Progress(msgspec.Struct, kw_only=True):
    """The accounts of one input partition, up to `offset` (the next to read).

    `events` counts what the statistics hold, with and without a source; `gaps` is what is missing
    now; `late` is what was missing once and came.
    """

    topic: str
    partition: int
    offset: int
    first_offset: int
    events: int
    sourced_events: int
    sourced_dead_letters: int
    unsourced_events: int
    duplicates: int
    gaps: int
    late: int
    dead_letters: int
    latency_ms: LatencyMilliseconds
    settings: dict[str, list[SettingSince]]
    updated_at: str


class LedgerEntry(msgspec.Struct, kw_only=True):
    """What Kafka acknowledged of one source: seq 0 … `acknowledged` - 1 are in the partition.

    `last_offset` is -1 while nothing is acknowledged.
    """

    source: str
    topic: str
    partition: int
    acknowledged: int
    last_offset: int
    finished: bool
    updated_at: str
