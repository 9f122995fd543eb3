"""`python -m bench.budget`: where an event's CPU time goes in the processor, stage by stage.

What needs no Kafka is run alone, on record batches as the generator sends them: once as it is, and once
without the stage in question; the difference is the stage. Each is taken at its fastest of many rounds,
because what else a machine does only adds. Two drains from a real Kafka, those of `python -m bench.compare`,
give the rest: a loop that only reads, and the processor with everything on.

A floor is the least that a stage can do: JSON that is gone through and of which nothing is asked, users that
are looked up and are all known. Beside it stands what the stage takes event by event, as without the compiled
part or for a topology that does not count columns: every value an object, every event another one.
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
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest import mock

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from bench.compare import Compare
from bench.continuity import Made, empty_partition, made, not_looked_at
from bench.entries import ENTRIES, OURS
from bench.running import BenchError, machine
from sandbox import Sandbox
from services.processor import partition as under_test
from services.processor.columns import Reader, fields_of
from services.processor.native.library import UnusableError, installed
from services.processor.record_batches import PackedBatch
from services.processor.records import LeanRecords, RecordBatch, values_of
from services.processor.sending import BATCH_BYTES, batches_of
from services.processor.topologies.behavior import BehaviorPartition
from services.processor.topology import OutputRecord
from shared.events import UserEventCounted, decoder
from shared.header_names import RawRecords

BATCH_EVENTS = 1_200  # What 256 KiB hold.
TRANSACTION_EVENTS = 12_000  # A tenth of a second of one partition.
READING = "whole-batches-drain"
PARTITIONS = 4
RUN_SECONDS = 300.0

_value = attrgetter("value")


@dataclass(frozen=True)
class Stage:
    """One line: nanoseconds of CPU per event by columns, the least of them, and the same event by event."""

    stage: str
    nanoseconds: int
    floor: int | None = None
    event_by_event: int | None = None


class Alone:
    """The stages that need no Kafka, over the same events."""

    def __init__(self, producer: AIOKafkaProducer, events: int, rounds: int) -> None:
        self._producer = producer
        self._events = events
        self._rounds = rounds
        batches = made(events, BATCH_EVENTS)
        self._answers = [_answer(batch) for batch in batches]
        others = [RecordBatch([_without_purchase(one) for one in batch.records], 0) for batch in batches]
        other_answers = [_answer(batch) for batch in others]
        # As the processor takes them: located; or the values alone, until somebody asks for more.
        self._located = list(_pieces(self._answers))
        self._values = list(_unpacked(self._answers))
        self._others_located = list(_pieces(other_answers))
        self._others_values = list(_unpacked(other_answers))
        decode = decoder(UserEventCounted)
        self._users = [
            array("q", [decode(one or b"").user_id for one in values_of(batch.records)])
            for batch in self._others_values
        ]
        self._known = set(chain.from_iterable(self._users))

    def stages(self) -> list[Stage]:
        """Measure them all."""
        library = installed()
        if isinstance(library, UnusableError):
            raise BenchError(str(library))
        found = self._least(lambda: _drop(self._found()))
        fields = fields_of(UserEventCounted, BehaviorPartition.tokens)
        counted_fields = Reader(library, [one for one in fields if one.name not in ("source", "seq")])
        all_fields = Reader(library, fields)
        scanned = self._least(lambda: self._read(Reader(library, [])))
        read_least = self._least(lambda: self._read(counted_fields))
        read = self._least(lambda: self._read(all_fields))
        counted = self._least(lambda: self._process(self._others_located))
        columns = self._stages_from(self._located, counted)
        decode: Callable[[Any], Any] = decoder(UserEventCounted)
        decoded = self._least(
            lambda: [list(map(decode, values_of(one.records))) for one in self._others_values]
        )
        heard = self._least(lambda: self._process(self._others_values))
        unheard = self._least(lambda: self._process(self._others_values, heard=False))
        events = self._stages_from(self._values, heard)
        unpacked = self._least(lambda: _drop(list(map(_value, one)) for one in self._found()))
        return [
            _stage("checksum", self._least(self._check) - found),
            _stage(
                "values in a batch",
                self._least(lambda: _drop(_pieces(self._answers))) - found,
                unpacked - found,
            ),
            _stage("JSON: the counted fields", read_least, decoded, floor=scanned),
            _stage("continuity: source and number", read - read_least, heard - unheard, floor=0),
            _stage("count", counted - read, unheard - decoded, floor=self._least(self._look_up)),
            *(
                _stage(name, nanoseconds, other)
                for (name, nanoseconds), other in zip(columns.items(), events.values(), strict=True)
            ),
        ]

    def _stages_from(self, batches: list[RecordBatch], counted: float) -> dict[str, float]:
        processed = self._least(lambda: self._process(batches))
        sealed = self._least(lambda: self._process(batches, seal=True))
        packed = self._least(lambda: self._process(batches, seal=True, pack=True))
        return {
            "purchases, one event in six": processed - counted,
            "totals, changelog": sealed - processed,
            "results into record batches": packed - sealed,
        }

    def _look_up(self) -> None:
        for users in self._users:
            self._known.issuperset(users)

    def _read(self, reader: Reader) -> None:
        for batch in self._others_located:
            records = batch.records
            assert isinstance(records, LeanRecords), "they were located"
            assert records.located is not None, "they were located"
            assert reader.read(records.located, records.offsets) is not None, "they are plain"

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


def _stage(
    name: str, nanoseconds: float, event_by_event: float | None = None, *, floor: float | None = None
) -> Stage:
    return Stage(
        name,
        round(nanoseconds),
        None if floor is None else round(floor),
        None if event_by_event is None else round(event_by_event),
    )


def _pieces(answers: Iterable[bytes]) -> Iterator[RecordBatch]:
    for answer in answers:
        records = RawRecords(answer)
        batch, where = records.next_located("the budget", check=False)
        packed = PackedBatch(batch, records, where, batch.base_offset, batch.next_offset, len(answer))
        yield from packed.pieces(lean=True)


def _unpacked(answers: Iterable[bytes]) -> Iterator[RecordBatch]:
    for answer in answers:
        records = RawRecords(answer)
        batch, where = records.next_located("the budget", check=False)
        offsets = range(batch.base_offset, batch.next_offset)
        lean = LeanRecords(
            list(map(_value, batch)), offsets, batch.first_timestamp, partial(_records, records, where)
        )
        yield RecordBatch(lean, offsets.stop)


def _records(answer: RawRecords, where: slice) -> list[Any]:
    return list(answer.again(where))


def _drop(items: Iterable[object]) -> None:
    deque(items, maxlen=0)


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
