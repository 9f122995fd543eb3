"""Stalls of every kind turn /livez to 503 in their time; slow, idle or without Kafka is no stall.

The processes of a test stall side by side, so that their waiting is shared. Each has topics of its own.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from sandbox import Sandbox
from tests.integration.behavior_topics import topics_of
from tests.integration.conftest import Kafka, create
from tests.verifier import BackgroundLoad, LoadPlan, Service, environment
from tests.verifier.polling import poll

pytestmark = pytest.mark.timeout(180)

STALL_SECONDS = 4.0
ASK_SECONDS = STALL_SECONDS / 4
DEADLINE_SECONDS = 2.0
REBALANCE_SECONDS = 2.0
SESSION_SECONDS = 6.0
# What a loaded machine may add to any bound.
NOISE_SECONDS = 2.0

# What docs/operations.md says, with these settings.
STALL_BOUND = STALL_SECONDS + ASK_SECONDS
SETTINGS = {
    "HTTP_PORT": 0,
    "LOG_FORMAT": "json",
    "HTTP_STALL_SECONDS": STALL_SECONDS,
    "KAFKA_OPERATION_DEADLINE_SECONDS": DEADLINE_SECONDS,
    "KAFKA_REQUEST_TIMEOUT_SECONDS": 1,
    "PROCESSOR_REBALANCE_TIMEOUT_SECONDS": REBALANCE_SECONDS,
    "PROCESSOR_SESSION_TIMEOUT_SECONDS": SESSION_SECONDS,
    "PROCESSOR_TOPOLOGIES": "behavior",
    "GENERATOR_RATE": 300,
    "GENERATOR_STREAMS": "behavior",
    "GENERATOR_LINGER_MILLISECONDS": 20,
}


@dataclass
class Stall:
    """What is planted, what /livez has to say, and how long after it began."""

    name: str
    says: str
    bound_seconds: float = STALL_BOUND


PROCESSOR_STALLS = [
    Stall("nothing is read", "is behind and has not moved from"),
    Stall("gate never opens", "is behind and has not moved from"),
    # The second build reads the state back, and only that counts as movement once more.
    Stall("commit never returns", "is behind and has not moved", STALL_BOUND + DEADLINE_SECONDS + 9),
    Stall("dead sender", "is behind and has not moved", STALL_BOUND + DEADLINE_SECONDS + 9),
    Stall("event loop blocked", "event loop has not gone round for", STALL_SECONDS),
    Stall(
        "rebalance never ends",
        "an assignment of group .*behavior-processor has not come for",
        REBALANCE_SECONDS + SESSION_SECONDS + DEADLINE_SECONDS + ASK_SECONDS,
    ),
]
GENERATOR_STALLS = [
    Stall("dead lane", r"user_behavior:0 is behind and has not moved from"),
    Stall("dead sender", r"user_behavior:\d is behind and has not moved from"),
    Stall("stream stands still", "stream behavior has not gone round for", STALL_SECONDS),
    Stall("event loop blocked", "event loop has not gone round for", STALL_SECONDS),
]

Start = Callable[..., Service]
Measured = Callable[[str, object], None]


def load(servers: str, prefix: str) -> BackgroundLoad:
    return BackgroundLoad(servers, prefix, LoadPlan(seed=41, users=1_000), records_per_second=200)


def prefix_of(service: Service) -> str:
    assert isinstance(service, Own)
    return service.prefix


class Own(Service):
    """A process with topics of its own."""

    prefix = ""


@pytest.fixture
def start(tmp_path: Path, prefix: str) -> Iterator[Start]:
    """Return what starts a process with topics of its own. Every one is ended with the test."""
    started: list[Service] = []

    def start_one(what: str, servers: str, *, beside: Service | None = None, **settings: object) -> Service:
        own_prefix = f"{prefix}{len(started)}."
        if beside is None:
            create(AdminClient({"bootstrap.servers": servers}), topics_of(own_prefix, 2))
        else:
            own_prefix = prefix_of(beside)
        connected = {"KAFKA_BOOTSTRAP_SERVERS": servers, "KAFKA_TOPIC_PREFIX": own_prefix}
        variables = environment(**{**SETTINGS, **connected, **settings})
        service = Own(what, variables, tmp_path / f"{len(started)}.log")
        service.prefix = own_prefix
        service.start()
        started.append(service)
        return service

    yield start_one
    for service in started:
        service.end()


def assert_each_is_called_stuck(stuck: dict[str, tuple[Stall, Service]], measured: Measured) -> None:
    """Watch all of them at once, and compare with the bounds how long it took and what was said."""
    heard: dict[str, tuple[float, str]] = {}

    def look() -> bool | None:
        for name, (stall, service) in stuck.items():
            began = planted_at(service)
            if name in heard or began is None:
                continue
            seconds = time.time() - began
            status, body = service.get("/livez")
            if status == 503 or seconds > stall.bound_seconds + 2 * NOISE_SECONDS:
                heard[name] = seconds, f"{status} {body.strip()}"
        return True if len(heard) == len(stuck) else None

    poll(look, 120, lambda: f"only {heard}", interval_seconds=0.1)
    problems = []
    for name, (stall, _) in stuck.items():
        seconds, body = heard[name]
        measured("measured", f"{name:24} {seconds:4.1f} s, bound {stall.bound_seconds:4.1f} s: {body}")
        if seconds > stall.bound_seconds + NOISE_SECONDS or not re.search(stall.says, body):
            problems.append(f"{name}: after {seconds:.1f} of {stall.bound_seconds:.1f} s: {body}")
    assert not problems, "\n".join(problems)


def planted_at(service: Service) -> float | None:
    if not service.is_running:
        service.wait_for_line(
            '"event": ?"planted"', 0.1
        )  # Fails with its last lines if it had not got there.
    line = next((line for line in service.lines() if '"event":"planted"' in line), None)
    return None if line is None else datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()


def assert_stays_live(services: list[Service], seconds: float) -> None:
    """Ask again and again for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for service in services:
            assert service.get("/livez") == (200, "ok\n")
        time.sleep(0.2)


def test_every_stall_of_a_processor_is_named_by_livez_in_its_time(
    kafka: Kafka, start: Start, record_property: Measured
) -> None:
    stuck: dict[str, tuple[Stall, Service]] = {}
    with ExitStack() as loads:
        for stall in PROCESSOR_STALLS:
            service = start("tests.integration.stuck_processor", kafka.bootstrap_servers, STALL=stall.name)
            stuck[stall.name] = stall, service
            loads.enter_context(load(kafka.bootstrap_servers, prefix_of(service)))
        assert_each_is_called_stuck(stuck, record_property)
        blocked = stuck["event loop blocked"][1]
        # Nobody restarts it here: it ends by itself, and says where it was stuck.
        assert blocked.wait(STALL_SECONDS + 10) == 1
        assert "in StuckGuarantee.end" in json.loads(blocked.lines()[-1])["reason"]
        blocked.wait_for_line("time.sleep.*event_loop_blocked")


def test_every_stall_of_a_generator_is_named_by_livez_in_its_time(
    kafka: Kafka, start: Start, record_property: Measured
) -> None:
    assert_each_is_called_stuck(
        {
            stall.name: (
                stall,
                start("tests.integration.stuck_generator", kafka.bootstrap_servers, STALL=stall.name),
            )
            for stall in GENERATOR_STALLS
        },
        record_property,
    )


def test_slow_and_idle_processes_stay_live(kafka: Kafka, start: Start) -> None:
    servers = kafka.bootstrap_servers
    # What is slow is the commit: it need not be in time for its deadline as well.
    slow = start(
        "tests.integration.stuck_processor", servers, STALL="slow", KAFKA_OPERATION_DEADLINE_SECONDS=20
    )
    idle = [start("services.processor", servers), start("services.generator", servers, GENERATOR_RATE=0.01)]
    throttled = start("services.generator", servers, GENERATOR_RATE="max", GENERATOR_BUFFER_BYTES=2_000_000)
    services = [slow, *idle, throttled]
    for service in services:
        service.wait_until_ready(60)
    with load(servers, prefix_of(slow)):
        assert_stays_live(services, 3 * STALL_SECONDS)
    assert slow.stats()["topologies"]["behavior"]["accounts"]["events"] > 0


def test_an_idle_processor_looks_twice_at_least_before_it_is_taken_for_stuck(
    kafka: Kafka, start: Start
) -> None:
    # Where nothing asks for more, a task waits longer for records, and a round of the membership takes more
    # than half of it.
    stall_seconds = 1.5
    idle = start(
        "tests.integration.waiting_processor", kafka.bootstrap_servers, HTTP_STALL_SECONDS=stall_seconds
    )
    idle.wait_until_ready(60)
    waits = poll(
        lambda: found if len(found := waits_of(idle)) > 60 else None,
        60,
        lambda: f"it has waited {len(waits_of(idle))} times",
    )
    assert 0 < max(waits) <= stall_seconds * 1000 / 2


def waits_of(service: Service) -> list[int]:
    """Return how long a `waiting_processor` was ready to wait each time, milliseconds."""
    said = map(json.loads, service.lines())
    return [line["milliseconds"] for line in said if line["event"] == "waits"]


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_processes_without_a_broker_stay_live_until_they_end(start: Start, how: str) -> None:
    with Sandbox() as sandbox:
        servers = sandbox.bootstrap_servers
        busy = start("services.processor", servers)
        services = [busy, start("services.processor", servers)]
        services.append(start("services.generator", servers, beside=busy))
        for service in services:
            service.wait_until_ready(60)
        if how == "frozen":
            sandbox.pause()
        else:
            sandbox.kill()
        assert_stays_live(services, 3 * STALL_SECONDS)
        if how == "frozen":
            # Back again, it is no reason either.
            sandbox.resume()
            assert_stays_live(services, 2 * STALL_SECONDS)
