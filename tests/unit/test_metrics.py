"""The metrics, what fills them, and the page that documents them."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from services.processor.meters import REBUILD_REASONS, PartitionMeter, TopologyMeter
from services.processor.partition import Transaction
from services.processor.records import RecordBatch
from services.processor.topology import Outputs, Place
from shared.health import Health
from shared.metrics import ProcessorMetrics, RuntimeMetrics, new_registry
from shared.runtime import Runtime, memory_limit_bytes
from tests.unit import operations_text

PLACE = {"topic": "clicks", "partition": "1"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Meters:
    def __init__(self) -> None:
        self.registry = new_registry("test")
        self.clock = Clock()
        metrics = ProcessorMetrics(self.registry)
        self.topology = TopologyMeter(metrics, "clicks", self.clock)
        self.partition = PartitionMeter(metrics, Place("clicks", 1), self.clock)

    def of_partition(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"tandem_processor_{name}", PLACE)

    def of_topic(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"tandem_processor_{name}", {"topic": "clicks", **labels})


@pytest.fixture
def meters() -> Meters:
    return Meters()


# --- the page ----------------------------------------------------------------------------------------


def test_every_metric_is_documented_and_none_that_does_not_exist() -> None:
    registry, _ = operations_text.everything()
    documented = {name: kind for name, (kind, _) in operations_text.documented().items()}
    if sys.platform != "linux":  # What the system says of a process is read from /proc.
        documented = {name: kind for name, kind in documented.items() if not name.startswith("process_")}
    assert documented == operations_text.types(registry)


def test_every_metric_has_the_labels_that_are_documented() -> None:
    registry, metrics = operations_text.everything()
    documented = operations_text.documented()
    for metric in metrics:
        (family,) = metric.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = documented[name][1]
        if labels:
            metric.labels(**dict.fromkeys(labels, "x"))  # refuses names that are not its own
    shown: dict[str, set[tuple[str, ...]]] = {}
    for family in registry.collect():
        for sample in family.samples:
            name = re.sub(r"_(bucket|count|sum)$", "", sample.name)
            shown.setdefault(name, set()).add(tuple(sorted(sample.labels.keys() - {"le"})))
    for name, labels_shown in shown.items():
        assert labels_shown == {tuple(sorted(documented[name][1]))}, name


def test_names_end_in_their_unit() -> None:
    registry, _ = operations_text.everything()
    for name, kind in operations_text.types(registry).items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)\b", name), name
        if kind == "histogram":
            assert name.endswith("_seconds"), name


# --- the processor -----------------------------------------------------------------------------------


def test_a_partition_that_is_behind_shows_how_long_it_has_not_committed(meters: Meters) -> None:
    assert meters.of_partition("uncommitted_seconds") == 0
    meters.partition.position(5, behind=True)
    meters.clock.now += 30
    meters.partition.position(7, behind=True)
    assert meters.of_partition("uncommitted_seconds") == 30
    assert meters.of_partition("lag_records") == 7
    meters.partition.committed(Transaction(Outputs(), [], 1, 1, []), 0.01, 0.0)
    meters.clock.now += 2
    assert meters.of_partition("uncommitted_seconds") == 2


def test_a_partition_that_is_caught_up_has_nothing_uncommitted(meters: Meters) -> None:
    meters.partition.position(5, behind=True)
    meters.clock.now += 30
    meters.partition.position(0, behind=False)
    assert meters.of_partition("uncommitted_seconds") == 0


def test_a_commit_counts_what_was_read_and_what_was_written(meters: Meters) -> None:
    outputs = Outputs()
    outputs.publish("results", b"key", b"value", (("h", b"1"),))
    changelog: list[tuple[bytes, bytes | None]] = [(b"users/1", b"1"), (b"users/2", None)]
    meters.partition.committed(Transaction(outputs, changelog, 4, 3, [(0, 3)], 1_000, 2), 0.02, 500.0)
    assert meters.of_partition("records_total") == 3
    assert meters.of_partition("read_bytes_total") == 1_000
    assert meters.of_partition("columnar_events_total") == 2
    assert meters.of_partition("written_bytes_total") == len(b"keyvalueh1") + len(b"users/11users/2")
    assert meters.of_topic("latency_seconds_sum") == 0.5
    assert meters.of_topic("commit_duration_seconds_sum") == 0.02


def test_a_partition_that_is_gone_leaves_no_figure_behind(meters: Meters) -> None:
    new = dict.fromkeys(("events", "duplicates", "late", "dead_letters", "skipped"), 1)
    meters.partition.counted(new, gaps=2, state_keys=9)
    meters.partition.holding(10, 200, 8)
    meters.partition.position(5, behind=True)
    meters.partition.restoring(3, 4)
    meters.clock.now += 30
    meters.partition.gone()
    registry = meters.registry
    gauges = [family for family in registry.collect() if family.type == "gauge"]
    left = [
        (sample.name, sample.value)
        for family in gauges
        for sample in family.samples
        if sample.labels == PLACE and sample.value
    ]
    assert left == []
    assert meters.of_partition("skipped_records_total") == 1


def test_a_rebalance_is_timed_from_its_first_revocation(meters: Meters) -> None:
    meters.topology.rebalancing()
    meters.clock.now += 4
    meters.topology.rebalancing()
    meters.clock.now += 3
    assert meters.of_topic("rebalance_running_seconds") == 7
    meters.topology.rebalanced(2)
    meters.clock.now += 50
    assert meters.of_topic("rebalance_running_seconds") == 0
    assert meters.of_topic("rebalance_duration_seconds_sum") == 7
    assert meters.of_topic("rebalances_total") == 1
    assert meters.of_topic("assigned_partitions") == 2


def test_rebuilds_are_counted_from_0_for_each_reason(meters: Meters) -> None:
    assert [meters.of_topic("task_rebuilds_total", reason=reason) for reason in REBUILD_REASONS] == [0, 0, 0]
    meters.partition.rebuilt("fenced")
    assert meters.of_topic("task_rebuilds_total", reason="fenced") == 1


def test_the_bytes_of_a_batch_that_is_split_are_counted_once() -> None:
    records: Any = [_At(3), _At(4)]
    first, rest = RecordBatch(records, 5, 700).split(1)
    assert first.size_bytes + rest.size_bytes == 700


class _At:
    def __init__(self, offset: int) -> None:
        self.offset = offset


# --- the process -------------------------------------------------------------------------------------


async def test_a_blocked_event_loop_shows_as_delay() -> None:
    registry = new_registry("test")
    runtime = Runtime(RuntimeMetrics(registry), Health(time.monotonic, stall_seconds=60))
    runtime.start()
    await asyncio.sleep(0)  # the sampler begins to wait
    time.sleep(0.8)  # noqa: ASYNC251 — this is what is to be seen
    await asyncio.sleep(0.01)
    await runtime.stop()
    late = registry.get_sample_value("tandem_event_loop_delay_seconds_sum")
    assert late is not None
    assert late >= 0.5
    assert registry.get_sample_value("tandem_event_loop_delay_seconds_count") == 1


async def test_a_runtime_that_was_stopped_leaves_no_task() -> None:
    runtime = Runtime(RuntimeMetrics(new_registry("test")), Health(time.monotonic, stall_seconds=60))
    runtime.start()
    await runtime.stop()
    await runtime.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_health_shows_as_two_gauges() -> None:
    registry = new_registry("test")
    clock = Clock()
    health = Health(clock, stall_seconds=60)
    Runtime(RuntimeMetrics(registry), health)
    health.beat("loop", bound_seconds=10)
    assert registry.get_sample_value("tandem_live") == 1
    assert registry.get_sample_value("tandem_ready") == 0
    health.ready("service")
    clock.now += 11
    assert registry.get_sample_value("tandem_live") == 0
    assert registry.get_sample_value("tandem_ready") == 1


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory.max": "1048576\n"}, 1048576),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "4096\n",
                "sys/fs/cgroup/a/b/memory.max": "8192\n",
            },
            4096,
        ),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "2097152\n"}, 2097152),
        ({"proc/self/cgroup": "0::/../other\n"}, None),
    ],
)
def test_the_memory_limit_is_the_least_that_holds(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    machine = memory_limit_bytes(tmp_path / "nowhere")
    assert machine > 2**24
    assert memory_limit_bytes(tmp_path) == (limit or machine)


def test_prometheus_can_read_it_all() -> None:
    registry, _ = operations_text.everything()
    assert b"# HELP tandem_live" in generate_latest(registry)
