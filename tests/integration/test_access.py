"""What the operations guide says has to be granted: it is enough, and each of it is needed.

The broker denies by default. The grants are read off the guide's own commands (`grants`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.grants import Grant, documented
from tests.integration.guarded import Guarded, Protocol, last_words
from tests.verifier import BackgroundLoad, LoadPlan, Service, load, verify, wait_until_caught_up
from tests.verifier.contract import Topology

pytestmark = pytest.mark.timeout(300)

GENERATOR = documented("generator")
# DescribeConfigs is worth granting, says the guide, and nothing stops without it.
PROCESSOR = [one for one in documented("processor") if one.operation != "DescribeConfigs"]
SENSORS = ("sensor", "alerts", "stream-", "dead_letters")
CATCH_UP_SECONDS = 90


def topology_of(one: Grant) -> Topology:
    """Return the topology that needs a permission; the two that both need are shared out."""
    return "sensors" if any(part in one.name for part in SENSORS) else "behavior"


def case(number: int, one: Grant) -> object:
    protocol: Protocol = "SSL" if number // 2 % 2 else "SASL_SSL"
    return pytest.param(one, protocol, id=f"{one} over {protocol}")


def protocol_of_each(granted: list[Grant] | tuple[Grant, ...]) -> list[object]:
    return [case(number, one) for number, one in enumerate(granted)]


def assert_names(last: dict[str, object], one: Grant, prefix: str, *, protocol: Protocol) -> None:
    reason, who = str(last["reason"]), str(last["principal"])
    assert f"{one.operation} on {one.kind} {prefix}{one.name}" in reason
    assert who == one.principal if protocol == "SASL_SSL" else "certificate" in who


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SSL"])
def test_what_the_guide_grants_takes_the_pair_and_the_console_to_a_verified_end(
    guarded: Guarded, prefix: str, protocol: Protocol
) -> None:
    def tandem(principal: str, *arguments: str) -> list[str]:
        run = guarded.service(
            guarded.command("tandem", *arguments), prefix, protocol=protocol, principal=principal, **quiet
        )
        assert run.wait(60) == 0, run.lines()
        return run.lines()

    quiet: dict[str, Any] = {"HTTP_PORT": None, "LOG_FORMAT": None}
    operator, auditor = documented("operator"), documented("auditor")
    guarded.grant(prefix, [*GENERATOR, *PROCESSOR, *operator, *auditor])
    tandem("operator", "topics", "create", "--partitions", "2", "--replication", "1")
    processor = guarded.service("services.processor", prefix, protocol=protocol)
    generator = guarded.service(
        "services.generator",
        prefix,
        protocol=protocol,
        GENERATOR_RATE="max",
        GENERATOR_SENSOR_RATE="max",
        GENERATOR_EVENTS=2_000,
    )
    load(guarded.inside, prefix, LoadPlan(seed=41, poison_rate=0.05), records=2_000)
    assert generator.wait(60) == 0
    wait_until_caught_up(guarded.inside, prefix, CATCH_UP_SECONDS)
    assert processor.terminate() == 0
    report = verify(guarded.inside, prefix)
    assert report.ok, report.text
    assert report.counts["dead letters"] > 0
    listed = tandem("operator", "topics", "list", "--json")
    assert len(listed) == len({one.name for one in operator})
    tandem("operator", "topics", "describe", "--replication", "1")
    [totals] = [json.loads(line) for line in tandem("auditor", "stats", "--json")][-1:]
    assert totals
    tandem("auditor", "verify")


@pytest.mark.parametrize(("needed", "protocol"), protocol_of_each(PROCESSOR))
def test_a_permission_of_the_processor_that_is_missing_or_taken_back_is_named_and_nothing_is_lost(
    guarded: Guarded, prefix: str, needed: Grant, protocol: Protocol
) -> None:
    topology = topology_of(needed)

    def start() -> Service:
        return guarded.service("services.processor", prefix, protocol=protocol, PROCESSOR_TOPOLOGIES=topology)

    guarded.make_topics(prefix)
    guarded.grant(prefix, [one for one in PROCESSOR if one != needed])
    plan = LoadPlan(seed=42, users=2_000, poison_rate=0.05)
    with BackgroundLoad(guarded.inside, prefix, plan, records_per_second=500) as running:
        running.wait_for(200)
        assert_names(last_words(start(), code=1), needed, prefix, protocol=protocol)

        guarded.grant(prefix, [needed])
        service = start()
        service.wait_for_line('"event":"statistics"', 60)  # It has committed.
        guarded.revoke(prefix, [needed])
        if needed.operation == "Read" and "changelog" in needed.name:
            # Nothing asks for it until a state is brought back.
            running.wait_for(500)
            service.kill()
            service = start()
        assert_names(last_words(service, code=1), needed, prefix, protocol=protocol)
        running.wait_for(200)

        guarded.grant(prefix, [needed])
        again = start()
        running.wait_for(200)
    wait_until_caught_up(guarded.inside, prefix, CATCH_UP_SECONDS, topologies=[topology])
    assert again.terminate() == 0
    report = verify(guarded.inside, prefix, topologies=[topology])
    assert report.ok, report.text
    assert report.counts["dead letters"] > 0


def test_a_record_that_we_may_not_write_is_refused_once_with_the_permission(
    guarded: Guarded, prefix: str, tmp_path: Path
) -> None:
    guarded.make_topics(prefix)
    guarded.grant(prefix, documented("processor"))  # Which reads the input, and does not write it.
    lines = tmp_path / "lines.jsonl"
    lines.write_text("{}\n" * 50)
    code, said = guarded.tandem(
        prefix, "processor", "send", "user_behavior", "--file", str(lines), "--raw", "--rate", "100"
    )
    assert code == 1
    missing = f"Write on topic {prefix}user_behavior is missing"
    assert sum(missing in line for line in said) == 1, said
    assert any(line.startswith("sent 0  failed ") for line in said), said
