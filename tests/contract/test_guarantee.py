"""What every guarantee promises, on a real Kafka: one set of tests for both."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.commit import OffsetFetchRequest
from confluent_kafka.admin import AdminClient

from sandbox import Sandbox
from services.processor.at_least_once import AtLeastOnce
from services.processor.exactly_once import ExactlyOnce
from services.processor.partition import Transaction
from services.processor.record_batches import read_whole_batches
from services.processor.restore import ChangelogReader
from services.processor.sending import Routes, TooLargeError
from services.processor.state import State
from services.processor.topology import Outputs
from shared.changelog import OFFSET_KEY, WRITER_KEY
from shared.errors import RebuildTaskError, StopServiceError
from tests.conftest import create
from tests.contract.guarantees import DEADLINE_SECONDS, Stopwatch, World, transaction
from tests.integration.grants import Grant, grant

pytestmark = pytest.mark.timeout(90)

Kind = type[ExactlyOnce] | type[AtLeastOnce]


@pytest.fixture(params=[ExactlyOnce, AtLeastOnce])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


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


# What a commit is


async def test_results_changelog_and_offset_are_there_after_a_commit(world: World, kind: Kind) -> None:
    guarantee = await world.opened(kind)
    assert await guarantee.committed() is None
    await guarantee.commit(transaction(b"one", b"two", next_offset=2))
    assert await world.visible() == [b"one", b"two"]
    assert await world.changes() == [(OFFSET_KEY, b"2")]
    assert await (await world.opened(kind)).committed() == 2


async def test_an_offset_alone_is_committed_too(world: World, kind: Kind) -> None:
    guarantee = await world.opened(kind)
    await guarantee.commit(transaction(next_offset=7))
    assert await (await world.opened(kind)).committed() == 7


async def test_keys_headers_and_tombstones_arrive_as_they_were_published(world: World, kind: Kind) -> None:
    outputs = Outputs()
    outputs.publish("purchases", None, b"", (("name", b"\xff"), ("name", None)))
    outputs.publish("purchases", b"\xff", None)
    guarantee = await world.opened(kind)
    await guarantee.commit(Transaction(outputs, [(b"users/1", None)], 1, 1, []))
    await world.settled()
    found = [(one.key, one.value, one.headers) for one in await world.read(world.purchases)]
    assert found == [(None, b"", (("name", b"\xff"), ("name", None))), (b"\xff", None, ())]
    assert await world.changes() == [(b"users/1", None)]


async def test_many_batches_keep_their_order(world: World, kind: Kind) -> None:
    values = [b"%06d" % number + b"x" * 3_000 for number in range(500)]
    changes: list[tuple[bytes, bytes | None]] = [(b"users/%d" % n, value) for n, value in enumerate(values)]
    outputs = transaction(*values, next_offset=500).outputs
    guarantee = await world.opened(kind)
    await guarantee.commit(Transaction(outputs, [*changes, (OFFSET_KEY, b"500")], 500, 500, []))
    assert await world.visible() == values
    assert await world.changes() == [*changes, (OFFSET_KEY, b"500")]


async def test_one_commit_after_another_is_no_reason_to_rebuild(world: World, kind: Kind) -> None:
    guarantee = await world.opened(kind)
    # Faster than markers are written: the broker answers CONCURRENT_TRANSACTIONS, which is normal.
    for number in range(30):
        await guarantee.commit(transaction(b"%d" % number, next_offset=number + 1))
    assert await world.visible() == [b"%d" % number for number in range(30)]
    assert await (await world.opened(kind)).committed() == 30


async def test_a_later_one_sees_what_an_earlier_one_committed(world: World, kind: Kind) -> None:
    first = await world.opened(kind)
    await first.commit(transaction(b"one", next_offset=1))
    await first.close()
    second = await world.opened(kind)
    assert await second.committed() == 1


# A refused record fails nothing but its own future


async def test_nothing_counts_past_a_refused_result(world: World, kind: Kind) -> None:
    guarantee = await world.opened(kind)
    await guarantee.commit(transaction(b"before", next_offset=1))
    with pytest.raises(TooLargeError, match="could not commit a transaction"):
        await guarantee.commit(transaction(b"mate", b"x" * 2_000_000, b"mate", next_offset=4))
    await guarantee.close()
    successor = await world.opened(kind)
    assert await successor.committed() == 1
    assert await world.changes() == [(OFFSET_KEY, b"1")]


async def test_nothing_counts_past_a_refused_change_of_the_state(world: World, kind: Kind) -> None:
    # Of a producer that Kafka does not know yet it takes what comes behind a refused batch.
    guarantee = await world.opened(kind)
    await guarantee.close()
    changes: list[tuple[bytes, bytes | None]] = [(b"a", b"x" * 2_000_000), (b"b", b"y" * 200_000)]
    guarantee = await world.opened(kind)
    with pytest.raises(TooLargeError, match="could not commit a transaction"):
        await guarantee.commit(Transaction(Outputs(), [*changes, (OFFSET_KEY, b"1")], 1, 1, []))
    await guarantee.close()
    successor = await world.opened(kind)
    assert await successor.committed() is None
    assert OFFSET_KEY not in [key for key, _ in await world.changes()]


async def test_after_a_refused_record_a_new_one_goes_on(world: World, kind: Kind) -> None:
    guarantee = await world.opened(kind)
    with pytest.raises(TooLargeError):
        await guarantee.commit(transaction(b"x" * 2_000_000, next_offset=1))
    await guarantee.close()
    successor = await world.opened(kind)
    await successor.commit(transaction(b"cut", next_offset=1))
    assert await world.visible() == [b"cut"]


# What was not finished


@pytest.mark.parametrize("step", ["publish", "send_offsets"])
async def test_what_was_not_finished_is_not_committed_and_the_next_one_goes_on(
    world: World, kind: Kind, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await world.opened(kind)
    await dead.commit(transaction(b"one", next_offset=1))
    reached = asyncio.Event()

    async def stay(*_: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(dead, step, stay)
    last_act = asyncio.create_task(dead.commit(transaction(b"half done", next_offset=2)))
    await asyncio.wait_for(reached.wait(), 10)
    successor = await world.opened(kind)
    assert await successor.committed() == 1
    await successor.commit(transaction(b"two", next_offset=2))
    assert (await world.visible())[-1] == b"two"
    assert await (await world.opened(kind)).committed() == 2
    last_act.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await last_act


# Nearly everything waits for ever for a broker that does not answer


async def test_a_frozen_broker_fails_the_commit_within_its_deadline_and_does_not_hold_up_the_close(
    far_world: World, own_kafka: tuple[Sandbox, socket.socket], kind: Kind
) -> None:
    sandbox = own_kafka[0]
    guarantee = await far_world.opened(kind, deadline_seconds=2)
    await guarantee.commit(transaction(b"one", next_offset=1))
    sandbox.pause()
    try:
        async with Stopwatch() as commit:
            with pytest.raises(RebuildTaskError):
                await guarantee.commit(transaction(b"two", next_offset=2))
        async with Stopwatch() as close:
            await guarantee.close()
        assert commit.seconds < 3.0
        assert close.seconds < 4.0
    finally:
        sandbox.resume()
    successor = await far_world.opened(kind)
    committed = await successor.committed()
    assert committed in (1, 2), "it is in doubt: what is committed is the truth"
    assert (await far_world.visible())[:committed] == [b"one", b"two"][:committed]


async def test_a_frozen_broker_fails_the_open_within_its_deadline(
    far_world: World, own_kafka: tuple[Sandbox, socket.socket], kind: Kind
) -> None:
    sandbox = own_kafka[0]
    guarantee = await far_world.guarantee(kind, deadline_seconds=1)
    sandbox.pause()
    try:
        async with Stopwatch() as took:
            with pytest.raises(RebuildTaskError):
                await guarantee.open()
            await guarantee.close()
        assert took.seconds < 5.0
    finally:
        sandbox.resume()


# What a restore reads up to


async def test_a_claim_says_where_its_mark_is(world: World, kind: Kind) -> None:
    guarantee = await world.opened(kind)
    await guarantee.commit(transaction(b"one", next_offset=1))
    successor = await world.guarantee(kind)
    await successor.open()
    mark = await successor.claim()
    await world.settled()
    marks = [one.offset for one in await world.read(world.changelog) if one.key == WRITER_KEY]
    assert len(marks) == 2
    assert marks[-1] == mark


async def test_a_restore_does_not_end_before_it_has_read_its_own_mark(world: World, kind: Kind) -> None:
    """A broker that was replaced and does not know it yet shows an older end of the changelog."""
    await world.opened(kind)
    await world.settled()
    end = (await world.ends(world.changelog))["read_committed"]
    # Before the successor's mark comes the marker that ends what its predecessor may have left open.
    mark = end + 1 if kind is ExactlyOnce else end
    async with world.clients.consumer(group_id=None, isolation_level="read_committed") as consumer:
        read_whole_batches(consumer)
        reader = ChangelogReader(
            consumer,
            world.changelog,
            mark=mark,
            deadline_seconds=DEADLINE_SECONDS,
            on_progress=lambda *_: None,
            should_stop=lambda: False,
        )
        state: Any = SimpleNamespace(state=State(max_keys=1))
        restoring = asyncio.create_task(reader.read_into(state))
        await asyncio.wait({restoring}, timeout=1)
        assert not restoring.done(), "it has read all that there is, and not its mark"
        successor = await world.guarantee(kind)
        await successor.open()
        assert await successor.claim() == mark
        restored = await restoring
    assert restored is not None
    assert restored.records == 2


class Answer:
    """What a coordinator says that is loading: nothing of the partitions, and an error beside them."""

    def __init__(self, error_code: int, topics: list[Any]) -> None:
        self.error_code, self.topics = error_code, topics


async def test_a_coordinator_that_is_loading_is_not_taken_for_a_group_without_offsets(
    world: World, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarantee = await world.opened(kind)
    await guarantee.commit(transaction(b"one", next_offset=1))
    real = GroupCoordinator._send_req
    said = [14, 16]  # COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR

    async def send(self: Any, request: Any) -> Any:
        answer = await real(self, request)
        return Answer(said.pop(), []) if said and isinstance(request, OffsetFetchRequest) else answer

    monkeypatch.setattr(GroupCoordinator, "_send_req", send)
    assert await guarantee.committed() == 1
    assert not said


# What is not permitted

PASSWORD = "correct horse battery"
GRANTS = {
    "read the changelog": Grant("User:processor", "Read", "--topic", "changelog", "literal"),
    "write the changelog": Grant("User:processor", "Write", "--topic", "changelog", "literal"),
    "write a result": Grant("User:processor", "Write", "--topic", "purchases", "literal"),
    "read the input": Grant("User:processor", "Read", "--topic", "user_behavior", "literal"),
    "read the group": Grant("User:processor", "Read", "--group", "group", "literal"),
    "write the transactional id": Grant(
        "User:processor", "Write", "--transactional-id", "group-user_behavior-0", "literal"
    ),
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Sandbox]:
    """A broker that asks for a password and allows nothing that was not granted."""
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    properties = {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": f'{login} user_processor="{PASSWORD}";',
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "false",
    }
    with Sandbox(security_protocol="SASL_PLAINTEXT", properties=properties) as sandbox:
        yield sandbox


@pytest.mark.parametrize("missing", ["write the changelog", "write a result"])
async def test_what_is_not_permitted_ends_the_service(
    guarded: Sandbox, prefix: str, kind: Kind, missing: str
) -> None:
    world = World(
        guarded.bootstrap_servers,
        prefix,
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_MECHANISM="PLAIN",
        KAFKA_SASL_USERNAME="processor",
        KAFKA_SASL_PASSWORD=PASSWORD,
    )
    admin = AdminClient({"bootstrap.servers": guarded.internal_servers})
    await asyncio.to_thread(create, admin, world.topics)
    granted = [one.under(prefix) for what, one in GRANTS.items() if what != missing]
    await asyncio.to_thread(grant, admin, granted)
    guarantee = await world.guarantee(kind)

    async def use() -> None:
        await guarantee.open()
        await guarantee.claim()
        await guarantee.commit(transaction(b"one", next_offset=1))

    with pytest.raises(StopServiceError, match="Kafka refuses to let us"):
        await use()
    await world.close()
