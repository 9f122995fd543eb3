"""`tandem tail --group`: a consumer that commits by hand, on a real Kafka."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.conftest import Kafka
from tests.integration.commands import Tandem
from tests.verifier import environment
from tests.verifier.broker import Broker
from tests.verifier.contract import PartitionId

MakeTopics = Callable[..., None]
COUNT = 25
# Fails for the record with n=13 while the file `broken` is there.
CHECK = (
    "import json, pathlib, sys; n = json.load(sys.stdin)['n']; "
    "sys.exit(3 if n == 13 and pathlib.Path('broken').exists() else 0)"
)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place(kafka: Kafka, make_topics: MakeTopics, prefix: str) -> PartitionId:
    """A partition with the values {"n": 0}, {"n": 1}, …"""
    make_topics(prefix, partitions=1)
    found = PartitionId(f"{prefix}purchases", 0)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(COUNT):
        producer.produce(found.topic, json.dumps({"n": number}), str(number), partition=0)
    assert producer.flush(30) == 0
    return found


def committed(kafka: Kafka, place: PartitionId, prefix: str, group: str) -> int | None:
    return Broker(kafka.bootstrap_servers).committed(f"{prefix}{group}", [place])[place]


def numbers(out: str) -> list[int]:
    return [json.loads(line)["value"]["n"] for line in out.splitlines()]


def test_every_tenth_record_and_the_end_are_committed_and_said(
    tandem: Tandem, kafka: Kafka, place: PartitionId, prefix: str
) -> None:
    ran = tandem("tail", "purchases", "--group", "g")
    assert ran.exit_code == 0, ran.err
    assert len(ran.out.splitlines()) == COUNT
    said = [line for line in ran.err.splitlines() if line.startswith("committed")]
    assert said == [f"committed {place.topic}:0 to {offset}" for offset in (10, 20, 25)]
    assert committed(kafka, place, prefix, "g") == COUNT
    again = tandem("tail", "purchases", "--group", "g")
    assert (again.exit_code, again.out) == (0, "")


def test_a_limit_ends_it_and_the_next_one_goes_on_there(
    tandem: Tandem, kafka: Kafka, place: PartitionId, prefix: str
) -> None:
    first = tandem("tail", "purchases", "--group", "g", "--commit-every", "4", "--limit", "6", "--json")
    assert numbers(first.out) == list(range(6))
    assert committed(kafka, place, prefix, "g") == 6
    rest = tandem("tail", "purchases", "--group", "g", "--json")
    assert numbers(rest.out) == list(range(6, COUNT))


def test_a_record_that_failed_is_not_committed_past(
    tandem: Tandem, kafka: Kafka, place: PartitionId, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    each = f'{sys.executable} -c "{CHECK}"'
    options = ("tail", "purchases", "--group", "g", "--each", each, "--json")
    failed = tandem(*options)
    assert failed.exit_code == 1
    assert f"{place.topic}:0:13" in failed.err
    assert "ended with 3; not committed, it comes again" in failed.err
    assert numbers(failed.out) == list(range(13))
    assert committed(kafka, place, prefix, "g") == 13
    (tmp_path / "broken").unlink()
    mended = tandem(*options)
    assert mended.exit_code == 0, mended.err
    assert numbers(mended.out) == list(range(13, COUNT))
    assert committed(kafka, place, prefix, "g") == COUNT


def test_what_was_shown_is_committed_when_it_is_stopped(
    kafka: Kafka, place: PartitionId, prefix: str, tmp_path: Path
) -> None:
    options = ("--group", "g", "--follow", "--commit-every", "1000")
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.console", "tail", "purchases", *options],
            env=environment(KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers, KAFKA_TOPIC_PREFIX=prefix),
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        deadline = time.monotonic() + 60
        while len(out.read_text().splitlines()) < COUNT and time.monotonic() < deadline:
            time.sleep(0.05)
        assert committed(kafka, place, prefix, "g") is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert f"committed {place.topic}:0 to {COUNT}" in said
    assert committed(kafka, place, prefix, "g") == COUNT


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--each", "true"], "say --group too"),
        (["--commit-every", "5"], "say --group too"),
        (["--group", "g", "--from", "7"], "--from is beginning or end here"),
        (["--group", "g", "--partition", "0"], "not --partition"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tandem: Tandem, options: list[str], reason: str) -> None:
    ran = tandem("tail", "purchases", *options)
    assert ran.exit_code == 2
    assert reason in ran.err
