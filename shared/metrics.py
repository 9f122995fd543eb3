"""Every metric by name, in one place. Each service takes the class that is its own.

Names follow Prometheus' conventions: a unit at the end, `_total` on counters. A registry is handed in, so
that nothing is shared between the tests of one process.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics

# From a millisecond (a commit on one broker) to a minute (a rebalance and a restore).
_SECONDS_BUCKETS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5,
    0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_BY_PARTITION = ("topic", "partition")


def new_registry(service: str) -> CollectorRegistry:
    """Return a registry that holds the build's identity as `tandem_build_info`."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # no annotations in the library
    registry = CollectorRegistry()
    info = Info("tandem_build", "What runs here.", registry=registry)
    info.info(
        {
            "service": service,
            "version": _version_of("tandem"),
            "python": python_version(),
            "aiokafka": _version_of("aiokafka"),
        }
    )
    return registry


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


class GeneratorMetrics:
    """What the generator measures. Acknowledged means by Kafka, all replicas that `acks` asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.acknowledged = Counter(
            "tandem_generator_records_acknowledged", "Records in Kafka.", _BY_PARTITION, registry=registry
        )
        self.failed = Counter(
            "tandem_generator_records_failed", "Records given up.", _BY_PARTITION, registry=registry
        )
        self.delivery = Histogram(
            "tandem_generator_delivery_seconds",
            "Batch handed over to batch acknowledged.",
            ("topic",),
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "tandem_generator_in_flight_bytes", "Made and not acknowledged yet.", registry=registry
        )
        self.throttled = Counter(
            "tandem_generator_throttled_seconds", "Waited for room in the buffer.", registry=registry
        )


class ProcessorMetrics:
    """What the processor measures. All of it is committed: nothing here is taken back by an abort."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = _BY_PARTITION) -> Counter:
            return Counter(f"tandem_processor_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = _BY_PARTITION) -> Gauge:
            return Gauge(f"tandem_processor_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, labels: tuple[str, ...]) -> Histogram:
            return Histogram(
                f"tandem_processor_{name}_seconds", text, labels, buckets=_SECONDS_BUCKETS, registry=registry
            )

        self.records = counter("records", "Records behind a committed offset.")
        self.events = counter("events", "Events counted.")
        self.duplicates = counter("duplicates", "Events left out because their number had been counted.")
        self.dead_letters = counter("dead_letters", "Records put aside.")
        self.gaps = gauge("gaps", "Numbers missing now.")
        self.lag = gauge("lag_records", "Records between the committed offset and the last stable one.")
        self.commits = counter("commits", "Transactions committed.")
        self.commit_duration = seconds("commit_duration", "Transaction begun to committed.", ("topic",))
        self.latency = seconds("latency", "Kafka record timestamp to commit.", ("topic",))
        self.restore_records = counter("restore_records", "Changelog records read back.")
        self.restore_remaining = gauge("restore_remaining_records", "Changelog records still to be read.")
        self.restore_duration = seconds("restore_duration", "Restores.", ("topic",))
        self.rebuilds = counter("task_rebuilds", "Tasks closed dirty and built again.", ("topic", "reason"))
        self.rebalances = counter("rebalances", "Assignments received.", ("topic",))
        self.partitions = gauge("assigned_partitions", "Partitions this process has now.", ("topic",))
        self.state_keys = gauge("state_keys", "Live keys of the state.")
