"""Takes the state of an input partition back to nothing: it is counted again from where its log begins.

One transaction under the id of the partition's own task: a tombstone for each key of the changelog, an offset
record that says that nothing was counted, and the group's offset. So it happens whole or not at all, and
whoever had the partition is shut out. Only to the beginning: a state is that of one offset, and the one state
that can be made without counting is the empty one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from services.console.connection import Connection
from services.console.groups import GROUPS_OF_INPUTS, GroupFacts, PartitionLag, look_at
from services.console.transacting import FAILURES, aborted_if_it_fails, take_over
from shared import topics
from shared.changelog import FORMAT, OFFSET_KEY, OWN_KEYS, OffsetRecord, transactional_id_of
from shared.errors import KafkaUnavailableError, TandemError
from shared.kafka import FENCED, Permission, refusal

# Tombstones of a large state take a while; brokers as shipped allow 15 minutes.
_TIMEOUT_MILLISECONDS = 600_000
_SETTLE_SECONDS = 10.0
_SETTLE_PAUSE_SECONDS = 0.1
_BATCH_BYTES = 256 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(OffsetRecord).decode


@dataclass(frozen=True)
class Input:
    """An input topic and who counts it.

    Attributes:
        name: without the prefix; and `topic`, `changelog` and `group`: full names.
    """

    name: str
    topic: str
    changelog: str
    group: str


@dataclass
class PartitionPlan:
    """What a reset does to one partition of the input. `is_done` says that Kafka has answered that it did."""

    lag: PartitionLag
    keys: int = 0
    is_known: bool = False
    is_done: bool = False

    @property
    def number(self) -> int:
        """The number of the partition."""
        return self.lag.partition

    @property
    def counted_again(self) -> int:
        """How many offsets lie between the beginning and what was committed."""
        return max((self.lag.committed or self.lag.start) - self.lag.start, 0)

    @property
    def has_something(self) -> bool:
        """Whether anything was ever counted of it."""
        return self.is_known or self.keys > 0 or self.lag.committed is not None


@dataclass(frozen=True)
class _Changelog:
    """What stands in one partition of a changelog.

    Attributes:
        keys: all that were ever written and are still there, deleted ones too: a reader may leave the record
            that deletes one out, as one of a writer that was shut out.
        end: where the next record will stand.
    """

    keys: set[bytes]
    has_offset_record: bool
    end: int


class Reset:
    """Plans the reset of one input, and carries it out partition by partition."""

    def __init__(self, kafka: Connection, source: Input) -> None:
        self._kafka = kafka
        self._source = source

    async def plan(
        self, numbers: Collection[int], on_progress: Callable[[int, int], None]
    ) -> list[PartitionPlan]:
        """Look at the group and the changelog; changes nothing.

        Args:
            numbers: of partitions; empty: all of them.
            on_progress: told how many partitions were read and how many there are.

        Raises:
            TandemError: a topic or a partition is missing, the group has members, or Kafka does not answer.
        """
        source = self._source
        existing = await self._kafka.topics()
        if missing := [one for one in (source.topic, source.changelog) if one not in existing]:
            raise TandemError(f"no topic {', '.join(missing)}: there is nothing to count again")
        count = existing[source.topic].partitions
        if existing[source.changelog].partitions < count:
            raise TandemError(
                f"{source.topic} has {count} partitions and {source.changelog} has "
                f"{existing[source.changelog].partitions}: the operations guide has what to do under "
                "Partitions that were added"
            )
        if unknown := sorted(set(numbers) - set(range(count))):
            raise TandemError(f"{source.topic} has no partition {unknown[0]}: it has 0 to {count - 1}")
        facts = await self._group(sorted(numbers) or list(range(count)))
        plans = [PartitionPlan(lag) for lag in facts.partitions]
        for done, plan in enumerate(plans):
            found = await self._read(plan.number)
            plan.keys, plan.is_known = len(found.keys), found.has_offset_record
            on_progress(done + 1, len(plans))
        return plans

    async def carry_out(self, plan: PartitionPlan) -> None:
        """Reset one partition: whole, or not at all.

        Raises:
            TandemError: the group has members, a processor took the partition over, or Kafka refuses or does
                not answer. Asked again, it does what was not done.
        """
        source = self._source
        doing = f"reset {source.topic}:{plan.number}"
        identity = transactional_id_of(source.group, source.name, plan.number)
        needs = [
            Permission("Write", "topic", source.changelog),
            Permission("Read", "topic", source.topic),
            Permission("Read", "group", source.group),
            Permission("Write", "transactional id", identity),
        ]
        # It ends what a processor that was killed has left open.
        producer = await take_over(
            self._kafka,
            identity,
            doing=doing,
            needs=needs,
            timeout_milliseconds=_TIMEOUT_MILLISECONDS,
            max_batch_size=_BATCH_BYTES,
        )
        try:
            # After that: with exactly_once a processor that comes now takes the id over, and this here fails.
            await self._wait_until_settled(plan.number)
            found = await self._read(plan.number)
            plan.keys = len(found.keys)
            [plan.lag] = (await self._group([plan.number])).partitions
            await self._commit(producer, plan, found)
        except FENCED as error:
            raise TandemError(
                f"could not {doing}: a processor has taken the partition over. Stop all processors of group "
                f"{source.group}, and ask again"
            ) from error
        except FAILURES as error:
            raise refusal(error, doing=doing, needs=needs) or KafkaUnavailableError(
                f"could not {doing}: {error!r}. It is reset whole or not at all: ask again"
            ) from error
        finally:
            await self._kafka.let_go(producer)

    async def _group(self, numbers: Collection[int]) -> GroupFacts:
        """Return the group, with these partitions of its input.

        Raises:
            TandemError: it has members.
        """
        places = [TopicPartition(self._source.topic, number) for number in numbers]
        facts = await look_at(self._kafka, self._source.group, places)
        if facts.members:
            raise TandemError(
                f"group {facts.name} is active ({facts.state}, {len(facts.members)} members): stop all its "
                "processors first, and wait for PROCESSOR_SESSION_TIMEOUT_SECONDS after a kill"
            )
        return facts

    async def _read(self, number: int) -> _Changelog:
        """Read one partition of the changelog.

        Raises:
            TandemError: it is another group's, or Kafka does not answer.
        """
        place = TopicPartition(self._source.changelog, number)
        ends = (await self._kafka.ends([place]))[place]
        keys: set[bytes] = set()
        last: bytes | None = None
        reader = await self._kafka.read({place: ends.start})
        try:
            while portions := await reader.next({place: ends.end}):
                for record in portions.get(place, []):
                    if record.key == OFFSET_KEY:
                        last = record.value
                    elif record.key is not None and record.key not in OWN_KEYS:
                        keys.add(record.key)
        finally:
            await self._kafka.close(reader)
        self._insist_on_ours(place, last)
        return _Changelog(keys, last is not None, ends.end)

    def _insist_on_ours(self, place: TopicPartition, offset_record: bytes | None) -> None:
        if offset_record is None:
            return
        try:
            found = _decode(offset_record)
        except ValueError:
            return  # Of whatever version: nothing of it is kept.
        if (found.group, found.input) != (self._source.group, self._source.topic):
            raise TandemError(
                f"{place.topic}:{place.partition} belongs to group {found.group} and input {found.input}, "
                f"not to {self._source.group} and {self._source.topic}: nothing is reset"
            )

    async def _wait_until_settled(self, number: int) -> None:
        """Wait until no transaction is open on the changelog: it may hold keys that nobody sees yet."""
        place = TopicPartition(self._source.changelog, number)
        deadline = asyncio.get_running_loop().time() + _SETTLE_SECONDS
        while True:
            stable = (await self._kafka.ends([place]))[place].end
            last = (await self._kafka.ends([place], "read_uncommitted"))[place].end
            if stable >= last:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise TandemError(
                    f"a transaction is open on {place.topic}:{place.partition} from {stable} on: start "
                    "a processor of this group, which settles it, stop it again, and ask again"
                )
            await asyncio.sleep(_SETTLE_PAUSE_SECONDS)

    async def _commit(self, producer: AIOKafkaProducer, plan: PartitionPlan, found: _Changelog) -> None:
        source, start = self._source, plan.lag.start
        record = OffsetRecord(FORMAT, source.topic, source.group, start, 0)
        changes = chain(((key, None) for key in found.keys), [(OFFSET_KEY, _encode(record))])
        offset = {TopicPartition(source.topic, plan.number): OffsetAndMetadata(start, "")}
        async with aborted_if_it_fails(producer), asyncio.timeout(_TIMEOUT_MILLISECONDS / 1_000):
            await producer.begin_transaction()
            written_at = await self._send(producer, plan.number, changes)
            self._insist_on_nothing_new(plan.number, found.end, written_at)
            # Whoever joins from here on reads the changelog behind what we have written.
            await self._group([plan.number])
            await producer.send_offsets_to_transaction(offset, source.group)
            await producer.commit_transaction()
            # Not later: an interruption while the producer is closed makes it no less certain.
            plan.is_done = True

    def _insist_on_nothing_new(self, number: int, end: int, written_at: int) -> None:
        """With at_least_once nobody is fenced: what somebody wrote since we read would stay."""
        if written_at != end:
            raise TandemError(
                f"somebody has written into {self._source.changelog}:{number} meanwhile: stop all processors "
                "of its group, and ask again"
            )

    async def _send(
        self, producer: AIOKafkaProducer, number: int, changes: Iterable[tuple[bytes, bytes | None]]
    ) -> int:
        """Send in whole batches, and wait for each; return where the first record stands.

        The caller sets the deadline.
        """
        places = []
        batch = producer.create_batch()
        for key, value in changes:
            while batch.append(timestamp=None, key=key, value=value) is None:
                places.append(await self._send_batch(producer, batch, number))
                batch = producer.create_batch()
        places.append(await self._send_batch(producer, batch, number))
        return places[0]

    async def _send_batch(self, producer: AIOKafkaProducer, batch: Any, number: int) -> int:
        batch.close()
        metadata = await (await producer.send_batch(batch, self._source.changelog, partition=number))
        return int(metadata.offset)


def known_inputs(named: Callable[[str], str]) -> dict[str, Input]:
    """Return the inputs of the shipped topologies by name; `named` puts the prefix in front."""
    return {name: input_of(name, group, named) for name, group in GROUPS_OF_INPUTS.items()}


def input_of(name: str, group: str, named: Callable[[str], str]) -> Input:
    """Return an input by its name and its group's, both without the prefix."""
    return Input(name, named(name), named(topics.changelog_of(name)), named(group))
