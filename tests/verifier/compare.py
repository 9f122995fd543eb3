"""Recomputed against published. Pure; each comparison returns the differences it found."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tests.verifier.findings import (
    Published,
    Slot,
    compare_fields,
    compare_key,
    identity_of,
    in_order,
    is_utc,
    once_each,
    rising,
)
from tests.verifier.recompute import Fields, Output, SensorResults
from tests.verifier.report import Difference


def compare_outputs(
    slot: Slot,
    expected: Sequence[Output],
    published: Sequence[Published],
    identity: Sequence[str],
) -> list[Difference]:
    """Compare results of which there must be exactly one each, in the order of the input.

    Args:
        slot: where they must stand.
        expected: what was recomputed for one input partition, in order.
        published: what stands in Kafka for this input partition, in order.
        identity: names of the fields that tell one result from another.
    """
    due = {tuple(output.fields[name] for name in identity): output for output in expected}
    found = [(identity_of(one.fields, identity), one) for one in published]
    differences = once_each(slot.topic, list(due), [name for name, _ in found])
    differences += in_order(slot.topic, published)
    for name, one in found:
        differences += slot.misplaced(one.record)
        if name in due:
            differences += compare_key(slot.topic, due[name].key, one.record)
            differences += compare_fields(slot.topic, one, due[name].fields)
    return differences


def compare_snapshots(
    slot: Slot,
    key: bytes,
    expected: Mapping[int, Fields],
    published: Sequence[Published],
    due: range,
) -> list[Difference]:
    """Compare records that say how things stood before an offset (BehaviorStats, Progress).

    Compaction may have taken older ones: what is there is compared, and the latest must be there.

    Args:
        slot: where they must stand.
        key: the key that all of them must have.
        expected: what was recomputed, by offset (next to read).
        published: what stands in Kafka for this input partition, in order.
        due: the offsets that the latest may have; empty when none has to be there.
    """
    differences = rising(slot.topic, str(slot.input_partition), [one.input_offset for one in published])
    for one in published:
        differences += slot.misplaced(one.record)
        differences += compare_key(slot.topic, key, one.record)
        if one.input_offset in expected:
            differences += compare_fields(slot.topic, one, expected[one.input_offset])
        else:
            differences.append(Difference("wrong", slot.topic, f"{one.record.where} has no valid offset"))
        if not is_utc(one.fields.get("updated_at")):
            differences.append(Difference("wrong", slot.topic, f"{one.record.where} updated_at is not UTC"))
    latest = max((one.input_offset for one in published), default=-1)
    if due and latest not in due:
        wanted = f"the latest of partition {slot.input_partition} has offset {latest}, not {due[0]}…{due[-1]}"
        differences.append(Difference("lost", slot.topic, wanted))
    return differences


def compare_sensor_stats(
    slot: Slot, expected: SensorResults, published: Sequence[Published]
) -> list[Difference]:
    """Compare windows: what is there with the window as of its reading; each sensor's last must be there."""
    differences = []
    offsets: dict[str, list[int]] = defaultdict(list)
    for one in published:
        sensor_id = str(one.fields.get("sensor_id"))
        offsets[sensor_id].append(one.input_offset)
        differences += slot.misplaced(one.record)
        differences += compare_key(slot.topic, sensor_id.encode(errors="replace"), one.record)
        window = expected.stats_at(sensor_id, one.input_offset)
        if window is None:
            nothing = f"{one.record.where} no full window of {sensor_id!r} at offset {one.input_offset}"
            differences.append(Difference("invented", slot.topic, nothing))
        else:
            differences += compare_fields(slot.topic, one, window | {"partition": slot.input_partition})
    for sensor_id, found in offsets.items():
        differences += rising(slot.topic, repr(sensor_id), found)
    for sensor_id, offset in expected.latest_offsets().items():
        if offset not in offsets[sensor_id]:
            missing = f"the window of {sensor_id!r} at its last reading, {slot.input_partition}@{offset}"
            differences.append(Difference("lost", slot.topic, missing))
    return differences


def by_input(
    published: Sequence[Published], input_topic: str, topic: str, partitions: int
) -> tuple[dict[int, list[Published]], list[Difference]]:
    """Sort results by the input partition that they name; one that names none is a difference.

    Args:
        input_topic: what `topic` must be where a result has that field.
        topic: where the results stand.
        partitions: how many the input has.
    """
    sorted_out: dict[int, list[Published]] = defaultdict(list)
    differences = []
    for one in published:
        number = one.fields.get("partition")
        right_topic = one.fields.get("topic", input_topic) == input_topic
        if right_topic and isinstance(number, int) and 0 <= number < partitions:
            sorted_out[number].append(one)
        else:
            differences.append(Difference("wrong", topic, f"{one.record.where} names no input partition"))
    return sorted_out, differences
