"""Bringing a partition's state back from its changelog, and refusing to count from one in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from services.processor.partition import FORMAT, OFFSET_KEY, OffsetRecord, Partition
from services.processor.record_batches import batches
from services.processor.records import RecordBatch
from shared.errors import KafkaUnavailableError, StopServiceError
from shared.kafka import refusal

_POLL_MILLISECONDS = 200
_decode_offset_record = msgspec.json.Decoder(OffsetRecord).decode

_WAYS_OUT = (
    "the state and the committed offset do not belong together, and counting from them would count wrongly. "
    "Either bring the changelog back as it was, or stop all processors of this group, delete its committed "
    "offsets and the records of the changelog, and let it count the input again from the start (purchases "
    "and alerts are then published again, with the same identities)"
)


@dataclass(frozen=True)
class Restored:
    """What a changelog held. `offset_record` is None where it never had one."""

    records: int
    offset_record: OffsetRecord | None


class ChangelogReader:
    """Reads one changelog partition into a `Partition`.

    Args:
        consumer: the task's own, with nothing assigned yet.
        changelog: partition to be read.
        deadline_seconds: how long to wait for the next record.
        on_progress: told how many records were read and how many are left.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        changelog: TopicPartition,
        *,
        deadline_seconds: float,
        on_progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._consumer = consumer
        self._changelog = changelog
        self._deadline_seconds = deadline_seconds
        self._on_progress = on_progress
        self._should_stop = should_stop

    async def read_into(self, partition: Partition) -> Restored | None:
        """Read from the beginning to the last stable offset; None if it was to stop before.

        Raises:
            KafkaUnavailableError: nothing came for `deadline_seconds`.
            StopServiceError: the changelog is another's, or not readable as state.
        """
        place = self._changelog
        self._consumer.assign([place])
        try:
            position = (await self._consumer.beginning_offsets([place]))[place]
            end = (await self._consumer.end_offsets([place]))[place]
        except KafkaError as error:
            refused = refusal(error, doing=f"read the changelog {place.topic}")
            raise refused or KafkaUnavailableError(f"the ends of {place} are not known: {error!r}") from error
        self._consumer.seek(place, position)
        found: OffsetRecord | None = None
        records = 0
        loop = asyncio.get_running_loop()
        moved_at = loop.time()
        # One fetch is answered even where there is nothing: only that shows that reading is permitted.
        while position < end or self._consumer.last_stable_offset(place) is None:
            if self._should_stop():
                return None
            fetched = await self._fetch()
            if fetched:
                moved_at = loop.time()
            elif loop.time() - moved_at > self._deadline_seconds:
                raise KafkaUnavailableError(f"no record of {place} for {self._deadline_seconds:g} s")
            for batch in fetched:
                found = self._take(batch, partition) or found
                records += len(batch.records)
                position = batch.next_offset
            self._on_progress(sum(len(batch.records) for batch in fetched), max(end - position, 0))
        return Restored(records, found)

    async def _fetch(self) -> list[RecordBatch]:
        try:
            fetched = await self._consumer.getmany(self._changelog, timeout_ms=_POLL_MILLISECONDS)
        except KafkaError as error:
            refused = refusal(error, doing=f"read the changelog {self._changelog.topic}")
            raise refused or KafkaUnavailableError(f"{self._changelog}: {error!r}") from error
        return batches(fetched.get(self._changelog, []))

    def _take(self, batch: RecordBatch, partition: Partition) -> OffsetRecord | None:
        found: OffsetRecord | None = None
        for record in batch.records:
            try:
                if record.key == OFFSET_KEY:
                    found = _decode_offset_record(record.value) if record.value is not None else None
                elif record.key is not None:
                    partition.state.restore(record.key, record.value)
            except (KeyError, ValueError, AssertionError) as error:
                raise StopServiceError(
                    f"{self._changelog.topic}:{self._changelog.partition}@{record.offset} is not a state "
                    f"that this version and topology wrote ({error!r}); {_WAYS_OUT}"
                ) from error
        return found


def starting_offset(
    restored: Restored, *, committed: int | None, partition: Partition, group: str, where: str
) -> int | None:
    """Decide from which input offset a restored partition goes on.

    Returns:
        The offset, or None where neither the group nor the changelog knows one: a first start.

    Raises:
        StopServiceError: state and offset do not belong together; with both, and the ways out.
    """
    found = restored.offset_record
    live = partition.state.live_keys
    if found is None:
        if committed is None and not live:
            return None
        raise StopServiceError(
            f"{where}: the changelog has {live} keys and no offset record, the group {group} has committed "
            f"{'nothing' if committed is None else committed}: {_WAYS_OUT}"
        )
    if found.format != FORMAT:
        raise StopServiceError(
            f"{where}: the state has format {found.format}, this version knows {FORMAT}: run the version "
            "that wrote it"
        )
    if found.group != group or found.input != partition.place.topic:
        raise StopServiceError(
            f"{where}: the changelog belongs to group {found.group} and input {found.input}, not to {group} "
            f"and {partition.place.topic}: {_WAYS_OUT}"
        )
    if found.live_keys != live:
        raise StopServiceError(
            f"{where}: the changelog should hold {found.live_keys} keys at offset {found.offset} and holds "
            f"{live}, the group has committed {committed}: {_WAYS_OUT}"
        )
    if committed is not None and committed != found.offset:
        raise StopServiceError(
            f"{where}: the changelog stands at offset {found.offset}, the group {group} has committed "
            f"{committed}: {_WAYS_OUT}"
        )
    return found.offset


def describe(restored: Restored) -> dict[str, Any]:
    """Return what the log says of a restore."""
    found = restored.offset_record
    return {"records": restored.records, "keys": found.live_keys if found else 0}
