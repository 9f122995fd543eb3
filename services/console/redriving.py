"""Sends dead letters again, or marks them as dropped: each at most once, whoever asks and whatever breaks.

The record and the mark that it was sent stand in one transaction, under one transactional id for each topic
of dead letters. Whoever begins takes that id over, which ends what another one has under way, and only then
reads the marks: between that and its commit nobody else can send. Each transaction has a producer of its own,
with a new epoch: with this client a late copy of a request could otherwise end the next transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import TopicPartition

from services.console.connection import Connection, Log
from services.console.following import places_of
from services.console.letters import (
    Action,
    Headers,
    Letter,
    Mark,
    Selection,
    decode_mark,
    encode_mark,
    letter_of,
)
from services.console.transacting import FAILURES, aborted_if_it_fails, take_over
from shared.errors import KafkaUnavailableError, TandemError
from shared.kafka import FENCED, Permission, refusal

# Of one transaction.
_LETTERS = 200
_BYTES = 4 * 2**20
_HANDLED_PARTITION = 0
# A transaction that is left open holds up the processor, which reads what is committed.
_TIMEOUT_MILLISECONDS = 15_000
# Above the largest message there is: the brokers have the last word.
_REQUEST_BYTES = 4 * 2**20


class Marks:
    """What became of which letter, as far as it was read."""

    def __init__(self, kafka: Connection, topic: str) -> None:
        self._kafka = kafka
        self._place = TopicPartition(topic, _HANDLED_PARTITION)
        self._reader: Log | None = None
        self._marks: dict[str, Mark] = {}

    async def refresh(self) -> None:
        """Read on to the end.

        Raises:
            TandemError: Kafka does not answer, or refuses; a mark can't be read.
        """
        ends = (await self._kafka.ends([self._place]))[self._place]
        if self._reader is None:
            self._reader = await self._kafka.read({self._place: ends.start})
        while portions := await self._reader.next({self._place: ends.end}):
            for record in portions.get(self._place, []):
                self._take(record)

    def of(self, letter: Letter) -> Mark | None:
        """Return what became of a letter; None: nothing yet."""
        mark = self._marks.get(letter.name)
        return mark if mark is not None and mark.letter_at == letter.timestamp else None

    def _take(self, record: Any) -> None:
        name = (record.key or b"").decode(errors="replace")
        if record.value is None:
            self._marks.pop(name, None)
            return
        try:
            self._marks[name] = decode_mark(record.value)
        except ValueError as error:
            raise TandemError(
                f"{self._place.topic}:{record.partition}:{record.offset} is no mark ({error}): nothing is "
                "sent again while it is not known what was"
            ) from error


async def letters_in(
    kafka: Connection, topic: str, selection: Selection, on_progress: Callable[[int, int], None]
) -> AsyncIterator[Letter]:
    """Yield the letters of a topic that are meant, those of a partition in order, up to where it ends now.

    Raises:
        TandemError: Kafka does not answer, or refuses.
    """
    places = await places_of(kafka, [topic])
    named = {partition for partition, _ in selection.names}
    if named:
        places = [place for place in places if place.partition in named]
    ends = await kafka.ends(places)
    starts, until = {}, {}
    for place in places:
        offsets = [offset for partition, offset in selection.names if partition == place.partition]
        first, last = (min(offsets), max(offsets) + 1) if offsets else (0, ends[place].end)
        starts[place] = min(max(first, ends[place].start), ends[place].end)
        until[place] = min(last, ends[place].end)
    if not places:
        return
    reader = await kafka.read(starts)
    everything = sum(max(until[place] - starts[place], 0) for place in places)
    done = 0
    try:
        while portions := await reader.next(until):
            for place, records in portions.items():
                for record in records:
                    if record.offset < until[place]:
                        done += 1
                        letter = letter_of(record)
                        if selection.has(letter):
                            yield letter
            on_progress(done, everything)
    finally:
        await kafka.close(reader)


@dataclass(frozen=True)
class Parcel:
    """A letter, and what is to be sent for it; nothing for one that is dropped."""

    letter: Letter
    action: Action
    topic: str | None = None
    partition: int | None = None
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()

    @property
    def size_bytes(self) -> int:
        """Key and value."""
        return len(self.key or b"") + len(self.value or b"")


@dataclass
class Done:
    """What became of the parcels so far.

    `in_doubt`: those of a commit whose answer is not known. `tandem dlq list` says what became of them.
    """

    handled: int = 0
    before: int = 0
    refused: int = 0
    in_doubt: int = 0


class _RecordRefusedError(Exception):
    """Kafka does not take one of the records, whatever goes with it."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Redriver:
    """Handles parcels, transaction by transaction.

    Args:
        kafka: makes the clients.
        letters: full name of the topic of dead letters.
        marks: of that topic, which is `handled`.
        pause: awaited with the number of parcels before each transaction.
        on_refused: told of a parcel that Kafka does not take, whoever sends it, and of the error.
    """

    def __init__(
        self,
        kafka: Connection,
        *,
        letters: str,
        handled: str,
        marks: Marks,
        pause: Callable[[int], Any],
        on_refused: Callable[[Parcel, Exception], None],
        at_once: int = _LETTERS,
    ) -> None:
        self.done = Done()
        self._kafka = kafka
        self._letters = letters
        self._handled = handled
        self._marks = marks
        self._pause = pause
        self._on_refused = on_refused
        self._at_once = min(at_once, _LETTERS)
        self._held: list[Parcel] = []

    async def add(self, parcel: Parcel) -> None:
        """Take a parcel in; sends when there are enough for a transaction.

        Raises:
            TandemError: as `flush`.
        """
        self._held.append(parcel)
        if len(self._held) >= self._at_once or sum(one.size_bytes for one in self._held) >= _BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Handle what is held, but for what was handled before and what Kafka never takes.

        Raises:
            TandemError: Kafka refuses, does not answer, or another one has taken over. What the transaction
                was to do is done whole or not at all; asked again, it is done if it was not.
        """
        if not self._held:
            return
        await self._pause(len(self._held))
        left = [self._held]
        while left:
            parcels = left.pop()
            try:
                await self._handle(parcels)
            except _RecordRefusedError as error:
                middle = len(parcels) // 2
                if middle:
                    # One of them holds up no other: it is found by halves.
                    left += [parcels[middle:], parcels[:middle]]
                    continue
                self.done.refused += 1
                self._on_refused(parcels[0], error.cause)
        self._held = []

    async def _handle(self, parcels: Sequence[Parcel]) -> None:
        doing = f"send letters of {self._letters} again"
        identity = f"{self._letters}-retry"
        needs = [
            *(Permission("Write", "topic", one.topic) for one in parcels if one.topic),
            Permission("Write", "topic", self._handled),
            Permission("Write", "transactional id", identity),
        ]
        needs = list(dict.fromkeys(needs))
        producer = await take_over(
            self._kafka,
            identity,
            doing=doing,
            needs=needs,
            timeout_milliseconds=_TIMEOUT_MILLISECONDS,
            max_request_size=_REQUEST_BYTES,
        )
        try:
            await self._marks.refresh()
            new = [one for one in parcels if self._marks.of(one.letter) is None]
            if new:
                await self._send_or_abort(producer, new)
            self.done.before += len(parcels) - len(new)
        except FENCED as error:
            raise TandemError(
                f"another `tandem dlq` is at work on {self._letters}: it has taken over, and goes on with "
                "what it was told to do"
            ) from error
        except MessageSizeTooLargeError as error:
            raise _RecordRefusedError(error) from error
        except FAILURES as error:
            refused = refusal(error, doing=doing, needs=needs)
            raise refused or KafkaUnavailableError(
                f"could not {doing}: {error!r}. Ask again: nothing is sent twice"
            ) from error
        finally:
            await self._kafka.let_go(producer)

    async def _send_or_abort(self, producer: AIOKafkaProducer, parcels: Sequence[Parcel]) -> None:
        async with (
            aborted_if_it_fails(producer),
            asyncio.timeout(self._kafka.kafka.operation_deadline_seconds),
        ):
            await self._send(producer, parcels)

    async def _send(self, producer: AIOKafkaProducer, parcels: Sequence[Parcel]) -> None:
        """Send records and marks, and commit; the caller sets the deadline."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        await producer.begin_transaction()
        futures = []
        for one in parcels:
            if one.topic is not None:
                futures.append(
                    await producer.send(
                        one.topic,
                        one.value,
                        key=one.key,
                        partition=one.partition,
                        headers=list(one.headers),
                    )
                )
            mark = encode_mark(Mark(one.action, now, one.letter.timestamp, one.topic, one.partition))
            futures.append(
                await producer.send(
                    self._handled, mark, key=one.letter.name.encode(), partition=_HANDLED_PARTITION
                )
            )
        # A record that is refused fails nothing but its own future. A permission that is missing on one topic
        # shows on others as a transaction that is not right: it is the one to be told.
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        failures = [one for one in outcomes if isinstance(one, BaseException)]
        if failures:
            raise next((one for one in failures if refusal(one, doing="") is not None), failures[0])
        # Until Kafka says so; an interruption or a deadline in the middle leaves it so.
        self.done.in_doubt += len(parcels)
        await producer.commit_transaction()
        self.done.in_doubt -= len(parcels)
        self.done.handled += len(parcels)
