"""Input of every bad kind, while processors die."""

from __future__ import annotations

from typing import Any

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.faults.scenario import scenario
from tests.faults.stage import Stage

SMALL_BYTES = 20_000


def goes_through_kills(stage: Stage, **settings: Any) -> None:
    """Kill three processors at random moments; a fourth goes on."""
    for _ in range(3):
        victim = stage.processor(**settings)
        stage.ready(victim)
        stage.pause(1.0, 4.0)
        stage.kill(victim)
    stage.ready(stage.processor(**settings))
    stage.goes_on()


@scenario("data: poison of every kind, one record in a hundred", load={"poison_rate": 0.01}, rate=2_000)
def poison(stage: Stage) -> None:
    goes_through_kills(stage)
    kinds = {kind for kind in stage.load.acknowledged.by_kind if kind.startswith("poison")}
    assert len(kinds) > 50, f"only {len(kinds)} kinds of poison came"


@scenario("data: valid records that look strange", load={"oddity_rate": 0.1, "poison_rate": 0.01})
def oddities(stage: Stage) -> None:
    goes_through_kills(stage)


@scenario(
    "data: duplicates, gaps, late and stray events",
    load={
        "source": "load",
        "duplicate_rate": 0.02,
        "gap_rate": 0.02,
        "stray_rate": 0.01,
        "poison_rate": 0.01,
    },
)
def disorder(stage: Stage) -> None:
    goes_through_kills(stage)
    kinds = stage.load.acknowledged.by_kind
    assert all(kinds[kind] for kind in ("duplicate", "late", "stray")), kinds


@scenario(
    "data: dead letters larger than their topic takes",
    # By default the large ones end after a while, and each round needs some.
    load={"poison_rate": 0.02, "large_limit": 1_000},
    catches=("unawaited_sends",),
)
def oversized(stage: Stage) -> None:
    """The broker refuses the record: nothing of that transaction may count, and then a cut one is sent."""
    for _ in range(2):
        # A process stays with what it has found to be taken: the next one has to find out by itself.
        service = stage.processor()
        stage.ready(service)
        stage.load.wait_for(1_000)
        with stage.fault("record refused"):
            before = service.mark()
            limit(stage, SMALL_BYTES)
            service.wait_for_line("too large|TooLarge|MessageSizeTooLarge|RecordTooLarge", 60, since=before)
        stage.goes_on()
        limit(stage, None)
        stage.stop(service)
    stage.ready(stage.processor())
    stage.goes_on()


def limit(stage: Stage, most_bytes: int | None) -> None:
    """Set what one record of the dead letters may take; None for what it was made with."""
    operation = AlterConfigOpType.SET if most_bytes else AlterConfigOpType.DELETE
    entry = ConfigEntry("max.message.bytes", str(most_bytes or ""), incremental_operation=operation)
    topic = ConfigResource(ResourceType.TOPIC, stage.names.dead_letters, incremental_configs=[entry])
    for done in stage.cluster.admin.incremental_alter_configs([topic]).values():
        done.result(20)


@scenario("data: wall clocks that jump by hours", load={"poison_rate": 0.01})
def clocks(stage: Stage) -> None:
    goes_through_kills(stage, JUMPY_CLOCK=7_200)
