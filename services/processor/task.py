"""The life of one input partition in this process, from the fence to the last commit.

```
            assigned                 restored                   lost, stopped
 CREATED ─────────────▶ RESTORING ─────────────▶ RUNNING ───────────────────────▶ CLOSED
                            │                        │                              ▲
                            └──────── any failure: closed dirty, rebuilt from committed ──┘
```
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from services.processor.commit_policy import CommitPolicy, Pending
from services.processor.guarantee import Guarantee
from services.processor.latency import summarize
from services.processor.partition import Partition, Transaction
from services.processor.record_batches import unpacked
from services.processor.records import RecordBatch
from services.processor.restore import ChangelogReader, describe, starting_offset
from services.processor.settings import ProcessorSettings
from services.processor.task_clients import ask_for_topics
from shared.connecting import stop_client
from shared.errors import KafkaUnavailableError, RebuildTaskError, StopServiceError, TandemError
from shared.kafka import Permission, refusal
from shared.logs import Logger
from shared.waiting import unless_ended, watched

# How long getmany waits at most where something is pending.
_POLL_SECONDS = 0.2
# And where nothing is, if health need not hear of it more often: an answer, a stop or the loss of the
# partition ends the wait.
_IDLE_POLL_SECONDS = 2.0
# The client forgets to let go of what it waits for where it is cut off: it is left to end by itself.
_CUT_OFF_SECONDS = _IDLE_POLL_SECONDS + 5.0
_STEADY_SECONDS = 30.0


class TaskState(Enum):
    """Where a task stands; see the drawing above."""

    CREATED = "created"
    RESTORING = "restoring"
    RUNNING = "running"
    CLOSED = "closed"


class Observer(Protocol):
    """Told what a task does; metrics, health and the log listen here. No call may block or raise."""

    def restoring(self, records: int, left: int) -> None:
        """Note that changelog records were read and how many are left."""

    def restored(self, seconds: float, figures: dict[str, Any]) -> None:
        """Note that the state is back."""

    def committed(self, transaction: Transaction, seconds: float, figures: dict[str, Any]) -> None:
        """Note a commit: how long it took, and the figures that are now committed."""

    def position(
        self, committed_offset: int, next_offset: int, last_stable_offset: int | None, *, overdue: bool
    ) -> None:
        """Note where the partition stands; called every few hundred milliseconds, idle every few seconds.

        `overdue` says that a commit is due.
        """

    def holding(self, records: int, size_bytes: int, bounded_keys: int) -> None:
        """Note what is pending, and how many keys count towards the bound of the state; as often."""


@dataclass
class Gate:
    """What a task is told from outside.

    Attributes:
        may_commit: cleared during a rebalance.
        lost: the partition was given to somebody else.
        stopping: the process is asked to stop.
        idle: cleared by the task while a commit runs.
    """

    may_commit: asyncio.Event
    lost: asyncio.Event
    stopping: asyncio.Event
    idle: asyncio.Event

    def ends(self) -> bool:
        """Say whether the task is to end."""
        return self.lost.is_set() or self.stopping.is_set()


class Task:
    """One build of one partition. After any failure it is closed and a new one is made.

    Args:
        partition: empty; restoring fills it.
        make_consumer: returns the data consumer, started, reading whole batches, with nothing assigned.
        changelog: changelog partition of the input partition.
        reader: makes what reads the changelog.
        longest_round_seconds: how often the observer has to hear where the partition stands, at least.
        wall_clock: seconds since the epoch; for latencies and `updated_at`.
    """

    def __init__(
        self,
        partition: Partition,
        guarantee: Guarantee,
        *,
        make_consumer: Callable[[], Any],
        changelog: TopicPartition,
        group: str,
        settings: ProcessorSettings,
        deadline_seconds: float,
        longest_round_seconds: float,
        gate: Gate,
        observer: Observer,
        wall_clock: Callable[[], float],
        log: Logger,
        reader: Callable[..., ChangelogReader] = ChangelogReader,
    ) -> None:
        self.state = TaskState.CREATED
        self._commits = 0
        self._running_since: float | None = None
        self._partition = partition
        self._place = TopicPartition(partition.place.topic, partition.place.partition)
        self._guarantee = guarantee
        self._make_consumer = make_consumer
        self._changelog = changelog
        self._group = group
        self._settings = settings
        self._policy = CommitPolicy.of(settings)
        self._deadline_seconds = deadline_seconds
        self._idle_poll_ms = max(int(min(_IDLE_POLL_SECONDS, longest_round_seconds) * 1000), 1)
        self._gate = gate
        self._observer = observer
        self._wall_clock = wall_clock
        self._log = log
        self._reader = reader
        self._consumer: AIOKafkaConsumer | None = None
        self._loop = asyncio.get_running_loop()
        self._pending_since: float | None = None
        self._committed_at = self._loop.time()
        self._commit_seconds = self._worked_seconds = 0.0
        self._committed_offset = 0
        self._was_idle = False
        self._ends: Collection[asyncio.Future[Any]] = ()

    async def run(self) -> None:
        """Open, restore, and work until the partition is lost or the process stops.

        Raises:
            RebuildTaskError: close this task and make a new one.
            KafkaUnavailableError: the same, and Kafka is away.
            StopServiceError: the process has to end.
        """
        try:
            if await self._open():
                self.state = TaskState.RUNNING
                self._running_since = self._loop.time()
                async with watched(self._gate.lost, self._gate.stopping) as self._ends:
                    await self._work()
        finally:
            await self._close()

    @property
    def was_of_use(self) -> bool:
        """Whether it committed, or ran for a while without anything to commit."""
        ran = 0.0 if self._running_since is None else self._loop.time() - self._running_since
        return self._commits > 0 or ran > _STEADY_SECONDS

    async def _open(self) -> bool:
        """Fence, ask for the committed offset, restore, and seek. False where it was to end before."""
        self.state = TaskState.RESTORING
        began = self._loop.time()
        # 1. The fence first: after it nobody else moves the committed offset or the changelog. A mark of
        # ours in the changelog then says how far there is something to read.
        await self._guarantee.open()
        mark = await self._guarantee.claim()
        committed = await self._guarantee.committed()
        fenced = self._loop.time()
        # 2. The state.
        self._consumer = await self._make_consumer()
        restored = await self._reader(
            self._consumer,
            self._changelog,
            mark=mark,
            deadline_seconds=self._deadline_seconds,
            on_progress=self._observer.restoring,
            should_stop=self._gate.ends,
        ).read_into(self._partition)
        if restored is None:
            return False
        # 3. Where to go on.
        where = f"{self._place.topic}:{self._place.partition}"
        offset = starting_offset(
            restored,
            committed=committed,
            partition=self._partition,
            group=self._group,
            where=where,
            at_least_once=self._settings.guarantee == "at_least_once",
        )
        self._consumer.assign([self._place])
        ask_for_topics(self._consumer)
        if offset is None:
            offset = await self._first_offset()
            self._partition.begin(offset)
        elif not self._partition.state.live_keys:
            # `tandem reset-offsets` has taken the state back to nothing.
            self._partition.begin(offset)
        else:
            self._partition.restored(offset)
        self._consumer.seek(self._place, offset)
        self._committed_offset = offset
        seconds = self._loop.time() - began
        self._observer.restored(seconds, self._partition.figures())
        self._log.info(
            "task_running",
            input=where,
            offset=offset,
            committed=committed,
            seconds=round(seconds, 3),
            fence_seconds=round(fenced - began, 3),
            **describe(restored),
        )
        if restored.offset_record is not None and offset < restored.offset_record.offset:
            twice = restored.offset_record.offset - offset
            self._log.warning("changelog_ahead", input=where, counted_twice_at_most=twice)
        if restored.offset_record is not None and committed is None:
            self._log.warning("group_offset_was_gone", input=where, goes_on_from=offset)
            self._touch()
            await self._commit()
        return True

    async def _first_offset(self) -> int:
        assert self._consumer is not None, "it was made"
        low, high = await self._range()
        return low if self._settings.start == "earliest" else high

    async def _range(self) -> tuple[int, int]:
        assert self._consumer is not None, "it was made"
        try:
            async with asyncio.timeout(self._deadline_seconds):
                low = await self._consumer.beginning_offsets([self._place])
                high = await self._consumer.end_offsets([self._place])
        except (KafkaError, TimeoutError) as error:
            raise self._read_failure(error) from error
        return int(low[self._place]), int(high[self._place])

    async def _work(self) -> None:
        while not self._gate.ends():
            fetched = await self._fetch()
            batch: RecordBatch | None
            for batch in fetched:
                await self._take(batch)
                if self._gate.ends():
                    break
            else:
                if self._due_in() == 0:
                    await self._commit()
                self._tell_position()
            batch = None  # It would hold its answer while the next one is waited for.
        if self._gate.stopping.is_set():
            await self._commit()

    async def _fetch(self) -> Iterator[RecordBatch]:
        assert self._consumer is not None, "it was made"
        due_in = self._due_in()
        # Never zero: getmany would not let the event loop run.
        wait = _POLL_SECONDS if due_in is None else min(max(due_in, 0.001), _POLL_SECONDS)
        if due_in == 0 and not self._gate.may_commit.is_set():
            wait = _POLL_SECONDS
        try:
            if due_in is None and self._was_idle:
                idle = self._consumer.getmany(self._place, timeout_ms=self._idle_poll_ms)
                fetched = await unless_ended(idle, self._ends, seconds=_CUT_OFF_SECONDS) or {}
            else:
                fetched = await self._consumer.getmany(self._place, timeout_ms=max(int(wait * 1000), 1))
        except OffsetOutOfRangeError:
            await self._out_of_range()
            fetched = {}
        except KafkaError as error:
            raise self._read_failure(error) from error
        self._was_idle = not fetched
        return unpacked(fetched.get(self._place, []), self._read_failure, lean=True)

    async def _take(self, batch: RecordBatch) -> None:
        """Process a batch, committing in between where a transaction may hold no more."""
        while True:
            room = self._policy.room(self._partition.records)
            whole = room is None or len(batch.records) <= room
            if whole:
                part, rest = batch, None
            elif room:
                part, rest = batch.split(room)
            else:
                part, rest = None, batch
            if part is not None:
                self._touch()
                # Not the event loop's clock, which stands still meanwhile.
                began = time.perf_counter()
                self._partition.process(part)
                self._worked_seconds += time.perf_counter() - began
            if self._due_in() == 0:
                await self._commit()
                if self._is_full() and not await self._may_go_on():
                    return
            if rest is None:
                return
            batch = rest

    async def _may_go_on(self) -> bool:
        """Wait, while a rebalance holds the commits, until there is room again. False where it is to end."""
        while self._is_full():
            if self._gate.ends():
                return False
            self._tell_position()
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._gate.may_commit.wait()
            except TimeoutError:
                continue  # Look again whether the task is to end.
            await self._commit()
        return True

    async def _commit(self) -> None:
        """Commit what is pending, if anything is, nothing holds it, and the partition is still ours."""
        if self._pending_since is None or not self._gate.may_commit.is_set() or self._gate.lost.is_set():
            return
        began = self._loop.time()
        now = datetime.fromtimestamp(self._wall_clock(), UTC).isoformat(timespec="milliseconds")
        transaction = self._partition.seal(now)
        self._gate.idle.clear()
        try:
            await self._guarantee.commit(transaction)
        finally:
            self._gate.idle.set()
        self._commits += 1
        self._committed_at = self._loop.time()
        self._commit_seconds = self._committed_at - began
        self._worked_seconds = 0.0
        self._partition.latency = summarize(transaction.oldest, self._wall_clock() * 1000)
        self._pending_since = None
        self._committed_offset = transaction.next_offset
        self._observer.committed(transaction, self._commit_seconds, self._partition.figures())

    def _tell_position(self) -> None:
        self._observer.position(
            self._committed_offset,
            self._partition.next_offset,
            self._last_stable(),
            # Also while a rebalance holds it: one that never ends is a stall like any other.
            overdue=self._due_in() == 0,
        )
        bounded_keys = self._settings.state_max_keys - self._partition.state.budget.left
        self._observer.holding(self._partition.records, self._partition.size_bytes, bounded_keys)

    def _touch(self) -> None:
        if self._pending_since is None:
            self._pending_since = self._loop.time()

    def _is_full(self) -> bool:
        return self._policy.is_full(self._partition.records, self._partition.size_bytes)

    def _due_in(self) -> float | None:
        if self._pending_since is None:
            return None
        last_stable = self._last_stable()
        pending = Pending(
            records=self._partition.records,
            size_bytes=self._partition.size_bytes,
            since=self._pending_since,
            committed_at=self._committed_at,
            commit_seconds=self._commit_seconds,
            worked_seconds=self._worked_seconds,
            caught_up=last_stable is not None and self._partition.next_offset >= last_stable,
        )
        return self._policy.due_in(pending, self._loop.time())

    def _last_stable(self) -> int | None:
        assert self._consumer is not None, "it was made"
        offset: int | None = self._consumer.last_stable_offset(self._place)
        return offset

    async def _out_of_range(self) -> None:
        """The log does not hold our position: stop, or go on from its start, as the settings say."""
        assert self._consumer is not None, "it was made"
        low, high = await self._range()
        offset = self._partition.next_offset
        where = f"{self._place.topic}:{self._place.partition}"
        if offset < low and self._settings.on_retention_loss == "skip":
            self._log.error("retention_loss", input=where, offset=offset, log_start=low, skipped=low - offset)
            self._touch()
            self._partition.skip_to(low)
            self._consumer.seek(self._place, low)
            return
        if low <= offset <= high:
            raise RebuildTaskError(f"{where}: offset {offset} was out of range and is not any more")
        raise StopServiceError(
            f"{where}: offset {offset} is not in the log, which holds {low} to {high}. "
            + (
                "Retention removed what was not read yet; PROCESSOR_ON_RETENTION_LOSS=skip goes on without it"
                if offset < low
                else "It ends before what was counted: was the topic made anew? The state does not fit it"
            )
        )

    def _read_failure(self, error: Exception) -> TandemError:
        needs = [Permission("Read", "topic", self._place.topic)]
        refused = refusal(error, doing=f"read topic {self._place.topic}", needs=needs)
        return refused or KafkaUnavailableError(f"reading {self._place.topic}: {error!r}")

    async def _close(self) -> None:
        """Let go of everything. What was not committed is done again by whoever opens next."""
        self.state = TaskState.CLOSED
        closing = [self._guarantee.close()]
        if self._consumer is not None:
            closing.append(stop_client(self._consumer, log=self._log))
        await asyncio.gather(*closing)
