"""Published records of one input partition, held until recomputing gets to where they belong. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

from services.console.verification.admission import Headers
from services.console.verification.findings import Findings

ResultT = TypeVar("ResultT")


class PublishedRecord(Protocol):
    """A record of a result topic as the client gives it."""

    @property
    def topic(self) -> str:
        """Return the full name."""

    @property
    def partition(self) -> int:
        """Return the partition that it stands in."""

    @property
    def offset(self) -> int:
        """Return the place in that partition."""

    @property
    def key(self) -> bytes | None:
        """Return the key."""

    @property
    def value(self) -> bytes | None:
        """Return the value."""

    @property
    def headers(self) -> Headers:
        """Return pairs of name and value."""


class Place(NamedTuple):
    """What a published record says of where it comes from: an input partition and an offset in it."""

    topic: str | None
    partition: int
    offset: int


class Published(NamedTuple, Generic[ResultT]):
    """A published record and what it holds. `offset` is the input's."""

    offset: int
    record: PublishedRecord
    result: ResultT

    @property
    def where(self) -> str:
        """Topic, partition and offset of the record itself, for people."""
        return f"{self.record.topic}:{self.record.partition}@{self.record.offset}"


class PublishedQueue(Generic[ResultT]):
    """What was published for one input partition, between its reader and the comparison.

    Args:
        topic: full name of the input topic. The same for `partition`.
        decode: makes the result of a record; raises ValueError or one of its kind.
        place_of: says where a result comes from.
        span: the input offsets to be compared; what lies outside is let go of.
        partitions: how many the result topic has: an input partition's results belong into one of them.
        interleaved_within: records this many offsets apart may stand in any order (a transaction's windows
            are in no order); 0 where they stand in the order of the input.
        findings: gets what can't be decoded or stands in the wrong partition.
        on_arrival: called for each result as it is read, in the order of the log.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        *,
        decode: Callable[[PublishedRecord], ResultT],
        place_of: Callable[[ResultT], Place],
        span: range,
        partitions: int,
        findings: Findings,
        interleaved_within: int = 0,
        on_arrival: Callable[[Published[ResultT]], bool] = lambda _: True,
    ) -> None:
        self._input = topic, partition
        self._decode = decode
        self._place_of = place_of
        self._span = span
        self._partitions = partitions
        self._findings = findings
        self._interleaved_within = interleaved_within
        self._on_arrival = on_arrival
        self._in_order: deque[Published[ResultT]] = deque()
        self._by_offset: list[tuple[int, int, Published[ResultT]]] = []
        self._seen_to = -1

    def add(self, records: Iterable[PublishedRecord]) -> None:
        """Take in the next records of the log."""
        for record in records:
            try:
                result = self._decode(record)
                place = self._place_of(result)
            except (ValueError, TypeError, RecursionError) as error:
                where = f"{record.topic}:{record.partition}@{record.offset}"
                self._findings.differ("undecodable", record.topic, f"{where}: {error}")
                continue
            if (place.topic or self._input[0], place.partition) != self._input:
                self._check_partition(record, place)
                continue
            one = Published(place.offset, record, result)
            self._check_partition(record, place)
            if not self._on_arrival(one):
                continue
            if place.offset in self._span:
                self._seen_to = max(self._seen_to, place.offset)
                self._hold(one)

    def needs_more(self, below: int) -> bool:
        """Say whether the log has to be read on before everything below an input offset is here."""
        return self._seen_to < below + self._interleaved_within

    def take(self, below: int) -> list[Published[ResultT]]:
        """Return, and let go of, what belongs below an input offset."""
        taken: list[Published[ResultT]] = []
        if self._interleaved_within:
            while self._by_offset and self._by_offset[0][0] < below:
                taken.append(heapq.heappop(self._by_offset)[2])
        else:
            while self._in_order and self._in_order[0].offset < below:
                taken.append(self._in_order.popleft())
        return taken

    def _hold(self, one: Published[ResultT]) -> None:
        if self._interleaved_within:
            heapq.heappush(self._by_offset, (one.offset, one.record.offset, one))
        else:
            self._in_order.append(one)

    def _check_partition(self, record: PublishedRecord, place: Place) -> None:
        if place.partition % self._partitions != record.partition:
            where = f"{record.topic}:{record.partition}@{record.offset}"
            belongs = (
                f"of input partition {place.partition}, belongs into {place.partition % self._partitions}"
            )
            self._findings.differ("misplaced", record.topic, f"{where}: {belongs}")
