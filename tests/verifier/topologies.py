"""All results of one topology against its input. Pure: what Kafka holds is handed in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.verifier.compare import by_input, compare_outputs, compare_sensor_stats, compare_snapshots
from tests.verifier.contract import Names, PartitionId, Record
from tests.verifier.dead_letters import compare_dead_letters, dead_letter_source
from tests.verifier.findings import Published, Slot, compare_presence, decode
from tests.verifier.recompute import (
    Fields,
    Results,
    SensorRules,
    recompute_behavior,
    recompute_sensors,
)
from tests.verifier.report import Difference, Report


@dataclass(frozen=True)
class Inputs:
    """One input topic up to what is committed.

    Attributes:
        records: by partition, in the order of their offsets.
        committed: the next offset to read, by partition.
        starts: the first offset that the log holds, by partition.
    """

    topic: str
    records: Mapping[int, Sequence[Record]]
    committed: Mapping[int, int]
    starts: Mapping[int, int]

    def first_offset_due(self, partition: int) -> Fields:
        """Return what Progress must call `first_offset`, where that is beyond doubt: a log from offset 0."""
        records = self.records[partition]
        return {"first_offset": 0} if records and records[0].offset == 0 else {}

    def latest_due(self, partition: int) -> range:
        """Return the offsets that the latest record about a partition may have, none for an empty one."""
        records = self.records[partition]
        return range(records[-1].offset + 1, self.committed[partition] + 1) if records else range(0)


@dataclass(frozen=True)
class Outputs:
    """The result topics: their committed records, and how many partitions they have."""

    names: Names
    records: Mapping[str, Sequence[Record]]
    partitions: Mapping[str, int]

    def slot(self, topic: str, input_partition: int) -> Slot:
        """Return where the results of an input partition must stand."""
        return Slot(topic, input_partition, self.partitions[topic])

    def of_input(self, topic: str, inputs: Inputs) -> tuple[dict[int, list[Published]], list[Difference]]:
        """Return a topic's results by input partition, with a difference for each that can't be read."""
        published, unreadable = decode(topic, self.records[topic])
        sorted_out, nameless = by_input(published, inputs.topic, topic, len(inputs.records))
        return sorted_out, unreadable + nameless

    def progress(self, inputs: Inputs) -> tuple[dict[int, list[Published]], list[Difference]]:
        """Return the progress of one input by partition; the other input's is left out."""
        topic = self.names.progress
        published, unreadable = decode(topic, self.records[topic])
        own = [one for one in published if one.fields.get("topic") == inputs.topic]
        sorted_out, nameless = by_input(own, inputs.topic, topic, len(inputs.records))
        return sorted_out, unreadable + nameless


def compare_behavior(inputs: Inputs, outputs: Outputs, report: Report) -> dict[PartitionId, Results]:
    """Recompute the user events' results, put the differences into the report, and return the results."""
    names = outputs.names
    stats, unreadable_stats = outputs.of_input(names.behavior_stats, inputs)
    purchases, unreadable_purchases = outputs.of_input(names.purchases, inputs)
    progress, unreadable_progress = outputs.progress(inputs)
    report.differences += unreadable_stats + unreadable_purchases + unreadable_progress
    recomputed: dict[PartitionId, Results] = {}
    for number, records in inputs.records.items():
        published_stats = stats.get(number, [])
        published_progress = progress.get(number, [])
        checkpoints = offsets_of(published_stats, published_progress, below=inputs.committed[number])
        results = recompute_behavior(records, checkpoints, log_start=inputs.starts[number])
        recomputed[PartitionId(inputs.topic, number)] = results
        report.differences += compare_snapshots(
            outputs.slot(names.behavior_stats, number),
            str(number).encode(),
            stamped(results.stats, {"partition": number}),
            published_stats,
            inputs.latest_due(number),
        )
        report.differences += compare_outputs(
            outputs.slot(names.purchases, number),
            results.purchases,
            purchases.get(number, []),
            ("topic", "partition", "offset"),
        )
        report.differences += compare_progress(inputs, outputs, number, results, published_progress)
        count(report, results, published_progress)
        report.counts["behavior stats"] += len(published_stats)
        report.counts["purchases"] += len(results.purchases)
    return recomputed


def compare_sensors(
    inputs: Inputs, outputs: Outputs, report: Report, rules: SensorRules
) -> dict[PartitionId, Results]:
    """Recompute the sensors' results, put the differences into the report, and return the results."""
    names = outputs.names
    stats, unreadable_stats = outputs.of_input(names.sensor_stats, inputs)
    alerts, unreadable_alerts = outputs.of_input(names.alerts, inputs)
    progress, unreadable_progress = outputs.progress(inputs)
    report.differences += unreadable_stats + unreadable_alerts + unreadable_progress
    recomputed: dict[PartitionId, Results] = {}
    for number, records in inputs.records.items():
        published_progress = progress.get(number, [])
        checkpoints = offsets_of(published_progress, below=inputs.committed[number])
        results = recompute_sensors(records, checkpoints, rules=rules, log_start=inputs.starts[number])
        recomputed[PartitionId(inputs.topic, number)] = results
        report.differences += compare_sensor_stats(
            outputs.slot(names.sensor_stats, number), results, stats.get(number, [])
        )
        report.differences += compare_outputs(
            outputs.slot(names.alerts, number),
            results.alerts,
            alerts.get(number, []),
            ("sensor_id", "bound", "state", "partition", "offset"),
        )
        report.differences += compare_progress(inputs, outputs, number, results, published_progress)
        count(report, results, published_progress)
        report.counts["sensor stats"] += len(stats.get(number, []))
        report.counts["alerts"] += len(results.alerts)
    return recomputed


def compare_progress(
    inputs: Inputs, outputs: Outputs, number: int, results: Results, published: Sequence[Published]
) -> list[Difference]:
    """Compare the accounts that were published for one input partition."""
    slot = outputs.slot(outputs.names.progress, number)
    named = {"topic": inputs.topic, "partition": number, **inputs.first_offset_due(number)}
    differences = compare_snapshots(
        slot,
        f"{inputs.topic}:{number}".encode(),
        stamped(results.progress, named),
        published,
        inputs.latest_due(number),
    )
    for one in published:
        differences += compare_presence(slot.topic, one, ("first_offset", "latency_ms", "settings"))
    return differences


def compare_refused(
    inputs: Sequence[Inputs], outputs: Outputs, recomputed: Mapping[PartitionId, Results]
) -> list[Difference]:
    """Compare the dead letters of these inputs; those of an input that is not looked at are left out."""
    topic = outputs.names.dead_letters
    by_source: dict[PartitionId, list[Record]] = {partition: [] for partition in recomputed}
    ignored = set(outputs.names.inputs.values()) - {one.topic for one in inputs}
    differences = []
    for record in outputs.records[topic]:
        source = dead_letter_source(record)
        if source in by_source:
            by_source[source].append(record)
        elif source is None or source.topic not in ignored:
            differences.append(Difference("invented", topic, f"{record.where} is from {source}"))
    for source, published in by_source.items():
        slot = outputs.slot(topic, source.number)
        differences += compare_dead_letters(slot, recomputed[source].dead_letters, published)
    return differences


def count(report: Report, results: Results, progress: Sequence[Published]) -> None:
    """Put into the report how much there was to compare."""
    latest = results.progress[max(results.progress)]
    report.counts["input records"] += results.read
    report.counts["transactions"] += len(progress)
    for name in ("events", "dead_letters", "duplicates", "gaps", "late"):
        report.counts[name.replace("_", " ")] += latest[name]


def offsets_of(*published: Iterable[Published], below: int) -> set[int]:
    """Return the offsets that these results speak of, up to and with the committed one."""
    offsets = {one.input_offset for many in published for one in many}
    return {offset for offset in offsets if 0 <= offset <= below} | {below}


def stamped(snapshots: Mapping[int, Fields], named: Fields) -> dict[int, Fields]:
    """Return the snapshots with the fields that name them, their offset among them."""
    return {offset: {**fields, **named, "offset": offset} for offset, fields in snapshots.items()}
