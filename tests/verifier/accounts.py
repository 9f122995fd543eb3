"""The generator's ledger against the input and against what was counted. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.verifier.contract import PartitionId, Record
from tests.verifier.findings import Published, decode
from tests.verifier.recompute import Fields, Results
from tests.verifier.report import Difference, Report


class LedgerEntry(NamedTuple):
    """What one generator says that Kafka acknowledged: the numbers below `acknowledged`."""

    source: str
    partition: PartitionId
    acknowledged: int
    last_offset: int


def compare_ledger(
    topic: str,
    ledger: Sequence[Record],
    progress: Mapping[PartitionId, Fields],
    recomputed: Mapping[PartitionId, Results],
    report: Report,
) -> None:
    """Put into the report what was lost or doubled between a generator and the processor's accounts.

    Args:
        topic: the ledger's name.
        ledger: all its records, in order; the latest of a key is the truth.
        progress: the latest accounts published, by input partition.
        recomputed: the results of the partitions to be looked at, with the numbers that the input holds.
    """
    entries, unreadable = latest_entries(topic, ledger)
    report.differences += unreadable
    acknowledged: Counter[PartitionId] = Counter()
    for entry in entries:
        if entry.partition not in recomputed:
            continue
        numbers = recomputed[entry.partition].numbers.get(entry.source, [])
        report.differences += compare_entry(topic, entry, numbers)
        acknowledged[entry.partition] += entry.acknowledged
        report.counts["acknowledged"] += entry.acknowledged
        reached = int(progress.get(entry.partition, {}).get("offset", 0))
        if entry.acknowledged and entry.last_offset >= reached:
            late = f"{entry.source} {entry.partition}: progress {reached}, last offset {entry.last_offset}"
            report.differences.append(Difference("behind", topic, late))
    for partition, due in acknowledged.items():
        accounts = progress.get(partition, {})
        counted = int(accounts.get("sourced_events", 0)) + int(accounts.get("sourced_dead_letters", 0))
        report.counts["sent, unacknowledged"] += max(0, counted - due)
        if due > counted:
            lost = f"{partition}: {due} acknowledged, {counted} counted"
            report.differences.append(Difference("lost", topic, lost))


def compare_entry(topic: str, entry: LedgerEntry, numbers: Sequence[int]) -> list[Difference]:
    """Compare one entry with the numbers of its source that the input holds."""
    differences = []
    missing = set(range(entry.acknowledged)) - set(numbers)
    if missing:
        claimed = (
            f"{entry.source} {entry.partition}: {len(missing)} acknowledged numbers are not in the input"
        )
        differences.append(Difference("lost", topic, f"{claimed}, the first {min(missing)}"))
    doubled = len(numbers) - len(set(numbers))
    if doubled:
        written = f"{entry.source} {entry.partition}: {doubled} numbers are in the input more than once"
        differences.append(Difference("doubled", topic, written))
    return differences


def latest_entries(topic: str, ledger: Sequence[Record]) -> tuple[list[LedgerEntry], list[Difference]]:
    """Return the latest entry of each key, and a difference for each that is not as the contract says."""
    latest = {record.key: record for record in ledger}
    published, differences = decode(topic, [record for record in latest.values() if record.value is not None])
    entries = []
    for one in published:
        entry = entry_of(one.fields)
        if entry is None:
            differences.append(Difference("wrong", topic, f"{one.record.where} is no ledger entry"))
        elif one.record.key != f"{entry.source}:{entry.partition.topic}:{entry.partition.number}".encode():
            differences.append(Difference("wrong", topic, f"{one.record.where} key {one.record.key!r}"))
        else:
            entries.append(entry)
    return entries, differences


def entry_of(fields: Fields) -> LedgerEntry | None:
    """Return the entry, None where a field is missing or of another type."""
    source, topic = fields.get("source"), fields.get("topic")
    partition, acknowledged = fields.get("partition"), fields.get("acknowledged")
    last_offset = fields.get("last_offset")
    if not isinstance(source, str) or not isinstance(topic, str):
        return None
    if not isinstance(partition, int) or not isinstance(acknowledged, int):
        return None
    if last_offset is not None and not isinstance(last_offset, int):
        return None
    return LedgerEntry(
        source, PartitionId(topic, partition), acknowledged, -1 if last_offset is None else last_offset
    )


def latest_progress(progress: Sequence[Published]) -> dict[PartitionId, Fields]:
    """Return the latest accounts of each input partition."""
    latest = {}
    for one in progress:
        topic, number = one.fields.get("topic"), one.fields.get("partition")
        if isinstance(topic, str) and isinstance(number, int):
            latest[PartitionId(topic, number)] = one.fields
    return latest
