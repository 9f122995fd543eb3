"""The generator on a Kafka that allows nothing that was not granted; see `test_access`."""

from __future__ import annotations

import pytest

from tests.integration.grants import Grant
from tests.integration.guarded import Guarded, Protocol, last_words
from tests.integration.test_access import (
    CATCH_UP_SECONDS,
    GENERATOR,
    PROCESSOR,
    assert_names,
    protocol_of_each,
)
from tests.verifier import Service, verify, wait_until_caught_up

pytestmark = pytest.mark.timeout(300)


def start(guarded: Guarded, prefix: str, *, principal: str = "", protocol: Protocol = "SASL_SSL") -> Service:
    return guarded.service(
        "services.generator",
        prefix,
        principal=principal,
        protocol=protocol,
        GENERATOR_RATE=300,
        GENERATOR_SENSOR_RATE=300,
    )


@pytest.mark.parametrize(("needed", "protocol"), protocol_of_each(GENERATOR))
def test_a_permission_of_the_generator_that_is_missing_or_taken_back_is_named_and_nothing_is_lost(
    guarded: Guarded, prefix: str, needed: Grant, protocol: Protocol
) -> None:
    guarded.make_topics(prefix)
    guarded.grant(prefix, [*PROCESSOR, *(one for one in GENERATOR if one != needed)])
    missing = last_words(start(guarded, prefix, protocol=protocol), code=1)
    assert_names(missing, needed, prefix, protocol=protocol)

    guarded.grant(prefix, [needed])
    generator = start(guarded, prefix, protocol=protocol)
    generator.wait_for_line('"event":"generated"', 60)
    guarded.revoke(prefix, [needed])
    assert_names(last_words(generator, code=1), needed, prefix, protocol=protocol)

    guarded.grant(prefix, [needed])
    again = start(guarded, prefix, protocol=protocol)
    again.wait_for_line('"event":"generated"', 60)
    assert again.terminate() == 0
    guarded.service("services.processor", prefix, protocol=protocol)
    wait_until_caught_up(guarded.inside, prefix, CATCH_UP_SECONDS)
    report = verify(guarded.inside, prefix)
    assert report.ok, report.text


def test_a_generator_without_any_permission_names_all_that_it_needs(guarded: Guarded, prefix: str) -> None:
    # Kafka refuses the idempotent producer itself then, with an error that speaks of the cluster.
    guarded.make_topics(prefix)
    last = last_words(start(guarded, prefix, principal="stranger"), code=1)
    assert all(f"Write on topic {prefix}{one.name}" in last["reason"] for one in GENERATOR)
    assert last["principal"] == "User:stranger"
