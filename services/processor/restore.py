"""Bringing a partition's state back from its changelog, and refusing to count from one in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from services.processor.formats import UnknownFormatError
from services.processor.partition import Partition
from services.processor.record_batches import unpacked
from services.processor.records import RecordBatch
from services.processor.replay import Replay
from shared.changelog import OffsetRecord
from shared.errors import KafkaUnavailableError, StateInDoubtError, StopServiceError, TandemError
from shared.kafka import Permission, refusal

_POLL_MILLISECONDS = 200

_WAYS_OUT = (
    "the state and the committed offset do not belong together, and counting from them would count wrongly. "
    "Either bring the changelog back as it was, or stop all processors of this group and let it count the "
    "input again from the start: `tandem reset-offsets INPUT` (purchases and alerts are then published "
    "again, with the same identities)"
)


@dataclass(frozen=True)
class Restored:
    """What a changelog held.

    Attributes:
        records: how many were read.
        offset_record: of the last finished step; None where there never was one.
        left_out: number of keys whose latest record does not belong to the state.
    """

    records: int
    offset_record: OffsetRecord | None
    left_out: int = 0


class ChangelogReader:
    """Reads one changelog partition into a `Partition`.

    Args:
        consumer: the task's own, with nothing assigned yet.
        changelog: partition to be read.
        mark: offset of the task's own mark; what was read up to there is whole.
        deadline_seconds: how long to wait for the next record.
        on_progress: told how many records were read and how many are left.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        changelog: TopicPartition,
        *,
        mark: int,
        deadline_seconds: float,
        on_progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._consumer = consumer
        self._changelog = changelog
        self._mark = mark
        self._deadline_seconds = deadline_seconds
        self._on_progress = on_progress
        self._should_stop = should_stop

    async def read_into(self, partition: Partition) -> Restored | None:
        """Read from the beginning to the last stable offset, and our own mark; None if it was to stop before.

        Raises:
            KafkaUnavailableError: nothing came for `deadline_seconds`.
            StopServiceError: the changelog is another's, or not readable as state.
        """
        place = self._changelog
        self._consumer.assign([place])
        try:
            async with asyncio.timeout(self._deadline_seconds):
                position = (await self._consumer.beginning_offsets([place]))[place]
                end = max((await self._consumer.end_offsets([place]))[place], self._mark + 1)
        except (KafkaError, TimeoutError) as error:
            refused = self._refusal(error)
            raise refused or KafkaUnavailableError(f"the ends of {place} are not known: {error!r}") from error
        self._consumer.seek(place, position)
        self._replay = replay = Replay(partition.state.restore)
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
                raise KafkaUnavailableError(self._nothing_came())
            before = records
            for batch in unpacked(fetched, self._failure):
                self._take(batch, partition)
                records += len(batch.records)
                position = batch.next_offset
            self._on_progress(records - before, max(end - position, 0))
        left_out = replay.left_out
        partition.state.rewrite(left_out)
        return Restored(records, replay.offset_record, len(left_out))

    def _nothing_came(self) -> str:
        place = self._changelog
        hidden = (self._consumer.highwater(place) or 0) - (self._consumer.last_stable_offset(place) or 0)
        if hidden > 0:
            return (
                f"a transaction is open on {place.topic}:{place.partition}, {hidden} records can't be read "
                "until the broker ends it (PROCESSOR_TRANSACTION_TIMEOUT_SECONDS of whoever left it)"
            )
        return (
            f"no record of {place.topic}:{place.partition} for {self._deadline_seconds:g} s, and our own "
            f"mark at {self._mark} has not been read"
        )

    async def _fetch(self) -> list[Any]:
        try:
            fetched = await self._consumer.getmany(self._changelog, timeout_ms=_POLL_MILLISECONDS)
        except KafkaError as error:
            raise self._failure(error) from error
        found: list[Any] = fetched.get(self._changelog, [])
        return found

    def _failure(self, error: KafkaError) -> TandemError:
        return self._refusal(error) or KafkaUnavailableError(f"{self._changelog}: {error!r}")

    def _refusal(self, error: KafkaError) -> StopServiceError | None:
        topic = self._changelog.topic
        return refusal(error, doing=f"read the changelog {topic}", needs=[Permission("Read", "topic", topic)])

    def _take(self, batch: RecordBatch, partition: Partition) -> None:  # noqa: ARG002 — cuts look at it
        for record in batch.records:
            try:
                self._replay.take(record)
            except UnknownFormatError as error:
                raise StopServiceError(
                    f"{self._changelog.topic}:{self._changelog.partition}@{record.offset}: {error}: run the "
                    "version that wrote it"
                ) from error
            except (KeyError, ValueError, AssertionError) as error:
                raise StopServiceError(
                    f"{self._changelog.topic}:{self._changelog.partition}@{record.offset} is not a state "
                    f"that this version and topology wrote ({error!r}). Run the version that wrote it; if "
                    "there is none: stop all processors of this group, delete its committed offsets and the "
                    "changelog's topic, and let it count the input again from the start (purchases and "
                    "alerts are then published again, with the same identities)"
                ) from error


def starting_offset(
    restored: Restored,
    *,
    committed: int | None,
    partition: Partition,
    group: str,
    where: str,
    at_least_once: bool = False,
) -> int | None:
    """Decide from which input offset a restored partition goes on.

    Args:
        restored: what the changelog held.
        committed: the group's offset, None where it has none.
        partition: with the state that was restored.
        group: full name.
        where: the input partition, for the errors.
        at_least_once: the changelog may be ahead of the group: the records between count twice.

    Returns:
        The offset, or None where neither the group nor the changelog knows one: a first start.

    Raises:
        StateInDoubtError: state and offset do not belong together; with both, and the ways out.
    """
    found = restored.offset_record
    live = partition.state.live_keys
    if found is None:
        if committed is None and not live:
            return None
        raise StateInDoubtError(
            f"{where}: the changelog has {live} keys and no offset record, the group {group} has committed "
            f"{'nothing' if committed is None else committed}: {_WAYS_OUT}"
        )
    if found.group != group or found.input != partition.place.topic:
        raise StateInDoubtError(
            f"{where}: the changelog belongs to group {found.group} and input {found.input}, not to {group} "
            f"and {partition.place.topic}: {_WAYS_OUT}"
        )
    if found.live_keys != live:
        raise StateInDoubtError(
            f"{where}: the changelog should hold {found.live_keys} keys at offset {found.offset} and holds "
            f"{live}, the group has committed {committed}: {_WAYS_OUT}"
        )
    if committed is None or committed == found.offset:
        return found.offset
    if at_least_once and committed < found.offset:
        return committed
    raise StateInDoubtError(
        f"{where}: the changelog stands at offset {found.offset}, the group {group} has committed "
        f"{committed}: {_WAYS_OUT}{_of_at_least_once(committed < found.offset)}"
    )


def _of_at_least_once(is_ahead: bool) -> str:
    if not is_ahead:
        return ""
    return (
        ". If PROCESSOR_GUARANTEE was at_least_once before, and the processor did not stop cleanly: start it "
        "with at_least_once again, let it catch up, stop it with SIGTERM, and change the guarantee then"
    )


def describe(restored: Restored) -> dict[str, Any]:
    """Return what the log says of a restore."""
    found = restored.offset_record
    figures = {"records": restored.records, "keys": found.live_keys if found else 0}
    return figures | {"left_out": restored.left_out} if restored.left_out else figures
