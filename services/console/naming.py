"""Which events, by source and number, are behind what a verification found: looked up in the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka.structs import TopicPartition

from services.console.connection import Connection, Log
from services.console.verification.findings import Findings, Numbers, Span
from shared.changelog import SourceState, read_source
from shared.events import readable_source

# Of one difference: more is a range of a transaction, of which the numbers say no more than the offsets.
_RECORDS = 100_000
_STRETCHES = 10


async def name_events(connection: Connection, findings: Findings) -> None:
    """Add to each listed difference that has input records which events those are.

    Raises:
        TandemError: Kafka does not answer or refuses, or retention was quicker.
    """
    readers: dict[TopicPartition, Log] = {}
    for difference in list(findings.differences):
        span = difference.input
        if span is None or difference.numbers:
            continue
        place = TopicPartition(span.topic, span.partition)
        if place not in readers:
            readers[place] = await connection.read({place: span.first_offset})
        readers[place].seek(place, span.first_offset)
        findings.name(difference, await _events_in(readers[place], place, span))
    for reader in readers.values():
        await connection.close(reader)


async def read_sources(connection: Connection, place: TopicPartition) -> dict[str, SourceState]:
    """Return what a partition of a changelog holds of each source now.

    Raises:
        TandemError: Kafka does not answer or refuses.
        ValueError: another version wrote it.
    """
    where = (await connection.ends([place]))[place]
    found: dict[str, SourceState] = {}
    log = await connection.read({place: where.start})
    try:
        while portions := await log.next({place: where.end}):
            for record in portions.get(place, []):
                stored = read_source(record.key, record.value)
                if stored is None:
                    continue
                source, state = stored
                if state is None:
                    found.pop(source, None)
                else:
                    found[source] = state
    finally:
        await connection.close(log)
    return found


async def _events_in(log: Log, place: TopicPartition, span: Span) -> list[Numbers]:
    end = min(span.last_offset, span.first_offset + _RECORDS - 1) + 1
    stretches: list[Numbers] = []
    while len(stretches) < _STRETCHES and (portions := await log.next({place: end})):
        within = (record for record in portions.get(place, []) if span.first_offset <= record.offset < end)
        _extend(stretches, span, within)
    return stretches[:_STRETCHES]


def _extend(stretches: list[Numbers], span: Span, records: Iterable[Any]) -> None:
    """Add the events of these records, consecutive numbers of a source as one stretch."""
    latest = {one.source: place for place, one in enumerate(stretches)}
    for record in records:
        found = readable_source(record.value)
        if found is None:
            continue
        source, number = found
        place = latest.get(source)
        if place is not None and stretches[place].last == number - 1:
            before = stretches[place]
            stretches[place] = Numbers(span.topic, span.partition, source, before.first, number)
        else:
            latest[source] = len(stretches)
            stretches.append(Numbers(span.topic, span.partition, source, number, number))
