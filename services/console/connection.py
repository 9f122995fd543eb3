"""One command's Kafka: clients that go with it, every call bounded; a group is joined by `member` alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from services.console.merge import Ends
from services.console.settings import ConsoleSettings
from shared.connecting import Patience, connect, stop_client
from shared.errors import KafkaUnavailableError, TandemError
from shared.header_names import read_any_header_name
from shared.kafka import KafkaClients, Permission, refusal
from shared.logs import Logger
from shared.settings import KafkaSettings

Isolation = Literal["read_committed", "read_uncommitted"]
AnswerT = TypeVar("AnswerT")
ClientT = TypeVar("ClientT")

_RETRY_SECONDS = 0.2
_POLL_MILLISECONDS = 500
# Above the largest message there is, a dead letter: a batch is never larger than a fetch.
_FETCH_BYTES = 2_621_440


@dataclass(frozen=True)
class TopicFacts:
    """A topic as it is. `is_led` says that every partition has a leader."""

    name: str
    partitions: int
    replication: int
    is_led: bool


class Connection:
    """Asks Kafka, within deadlines. A context manager: its clients are closed with it.

    Args:
        as_a_service: bear an absent Kafka as long as a service would, not as long as an operator.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        console: ConsoleSettings,
        *,
        log: Logger,
        as_a_service: bool = False,
    ) -> None:
        self.kafka = kafka
        self.console = console
        self._clients = KafkaClients(kafka)
        self._log = log
        self._patience = (kafka.unavailable_seconds, "KAFKA_UNAVAILABLE_SECONDS")
        if not as_a_service and console.unavailable_seconds < kafka.unavailable_seconds:
            self._patience = (console.unavailable_seconds, "CONSOLE_UNAVAILABLE_SECONDS")
        self._open: list[Any] = []
        self._admin: AIOKafkaAdminClient | None = None
        self._asking: dict[Isolation, AIOKafkaConsumer] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for client in reversed(self._open):
            await stop_client(client, log=self._log)
        self._open.clear()

    async def admin(self) -> AIOKafkaAdminClient:
        """Return the administration client, connected.

        Raises:
            StopServiceError: Kafka stays away, or refuses us.
        """
        if self._admin is None:
            self._admin = await self._started(self._clients.admin)
        return self._admin

    async def topics(self) -> dict[str, TopicFacts]:
        """Return every topic by its full name. Asking creates none, whatever the brokers are set to.

        Raises:
            TandemError: Kafka does not answer, or refuses.
        """
        admin = await self.admin()
        described = await self.ask(admin.describe_topics, doing="list the topics")
        return {topic["topic"]: _facts(topic) for topic in described if not topic["error_code"]}

    async def ends(
        self, places: Iterable[TopicPartition], isolation: Isolation = "read_committed"
    ) -> dict[TopicPartition, Ends]:
        """Return where partitions begin and end; for `read_committed`, with the last stable offset.

        Raises:
            TandemError: Kafka does not answer, or refuses.
        """
        asked = list(places)
        if not asked:
            return {}
        consumer = await self._asker(isolation)
        doing = f"look up the offsets of {asked[0].topic}"
        starts = await self.ask(lambda: consumer.beginning_offsets(asked), doing=doing)
        ends = await self.ask(lambda: consumer.end_offsets(asked), doing=doing)
        return {place: Ends(int(starts[place]), int(ends[place])) for place in asked}

    async def offsets_at(
        self, places: Iterable[TopicPartition], milliseconds: int
    ) -> dict[TopicPartition, int | None]:
        """Return the first offset of each partition whose record is not older; None where there is none.

        Args:
            places: of topics that exist.
            milliseconds: since the epoch, as Kafka counts record timestamps.

        Raises:
            TandemError: Kafka does not answer, or refuses.
        """
        asked = dict.fromkeys(places, milliseconds)
        consumer = await self._asker("read_committed")
        found = await self.ask(lambda: consumer.offsets_for_times(asked), doing="look up offsets by time")
        return {place: None if found[place] is None else int(found[place].offset) for place in asked}

    async def read(self, starts: dict[TopicPartition, int], isolation: Isolation = "read_committed") -> Log:
        """Return a reader from these offsets on, of what is committed unless told otherwise.

        Raises:
            TandemError: Kafka does not answer, or refuses.
        """
        consumer = await self._consumer(isolation)
        consumer.assign(list(starts))
        for place, offset in starts.items():
            consumer.seek(place, offset)
        return Log(consumer, list(starts), stall_seconds=self.console.stall_seconds)

    async def member(
        self, group: str, isolation: Isolation, *, beginning: bool, **options: Any
    ) -> AIOKafkaConsumer:
        """Return a consumer of a group, connected and subscribed to nothing.

        Args:
            group: full name.
            isolation: what it reads.
            beginning: where the group goes on in a partition without a committed offset; else at the end.
            options: more of the client's own.

        Raises:
            StopServiceError: Kafka stays away, or refuses us.
        """
        return await self._consumer(
            isolation, group_id=group, auto_offset_reset="earliest" if beginning else "latest", **options
        )

    async def producer(
        self, *, doing: str = "connect", needs: Sequence[Permission] = (), **options: Any
    ) -> AIOKafkaProducer:
        """Return a producer, connected; `options` are the client's own.

        `doing` and `needs` (permissions) are for the message of a refusal.

        Raises:
            StopServiceError: Kafka stays away, or refuses us.
        """
        return await self._started(lambda: self._clients.producer(**options), doing=doing, needs=needs)

    async def close(self, reader: Log) -> None:
        """Let go of a reader before the connection ends."""
        await self.let_go(reader.consumer)

    async def let_go(self, client: Any) -> None:
        """Stop a client before the connection ends, within seconds."""
        self._open.remove(client)
        await stop_client(client, log=self._log)

    async def ask(self, call: Callable[[], Awaitable[AnswerT]], *, doing: str) -> AnswerT:
        """Await a request, again after errors, at most as long as an operation may take.

        Raises:
            AccessRefusedError: Kafka refuses.
            KafkaUnavailableError: no answer in time.
        """
        problem = "no answer"
        try:
            async with asyncio.timeout(self.kafka.operation_deadline_seconds):
                while True:
                    try:
                        return await call()
                    except (KafkaError, OSError) as error:
                        refused = refusal(error, doing=doing)
                        if refused is not None:
                            raise refused from error
                        problem = repr(error)
                    await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError as error:
            raise KafkaUnavailableError(f"Kafka does not let us {doing}: {problem}") from error

    async def _asker(self, isolation: Isolation) -> AIOKafkaConsumer:
        """Return the consumer that looks up offsets; with nothing assigned it has every topic's metadata."""
        if isolation not in self._asking:
            self._asking[isolation] = await self._consumer(isolation)
        return self._asking[isolation]

    async def _consumer(self, isolation: Isolation, **options: Any) -> AIOKafkaConsumer:
        given = {"group_id": None, "auto_offset_reset": "none"} | options
        consumer = await self._started(
            lambda: self._clients.consumer(
                isolation_level=isolation, max_partition_fetch_bytes=_FETCH_BYTES, **given
            )
        )
        # With a client that was not checked for it, a name that is not UTF-8 ends the command.
        read_any_header_name(consumer)
        return consumer

    async def _started(
        self, make: Callable[[], ClientT], *, doing: str = "connect", needs: Sequence[Permission] = ()
    ) -> ClientT:
        seconds, setting = self._patience
        client = await connect(
            make,
            self.kafka,
            patience=Patience(seconds, asyncio.get_running_loop().time, setting=setting),
            stopping=asyncio.Event(),  # Nobody sets it: a command that is interrupted is cancelled.
            log=self._log,
            doing=doing,
            needs=needs,
        )
        assert client is not None, "only a stop makes connect return nothing"
        self._open.append(client)
        return client


class Log:
    """Reads partitions in order. Made by `Connection.read`."""

    def __init__(
        self, consumer: AIOKafkaConsumer, places: list[TopicPartition], *, stall_seconds: float
    ) -> None:
        self.consumer = consumer
        self._places = places
        self._stall_seconds = stall_seconds

    async def next(self, until: dict[TopicPartition, int]) -> dict[TopicPartition, list[Any]]:
        """Return the next records of any partition that is not yet at its `until`; empty when all are.

        Records beyond `until` may be among them. A portion may hold no records at all and still have moved
        the position: ask `position`.

        Raises:
            TandemError: nothing came for too long, or retention was quicker, or Kafka refuses.
        """
        before = {place: await self.position(place) for place in self._places}
        behind = [place for place in self._places if before[place] < until.get(place, 0)]
        if not behind:
            return {}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._stall_seconds
        while True:
            fetched = await self._fetch()
            if fetched:
                return fetched
            if any([await self.position(place) > before[place] for place in behind]):
                return {place: [] for place in behind}
            if loop.time() >= deadline:
                where = ", ".join(f"{place.topic}:{place.partition}" for place in behind[:3])
                raise KafkaUnavailableError(
                    f"{where}: nothing to read up to {until[behind[0]]} for {self._stall_seconds:g} s "
                    "(CONSOLE_STALL_SECONDS): Kafka is away, or a transaction was left open"
                )

    async def more(self) -> dict[TopicPartition, list[Any]]:
        """Return what comes within half a second; may be empty.

        Raises:
            TandemError: retention was quicker, or Kafka refuses.
        """
        return await self._fetch()

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Go on reading a partition from another offset."""
        self.consumer.seek(place, offset)

    async def position(self, place: TopicPartition) -> int:
        """Return where reading goes on in a partition."""
        # It is set from the start on, by seek; the client would wait for ever if it were not.
        async with asyncio.timeout(self._stall_seconds):
            return int(await self.consumer.position(place))

    async def _fetch(self) -> dict[TopicPartition, list[Any]]:
        topic = self._places[0].topic
        try:
            fetched = await self.consumer.getmany(timeout_ms=_POLL_MILLISECONDS)
        except OffsetOutOfRangeError as error:
            raise TandemError(f"retention removed what was being read ({error}); start again") from error
        except KafkaError as error:
            needs = [Permission("Read", "topic", place.topic) for place in self._places]
            refused = refusal(error, doing=f"read {topic}", needs=needs)
            raise refused or KafkaUnavailableError(f"reading {topic}: {error!r}") from error
        return dict(fetched)


def _facts(topic: dict[str, Any]) -> TopicFacts:
    partitions = topic["partitions"]
    return TopicFacts(
        name=topic["topic"],
        partitions=len(partitions),
        replication=min((len(partition["replicas"]) for partition in partitions), default=0),
        is_led=all(partition["leader"] >= 0 for partition in partitions),
    )
