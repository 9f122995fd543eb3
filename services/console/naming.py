"""Which events, by source and number, are behind what a verification found: looked up in the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka.structs import TopicPartition

from services.console.connection import Connection
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
    wanted = [one for one in findings.differences if one.input is not None and not one.numbers]
    for difference in wanted:
        assert difference.input is not None, "chosen so"
        findings.name(difference, await _events_in(connection, difference.input))


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


async def _events_in(connection: Connection, span: Span) -> list[Numbers]:
    place = TopicPartition(span.topic, span.partition)
    end = min(span.last_offset, span.first_offset + _RECORDS - 1) + 1
    stretches: list[Numbers] = []
    log = await connection.read({place: span.first_offset})
    try:
        while len(stretches) < _STRETCHES and (portions := await log.next({place: end})):
            within = (record for record in portions.get(place, []) if record.offset < end)
            _extend(stretches, span, within)
    finally:
        await connection.close(log)
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
