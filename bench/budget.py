"""`python -m bench.budget`: where an event's CPU time goes in the processor, stage by stage.

What needs no Kafka is run alone, on record batches as the generator sends them: once as it is, and once
without the stage in question; the difference is the stage. Each is taken at its fastest of many rounds,
because what else a machine does only adds. Two drains from a real Kafka, those of `python -m bench.compare`,
give the rest: a loop that only reads, and the processor with everything on.

A floor is the least that a stage can do in Python with the libraries at hand, measured beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from bench.compare import Compare
from bench.continuity import Made, empty_partition, made, not_looked_at
from bench.entries import ENTRIES, OURS
from bench.running import BenchError, machine
from sandbox import Sandbox
from services.processor import partition as under_test
from services.processor.records import LeanRecords, RecordBatch, values_of
from services.processor.sending import BATCH_BYTES, batches_of
from services.processor.topology import OutputRecord
from shared.events import Action, Device, UserEventCounted, UserId, decoder
from shared.header_names import RawRecords

BATCH_EVENTS = 1_200  # What 256 KiB hold.
TRANSACTION_EVENTS = 12_000  # A tenth of a second of one partition.
READING = "whole-batches-drain"
PARTITIONS = 4
RUN_SECONDS = 300.0

_value = attrgetter("value")


class _Counted(msgspec.Struct, gc=False):
    """What the statistics need, without the accounts."""

    user_id: UserId
    action: Action
    device: Device


@dataclass(frozen=True)
class Stage:
    """One line: nanoseconds of CPU per event, and the least it could be where that was measured."""

    stage: str
    nanoseconds: int
    floor: int | None = None


class Alone:
    """The stages that need no Kafka, over the same events."""

    def __init__(self, producer: AIOKafkaProducer, events: int, rounds: int) -> None:
        self._producer = producer
        self._events = events
        self._rounds = rounds
        batches = made(events, BATCH_EVENTS)
        self._answers = [_answer(batch) for batch in batches]
        self._batches = list(self._unpacked(self._answers))
        others = [RecordBatch([_without_purchase(one) for one in batch.records], 0) for batch in batches]
        self._others = list(self._unpacked(map(_answer, others)))

    def stages(self) -> list[Stage]:
        """Measure them all."""
        found = self._least(lambda: _drop(self._found()))
        decode: Callable[[Any], Any] = decoder(UserEventCounted)
        decode_least = decoder(_Counted)
        decoded = self._least(lambda: [list(map(decode, values_of(one.records))) for one in self._others])
        counted_unheard = self._least(lambda: self._process(self._others, heard=False))
        counted = self._least(lambda: self._process(self._others))
        processed = self._least(lambda: self._process(self._batches))
        sealed = self._least(lambda: self._process(self._batches, seal=True))
        packed = self._least(lambda: self._process(self._batches, seal=True, pack=True))
        events = [list(map(decode, values_of(one.records))) for one in self._others]
        floors = {
            "records": self._least(lambda: _drop(map(_drop, self._found()))) - found,
            "decode": self._least(
                lambda: _drop(map(decode_least, chain.from_iterable(map(_values, self._others))))
            ),
            "count": self._least(lambda: _count(events)),
        }
        return [
            _stage("checksum", self._least(self._check) - found),
            _stage(
                "records out of a batch",
                self._least(lambda: _drop(list(map(_value, one)) for one in self._found())) - found,
                floors["records"],
            ),
            _stage("decode, with source and number", decoded, floors["decode"]),
            _stage("continuity", counted - counted_unheard, 0),
            _stage("count", counted_unheard - decoded, floors["count"]),
            _stage("purchases, one event in six", processed - counted),
            _stage("totals, changelog", sealed - processed),
            _stage("results into record batches", packed - sealed),
        ]

    def _least(self, run: Callable[[], object]) -> float:
        spent = []
        for _ in range(self._rounds):
            gc.collect()
            gc.disable()  # The processor's looks too rarely to matter.
            began = time.process_time_ns()
            run()
            spent.append(time.process_time_ns() - began)
            gc.enable()
        return min(spent) / self._events

    def _found(self) -> Iterator[Any]:
        for answer in self._answers:
            records = RawRecords(answer)
            while records.has_next():
                yield records.next_batch()

    def _check(self) -> None:
        for answer in self._answers:
            records = RawRecords(answer)
            while records.has_next():
                records.next_located("the budget", check=True)

    @staticmethod
    def _unpacked(answers: Iterable[bytes]) -> Iterator[RecordBatch]:
        for answer in answers:
            records = RawRecords(answer)
            batch, where = records.next_located("the budget", check=False)
            offsets = range(batch.base_offset, batch.next_offset)
            # As the processor takes it: the values alone, until somebody asks for more.
            lean = LeanRecords(
                list(map(_value, batch)), offsets, batch.first_timestamp, partial(_records, records, where)
            )
            yield RecordBatch(lean, offsets.stop)

    def _process(
        self, batches: list[RecordBatch], *, heard: bool = True, seal: bool = False, pack: bool = False
    ) -> None:
        partition = empty_partition()
        unheard = mock.patch.object(under_test, "_run_of", not_looked_at)
        with nullcontext() if heard else unheard:
            for batch in batches:
                partition.process(batch)
                if seal and partition.records >= TRANSACTION_EVENTS:
                    sealed = partition.seal("2023-11-14T22:13:20.000+00:00")
                    if pack:
                        for records in sealed.outputs.by_topic.values():
                            _drop(batches_of(self._producer, records))
                        changes = [OutputRecord(key, value) for key, value in sealed.changelog]
                        _drop(batches_of(self._producer, changes))


def _stage(name: str, nanoseconds: float, floor: float | None = None) -> Stage:
    return Stage(name, round(nanoseconds), None if floor is None else round(floor))


def _records(answer: RawRecords, where: slice) -> list[Any]:
    return list(answer.again(where))


def _drop(items: Iterable[object]) -> None:
    deque(items, maxlen=0)


def _values(batch: RecordBatch) -> Iterator[Any]:
    return iter(values_of(batch.records))


def _count(batches: list[list[UserEventCounted]]) -> None:
    actions: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    users: set[int] = set()
    for events in batches:
        actions.update([event.action for event in events])
        devices.update([event.device for event in events])
        users.update([event.user_id for event in events])


def _answer(batch: RecordBatch) -> bytes:
    """Return a batch as a broker sends it."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 4 * BATCH_BYTES)
    for number, record in enumerate(batch.records):
        builder.append(number, record.timestamp, record.key, record.value, [])
    return bytes(builder.build())


def _without_purchase(record: Any) -> Made:
    return Made(record.offset, record.value.replace(b'"purchase"', b'"search"'))


def drains(servers: str, folder: Path, events: int, rounds: int) -> dict[str, float]:
    """Return nanoseconds of CPU per event of each drain, the median of the rounds.

    Raises:
        BenchError: a run has no figure.
    """
    compare = Compare(servers, folder, partitions=PARTITIONS, run_seconds=RUN_SECONDS)
    compare.fill(events)
    spent: dict[str, list[float]] = {READING: [], OURS: []}
    for number in range(rounds):
        for name, found in spent.items():
            found.append(compare.run(ENTRIES[name], number).cpu_seconds / events * 1e9)
    return {name: statistics.median(found) for name, found in spent.items()}


async def alone(servers: str, events: int, rounds: int) -> list[Stage]:
    """Measure what needs no Kafka; the producer is only there to make its batches."""
    async with AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=BATCH_BYTES) as producer:
        return Alone(producer, events, rounds).stages()


def main() -> int:
    """Measure, and print one JSON object a line."""
    parser = argparse.ArgumentParser(prog="python -m bench.budget", description=__doc__)
    parser.add_argument("--events", type=int, default=60_000, help="of the stages that are run alone")
    parser.add_argument("--rounds", type=int, default=15, help="of these")
    parser.add_argument("--drained", type=int, default=2_000_000, help="events of each drain")
    parser.add_argument("--drains", type=int, default=3, help="rounds of the drains")
    options = parser.parse_args()
    print(json.dumps({"machine": machine()}), flush=True)
    with tempfile.TemporaryDirectory() as folder, Sandbox(full_jit=True) as kafka:
        try:
            spent = drains(kafka.bootstrap_servers, Path(folder), options.drained, options.drains)
        except BenchError as error:
            print(f"no figure: {error}", file=sys.stderr)
            return 1
        stages = asyncio.run(alone(kafka.bootstrap_servers, options.events, options.rounds))
    reading = stages[0].nanoseconds + stages[1].nanoseconds
    rest = spent[OURS] - spent[READING] - sum(one.nanoseconds for one in stages[2:])
    whole = [
        _stage("fetch: sockets, answers, event loop", spent[READING] - reading),
        *stages,
        _stage("the rest: transactions, sending, metrics, event loop", rest),
        _stage("all: processor, everything on", spent[OURS]),
    ]
    for one in whole:
        print(json.dumps(asdict(one)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
