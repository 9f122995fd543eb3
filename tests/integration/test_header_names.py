"""Records with a header name that is not UTF-8 are counted, or put aside, like any other.

The verifier of the other tests can't look at these: librdkafka's Python client hands out half-made tuples for
such headers, and whoever touches them crashes. `tandem verify` recomputes instead, and the sums are compared
with what was sent.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.header_names import Content, send_any_names
from tests.integration.conftest import Kafka
from tests.verifier import LoadPlan, Service, environment, load, wait_until_caught_up
from tests.verifier.broker import Broker
from tests.verifier.contract import Names

EVENT = b'{"user_id":1,"action":"click","device":"mobile","page":"/page/1","timestamp":"2023-11-14T22:13:20"}'
PURCHASE = EVENT.replace(b"click", b"purchase")
READING = b'{"sensor_id":"temperature","value":99.5,"timestamp":1700000000,"location":"server1"}'
NAMES: list[tuple[bytes, bytes | None]] = [(b"trace", b"1"), (b"tr\xffce", b"\xfe"), (b"\xc3(", None)]
WRITTEN: tuple[tuple[str, bytes | None], ...] = (("trace", b"1"), ("tr\\xffce", b"\xfe"), ("\\xc3(", None))


@pytest.fixture(autouse=True)
def _topics(make_topics: Callable[..., None], prefix: str) -> None:
    make_topics(prefix)


def test_a_header_name_that_is_not_utf8_stops_nothing_and_its_record_counts_by_its_value(
    kafka: Kafka, prefix: str, start_processor: Callable[..., Service], tmp_path: Path
) -> None:
    servers, names = kafka.bootstrap_servers, Names(prefix)
    sent = [load(servers, prefix, LoadPlan(seed=51, poison_rate=0.02, large_limit=2), records=400)]
    odd: dict[str, list[Content]] = {
        names.inputs["behavior"]: [(b"1", EVENT, NAMES), (b"1", b"poison", NAMES), (b"1", PURCHASE, NAMES)],
        names.inputs["sensors"]: [(b"temperature", READING, NAMES), (b"\xff", None, NAMES)],
    }
    for topic, contents in odd.items():
        for compression in (None, "zstd"):
            asyncio.run(send_any_names(servers, topic, 2, contents, compression=compression))
    sent.append(load(servers, prefix, LoadPlan(seed=52), records=400))
    service = start_processor()
    wait_until_caught_up(servers, prefix, 60)
    assert service.terminate() == 0
    progress = {
        one.key: json.loads(one.value or b"") for one in Broker(servers).read_topic(names.progress, 30)
    }
    dead_letters = sum(one.dead_letters for one in sent)
    assert sum(one["events"] for one in progress.values()) == 800 - dead_letters + 6
    assert sum(one["dead_letters"] for one in progress.values()) == dead_letters + 4
    letters = Broker(servers).read_topic(names.dead_letters, 30)
    shown = [(one.key, one.value, tuple(one.headers[:3])) for one in letters if one.headers[1] == WRITTEN[1]]
    expected = [(b"1", b"poison", WRITTEN), (b"\xff", None, WRITTEN)]
    assert sorted(shown, key=str) == sorted(2 * expected, key=str)
    verified = subprocess.run(
        [sys.executable, "-m", "services.console", "verify", "--json"],
        env=environment(KAFKA_BOOTSTRAP_SERVERS=servers, KAFKA_TOPIC_PREFIX=prefix),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert [json.loads(line) for line in verified.stdout.splitlines()], "it says what it compared"
