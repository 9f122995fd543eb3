"""Processors come, go, die and come back: what moves, how long it takes, and that every count holds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from tests.integration.conftest import Kafka
from tests.verifier import BackgroundLoad, LoadPlan, Service, verify, wait_until_caught_up
from tests.verifier.polling import poll

StartProcessor = Callable[..., Service]
MakeTopics = Callable[..., None]

PARTITIONS = 6
# What is waited for so long shows as such, however slow the machine is.
TOO_LONG_SECONDS = 60
BEHAVIOR = {"PROCESSOR_TOPOLOGIES": "behavior"}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _topics(make_topics: MakeTopics, prefix: str) -> None:
    make_topics(prefix, PARTITIONS)


def assignments(service: Service, since: int | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in service.lines(since) if '"event":"assigned"' in line]
    return [line for line in lines if line["group"].endswith("behavior-processor")]


def owned(service: Service) -> list[int]:
    lines = assignments(service)
    return list(lines[-1]["partitions"]) if lines else []


def reason_of(service: Service) -> str:
    return str(json.loads(service.wait_for_line('"event":"stopped"', 5))["reason"])


def wait_until_shared(*services: Service, timeout_seconds: float = 60) -> list[list[int]]:
    """Wait until the services have every partition between them, evenly, and return who has which."""

    def look() -> list[list[int]] | None:
        shares = [owned(service) for service in services]
        whole = sorted(chain.from_iterable(shares)) == list(range(PARTITIONS))
        return shares if whole and max(map(len, shares)) - min(map(len, shares)) <= 1 else None

    return poll(look, timeout_seconds, lambda: f"shared as {[owned(service) for service in services]}")


def moved(before: list[list[int]], after: list[list[int]]) -> int:
    return sum(len(set(old) - set(new)) for old, new in zip(before, after, strict=True))


def is_verified(kafka: Kafka, prefix: str) -> None:
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_one_to_three_to_one_moves_only_what_balance_needs(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    with BackgroundLoad(
        kafka.bootstrap_servers, prefix, LoadPlan(seed=31), records_per_second=1_000
    ) as running:
        first = start_processor()
        alone = wait_until_shared(first)
        second = start_processor()
        two = wait_until_shared(first, second)
        assert moved([*alone, []], two) == 3
        third = start_processor()
        three = wait_until_shared(first, second, third)
        assert moved([*two, []], three) == 2
        assert second.terminate() == 0
        two = wait_until_shared(first, third)
        assert moved([three[0], three[2]], two) == 0
        assert third.terminate() == 0
        assert moved(two[:1], wait_until_shared(first)) == 0
        running.wait_for(1_000)
    is_verified(kafka, prefix)


def test_a_rolling_restart_leaves_the_others_alone_and_ends_balanced(
    start_processor: StartProcessor,
) -> None:
    services: list[Service] = []
    shares: list[list[int]] = []
    for _ in range(3):
        services.append(start_processor(**BEHAVIOR))
        shares = wait_until_shared(*services)
    for place in range(3):
        others = [one for one in range(3) if one != place]
        assert services[place].terminate() == 0
        left = wait_until_shared(*[services[one] for one in others])
        assert moved([shares[one] for one in others], left) == 0
        services[place] = start_processor(**BEHAVIOR)
        after = wait_until_shared(*services)
        # The two partitions that it had have to come back from the others, and nothing else moves.
        assert moved(left, [after[one] for one in others]) == 2
        shares = after


def test_a_killed_processor_with_an_instance_id_gets_its_partitions_back_without_a_rebalance(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    # Long enough for a machine that is busy with other things; what is tested does not depend on it.
    static = {"PROCESSOR_SESSION_TIMEOUT_SECONDS": 30}
    with BackgroundLoad(
        kafka.bootstrap_servers, prefix, LoadPlan(seed=32), records_per_second=1_000
    ) as running:
        stays = start_processor(PROCESSOR_INSTANCE_ID="stays", **static)
        wait_until_shared(stays)
        restarts = start_processor(PROCESSOR_INSTANCE_ID="restarts", **static)
        shares = wait_until_shared(stays, restarts)
        mark = stays.mark()
        for _ in range(2):
            restarts.wait_until_ready(60)
            restarts.kill()
            restarts.start()
            assert wait_until_shared(stays, restarts) == shares
            running.wait_for(500)
        restarts.wait_until_ready(60)
        assert assignments(stays, mark) == []
    is_verified(kafka, prefix)


def test_a_process_whose_instance_id_is_taken_by_another_stops_and_says_so(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    with BackgroundLoad(
        kafka.bootstrap_servers, prefix, LoadPlan(seed=33), records_per_second=1_000
    ) as running:
        first = start_processor(PROCESSOR_INSTANCE_ID="one")
        first.wait_until_ready(60)
        second = start_processor(PROCESSOR_INSTANCE_ID="one")
        assert first.wait(60) == 1
        reason = reason_of(first)
        assert "PROCESSOR_INSTANCE_ID=one" in reason
        assert "give every process an id of its own" in reason
        second.wait_until_ready(60)
        running.wait_for(2_000)
        assert second.is_running
    is_verified(kafka, prefix)


def test_a_process_with_an_instance_id_that_outlived_its_session_joins_again(
    start_processor: StartProcessor,
) -> None:
    frozen = start_processor(PROCESSOR_INSTANCE_ID="one", **BEHAVIOR)
    other = start_processor(PROCESSOR_INSTANCE_ID="two", **BEHAVIOR)
    wait_until_shared(frozen, other)
    frozen.pause()
    poll(lambda: True if len(owned(other)) == PARTITIONS else None, 60, lambda: "nobody took over")
    frozen.resume()
    wait_until_shared(frozen, other)
    assert frozen.is_running


def test_what_a_killed_processor_had_is_served_again_when_its_session_ends_and_waits_for_nothing_else(
    kafka: Kafka,
    prefix: str,
    start_processor: StartProcessor,
    record_property: Callable[[str, object], None],
) -> None:
    # Neither the group nor the fence waits for these. How soon after the six seconds of the session it is
    # served depends on the machine, and is shown.
    slow = BEHAVIOR | {
        "PROCESSOR_REBALANCE_TIMEOUT_SECONDS": TOO_LONG_SECONDS,
        "PROCESSOR_TRANSACTION_TIMEOUT_SECONDS": TOO_LONG_SECONDS,
    }
    with BackgroundLoad(
        kafka.bootstrap_servers, prefix, LoadPlan(seed=34), records_per_second=1_000
    ) as running:
        survivor = start_processor(**slow)
        wait_until_shared(survivor)
        victim = start_processor(**slow)
        wait_until_shared(survivor, victim)
        victim.wait_until_ready(60)
        running.wait_for(1_000)
        mark = survivor.mark()
        victim.kill()
        killed = time.monotonic()
        poll(
            lambda: True if len(running_again(survivor, mark)) == PARTITIONS / 2 else None,
            TOO_LONG_SECONDS,
            lambda: "nobody took over",
        )
        seconds = time.monotonic() - killed
        record_property(
            "measured", f"a kill -9 is taken over after {seconds:.1f} s, the session's 6 s included"
        )
        assert seconds < TOO_LONG_SECONDS / 2


def running_again(service: Service, mark: int) -> list[str]:
    return [line for line in service.lines(mark) if '"event":"task_running"' in line]


def test_who_stays_commits_while_the_group_waits_for_a_dead_member(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    # The rebalance lasts as long as the dead one's session: longer than the test.
    slow = BEHAVIOR | {"PROCESSOR_SESSION_TIMEOUT_SECONDS": 120, "PROCESSOR_REBALANCE_TIMEOUT_SECONDS": 120}
    with BackgroundLoad(
        kafka.bootstrap_servers, prefix, LoadPlan(seed=35), records_per_second=1_000
    ) as running:
        stays = start_processor(**slow, LOG_LEVEL="debug")
        wait_until_shared(stays)
        victim = start_processor(**slow)
        wait_until_shared(stays, victim)
        victim.wait_until_ready(60)
        victim.kill()
        mark = stays.mark()
        start_processor(**slow)  # It joins at once; the group waits for the dead one all the same.
        stays.wait_for_line('"event":"revoked"', 30, mark)
        counted = events(stays)
        poll(
            partial(has_counted, stays, counted + 1_000),
            60,
            lambda: f"{events(stays)} events after {counted}",
        )
        assert assignments(stays, mark) == [], "the rebalance goes on"
        running.wait_for(100)


def events(service: Service) -> int:
    return int(service.stats()["topologies"]["behavior"]["accounts"]["events"])


def has_counted(service: Service, wanted: int) -> bool | None:
    return events(service) >= wanted or None


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    async def on_partitions_revoked(self, revoked: Any) -> None: ...

    async def on_partitions_assigned(self, assigned: Any) -> None: ...


async def test_a_group_whose_members_share_by_other_rules_is_named(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    older = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=f"{prefix}behavior-processor",
        partition_assignment_strategy=[RoundRobinPartitionAssignor],
    )
    older.subscribe([f"{prefix}user_behavior"], listener=Listener())
    await older.start()
    try:
        service = start_processor(**BEHAVIOR)
        # In a thread: the older member has to go on with its heartbeats.
        assert await asyncio.to_thread(service.wait, 60) == 1
        assert "stop all of them" in reason_of(service)
    finally:
        await older.stop()
