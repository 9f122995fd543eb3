"""Every metric by name, in one place. Each service takes the classes that are its own.

Names follow Prometheus' conventions: base units, the unit at the end, `_total` on counters. A registry is
handed in, so that nothing is shared between the tests of one process. Labels are few: topic, partition, and
the reason of a rebuild. docs/operations.md has the whole list, and a test holds it to this file.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

# From a millisecond (a commit on one broker) to a minute (a rebalance and a restore).
_SECONDS_BUCKETS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5,
    0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
# A large state takes minutes to read back.
_RESTORE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
# Timers are exact to a millisecond; the health of the loop is given up at ten seconds.
_DELAY_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From a local webhook to one that was away for hours.
_DELIVERY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0, 21600.0)
_BY_PARTITION = ("topic", "partition")


def new_registry(service: str) -> CollectorRegistry:
    """Return a registry that holds the build's identity, and what the system says of the process (Linux)."""
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
    ProcessCollector(registry=registry)
    return registry


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


class RuntimeMetrics:
    """What each service says of its own process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.live = Gauge("tandem_live", "1 where /livez says 200.", registry=registry)
        self.ready = Gauge("tandem_ready", "1 where /readyz says 200.", registry=registry)
        self.loop_delay = Histogram(
            "tandem_event_loop_delay_seconds",
            "How late the event loop ran a timer, four times a second.",
            buckets=_DELAY_BUCKETS,
            registry=registry,
        )
        self.memory_limit = Gauge(
            "tandem_memory_limit_bytes",
            "The least of the control groups' limits and the machine's memory.",
            registry=registry,
        )


class GeneratorMetrics:
    """What the generator measures. Acknowledged means by Kafka, all replicas that `acks` asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"tandem_generator_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"tandem_generator_{name}", text, labels, registry=registry)

        self.acknowledged = counter("records_acknowledged", "Records in Kafka.", _BY_PARTITION)
        self.acknowledged_bytes = counter(
            "acknowledged_bytes", "Their batches, before compression.", _BY_PARTITION
        )
        self.failed = counter("records_failed", "Records given up.", _BY_PARTITION)
        self.delivery = Histogram(
            "tandem_generator_delivery_seconds",
            "Batch handed over to batch acknowledged.",
            ("topic",),
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.in_flight = gauge("in_flight_bytes", "Made and not acknowledged yet.")
        self.buffered = gauge("buffered_bytes", "The same, of one stream.", ("topic",))
        self.buffer_limit = gauge("buffer_limit_bytes", "The most of it.", ("topic",))
        self.oldest = gauge(
            "oldest_unacknowledged_seconds", "How long the oldest batch handed over has waited.", ("topic",)
        )
        self.throttled = counter("throttled_seconds", "Waited for room in the buffer.")
        self.kafka_answers = gauge("kafka_answers", "1 where Kafka answers.")


class ProcessorMetrics:
    """What the processor measures.

    All that is counted is committed: nothing of it is taken back by an abort. Only what is pending is not.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = _BY_PARTITION) -> Counter:
            return Counter(f"tandem_processor_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = _BY_PARTITION) -> Gauge:
            return Gauge(f"tandem_processor_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, buckets: tuple[float, ...] = _SECONDS_BUCKETS) -> Histogram:
            return Histogram(
                f"tandem_processor_{name}_seconds", text, ("topic",), buckets=buckets, registry=registry
            )

        self.records = counter("records", "Records behind a committed offset.")
        self.read_bytes = counter("read_bytes", "Their batches as fetched, compressed where they are.")
        self.columnar_events = counter("columnar_events", "Events counted by columns, without objects.")
        self.written_bytes = counter(
            "written_bytes", "Keys, values and headers committed, changelog included."
        )
        self.events = counter("events", "Events counted.")
        self.duplicates = counter("duplicates", "Events left out because their number had been counted.")
        self.late = counter("late", "Events that closed a gap.")
        self.dead_letters = counter("dead_letters", "Records put aside.")
        self.skipped = counter("skipped_records", "Offsets that retention removed before they were read.")
        self.gaps = gauge("gaps", "Numbers missing now.")
        self.lag = gauge("lag_records", "Records between the committed offset and the last stable one.")
        self.uncommitted = gauge("uncommitted_seconds", "Behind, and nothing committed for so long.")
        self.commits = counter("commits", "Transactions committed.")
        self.commit_duration = seconds("commit_duration", "Transaction begun to committed.")
        self.latency = seconds("latency", "Kafka record timestamp to commit.")
        self.pending_records = gauge("pending_records", "Records read and not committed yet.")
        self.pending_bytes = gauge("pending_bytes", "Results held for the next commit.")
        self.pending_records_limit = gauge("pending_records_limit", "The most of them; 0: no bound.", ())
        self.pending_limit = gauge("pending_limit_bytes", "The most of it.", ())
        self.restore_records = counter("restore_records", "Changelog records read back.")
        self.restore_remaining = gauge("restore_remaining_records", "Changelog records still to be read.")
        self.restore_duration = seconds("restore_duration", "Restores.", _RESTORE_BUCKETS)
        self.rebuilds = counter("task_rebuilds", "Tasks closed dirty and built again.", ("topic", "reason"))
        self.rebalances = counter("rebalances", "Assignments received.", ("topic",))
        self.rebalance_duration = seconds("rebalance_duration", "Revocation to assignment.")
        self.rebalance_age = gauge(
            "rebalance_running_seconds", "How long one has been going on now.", ("topic",)
        )
        self.partitions = gauge("assigned_partitions", "Partitions this process has now.", ("topic",))
        self.topic_partitions = gauge("topic_partitions", "Partitions of the input.", ("topic",))
        self.state_keys = gauge("state_keys", "Live keys of the state.")
        self.bounded_keys = gauge(
            "state_bounded_keys", "Those that count towards the limit, pending ones included."
        )
        self.keys_limit = gauge("state_keys_limit", "The most of them in a partition.", ())
        self.kafka_answers = gauge("kafka_answers", "1 where Kafka answers.", ("topic",))


class DeliveryMetrics:
    """What the delivery part of the processor measures, by topic."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"tandem_processor_{name}", text, ("topic",), registry=registry)

        self.delivered = counter("deliveries", "Records the webhook has taken.")
        self.failed = counter("delivery_attempts_failed", "Attempts that did not deliver.")
        self.dead_letters = counter("delivery_dead_letters", "Records given up.")
        self.waiting = Gauge(
            "tandem_processor_delivery_waiting_records",
            "Records read and not finished.",
            ("topic",),
            registry=registry,
        )
        self.attempt = Histogram(
            "tandem_processor_delivery_attempt_seconds",
            "One attempt.",
            ("topic",),
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.latency = Histogram(
            "tandem_processor_delivery_latency_seconds",
            "Kafka record timestamp to the webhook's answer.",
            ("topic",),
            buckets=_DELIVERY_BUCKETS,
            registry=registry,
        )
