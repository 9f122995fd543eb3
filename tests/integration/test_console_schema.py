"""`tandem schema` beside what the services really publish."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from jsonschema import Draft202012Validator

from tests.conftest import Kafka
from tests.integration.commands import Tandem
from tests.verifier import LoadPlan, Service, load, wait_until_caught_up
from tests.verifier.broker import Broker

pytestmark = pytest.mark.timeout(120)

TOPICS = ("user_behavior", "sensor_data", "purchases", "alerts", "behavior_stats", "sensor_stats", "progress")


def test_what_the_processor_reads_and_publishes_is_as_the_schema_says(
    kafka: Kafka,
    prefix: str,
    make_topics: Callable[..., None],
    start_processor: Callable[..., Service],
    tandem: Tandem,
) -> None:
    make_topics(prefix)
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=8, users=50), records=600)
    service = start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert service.terminate() == 0
    # Of the inputs what was counted: the load has records on purpose that are none.
    letters = {
        (str(headers["__streams.errors.topic"], "utf-8"), int(headers["__streams.errors.offset"]), one.key)
        for one in Broker(kafka.bootstrap_servers).read_topic(f"{prefix}dead_letters", 20)
        if (headers := {name: value or b"" for name, value in one.headers})
    }
    for topic in TOPICS:
        ran = tandem("schema", topic)
        assert (ran.exit_code, ran.err) == (0, "")
        schema = Draft202012Validator(json.loads(ran.out))
        records = Broker(kafka.bootstrap_servers).read_topic(prefix + topic, 20)
        found = [one for one in records if (one.topic, one.offset, one.key) not in letters]
        assert found, topic
        for one in found:
            schema.validate(json.loads(one.value or b""))


def test_a_topic_that_has_no_schema_is_refused_with_those_that_have_one(tandem: Tandem) -> None:
    ran = tandem("schema", "no_such")
    assert (ran.exit_code, "no_such is unknown: topics are alerts, " in ran.err) == (1, True), ran.err
