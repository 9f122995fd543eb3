"""Reads the input of each partition beside what was published of it, and has both compared.

Memory is bounded: one portion of the input at a time, the results that belong to it, and the state that
recomputing needs (users, sensors).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka.structs import TopicPartition

from services.console.accounts import PartitionAccount, accounts
from services.console.connection import Connection, Log
from services.console.following import Follower, LatestByKey, places_of
from services.console.merge import Ends
from services.console.naming import name_events, read_sources
from services.console.verification.findings import Findings
from services.console.verification.partitions import BehaviorCheck, PartitionCheck, SensorCheck, Task
from services.console.verification.queues import PublishedQueue
from services.console.verification.recompute import Origin
from services.console.verification.rules import RulesHistory
from shared import topics
from shared.errors import AccessRefusedError, TandemError
from shared.results import LedgerEntry, Progress

_CHECKS: dict[str, type[PartitionCheck]] = {
    topics.USER_BEHAVIOR: BehaviorCheck,
    topics.SENSOR_DATA: SensorCheck,
}
_INPUTS_OF: dict[str, tuple[str, ...]] = {
    topics.BEHAVIOR_STATS: (topics.USER_BEHAVIOR,),
    topics.PURCHASES: (topics.USER_BEHAVIOR,),
    topics.SENSOR_STATS: (topics.SENSOR_DATA,),
    topics.ALERTS: (topics.SENSOR_DATA,),
    topics.DEAD_LETTERS: topics.INPUTS,
}
_OUTPUTS = tuple(_INPUTS_OF)
# Partitions that are compared at a time.
_AT_ONCE = 2


@dataclass(frozen=True)
class Verdict:
    """What came of a verification. `records` is how many input records were recomputed."""

    partitions: list[PartitionAccount]
    findings: Findings
    records: int
    behind: int

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return self.findings.total == 0


class Verification:
    """One verification of everything under the prefix.

    Args:
        on_progress: told how many input offsets are compared and how many there are.
    """

    def __init__(
        self, connection: Connection, *, on_progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> None:
        self._connection = connection
        self._named = connection.kafka.named
        self._on_progress = on_progress
        self._findings = Findings(listed=connection.console.verify_differences)
        # Events that were found lost one by one, by input partition.
        self._lost: Counter[tuple[str, int]] = Counter()
        self._done = 0
        self._to_do = 0
        self._records = 0

    async def run(self) -> Verdict:
        """Read, recompute, compare.

        Raises:
            TandemError: Kafka does not answer or refuses, a topic is missing, or a transaction stays open.
        """
        ledger = await self._latest(topics.GENERATOR_LEDGER, LedgerEntry)
        progress = await self._latest(topics.PROGRESS, Progress)
        known = accounts(ledger, progress)
        inputs = await places_of(self._connection, map(self._named, topics.INPUTS))
        outputs = await places_of(self._connection, map(self._named, _OUTPUTS))
        # What the progress speaks of is below these ends, markers of its transactions included; what a
        # reader of committed records is shown of it may lag behind the progress for a moment.
        logs = await self._connection.ends(outputs, "read_uncommitted")
        reached = {(one.topic, one.partition): one for one in progress}
        behind = await self._behind(inputs, reached)
        tasks = await self._tasks(inputs, outputs, reached, ledger)
        self._to_do = sum(len(task.span) for task in tasks)
        await self._check_all(tasks, logs)
        self._judge_accounts(known)
        await self._look_for_strays(inputs, logs)
        await name_events(self._connection, self._findings)
        return Verdict(known, self._findings, self._records, behind)

    async def _latest(self, topic: str, result: type[Any]) -> list[Any]:
        name = self._named(topic)
        latest: LatestByKey[Any] = LatestByKey(result)
        await Follower(self._connection, {name: latest}).refresh()
        results, unreadable = latest.results()
        for _ in range(unreadable):
            self._findings.differ(
                "undecodable", name, "the latest record of a key is not as the contract says"
            )
        return results

    def _judge_accounts(self, known: Iterable[PartitionAccount]) -> None:
        for one in known:
            account = one.account
            where = f"{one.topic}:{one.partition}"
            # What was named one by one is listed already; the sums find what nobody can name.
            if account.lost > self._lost[one.topic, one.partition]:
                text = f"{where}: {account.sent} acknowledged, {account.lost} of them are not counted"
                self._findings.differ("lost", one.topic, text)
            if account.before_start:
                self._findings.note(
                    f"{where}: counting began after the start of the log; "
                    f"{account.before_start} acknowledged before it are not counted as lost"
                )

    async def _tasks(
        self,
        inputs: list[TopicPartition],
        outputs: list[TopicPartition],
        reached: dict[tuple[str, int], Progress],
        ledger: list[LedgerEntry],
    ) -> list[Task]:
        starts = await self._connection.ends(inputs)
        partitions = {name: sum(place.topic == self._named(name) for place in outputs) for name in _OUTPUTS}
        names = {name: self._named(name) for name in (*_OUTPUTS, topics.PROGRESS)}
        tasks = []
        for place in inputs:
            progress = reached.get((place.topic, place.partition))
            if progress is None:
                self._findings.note(f"{place.topic}:{place.partition}: nothing was counted yet")
                continue
            try:
                history = RulesHistory(progress.settings)
            except ValueError as error:
                raise TandemError(f"progress of {place.topic}:{place.partition}: {error}") from error
            first = progress.first_offset
            start = min(max(first, starts[place].start, history.known_from), progress.offset)
            if start > first:
                self._findings.note(
                    f"{place.topic}:{place.partition}: retention took offsets {first} to {start - 1}; "
                    "what was counted of them can't be recomputed, and totals are not compared"
                )
            origin = Origin(place.topic, place.partition, first, start)
            entries = [one for one in ledger if (one.topic, one.partition) == place]
            tasks.append(Task(origin, progress, history, names, partitions, entries))
        ours = {(place.topic, place.partition) for place in inputs}
        for topic, partition in sorted(reached.keys() - ours):
            self._findings.note(f"{topic}:{partition}: not one of our inputs; only its accounts are shown")
        return tasks

    async def _check_all(self, tasks: Iterable[Task], logs: dict[TopicPartition, Ends]) -> None:
        """Compare partition by partition, some at a time: while one waits for Kafka another one computes."""
        waiting = iter(tasks)

        async def check_next() -> None:
            for task in waiting:
                await self._check(task, logs)

        at_work = [asyncio.create_task(check_next()) for _ in range(_AT_ONCE)]
        try:
            await asyncio.gather(*at_work)
        finally:
            for one in at_work:
                one.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)

    async def _check(self, task: Task, logs: dict[TopicPartition, Ends]) -> None:
        """Compare everything of one input partition."""
        topic = task.origin.topic.removeprefix(self._connection.kafka.topic_prefix)
        check = _CHECKS[topic](task, self._findings)
        end = task.progress.offset
        place = TopicPartition(task.origin.topic, task.origin.partition)
        feeds = [await self._feed(name, queue, task, logs) for name, queue in check.queues.items()]
        log = await self._connection.read({place: task.origin.start})
        position = task.origin.start
        while portions := await log.next({place: end}):
            records = portions.get(place, [])
            while records and records[-1].offset >= end:
                records.pop()
            below = min(await log.position(place), end)
            self._records += len(records)
            for feed in feeds:
                await feed.fill(below)
            check.take(records, below)
            self._done += below - position
            position = below
            self._on_progress(self._done, self._to_do)
        for feed in feeds:
            await feed.drain()
            await self._connection.close(feed.log)
        await self._connection.close(log)
        check.finish()
        if check.accounts_differ:
            await self._compare_sources(check, topic)
        self._lost[task.origin.topic, task.origin.partition] = check.lost

    async def _compare_sources(self, check: PartitionCheck, topic: str) -> None:
        """Ask the state of the processor which events it has missed: of its accounts only the sums differ."""
        changelog = self._named(topics.changelog_of(topic))
        place = TopicPartition(changelog, check.task.origin.partition)
        if changelog not in await self._connection.topics():
            self._findings.note(f"no topic {changelog}, or none for us: what was not counted is not named")
            return
        try:
            sources = await read_sources(self._connection, place)
        except (AccessRefusedError, ValueError) as error:
            self._findings.note(
                f"{changelog}:{place.partition}: can't be read, so what was not counted is not named: {error}"
            )
        else:
            check.compare_sources(sources)

    async def _feed(
        self, name: str, queue: PublishedQueue[Any], task: Task, logs: dict[TopicPartition, Ends]
    ) -> Feed:
        place = TopicPartition(self._named(name), task.origin.partition % task.partitions[name])
        log = await self._connection.read({place: logs[place].start})
        return Feed(log, place, logs[place].end, queue)

    async def _look_for_strays(self, inputs: list[TopicPartition], logs: dict[TopicPartition, Ends]) -> None:
        """Look into the result partitions that belong to no input partition: nothing may stand there."""
        counts = {name: sum(place.topic == self._named(name) for place in inputs) for name in topics.INPUTS}
        for place, where in logs.items():
            name = place.topic.removeprefix(self._connection.kafka.topic_prefix)
            if place.partition < max(counts[one] for one in _INPUTS_OF[name]):
                continue
            log = await self._connection.read({place: where.start})
            while portions := await log.next({place: where.end}):
                for record in portions.get(place, []):
                    text = f"{place.topic}:{place.partition}@{record.offset}: belongs to no input partition"
                    self._findings.differ("misplaced", place.topic, text)
            await self._connection.close(log)

    async def _behind(self, inputs: list[TopicPartition], reached: dict[tuple[str, int], Progress]) -> int:
        ends = await self._connection.ends(inputs)
        offsets = {
            place: one.offset if (one := reached.get((place.topic, place.partition))) else where.start
            for place, where in ends.items()
        }
        return sum(max(0, where.end - offsets[place]) for place, where in ends.items())


class Feed:
    """Fills a queue from the log of a result partition, up to where it ended when we began."""

    def __init__(self, log: Log, place: TopicPartition, end: int, queue: PublishedQueue[Any]) -> None:
        self.log = log
        self._place = place
        self._end = end
        self._queue = queue

    async def fill(self, below: int) -> None:
        """Read until everything that belongs below an input offset is in the queue.

        Raises:
            TandemError: see `Log.next`.
        """
        while self._queue.needs_more(below) and await self._read():
            pass

    async def drain(self) -> None:
        """Read to the end.

        Raises:
            TandemError: see `Log.next`.
        """
        while await self._read():
            pass

    async def _read(self) -> bool:
        portions = await self.log.next({self._place: self._end})
        self._queue.add(portions.get(self._place, []))
        return bool(portions)
