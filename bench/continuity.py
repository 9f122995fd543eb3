"""`python -m bench.continuity`: what the check of sources and numbers costs, as a share of processing.

`Partition.process` counts the same batches as it is and with continuity taken out: nothing looks at sources
and numbers then, and every event counts. The two take turns batch by batch, so that a machine whose speed
changes does so for both. Decoding the two fields is in both, and nothing is read from Kafka or committed: the
whole cost of an event, of which the share is given, is that of the fastest round of `python -m bench`.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from unittest import mock

from msgspec import UNSET

from bench.running import machine
from services.processor import partition as under_test
from services.processor.partition import Partition
from services.processor.records import Record, RecordBatch
from services.processor.settings import ProcessorSettings
from services.processor.topologies.behavior import BehaviorTopology
from services.processor.topology import Place

ACTIONS = ("login", "logout", "click", "view", "purchase", "search")
DEVICES = ("mobile", "desktop", "tablet")


@dataclass(frozen=True, slots=True)
class Made:
    """A record as the client gives it."""

    offset: int
    value: bytes
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"k"
    headers: tuple[tuple[str, bytes | None], ...] = ()


def made(events: int, batch_events: int) -> list[RecordBatch]:
    """Return `events` user events of one generator, in batches."""
    chance = Random(1)  # noqa: S311 — nothing is kept secret with it
    records: list[Record] = []
    for seq in range(events):
        event = {
            "user_id": chance.randint(1_000, 9_999),
            "action": chance.choice(ACTIONS),
            "device": chance.choice(DEVICES),
            "page": f"/page/{chance.randint(1, 10)}",
            "ip": f"192.168.1.{chance.randint(1, 255)}",
            "timestamp": "2023-11-14T22:13:20.000000+00:00",
            "source": "0123456789abcdef",
            "seq": seq,
        }
        records.append(Made(seq, json.dumps(event, separators=(",", ":")).encode()))
    starts = range(0, events, batch_events)
    return [RecordBatch(records[at : at + batch_events], min(at + batch_events, events)) for at in starts]


def empty_partition() -> Partition:
    """Return a partition that has counted nothing."""
    settings = ProcessorSettings.model_validate({})
    partition = Partition(
        BehaviorTopology(settings),
        Place("user_behavior", 0),
        group="behavior-processor",
        max_keys=settings.state_max_keys,
        full_validation=False,
        dead_letter_bytes=2**20,
    )
    partition.begin(0)
    return partition


def nanoseconds(partition: Partition, batch: RecordBatch) -> int:
    """Return the processor time that a batch takes."""
    began = time.process_time_ns()
    partition.process(batch)
    return time.process_time_ns() - began


def not_looked_at(_: Sequence[Any]) -> tuple[Any, Any]:
    """Return what events without sources come to."""
    return UNSET, UNSET


def measured(batches: list[RecordBatch]) -> tuple[list[int], list[int]]:
    """Return what each batch costs with continuity and without it, the two taking turns."""
    with_it, without_it = empty_partition(), empty_partition()
    on: list[int] = []
    off: list[int] = []
    gc.collect()
    for number, batch in enumerate(batches):
        for is_on in (True, False) if number % 2 else (False, True):
            if is_on:
                on.append(nanoseconds(with_it, batch))
            else:
                with mock.patch.object(under_test, "_run_of", not_looked_at):
                    off.append(nanoseconds(without_it, batch))
    events = sum(len(batch.records) for batch in batches)
    assert with_it.accounts.counts.sourced_events == events, "every number is looked at"
    assert without_it.accounts.counts.unsourced_events == events, "none is"
    return on, off


def main() -> int:
    """Measure, and print one JSON object a line."""
    parser = argparse.ArgumentParser(prog="python -m bench.continuity", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--batch-events", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--whole", type=float, default=2_600, help="ns of CPU that an event takes end to end")
    options = parser.parse_args()
    print(json.dumps({"machine": machine()}), flush=True)
    batches = made(options.events, options.batch_events)
    measured(batches)  # The caches are warm for both.
    rounds = [measured(batches) for _ in range(options.rounds)]
    ratios = sorted(sum(on) / sum(off) for on, off in rounds)
    # What else runs on the machine only adds: the fastest of each batch is what the code itself takes.
    with_ns = sum(map(min, zip(*(on for on, _ in rounds), strict=True))) / options.events
    without_ns = sum(map(min, zip(*(off for _, off in rounds), strict=True))) / options.events
    figures = {
        "what": f"Partition.process, batches of {options.batch_events}, {options.rounds} rounds",
        "with_ns": round(with_ns),
        "without_ns": round(without_ns),
        "cost_ns": round(with_ns - without_ns),
        "share_of_whole": round((with_ns - without_ns) / options.whole, 3),
        "ratio": round(with_ns / without_ns, 3),
        "ratio_by_round": [round(ratio, 3) for ratio in (ratios[0], statistics.median(ratios), ratios[-1])],
    }
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
