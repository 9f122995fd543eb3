"""What both guarantees share: where records go, how they are put into batches, and what a failure means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.structs import TopicPartition

from services.processor.dead_letters import CUT_VALUE_BYTES
from services.processor.partition import Transaction
from services.processor.topology import Outgoing
from shared.batch_filling import add_records
from shared.errors import RebuildTaskError, TandemError
from shared.kafka import Permission, refusal

BATCH_BYTES = 256 * 1024
RETRY_MILLISECONDS = 10

# Everything that the client is known to raise out of sending. Its state machine is made of asserts.
FAILURES = (KafkaError, IllegalOperation, AssertionError, TimeoutError, OSError)
# From 256 KiB to a record a batch in six builds, from a dead letter of 96 KiB to its key and place in six.
_LOWERED_BY = 8
# The first that is tried of a dead letter: a value of 64 KiB, and what stands beside it.
_CUT_LETTER_BYTES = CUT_VALUE_BYTES + 32 * 1024
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


class TooLargeError(RebuildTaskError):
    """A broker refused a record for its size. Nothing of its transaction, or step, is committed."""


@dataclass(frozen=True)
class Limits:
    """How large that may be which one build of a task sends.

    Attributes:
        dead_letter_bytes: of one dead letter, as far as cutting gets it there.
        batch_bytes: of one record batch, which is what a topic's `max.message.bytes` limits. A record that
            is larger has a batch of its own.
    """

    dead_letter_bytes: int
    batch_bytes: int = BATCH_BYTES

    def lowered(self) -> Limits:
        """Return what to try after a broker has refused a batch for its size."""
        # A batch of letters comes before a letter: what fits by itself is not to be cut.
        bound = _CUT_LETTER_BYTES if self.batch_bytes == BATCH_BYTES else self.batch_bytes
        letter_bytes = min(self.dead_letter_bytes, bound)
        return Limits(letter_bytes, max(self.batch_bytes // _LOWERED_BY, 1))


class Routes:
    """Where results go: to the input's partition modulo the topic's count, never by a hash of the key.

    Args:
        names: full name by topic name.
        counts: number of partitions by full name.
    """

    def __init__(self, names: dict[str, str], counts: dict[str, int], *, changelog: str) -> None:
        self._names = names
        self._counts = counts
        self.changelog = changelog

    @property
    def topics(self) -> list[str]:
        """The full names of all topics that are written."""
        return [*self._names.values(), self.changelog]

    def permissions(self, *, source: str, group: str) -> list[Permission]:
        """Return what writing them and committing an offset of `source` takes, as `refusal` takes it."""
        return [
            # The first of the topics: the client forgets the name where it is the offset that is refused.
            Permission("Read", "topic", source),
            *(Permission("Write", "topic", topic) for topic in self.topics),
            Permission("Read", "group", group),
        ]

    def places(self, partition: int) -> list[TopicPartition]:
        """Return all partitions that what an input partition yields can go to."""
        outputs = [TopicPartition(name, partition % self._counts[name]) for name in self._names.values()]
        return [*outputs, TopicPartition(self.changelog, partition)]

    def outputs(self, transaction: Transaction, partition: int) -> Iterator[tuple[str, int, list[Outgoing]]]:
        """Yield topic, partition and records of the results."""
        for topic, records in transaction.outputs.by_topic.items():
            name = self._names[topic]
            yield name, partition % self._counts[name], records

    def of(self, transaction: Transaction, partition: int) -> Iterator[tuple[str, int, list[Outgoing]]]:
        """Yield topic, partition and records of everything a transaction writes."""
        yield from self.outputs(transaction, partition)
        changes: list[Outgoing] = [(key, value, ()) for key, value in transaction.changelog]
        yield self.changelog, partition, changes


def batches_of(producer: AIOKafkaProducer, records: Sequence[Outgoing]) -> Iterator[Any]:
    """Yield record batches that hold `records` in order."""
    # One time for all: they become visible together, and the client would ask for it record by record.
    now = int(time.time() * 1000)
    done = 0
    while done < len(records):
        batch = producer.create_batch()
        done += add_records(batch, islice(records, done, None), now)
        batch.close()
        yield batch


async def acknowledged(futures: list[Any]) -> list[Any]:
    """Wait until each batch is acknowledged; return what Kafka says of each, or raise the first failure.

    A refused batch fails nothing but its own future.
    """
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


async def placed(producer: AIOKafkaProducer, record: Outgoing, topic: str, partition: int) -> int:
    """Send one record, and return its offset when it is acknowledged."""
    [batch] = batches_of(producer, [record])
    [metadata] = await acknowledged([await producer.send_batch(batch, topic, partition=partition)])
    if metadata.offset < 0:
        raise RebuildTaskError(f"Kafka does not say where in {topic}-{partition} our mark is")
    return int(metadata.offset)


def failure(error: BaseException, doing: str, *, needs: Sequence[Permission] = ()) -> TandemError:
    """Return what a failure of the client means for the task; `needs` as `refusal` takes it."""
    refused = refusal(error, doing=doing, needs=needs)
    if refused is not None:
        return refused
    text = f"could not {doing}: {error!r}"
    if isinstance(error, _TOO_LARGE):
        return TooLargeError(f"{text}: a record batch is larger than its topic's max.message.bytes")
    return RebuildTaskError(text)
