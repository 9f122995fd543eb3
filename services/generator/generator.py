"""The generator's life: its streams, and what goes on beside them.

```
streams ────────────────▶ made ──▶ flush ──▶ last ledger entries ──▶ end
deliver, ledger, watch, report ─────────────────────────────────┘
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.generator.bounds import DeliveryBounds
from services.generator.ledger_writer import LedgerWriter
from services.generator.slowness import SlownessLog
from services.generator.stream import Stream
from shared.errors import StopServiceError, TandemError
from shared.health import Health
from shared.logs import Logger

_WATCH_SECONDS = 0.5
_REPORT_SECONDS = 1.0
_STUCK_SECONDS = 30.0
_LAST_WORDS_SECONDS = 2.0


class Generator:
    """Runs streams to their end.

    Args:
        streams: each with a publisher of its own.
        ledger_writer: keeps the accounts in Kafka.
        kafka_answers: asks Kafka, within a bound, whether it could take events just now.
        bounds: how long deliveries are waited for.
        partition_count: returns a topic's partitions as Kafka last said, 0 where it names none.
        topic_gone_seconds: how long Kafka may not know a topic before it counts as deleted: a broker that
            has just started does not know them all.
        drain_seconds: how long what is in flight is waited for, once asked to stop.
        health: of this process.
        clock: monotonic seconds.
        log: the service's.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        *,
        ledger_writer: LedgerWriter,
        kafka_answers: Callable[[], Awaitable[bool]],
        bounds: DeliveryBounds,
        partition_count: Callable[[str], int],
        topic_gone_seconds: float,
        drain_seconds: float,
        health: Health,
        clock: Callable[[], float],
        log: Logger,
    ) -> None:
        self._streams = streams
        self._ledger_writer = ledger_writer
        self._kafka_answers = kafka_answers
        self._bounds = bounds
        self._partition_count = partition_count
        self._topic_gone_seconds = topic_gone_seconds
        self._drain_seconds = drain_seconds
        self._health = health
        self._clock = clock
        self._log = log

    async def run(self, stopping: asyncio.Event) -> None:
        """Make and deliver events until the streams' bounds are reached or `stopping` is set.

        Raises:
            StopServiceError: a delivery failed for good, or took too long, or a topic changed.
        """
        began_at = self._clock()
        reasons: list[str] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                reasons = await self._live(tasks, stopping)
            if reasons:
                raise StopServiceError("; ".join(reasons))
        except ExceptionGroup as errors:
            await self._last_words()
            raise _first(errors) from errors
        finally:
            self._health.not_ready("service", "stopped")
            self._health.ended("watch")
            self._close_accounts(self._clock() - began_at)

    async def _live(self, tasks: asyncio.TaskGroup, stopping: asyncio.Event) -> list[str]:
        """Return what speaks against an end in order; empty when nothing does."""
        # 1. What goes on beside the streams.
        ledger = tasks.create_task(self._ledger_writer.run())
        beside = [ledger, tasks.create_task(self._watch()), tasks.create_task(self._report())]
        beside.append(tasks.create_task(self._ask_kafka()))
        beside += [tasks.create_task(stream.publisher.deliver()) for stream in self._streams]
        # 2. The streams, until all have ended, or we are asked to stop, or have to.
        streams = [tasks.create_task(stream.run()) for stream in self._streams]
        made = tasks.create_task(_all_done(streams))
        asked = tasks.create_task(_until(stopping))
        changed = tasks.create_task(self._until_partitions_change())
        self._health.ready("service")
        await asyncio.wait({made, asked, changed}, return_when=asyncio.FIRST_COMPLETED)
        self._health.not_ready("service", "draining")
        for stream in streams:
            stream.cancel()
        await made
        # 3. What they made is delivered, and accounted for.
        in_doubt = await self._drain({asked, changed}, ledger)
        # 4. The rest ends.
        reasons = [changed.result()] if changed.done() else []
        for task in [*beside, asked, changed]:
            task.cancel()
        return [*reasons, *in_doubt]

    async def _drain(self, in_a_hurry: set[asyncio.Task[Any]], ledger: asyncio.Task[None]) -> list[str]:
        """Wait for all acknowledgements, then write the ledger's last entries.

        A bounded run waits as long as deliveries may take. From when one of `in_a_hurry` is done,
        `drain_seconds` are the bound.

        Returns what was not acknowledged in time, in words; empty when all was.

        Raises:
            StopServiceError: Kafka did not take the ledger's entries.
        """

        async def to_the_end() -> None:
            for stream in self._streams:
                await stream.publisher.flush()
            ledger.cancel()
            await asyncio.wait({ledger})
            await self._ledger_writer.write(finished=True)

        drained = asyncio.create_task(to_the_end())
        try:
            await asyncio.wait({drained, *in_a_hurry}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({drained}, timeout=self._drain_seconds)
        finally:
            drained.cancel()
            await asyncio.wait({drained})
        if not drained.cancelled():
            drained.result()
            return []
        ledger.cancel()
        await asyncio.wait({ledger})
        await self._last_words()
        left = sum(stream.figures()["in_flight"] for stream in self._streams)
        bound = f"GENERATOR_DRAIN_SECONDS={self._drain_seconds:g}"
        return [f"not all was acknowledged within {bound} of the stop: {left} events are in doubt"]

    async def _watch(self) -> None:
        """End the service when a delivery failed or takes too long, and say when Kafka is slow."""
        slowness = SlownessLog(self._log)
        while True:
            now = self._clock()
            self._health.beat("watch", bound_seconds=_STUCK_SECONDS)
            publishers = [stream.publisher for stream in self._streams]
            for publisher in publishers:
                if publisher.failure is not None:
                    raise publisher.failure
            waiting = [publisher.oldest_handed_over_at for publisher in publishers]
            waiting.append(self._ledger_writer.oldest_handed_over_at)
            self._tell_health()
            oldest = min((at for at in waiting if at is not None), default=None)
            reason = self._bounds.exceeded(now, oldest)
            if reason is not None:
                raise StopServiceError(reason)
            slowness.look(
                now,
                oldest_seconds=0.0 if oldest is None else now - oldest,
                silent_seconds=self._bounds.silent_seconds(now),
                publishers=publishers,
            )
            await asyncio.sleep(_WATCH_SECONDS)

    def _tell_health(self) -> None:
        for publisher in [stream.publisher for stream in self._streams]:
            for account in publisher.accounts:
                place = f"{account.topic}:{account.partition}"
                self._health.moved(place, account.acknowledged, behind=account.in_flight > 0)
        at = self._ledger_writer.oldest_handed_over_at
        self._health.moved("the ledger", at, behind=at is not None)

    async def _ask_kafka(self) -> None:
        """Ask whether Kafka answers: only then is what does not move stuck."""
        while True:
            await asyncio.sleep(self._health.round_seconds)
            self._health.kafka_answers("generator", answers=await self._kafka_answers())

    async def _until_partitions_change(self) -> str:
        """Wait until a topic has another number of partitions, and return that as a reason to stop.

        Keys would move to other partitions, and the order of a key's events would be lost.
        """
        missing_since: dict[str, float] = {}
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            for publisher in [stream.publisher for stream in self._streams]:
                topic, had = publisher.topic, len(publisher.accounts)
                has = self._partition_count(topic)
                if has > had:
                    return (
                        f"topic {topic} has {has} partitions now, and had {had} when this generator started: "
                        "keys would move to other partitions; start it again to use them all"
                    )
                if has == had:
                    missing_since.pop(topic, None)
                elif (
                    self._clock() - missing_since.setdefault(topic, self._clock()) > self._topic_gone_seconds
                ):
                    return (
                        f"topic {topic} had {had} partitions and now has {has}: it was deleted or made anew; "
                        "`tandem topics create` creates what the services need"
                    )

    async def _report(self) -> None:
        """Log each stream's figures, once a second at most, and only where they changed."""
        while True:
            began_at = self._clock()
            await asyncio.sleep(_REPORT_SECONDS)
            for stream in self._streams:
                if stream.measure(self._clock() - began_at):
                    self._log.info("generated", stream=stream.name, **stream.figures())

    async def _last_words(self) -> None:
        """Bring the ledger up to date after a failure: not as finished, and without insisting."""
        try:
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._ledger_writer.write()
        except (TimeoutError, StopServiceError) as error:
            # It claims less than was acknowledged, which it may; the service is ending already.
            self._log.warning("ledger_behind", reason=str(error) or "not acknowledged in time")

    def _close_accounts(self, seconds: float) -> None:
        for stream in self._streams:
            figures = stream.figures()
            figures["events_per_second"] = round(figures["acknowledged"] / max(seconds, 1e-3), 1)
            self._log.info("generator_closed", stream=stream.name, seconds=round(seconds, 3), **figures)


async def _all_done(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _first(errors: BaseException) -> BaseException:
    """Return the error that says why: one of ours before any other."""
    while isinstance(errors, BaseExceptionGroup):
        ours = errors.subgroup(TandemError)
        errors = (ours or errors).exceptions[0]
    return errors
