"""Exactly once on a real Kafka: what the client gets wrong by itself, trap by trap (see ARCHITECTURE.md)."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sandbox import Sandbox
from sandbox.ports import HOST, free_ports
from services.processor.guarantee import ExactlyOnce, Routes, TooLargeError
from services.processor.partition import Transaction
from services.processor.topology import Outputs
from shared import logs
from shared.errors import RebuildTaskError, TaskFencedError
from shared.kafka import KafkaClients
from shared.settings import KafkaSettings, load
from tests.conftest import Kafka, create

DEADLINE_SECONDS = 10.0
GuaranteeT = TypeVar("GuaranteeT", bound=ExactlyOnce)

pytestmark = pytest.mark.timeout(60)


def transaction(*values: bytes, next_offset: int) -> Transaction:
    """Return a transaction that publishes purchases, and notes the offset in the changelog."""
    outputs = Outputs()
    for value in values:
        outputs.publish("purchases", b"key", value)
    return Transaction(outputs, [(b"!offset", b"%d" % next_offset)], next_offset, len(values), [])


class World:
    """Three topics under a prefix, and guarantees for the one partition of the input."""

    def __init__(self, servers: str, prefix: str) -> None:
        self.input = TopicPartition(f"{prefix}user_behavior", 0)
        self.purchases = TopicPartition(f"{prefix}purchases", 0)
        self.changelog = TopicPartition(f"{prefix}changelog", 0)
        self.group = f"{prefix}group"
        self.clients = KafkaClients(
            load(KafkaSettings, environ={"KAFKA_BOOTSTRAP_SERVERS": servers}, dotenv=None)[KafkaSettings]
        )
        self._made: list[ExactlyOnce] = []

    @property
    def topics(self) -> list[NewTopic]:
        places = (self.input, self.purchases, self.changelog)
        return [NewTopic(place.topic, 1, 1) for place in places]

    def guarantee(self, kind: type[GuaranteeT], *, deadline_seconds: float = DEADLINE_SECONDS) -> GuaranteeT:
        """Return a guarantee that is not open yet. All of them have the same transactional id."""
        made = kind(
            self.clients,
            transactional_id=f"{self.group}-user_behavior-0",
            group=self.group,
            place=self.input,
            routes=Routes(
                {"purchases": self.purchases.topic},
                {self.purchases.topic: 1},
                changelog=self.changelog.topic,
            ),
            read_committed_offset=self.read_committed_offset,
            transaction_timeout_seconds=30,
            deadline_seconds=deadline_seconds,
            log=logs.get("test"),
        )
        self._made.append(made)
        return made

    async def opened(self, *, deadline_seconds: float = DEADLINE_SECONDS) -> ExactlyOnce:
        made = self.guarantee(ExactlyOnce, deadline_seconds=deadline_seconds)
        await made.open()
        return made

    async def read_committed_offset(self, place: TopicPartition) -> int | None:
        async with self.clients.consumer(group_id=self.group) as consumer:
            consumer.assign([place])
            offset: int | None = await consumer.committed(place)
            return offset

    async def read(self, place: TopicPartition, isolation: str = "read_committed") -> list[Any]:
        """Return everything that a reader with this isolation sees."""
        consumer: AIOKafkaConsumer = self.clients.consumer(
            group_id=None, isolation_level=isolation, auto_offset_reset="none"
        )
        found = []
        async with consumer, asyncio.timeout(DEADLINE_SECONDS):
            consumer.assign([place])
            consumer.seek(place, 0)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                found += (await consumer.getmany(place, timeout_ms=100)).get(place, [])
        return found

    async def settled(self) -> None:
        """Wait until no transaction is open: its last markers are written after its commit has returned."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            for place in (self.purchases, self.changelog):
                while len(set((await self.ends(place)).values())) > 1:  # noqa: ASYNC110 — a broker is asked
                    await asyncio.sleep(0.01)

    async def visible(self) -> list[bytes]:
        """Return the values of the purchases, as readers of committed records see them in the end."""
        await self.settled()
        return [record.value for record in await self.read(self.purchases)]

    async def ends(self, place: TopicPartition) -> dict[str, int]:
        """Return where the partition ends for each kind of reader: the same when nothing is open."""
        found = {}
        for isolation in ("read_committed", "read_uncommitted"):
            async with self.clients.consumer(group_id=None, isolation_level=isolation) as consumer:
                found[isolation] = (await consumer.end_offsets([place]))[place]
        return found

    async def close(self) -> None:
        await asyncio.gather(*(made.close() for made in self._made))


@pytest.fixture
async def world(kafka: Kafka, prefix: str) -> AsyncIterator[World]:
    made = World(kafka.bootstrap_servers, prefix)
    await asyncio.to_thread(create, kafka.admin, made.topics)
    yield made
    await made.close()


# What a commit is


async def test_results_changelog_and_offset_become_visible_together(world: World) -> None:
    guarantee = await world.opened()
    assert await guarantee.committed() is None
    await guarantee.commit(transaction(b"one", b"two", next_offset=2))
    assert await world.visible() == [b"one", b"two"]
    assert [(one.key, one.value) for one in await world.read(world.changelog)] == [(b"!offset", b"2")]
    assert await (await world.opened()).committed() == 2


async def test_an_offset_alone_is_committed_too(world: World) -> None:
    guarantee = await world.opened()
    await guarantee.commit(transaction(next_offset=7))
    assert await (await world.opened()).committed() == 7


async def test_keys_headers_and_tombstones_arrive_as_they_were_published(world: World) -> None:
    outputs = Outputs()
    outputs.publish("purchases", None, b"", (("name", b"\xff"), ("name", None)))
    outputs.publish("purchases", b"\xff", None)
    guarantee = await world.opened()
    await guarantee.commit(Transaction(outputs, [(b"users/1", None)], 1, 1, []))
    await world.settled()
    found = [(one.key, one.value, one.headers) for one in await world.read(world.purchases)]
    assert found == [(None, b"", (("name", b"\xff"), ("name", None))), (b"\xff", None, ())]
    assert [(one.key, one.value) for one in await world.read(world.changelog)] == [(b"users/1", None)]


async def test_a_transaction_of_many_batches_keeps_its_order(world: World) -> None:
    values = [b"%06d" % number + b"x" * 3_000 for number in range(500)]
    guarantee = await world.opened()
    await guarantee.commit(transaction(*values, next_offset=500))
    assert await world.visible() == values


async def test_one_transaction_after_another_is_no_reason_to_rebuild(world: World) -> None:
    guarantee = await world.opened()
    # Faster than markers are written: the broker answers CONCURRENT_TRANSACTIONS, which is normal.
    for number in range(30):
        await guarantee.commit(transaction(b"%d" % number, next_offset=number + 1))
    assert await world.visible() == [b"%d" % number for number in range(30)]
    assert await (await world.opened()).committed() == 30


async def test_a_later_one_sees_what_an_earlier_one_committed(world: World) -> None:
    first = await world.opened()
    await first.commit(transaction(b"one", next_offset=1))
    await first.close()
    second = await world.opened()
    assert await second.committed() == 1


def test_results_go_to_the_inputs_partition_modulo_the_topics_count() -> None:
    names = {"purchases": "p.purchases", "progress": "p.progress"}
    routes = Routes(names, {"p.purchases": 6, "p.progress": 1}, changelog="p.changelog")
    outputs = Outputs()
    outputs.publish("purchases", b"a", b"1")
    outputs.publish("progress", b"b", b"2")
    found = routes.of(Transaction(outputs, [(b"c", b"3")], 1, 1, []), 4)
    assert [(topic, partition, len(records)) for topic, partition, records in found] == [
        ("p.purchases", 4, 1),
        ("p.progress", 0, 1),
        ("p.changelog", 4, 1),
    ]


# Trap 1: a refused record fails nothing but its own future


async def test_a_refused_record_fails_the_commit_and_nothing_of_it_becomes_visible(world: World) -> None:
    guarantee = await world.opened()
    await guarantee.commit(transaction(b"before", next_offset=1))
    with pytest.raises(TooLargeError, match="could not commit a transaction"):
        await guarantee.commit(transaction(b"mate", b"x" * 2_000_000, b"mate", next_offset=4))
    await guarantee.close()
    successor = await world.opened()
    assert await successor.committed() == 1
    assert await world.visible() == [b"before"]
    assert [one.value for one in await world.read(world.changelog)] == [b"1"]


async def test_after_a_refused_record_a_new_one_goes_on(world: World) -> None:
    guarantee = await world.opened()
    with pytest.raises(TooLargeError):
        await guarantee.commit(transaction(b"x" * 2_000_000, next_offset=1))
    await guarantee.close()
    successor = await world.opened()
    await successor.commit(transaction(b"cut", next_offset=1))
    assert await world.visible() == [b"cut"]


# Traps 4 and 5: one transactional id for an input partition, and what a zombie gets to see


async def test_a_second_one_with_the_same_id_fences_the_first(world: World) -> None:
    zombie = await world.opened()
    await zombie.commit(transaction(b"one", next_offset=1))
    successor = await world.opened()
    with pytest.raises(TaskFencedError, match="another producer took"):
        await zombie.commit(transaction(b"from the grave", next_offset=100))
    assert await successor.committed() == 1
    await successor.commit(transaction(b"two", next_offset=2))
    assert await world.visible() == [b"one", b"two"]
    assert await (await world.opened()).committed() == 2


async def test_a_fenced_one_stays_fenced(world: World) -> None:
    zombie = await world.opened()
    await world.opened()
    for offset in (1, 2, 3):
        with pytest.raises(RebuildTaskError):
            await zombie.commit(transaction(b"from the grave", next_offset=offset))
    assert await world.visible() == []


class Held(ExactlyOnce):
    """Stops between two steps of its first transaction until it is released."""

    step = ""
    reached: asyncio.Event
    released: asyncio.Event

    async def open(self) -> None:
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        await super().open()

    async def _hold(self, step: str) -> None:
        if step == self.step:
            self.reached.set()
            await self.released.wait()

    async def publish(self, producer: Any, transaction: Transaction) -> None:
        await self._hold("before publish")
        await super().publish(producer, transaction)

    async def send_offsets(self, producer: Any, transaction: Transaction) -> None:
        await self._hold("before offsets")
        await super().send_offsets(producer, transaction)

    async def end(self, producer: Any) -> None:
        await self._hold("before end")
        await super().end(producer)


@pytest.mark.parametrize("step", ["before publish", "before offsets", "before end"])
async def test_a_zombie_that_wakes_up_in_its_transaction_can_not_finish_it(world: World, step: str) -> None:
    zombie = world.guarantee(Held)
    zombie.step = step
    await zombie.open()
    late = asyncio.create_task(zombie.commit(transaction(b"from the grave", next_offset=100)))
    await asyncio.wait_for(zombie.reached.wait(), DEADLINE_SECONDS)
    successor = await world.opened()
    assert await successor.committed() is None
    await successor.commit(transaction(b"one", next_offset=1))
    zombie.released.set()
    with pytest.raises(RebuildTaskError):
        await late
    assert await world.visible() == [b"one"]
    assert await (await world.opened()).committed() == 1


@pytest.mark.parametrize("step", ["before offsets", "before end"])
async def test_a_transaction_left_open_by_a_predecessor_is_aborted_by_the_next_open(
    world: World, step: str
) -> None:
    dead = world.guarantee(Held)
    dead.step = step
    await dead.open()
    last_act = asyncio.create_task(dead.commit(transaction(b"half done", next_offset=1)))
    await asyncio.wait_for(dead.reached.wait(), DEADLINE_SECONDS)
    ends = await world.ends(world.purchases)
    assert ends["read_committed"] < ends["read_uncommitted"], "it is open"
    began = time.monotonic()
    successor = await world.opened()
    assert time.monotonic() - began < 3.0
    ends = await world.ends(world.purchases)
    assert ends["read_committed"] == ends["read_uncommitted"], "nothing is open any more"
    assert await world.visible() == []
    assert await successor.committed() is None
    last_act.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await last_act


# A broker of its own, reached through a proxy

# Kinds of requests, https://kafka.apache.org/protocol#protocol_api_keys
PRODUCE, FIND_COORDINATOR, INIT_PRODUCER_ID, ADD_PARTITIONS_TO_TXN = 0, 10, 22, 24


class Proxy:
    """Hands everything on as it is. `cut` breaks the client's connection at one request, once.

    Args:
        port: where clients, and the broker itself, connect.
        target: where the broker listens.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.cuts = 0
        self._target = target
        self._request: int | None = None
        self._request_arrives = True
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def cut(self, request: int, *, request_arrives: bool) -> None:
        """Break the connection at the next request of this kind: its answer is lost, or it is itself."""
        self._request, self._request_arrives = request, request_arrives

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            to_reader, to_writer = await asyncio.open_connection(HOST, self._target)
            try:
                answers = asyncio.create_task(self._answers(to_reader, writer))
                with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                    await self._requests(reader, to_writer, writer)
                # A request that was handed on is let through to its end.
                await asyncio.wait({answers}, timeout=0.2)
                answers.cancel()
            finally:
                to_writer.close()
        except OSError:
            pass  # The broker is gone, or closed first: so do we.
        finally:
            writer.close()
            del self._connections[task]

    async def _requests(
        self, reader: asyncio.StreamReader, to_writer: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            size = await reader.readexactly(4)
            request = await reader.readexactly(int.from_bytes(size))
            kind, version = struct.unpack_from(">hh", request)
            # From version 4 on this one is the broker's own, to itself.
            is_cut = kind == self._request and (kind != ADD_PARTITIONS_TO_TXN or version < 4)
            if is_cut:
                self._request = None
                self.cuts += 1
                writer.transport.abort()
            if not is_cut or self._request_arrives:
                to_writer.write(size + request)
                await to_writer.drain()
            if is_cut:
                return

    @staticmethod
    async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if not writer.transport.is_closing():
                    writer.write(data)
                    await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[tuple[Sandbox, int, int]]:
    """A broker that tells its clients to connect to a proxy; with the proxy's port and its own."""
    own, proxied = free_ports(2)
    with Sandbox(port=own, properties={"advertised.listeners": f"CLIENT://{HOST}:{proxied}"}) as sandbox:
        yield sandbox, proxied, own


@pytest.fixture
async def proxy(own_kafka: tuple[Sandbox, int, int]) -> AsyncIterator[Proxy]:
    _, proxied, own = own_kafka
    async with Proxy(proxied, own) as running:
        yield running


@pytest.fixture
async def far_world(proxy: Proxy, prefix: str) -> AsyncIterator[World]:
    """A world whose broker is behind the proxy."""
    made = World(f"{HOST}:{proxy.port}", prefix)
    admin = AdminClient({"bootstrap.servers": f"{HOST}:{proxy.port}"})
    await asyncio.to_thread(create, admin, made.topics)
    yield made
    await made.close()


# Trap 2: late copies of a request that was retried

TRANSACTIONAL = {
    "AddPartitionsToTxn": ADD_PARTITIONS_TO_TXN,
    "AddOffsetsToTxn": 25,
    "EndTxn": 26,
    "TxnOffsetCommit": 28,
}


@pytest.mark.parametrize("request_arrives", [True, False], ids=["answer lost", "request lost"])
@pytest.mark.parametrize("name", TRANSACTIONAL)
async def test_a_transactional_request_that_was_retried_is_finished_and_then_a_reason_to_rebuild(
    far_world: World, proxy: Proxy, name: str, request_arrives: bool
) -> None:
    guarantee = await far_world.opened()
    await guarantee.commit(transaction(b"one", next_offset=1))
    proxy.cut(TRANSACTIONAL[name], request_arrives=request_arrives)
    with pytest.raises(RebuildTaskError, match="committed, but a transactional request was repeated"):
        await guarantee.commit(transaction(b"two", next_offset=2))
    assert proxy.cuts == 1
    await guarantee.close()
    successor = await far_world.opened()
    assert await successor.committed() == 2
    await successor.commit(transaction(b"three", next_offset=3))
    assert await far_world.visible() == [b"one", b"two", b"three"]


@pytest.mark.parametrize("request_arrives", [True, False], ids=["answer lost", "request lost"])
@pytest.mark.parametrize("request_kind", [PRODUCE, INIT_PRODUCER_ID], ids=["Produce", "InitProducerId"])
async def test_requests_whose_late_copies_do_no_harm_are_no_reason_to_rebuild(
    far_world: World, proxy: Proxy, request_kind: int, request_arrives: bool
) -> None:
    proxy.cut(request_kind, request_arrives=request_arrives)
    guarantee = await far_world.opened()
    await guarantee.commit(transaction(b"one", next_offset=1))
    await guarantee.commit(transaction(b"two", next_offset=2))
    assert proxy.cuts == 1
    assert await far_world.visible() == [b"one", b"two"]


# Trap 7: a connection lost at the wrong moment ends the client's sender without a word


async def test_a_connection_lost_while_the_coordinator_is_looked_for_is_mended_by_a_rebuild(
    far_world: World, proxy: Proxy
) -> None:
    guarantee = await far_world.opened(deadline_seconds=2)
    proxy.cut(FIND_COORDINATOR, request_arrives=False)
    with pytest.raises(RebuildTaskError):
        await guarantee.commit(transaction(b"never sent", next_offset=1))
    assert proxy.cuts == 1
    await guarantee.close()
    successor = await far_world.opened()
    assert await successor.committed() is None
    await successor.commit(transaction(b"after", next_offset=1))
    assert await far_world.visible() == [b"after"]


# Trap 6: nearly everything waits for ever for a broker that does not answer


async def test_a_frozen_broker_fails_the_commit_within_its_deadline_and_does_not_hold_up_the_close(
    far_world: World, own_kafka: tuple[Sandbox, int, int]
) -> None:
    sandbox = own_kafka[0]
    guarantee = await far_world.opened(deadline_seconds=2)
    await guarantee.commit(transaction(b"one", next_offset=1))
    sandbox.pause()
    try:
        began = time.monotonic()
        with pytest.raises(RebuildTaskError):
            await guarantee.commit(transaction(b"two", next_offset=2))
        assert time.monotonic() - began < 3.0
        began = time.monotonic()
        await guarantee.close()
        assert time.monotonic() - began < 4.0
    finally:
        sandbox.resume()
    successor = await far_world.opened()
    committed = await successor.committed()
    assert committed in (1, 2), "it is in doubt: what is committed is the truth"
    assert await far_world.visible() == [b"one", b"two"][:committed]


async def test_a_frozen_broker_fails_the_open_within_its_deadline(
    far_world: World, own_kafka: tuple[Sandbox, int, int]
) -> None:
    sandbox = own_kafka[0]
    guarantee = far_world.guarantee(ExactlyOnce, deadline_seconds=1)
    sandbox.pause()
    try:
        began = time.monotonic()
        with pytest.raises(RebuildTaskError):
            await guarantee.open()
        await guarantee.close()
        assert time.monotonic() - began < 5.0
    finally:
        sandbox.resume()
