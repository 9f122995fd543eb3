"""One view of everything, merged from the latest record of each key. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.console.accounts import Account, PartitionAccount, accounts, total
from shared.results import (
    Alert,
    BehaviorStats,
    LatencyMilliseconds,
    LedgerEntry,
    Progress,
    Purchase,
    SensorStats,
)

Place = tuple[str, int]


@dataclass(frozen=True)
class Ends:
    """Where an input partition begins and ends, for readers of what is committed."""

    start: int
    end: int


@dataclass(frozen=True)
class Behavior:
    """The behaviour statistics of all partitions; users are exact while each keeps to one partition."""

    total_events: int = 0
    unique_users: int = 0
    purchases: int = 0
    actions: dict[str, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class GlobalView:
    """What `tandem stats` shows.

    Attributes:
        sensors: the current windows, by sensor and partition.
        firing: alerts that fire now; empty where `every_breach` is set, because nothing resolves there.
        recent_alerts: the latest ones, oldest first. The same for `recent_purchases`.
        account: of all input partitions together; `partitions` has each.
        lag: records between the committed offset and the end, by input topic.
        latency_ms: Kafka record timestamp to commit, of each partition's last interval: the median of their
            p50 and the largest p99; None before there is any.
        updated_at: of the latest progress; None before there is any.
        unreadable: records of the result topics that are not as the contract says, and are not in here.
    """

    behavior: Behavior
    sensors: list[SensorStats]
    firing: list[Alert]
    recent_alerts: list[Alert]
    recent_purchases: list[Purchase]
    account: Account
    partitions: list[PartitionAccount]
    lag: dict[str, int]
    latency_ms: LatencyMilliseconds | None
    updated_at: str | None
    unreadable: int

    @property
    def is_caught_up(self) -> bool:
        """Whether everything that was sent has been counted or accounted for."""
        return self.account.in_flight == 0 and sum(self.lag.values()) == 0


@dataclass(frozen=True)
class Latest:
    """The latest record of each key of the compacted topics, and what the others hold now."""

    behavior: Sequence[BehaviorStats] = ()
    sensors: Sequence[SensorStats] = ()
    ledger: Sequence[LedgerEntry] = ()
    progress: Sequence[Progress] = ()
    firing: Sequence[Alert] = ()
    recent_alerts: Sequence[Alert] = ()
    recent_purchases: Sequence[Purchase] = ()
    unreadable: int = 0


def merge(latest: Latest, ends: Mapping[Place, Ends]) -> GlobalView:
    """Return the global view.

    Args:
        latest: what was read.
        ends: of every input partition.
    """
    partitions = accounts(latest.ledger, latest.progress)
    return GlobalView(
        behavior=_behavior(latest.behavior),
        sensors=sorted(latest.sensors, key=lambda window: (window.sensor_id, window.partition)),
        firing=sorted(latest.firing, key=lambda alert: (alert.sensor_id, alert.bound, alert.partition)),
        recent_alerts=list(latest.recent_alerts),
        recent_purchases=list(latest.recent_purchases),
        account=total(partitions),
        partitions=partitions,
        lag=lag(latest.progress, ends),
        latency_ms=_latency(latest.progress),
        updated_at=max((one.updated_at for one in latest.progress), default=None),
        unreadable=latest.unreadable,
    )


def lag(progress: Iterable[Progress], ends: Mapping[Place, Ends]) -> dict[str, int]:
    """Return by topic how many offsets lie between what is committed and the end.

    A partition without progress is behind by all it holds.
    """
    reached = {(one.topic, one.partition): one.offset for one in progress}
    behind: dict[str, int] = {}
    for (topic, partition), where in sorted(ends.items()):
        offset = reached.get((topic, partition), where.start)
        behind[topic] = behind.get(topic, 0) + max(0, where.end - max(offset, where.start))
    return behind


def still_firing(
    alerts: Iterable[Alert], before: Mapping[tuple[str, str, int], Alert]
) -> dict[tuple[str, str, int], Alert]:
    """Return what fires after `alerts`, in order, by sensor, bound and partition.

    Args:
        alerts: the next records of the alerts topic.
        before: what fired before them.
    """
    firing = dict(before)
    for alert in alerts:
        place = alert.sensor_id, alert.bound, alert.partition
        if alert.state == "firing":
            firing[place] = alert
        else:
            firing.pop(place, None)
    return firing


def _behavior(partitions: Iterable[BehaviorStats]) -> Behavior:
    actions: dict[str, int] = {}
    devices: dict[str, int] = {}
    events = users = 0
    for stats in partitions:
        events += stats.total_events
        users += stats.unique_users
        _add_up(actions, stats.actions)
        _add_up(devices, stats.devices)
    return Behavior(
        total_events=events,
        unique_users=users,
        purchases=actions.get("purchase", 0),
        actions=dict(sorted(actions.items())),
        devices=dict(sorted(devices.items())),
    )


def _add_up(totals: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        totals[name] = totals.get(name, 0) + count


def _latency(progress: Iterable[Progress]) -> LatencyMilliseconds | None:
    # A partition that has not committed an interval yet shows zeros.
    measured = [one.latency_ms for one in progress if one.latency_ms.p99 > 0]
    if not measured:
        return None
    medians = sorted(latency.p50 for latency in measured)
    return LatencyMilliseconds(p50=medians[len(medians) // 2], p99=max(latency.p99 for latency in measured))
