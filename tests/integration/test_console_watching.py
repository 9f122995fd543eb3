"""`tandem verify --watch` beside running services: equal while it is, and an end as soon as it is not."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer

from tests.conftest import Kafka
from tests.integration.commands import StartTandem
from tests.verifier import BackgroundLoad, LoadPlan, Service
from tests.verifier.broker import Broker

pytestmark = pytest.mark.timeout(120)


@contextmanager
def watching(begin: StartTandem) -> Iterator[subprocess.Popen[str]]:
    process = begin("verify", "--watch", "--interval", "0.5", "--json", stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=20)


def lines(process: subprocess.Popen[str], count: int) -> list[dict[str, object]]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_it_follows_running_services_and_ends_when_something_differs(
    kafka: Kafka,
    prefix: str,
    make_topics: Callable[..., None],
    start_processor: Callable[..., Service],
    begin_tandem: StartTandem,
) -> None:
    make_topics(prefix)
    start_processor().wait_until_ready()
    plan = LoadPlan(seed=31, users=500)
    with (
        BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=300) as running,
        watching(begin_tandem) as process,
    ):
        running.wait_for(300)
        seen = lines(process, 4)
        assert [one["type"] for one in seen] == ["summary"] * 4
        assert all(one["equal"] for one in seen), seen
        assert seen[-1]["records"] > seen[0]["records"]  # type: ignore[operator]
        # One purchase twice, as if it had been published by two.
        [one, *_] = Broker(kafka.bootstrap_servers).read_topic(f"{prefix}purchases", 20)
        producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
        producer.produce(one.topic, one.value, one.key, partition=one.partition)
        assert producer.flush(20) == 0
        assert process.stdout is not None
        rest = [json.loads(line) for line in process.stdout]
        assert process.wait(20) == 1
    found = [one for one in rest if one["type"] == "difference"]
    assert [(each["kind"], each["topic"]) for each in found] == [("doubled", f"{prefix}purchases")]


def test_ctrl_c_ends_it_with_0_while_all_is_equal(
    prefix: str, make_topics: Callable[..., None], begin_tandem: StartTandem
) -> None:
    make_topics(prefix)
    with watching(begin_tandem) as process:
        assert all(one["equal"] for one in lines(process, 2))
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
