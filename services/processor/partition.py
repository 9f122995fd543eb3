"""The processing of one partition: batches in, a transaction's content out. Pure.

Batch by batch it goes the short way: decode all, check continuity as a whole, hand all to the topology.
Only where something is odd does it look closer, and never closer than it must: a bad record splits its
batch in two, a duplicate is filtered out, and record by record it goes only when the state is nearly full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET

from services.processor.accounts import Accounts
from services.processor.columns import ColumnarPartition, Columns, Reader, reader_of
from services.processor.continuity import Continuity, Verdict
from services.processor.dead_letters import dead_letter
from services.processor.formats import UnknownFormatError
from services.processor.records import LeanRecords, Record, RecordBatch, first_timestamp_of, values_of
from services.processor.state import State
from services.processor.topology import Batch, Outputs, Place, Topology
from shared import topics
from shared.changelog import FORMAT, KNOWN_FORMATS, OFFSET_KEY, OffsetRecord
from shared.errors import RejectedError
from shared.events import UNDECODABLE, decoder, readable_source
from shared.results import LatencyMilliseconds, encode

# How many new state keys one event may take at most, whatever the topology.
KEYS_PER_EVENT = 2
# After a batch that could not be counted by columns, so many are not tried: 1, 2, 4, … up to this. A stream
# of which none can is then slowed by a hundredth.
_MOST_UNTRIED = 64


class _AnyOffsetRecord(msgspec.Struct):
    """What the offset record of every format has."""

    format: int


_decode_format = msgspec.json.Decoder(_AnyOffsetRecord).decode
_decode_offset_record = msgspec.json.Decoder(OffsetRecord).decode


def read_offset_record(value: bytes) -> OffsetRecord:
    """Return an offset record of any format that is known.

    Raises:
        UnknownFormatError: another version wrote it.
        ValueError: it is none.
    """
    found = _decode_format(value).format
    if found not in KNOWN_FORMATS:
        raise UnknownFormatError("the state", found, KNOWN_FORMATS)
    return _decode_offset_record(value)


@dataclass(frozen=True)
class Transaction:
    """Everything that becomes visible together.

    Attributes:
        outputs: by topic name without prefix.
        changelog: key and value (None: a tombstone) of what changed, the offset record last.
        next_offset: the input offset to commit.
        records: input records in it.
        oldest: record timestamp (ms since the epoch) and number of records, batch by batch.
        read_bytes: of the batches they came in, as fetched.
        columnar_events: events of it that were counted by columns.
    """

    outputs: Outputs
    changelog: list[tuple[bytes, bytes | None]]
    next_offset: int
    records: int
    oldest: list[tuple[int, int]]
    read_bytes: int = 0
    columnar_events: int = 0

    @property
    def written_bytes(self) -> int:
        """The size of what it publishes, changelog included."""
        changes = sum(len(key) + len(value or b"") for key, value in self.changelog)
        return self.outputs.size_bytes + changes


class Partition:
    """State, accounts and pending results of one partition.

    Args:
        topology: whose work it is.
        place: the input partition.
        group: full name of the consumer group.
        max_keys: bound of the topology's state.
        full_validation: decode every field of the schema.
        dead_letter_bytes: the largest message that the dead letter topic takes.
    """

    def __init__(
        self,
        topology: Topology,
        place: Place,
        *,
        group: str,
        max_keys: int,
        full_validation: bool,
        dead_letter_bytes: int,
    ) -> None:
        self.place = place
        self.state = State(max_keys=max_keys)
        self.accounts = Accounts()
        self.next_offset = 0
        self.records = 0
        self.read_bytes = 0
        self.dead_letter_bytes = dead_letter_bytes
        self._group = group
        self._continuity = Continuity(self.accounts.counts)
        self.state.attach(self.accounts)
        self.state.attach(self._continuity)
        self._work = topology.open(place, self.state)
        self._result_settings = topology.result_settings()
        # None is a TypeError, which is caught.
        self._decode: Callable[[Any], Any] = decoder(
            topology.full_event if full_validation else topology.event
        )
        # With full validation msgspec judges every field, unless those that are used are all there are.
        is_judged = full_validation and topology.full_event is not topology.event
        self._columnar = None if is_judged else _columnar(topology, self._work)
        # How many batches are not tried any more now, and how many were not the last time.
        self._untried = 0
        self._pause = 0
        self._columnar_events = 0
        self._outputs = Outputs()
        self._oldest: list[tuple[int, int]] = []
        # Whether there is anything new to publish: a restored offset is only committed again.
        self._moved = False
        self.latency = LatencyMilliseconds(0.0, 0.0)

    @property
    def size_bytes(self) -> int:
        """The size of the pending results."""
        return self._outputs.size_bytes

    def begin(self, offset: int) -> None:
        """Start at `offset` with an empty state."""
        self.accounts.begin(offset)
        self._go_on(offset)

    def restored(self, offset: int) -> None:
        """Go on at `offset` with the state that was restored."""
        self._continuity.restored()
        self._go_on(offset)

    def skip_to(self, offset: int) -> None:
        """Go on at `offset`: what lies before it is no longer in the log."""
        self.accounts.skip(offset - self.next_offset)
        self.next_offset = offset
        self._moved = True

    def process(self, batch: RecordBatch) -> None:
        """Take a batch in. What it leads to is pending until `seal`."""
        records = batch.records
        if records:
            self._oldest.append((first_timestamp_of(records), len(records)))
            self.records += len(records)
            if not self._count_columns(records):
                self._count_events(records)
        self.next_offset = batch.next_offset
        self.read_bytes += batch.size_bytes
        self._moved = True

    def seal(self, updated_at: str) -> Transaction:
        """Close what is pending and return it; the next batch begins a new transaction.

        Args:
            updated_at: ISO 8601 in UTC.
        """
        outputs, self._outputs = self._outputs, Outputs()
        if self._moved:
            self._publish_totals(updated_at, outputs)
            self._moved = False
        changelog = self.state.take_changes()
        offset_record = OffsetRecord(
            FORMAT, self.place.topic, self._group, self.next_offset, self.state.live_keys
        )
        changelog.append((OFFSET_KEY, encode(offset_record)))
        sealed = Transaction(
            outputs,
            changelog,
            self.next_offset,
            self.records,
            self._oldest,
            self.read_bytes,
            self._columnar_events,
        )
        self._oldest = []
        self.records = self.read_bytes = 0
        self._columnar_events = 0
        return sealed

    def figures(self) -> dict[str, Any]:
        """Return the topology's figures and the accounts as JSON types, pending work included."""
        counts = msgspec.to_builtins(self.accounts.counts)
        del counts["settings"]
        return {
            "results": self._work.figures(),
            "accounts": counts,
            "offset": self.next_offset,
            "state_keys": self.state.live_keys,
            "latency_ms": msgspec.to_builtins(self.latency),
        }

    def _publish_totals(self, updated_at: str, outputs: Outputs) -> None:
        self._work.seal(self.next_offset, updated_at, outputs)
        progress = self.accounts.progress(
            topic=self.place.topic,
            partition=self.place.partition,
            offset=self.next_offset,
            latency=self.latency,
            updated_at=updated_at,
        )
        key = f"{self.place.topic}:{self.place.partition}"
        outputs.publish(topics.PROGRESS, key.encode(), encode(progress))

    def _go_on(self, offset: int) -> None:
        self.next_offset = offset
        self.accounts.hold(self._result_settings, offset)

    def _count_columns(self, records: Sequence[Record]) -> bool:
        """Count a batch without an object per event. False where something is odd: nothing is changed."""
        if self._columnar is None or not isinstance(records, LeanRecords) or records.located is None:
            return False
        if self._untried:
            self._untried -= 1
            return False
        work, reader = self._columnar
        columns = None
        if self.state.budget.left >= len(records) * KEYS_PER_EVENT:
            columns = reader.read(records.located, records.offsets)
        if columns is None or not self._admit_columns(columns, work):
            self._pause = min(max(self._pause * 2, 1), _MOST_UNTRIED)
            self._untried = self._pause
            return False
        self._pause = 0
        self.accounts.counts.events += len(columns)
        self._columnar_events += len(columns)
        work.process_columns(columns, self._outputs)
        return True

    def _admit_columns(self, columns: Columns, work: ColumnarPartition) -> bool:
        run = columns.run
        if run is None:
            return False
        try:
            is_well = work.examine_columns(columns)
        except RejectedError:
            is_well = False
        if not is_well:
            return False
        # Last of all: it changes something.
        source, first_seq = run
        if source is UNSET:
            self.accounts.counts.unsourced_events += len(columns)
            return True
        return self._continuity.admit_run(source, first_seq, len(columns), columns.offsets[-1])

    def _count_events(self, records: Sequence[Record]) -> None:
        events = self._decode_all(records)
        # Not in the handler: the traceback of one record would show the error of another.
        if events is None:
            self._decode_one_by_one(records)
        else:
            self._admit(Batch(events, records))

    def _decode_all(self, records: Sequence[Record]) -> list[Any] | None:
        """Return all events, or None where a record is none."""
        try:
            return list(map(self._decode, values_of(records)))
        except UNDECODABLE:
            return None

    def _decode_one_by_one(self, records: Sequence[Record]) -> None:
        """Put aside what can't be decoded, and hand on the stretches between in order."""
        events: list[Any] = []
        good: list[Record] = []
        for record in records:
            try:
                event = self._decode(record.value)
            except UNDECODABLE as error:
                self._admit(Batch(events, good))
                events, good = [], []
                self._put_aside(record, _reason(record, error))
            else:
                events.append(event)
                good.append(record)
        self._admit(Batch(events, good))

    def _admit(self, batch: Batch[Any]) -> None:
        """Count a stretch of decoded events, putting aside what the topology or the accounts reject."""
        while batch.events:
            try:
                run = _run_of(batch.events)
                self._work.examine(batch)
            except RejectedError as error:
                # Not looked at as a whole yet: the two checks find their first bad event each.
                self._admit(batch.part(0, error.index))
                self._put_aside(batch.records[error.index], error)
                batch = batch.part(error.index + 1, len(batch.events))
            else:
                self._count(batch, run)
                return

    def _count(self, batch: Batch[Any], run: tuple[Any, Any] | None = None) -> None:
        events = batch.events
        if not events:
            return
        if self.state.budget.left < len(events) * KEYS_PER_EVENT:
            self._count_one_by_one(batch)
            return
        counts = self.accounts.counts
        if run is None:
            run = _run_of(events)
        source, first_seq = run
        if source is UNSET:
            counts.unsourced_events += len(events)
        elif source is None or not self._continuity.admit_run(
            source, first_seq, len(events), batch.offsets[-1]
        ):
            batch = batch.only(self._not_heard(batch))
        if batch.events:
            counts.events += len(batch.events)
            self._work.process(batch, self._outputs)

    def _not_heard(self, batch: Batch[Any]) -> list[int]:
        """Count the numbers of a stretch one by one; return the indexes of what is no duplicate."""
        kept = []
        for index, (event, offset) in enumerate(zip(batch.events, batch.offsets, strict=True)):
            if event.source is UNSET:
                self.accounts.counts.unsourced_events += 1
                kept.append(index)
            elif self._continuity.count(event.source, event.seq, offset):
                kept.append(index)
        return kept

    def _count_one_by_one(self, batch: Batch[Any]) -> None:
        """Count event by event: each may be the one that the state has no room for."""
        for index, (event, record) in enumerate(zip(batch.events, batch.records, strict=True)):
            one = batch.part(index, index + 1)
            sourced = event.source is not UNSET
            is_duplicate = sourced and self._continuity.classify(event.source, event.seq) is Verdict.DUPLICATE
            if not is_duplicate:
                try:
                    self._work.process(one, self._outputs)
                except RejectedError as error:
                    self._put_aside(record, error)
                    continue
                self.accounts.counts.events += 1
            if sourced:
                self._continuity.count(event.source, event.seq, record.offset)
            else:
                self.accounts.counts.unsourced_events += 1

    def _put_aside(self, record: Record, error: Exception) -> None:
        letter = dead_letter(record, self.place, error, limit_bytes=self.dead_letter_bytes)
        self._outputs.publish(topics.DEAD_LETTERS, letter.key, letter.value, letter.headers)
        self.accounts.counts.dead_letters += 1
        found = readable_source(record.value)
        if found is not None:
            self._continuity.dead_letter(*found, record.offset)


def _columnar(topology: Topology, work: object) -> tuple[ColumnarPartition, Reader] | None:
    """Return what counts by columns, if the work, its events and this installation can."""
    if not isinstance(work, ColumnarPartition):
        return None
    for ours, theirs in (("examine_columns", "examine"), ("process_columns", "process")):
        # A subclass that has its own way with events does not want those of its base with columns.
        if _depth(type(work), theirs) < _depth(type(work), ours):
            return None
    event: Any = topology.event
    reader = reader_of(event, tuple(work.tokens))
    return None if reader is None else (work, reader)


def _depth(kind: type, name: str) -> int:
    """Return how far up its bases a class has a method from."""
    return next(depth for depth, one in enumerate(kind.__mro__) if name in vars(one))


def _run_of(events: Sequence[Any]) -> tuple[Any, Any]:
    """Return what a stretch is for the accounts, with as few steps per event as there can be.

    Returns:
        (UNSET, UNSET) without sources; (source, first seq) for one source with consecutive numbers;
        (None, None) for anything else that is valid.

    Raises:
        RejectedError: an event has a source and no seq, or the other way round.
    """
    # Comprehensions: CPython reads a field in half the time that a mapped attrgetter takes.
    sources = [event.source for event in events]
    seqs = [event.seq for event in events]
    source = sources[0]
    # Counted rather than put into a set: each event has a text of its own, whose hash is not known yet.
    if sources.count(source) == len(sources):
        if source is UNSET:
            if seqs.count(UNSET) == len(seqs):
                return UNSET, UNSET
        elif type(seqs[0]) is int and seqs == list(range(seqs[0], seqs[0] + len(seqs))):
            return source, seqs[0]
    for index, (event, seq) in enumerate(zip(events, seqs, strict=True)):
        if (event.source is UNSET) != (seq is UNSET):
            raise RejectedError("source and seq go together: one of them is missing", index)
    return None, None


def _reason(record: Record, error: Exception) -> Exception:
    """Return the error to be shown for a record that can't be decoded."""
    if record.value is None:
        return RejectedError("the record has no value")
    return error
