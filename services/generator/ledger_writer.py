"""Writes the ledger to Kafka, each entry acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from aiokafka.errors import KafkaError

from services.generator.client import BatchBuilder, Producer, failed_for_good, hand_over
from services.generator.ledger import Ledger, as_record
from shared.results import LedgerEntry

_PARTITION = 0


class LedgerWriter:
    """Brings the ledger's changes to its topic.

    Args:
        producer: started; not closed here.
        ledger: what is written.
        topic: the ledger's name in Kafka.
        interval_seconds: from one round to the next.
        attempt_seconds: bounds one try to hand a batch over.
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        producer: Producer,
        ledger: Ledger,
        *,
        topic: str,
        interval_seconds: float,
        attempt_seconds: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._producer = producer
        self._ledger = ledger
        self._topic = topic
        self._interval_seconds = interval_seconds
        self._attempt_seconds = attempt_seconds
        self._clock = clock
        self._wall = wall
        # When the batch was handed over that is not acknowledged yet; None where there is none.
        self.oldest_handed_over_at: float | None = None

    async def run(self) -> None:
        """Write what has changed, again and again, until cancelled. Errors as `write`."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            await self.write()

    async def write(self, *, finished: bool = False) -> None:
        """Write what has changed and wait until Kafka has it.

        The caller sets the deadline.

        Args:
            finished: nothing more will come from this source.

        Raises:
            StopServiceError: Kafka did not take it.
        """
        now = self._wall()
        updated_at = datetime.fromtimestamp(now, UTC).isoformat()
        entries = self._ledger.changes(updated_at, finished=finished)
        for batch in self._batches(entries, int(now * 1000)):
            self.oldest_handed_over_at = self._clock()
            try:
                acknowledgement = await hand_over(
                    self._producer,
                    batch,
                    topic=self._topic,
                    partition=_PARTITION,
                    attempt_seconds=self._attempt_seconds,
                )
                await acknowledgement
            except KafkaError as error:
                raise failed_for_good(
                    error, topic=self._topic, partition=_PARTITION, what="ledger entries"
                ) from error
            finally:
                self.oldest_handed_over_at = None
        self._ledger.written(entries)

    def _batches(self, entries: Sequence[LedgerEntry], timestamp_ms: int) -> list[BatchBuilder]:
        batches: list[BatchBuilder] = []
        for key, value in map(as_record, entries):
            if not batches or batches[-1].append(timestamp=timestamp_ms, key=key, value=value) is None:
                batches.append(self._producer.create_batch())
                batches[-1].append(timestamp=timestamp_ms, key=key, value=value)
        for batch in batches:
            batch.close()
        return batches
