"""The generator as a process on a real Kafka: what it promises is read back with another client."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from bench.growth import spacing
from sandbox import Sandbox
from tests.integration.conftest import Kafka, create_topics
from tests.verifier import Service, environment
from tests.verifier.broker import Broker
from tests.verifier.murmur2 import partition_of
from tests.verifier.polling import poll

pytestmark = pytest.mark.timeout(180)

Start = Callable[..., Service]
READ_SECONDS = 60
STREAMS = {"behavior": "user_behavior", "sensors": "sensor_data"}
# A process that is not alone gets its turn at a tick of the scheduler: so far apart on the slowest kernels.
TURN_MILLISECONDS = 10


@pytest.fixture
def start(kafka: Kafka, prefix: str, tmp_path: Path) -> Iterator[Start]:
    """Return what starts a generator with extra settings. Every one is ended with the test."""
    started: list[Service] = []

    def start_one(servers: str = kafka.bootstrap_servers, **settings: object) -> Service:
        variables: dict[str, object] = {
            "KAFKA_BOOTSTRAP_SERVERS": servers,
            "KAFKA_TOPIC_PREFIX": prefix,
            "HTTP_PORT": 0,
            "LOG_FORMAT": "json",
            "GENERATOR_LEDGER_SECONDS": 0.2,
        }
        log = tmp_path / f"generator-{len(started)}.log"
        service = Service("services.generator", environment(**(variables | settings)), log)
        service.start()
        started.append(service)
        return service

    yield start_one
    for service in started:
        service.end()


@pytest.fixture(scope="module")
def spare_kafka() -> Iterator[Sandbox]:
    """A broker to be ill-treated."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def own_kafka(spare_kafka: Sandbox, prefix: str) -> Sandbox:
    """The spare broker, running, with the topics of this test."""
    spare_kafka.start()
    create_topics(AdminClient({"bootstrap.servers": spare_kafka.bootstrap_servers}), prefix)
    return spare_kafka


class Written:
    """What stands in a topic, by source and partition."""

    def __init__(self, servers: str, topic: str) -> None:
        self.records = Broker(servers).read_topic(topic, READ_SECONDS)
        self.events = [json.loads(record.value or b"") for record in self.records]
        self.numbers: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.offsets: dict[tuple[str, int], list[int]] = defaultdict(list)
        for record, event in zip(self.records, self.events, strict=True):
            self.numbers[event["source"], record.partition].append(event["seq"])
            self.offsets[event["source"], record.partition].append(record.offset)

    @property
    def are_consecutive(self) -> bool:
        """Whether each source's numbers are 0, 1, 2, … in each partition, each of them once."""
        return all(numbers == list(range(len(numbers))) for numbers in self.numbers.values())

    @property
    def seconds(self) -> float:
        """How long after the first event the last one was made."""
        made = [made_at(event) for event in self.events]
        return max(made) - min(made)


def made_at(event: dict[str, Any]) -> float:
    """Return when an event was made, seconds since the epoch; users' events have it in words."""
    stamp: str | float = event["timestamp"]
    return datetime.fromisoformat(stamp).timestamp() if isinstance(stamp, str) else stamp


def ledger(servers: str, prefix: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the ledger's latest entries by source, topic and partition."""
    entries = {}
    for record in Broker(servers).read_topic(f"{prefix}generator_ledger", READ_SECONDS):
        entry = json.loads(record.value or b"")
        assert record.key == f"{entry['source']}:{entry['topic']}:{entry['partition']}".encode()
        assert record.partition == 0
        entries[entry["source"], entry["topic"], entry["partition"]] = entry
    return entries


def sources_of(entries: Iterable[tuple[str, str, int]]) -> set[str]:
    return {source for source, _, _ in entries}


def wait_for_sources(servers: str, prefix: str, count: int) -> None:
    """Wait until so many generators have entries in the ledger."""
    poll(
        lambda: len(sources_of(ledger(servers, prefix))) == count or None,
        30,
        lambda: f"not {count} sources in the ledger: {sources_of(ledger(servers, prefix))}",
    )


def lines(service: Service, event: str) -> list[dict[str, Any]]:
    """Return the log lines of one kind."""
    return [line for text in service.lines() if (line := json.loads(text))["event"] == event]


def last_line(service: Service) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(service.lines()[-1])
    return line


def acknowledged(service: Service, stream: str = "behavior") -> int:
    count: int = service.stats()["streams"][stream]["acknowledged"]
    return count


def wait_for_acknowledged(service: Service, count: int, timeout_seconds: float = 60) -> None:
    service.wait_until_ready()
    poll(lambda: acknowledged(service) >= count or None, timeout_seconds, lambda: f"not {count} acknowledged")


def assert_the_ledger_is_the_truth(servers: str, prefix: str, *, finished: bool) -> None:
    """Check that the ledger claims all that is in Kafka, and nothing else."""
    entries = ledger(servers, prefix)
    assert entries
    claimed = {key: entry["acknowledged"] for key, entry in entries.items()}
    assert all(entry["finished"] is finished for entry in entries.values())
    for topic in (f"{prefix}{name}" for name in STREAMS.values()):
        written = Written(servers, topic)
        assert written.are_consecutive
        for (source, partition), numbers in written.numbers.items():
            entry = entries[source, topic, partition]
            assert claimed.pop((source, topic, partition)) == len(numbers)
            assert entry["last_offset"] == written.offsets[source, partition][-1]
    assert not claimed


# --- Bounds ------------------------------------------------------------------------------------------


def test_a_bounded_run_writes_exactly_so_many_events_a_stream_and_accounts_for_each(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start(GENERATOR_RATE="max", GENERATOR_SENSOR_RATE="max", GENERATOR_EVENTS=25_003)
    assert generator.wait(60) == 0
    for stream, name in STREAMS.items():
        written = Written(kafka.bootstrap_servers, prefix + name)
        assert len(written.events) == 25_003
        assert len({event["source"] for event in written.events}) == 1
        key = "user_id" if stream == "behavior" else "sensor_id"
        for record, event in zip(written.records, written.events, strict=True):
            assert record.key == str(event[key]).encode()
            assert record.partition == partition_of(record.key, 4)
    assert_the_ledger_is_the_truth(kafka.bootstrap_servers, prefix, finished=True)
    closed = {line["stream"]: line for line in lines(generator, "generator_closed")}
    for stream in STREAMS:
        assert (closed[stream]["sent"], closed[stream]["acknowledged"]) == (25_003, 25_003)
        assert (closed[stream]["failed"], closed[stream]["in_flight"]) == (0, 0)
        assert closed[stream]["events_per_second"] > 0
    assert last_line(generator)["reason"] == "as asked"


def test_the_same_seed_writes_the_same_events_into_the_same_places(
    kafka: Kafka, prefix: str, start: Start
) -> None:
    runs = []
    for run in ("one.", "two."):
        create_topics(kafka.admin, prefix + run)
        generator = start(
            KAFKA_TOPIC_PREFIX=prefix + run,
            GENERATOR_SEED=4711,
            GENERATOR_RATE="max" if run == "one." else 20_000,
            GENERATOR_SENSOR_RATE="max",
            GENERATOR_EVENTS=10_000,
        )
        assert generator.wait(60) == 0
        contents = []
        for name in STREAMS.values():
            written = Written(kafka.bootstrap_servers, prefix + run + name)
            for record, event in zip(written.records, written.events, strict=True):
                del event["timestamp"], event["source"]
                contents.append((name, record.partition, record.offset, record.key, event))
        runs.append(contents)
    assert runs[0] == runs[1]


def test_a_run_bounded_by_time_ends_with_everything_acknowledged(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start(GENERATOR_DURATION_SECONDS=3, GENERATOR_RATE=500, GENERATOR_SENSOR_RATE="reference")
    assert generator.wait(30) == 0
    users = Written(kafka.bootstrap_servers, f"{prefix}user_behavior")
    sensors = Written(kafka.bootstrap_servers, f"{prefix}sensor_data")
    assert len(users.events) <= 1_500
    assert len(sensors.events) <= 30
    # What was due when the last was made: a process that is held up as its time ends makes no more.
    assert len(users.events) == pytest.approx(500 * users.seconds, abs=100)
    assert len(sensors.events) == pytest.approx(10 * sensors.seconds + 5, abs=5)
    assert min(line["seconds"] for line in lines(generator, "generator_closed")) >= 3
    assert last_line(generator)["reason"] == "as asked"
    assert_the_ledger_is_the_truth(kafka.bootstrap_servers, prefix, finished=True)


# --- Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_codec_arrives(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start, codec: str
) -> None:
    make_topics(prefix)
    generator = start(
        GENERATOR_STREAMS="behavior",
        GENERATOR_COMPRESSION=codec,
        GENERATOR_RATE="max",
        GENERATOR_EVENTS=5_000,
    )
    assert generator.wait(60) == 0
    written = Written(kafka.bootstrap_servers, f"{prefix}user_behavior")
    assert len(written.events) == 5_000
    assert written.are_consecutive


def test_one_acknowledgement_and_no_linger_and_the_md5_partitioner_work_too(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start(
        GENERATOR_ACKS=1,
        GENERATOR_LINGER_MILLISECONDS=0,
        GENERATOR_PARTITIONER="md5",
        GENERATOR_BATCH_BYTES=4096,
        GENERATOR_RATE="max",
        GENERATOR_SENSOR_RATE="max",
        GENERATOR_EVENTS=5_000,
    )
    assert generator.wait(60) == 0
    assert_the_ledger_is_the_truth(kafka.bootstrap_servers, prefix, finished=True)


def test_bad_settings_end_it_with_2_and_all_of_them_in_one_message(start: Start) -> None:
    generator = start(
        GENERATOR_ACKS=0,
        GENERATOR_RATE="fast",
        GENERATOR_EVENTS="many",
        GENERATOR_COMPRESSION="zip",
        GENERATOR_PARTITONER="md5",
        GENERATOR_STREAMS="behavior,weather",
        GENERATOR_BUFFER_BYTES=65_536,
    )
    assert generator.wait(30) == 2
    reason = last_line(generator)["reason"]
    assert "GENERATOR_ACKS: 0 is refused: without acknowledgements" in reason
    assert "GENERATOR_RATE: has to be reference, max, or a number" in reason
    assert "GENERATOR_EVENTS" in reason
    assert "GENERATOR_COMPRESSION" in reason
    assert "GENERATOR_PARTITONER: there is no such setting; did you mean GENERATOR_PARTITIONER?" in reason
    assert "GENERATOR_STREAMS" in reason
    assert "GENERATOR_BUFFER_BYTES has to be 4 times GENERATOR_BATCH_BYTES" in reason
    assert reason.startswith("7 problems")


def test_the_settings_in_force_are_printed_with_their_sources_and_without_secrets(tmp_path: Path) -> None:
    variables = environment(
        GENERATOR_RATE=1000,
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_USERNAME="user",
        KAFKA_SASL_PASSWORD="hunter2",
    )
    command = [*Service("services.generator", {}, tmp_path / "x").command, "--print-config"]
    with Service(command, variables, tmp_path / "config.log") as generator:
        assert generator.wait(30) == 0
        printed = {line["variable"]: line for line in map(json.loads, generator.lines())}
    assert printed["GENERATOR_RATE"] == {
        "variable": "GENERATOR_RATE",
        "value": "1000.0",
        "source": "environment",
    }
    assert printed["GENERATOR_ACKS"]["source"] == "default"
    assert printed["KAFKA_SASL_PASSWORD"]["value"] == "********"
    assert "hunter2" not in str(printed)


# --- Ends --------------------------------------------------------------------------------------------


def test_sigterm_ends_it_with_0_and_nothing_in_doubt(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start(GENERATOR_RATE="max")
    wait_for_acknowledged(generator, 20_000)
    assert generator.terminate(15) == 0
    assert_the_ledger_is_the_truth(kafka.bootstrap_servers, prefix, finished=True)
    assert last_line(generator)["exit_code"] == 0


def test_after_kill_9_the_ledger_claims_no_more_than_kafka_has(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    for number in (1, 2):
        generator = start(GENERATOR_RATE="max", GENERATOR_SENSOR_RATE="max")
        wait_for_acknowledged(generator, 20_000)
        # Its own first entries: those of the one before are there from the beginning.
        wait_for_sources(kafka.bootstrap_servers, prefix, number)
        generator.kill()
    entries = ledger(kafka.bootstrap_servers, prefix)
    assert len(sources_of(entries)) == 2
    assert not any(entry["finished"] for entry in entries.values())
    for name in STREAMS.values():
        written = Written(kafka.bootstrap_servers, prefix + name)
        assert written.are_consecutive
        for (source, partition), numbers in written.numbers.items():
            entry = entries.get((source, prefix + name, partition), {"acknowledged": 0, "last_offset": -1})
            assert entry["acknowledged"] <= len(numbers)
            if entry["acknowledged"]:
                last = written.offsets[source, partition][entry["acknowledged"] - 1]
                assert entry["last_offset"] == last


def test_a_topic_that_is_missing_ends_it_with_1_and_the_command_that_creates_it(start: Start) -> None:
    generator = start(KAFKA_REQUEST_TIMEOUT_SECONDS=1)
    assert generator.wait(60) == 1
    reason = last_line(generator)["reason"]
    assert "user_behavior does not exist" in reason
    assert "tandem topics create" in reason


def test_added_partitions_end_it_with_1_because_keys_would_move(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start(GENERATOR_RATE=2_000, KAFKA_METADATA_MAX_AGE_SECONDS=1)
    wait_for_acknowledged(generator, 1_000)
    admin = kafka.admin
    for done in admin.create_partitions([NewPartitions(f"{prefix}user_behavior", 6)]).values():
        done.result(30)
    assert generator.wait(30) == 1
    reason = last_line(generator)["reason"]
    assert f"{prefix}user_behavior has 6 partitions now, and had 4" in reason
    assert_the_ledger_is_the_truth(kafka.bootstrap_servers, prefix, finished=True)


def test_a_batch_that_kafka_will_never_take_ends_it_with_1(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    set_config(kafka, f"{prefix}user_behavior", "max.message.bytes", "2000")
    generator = start(GENERATOR_RATE="max")
    assert generator.wait(60) == 1
    reason = last_line(generator)["reason"]
    assert f"for {prefix}user_behavior-" in reason
    assert "max.message.bytes" in reason
    assert "GENERATOR_BATCH_BYTES" in reason
    assert next(line for line in lines(generator, "generator_closed") if line["stream"] == "behavior")[
        "failed"
    ]


def test_a_batch_that_kafka_does_not_take_in_time_ends_it_with_1(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start(
        GENERATOR_RATE=1_000, GENERATOR_DELIVERY_TIMEOUT_SECONDS=3, KAFKA_METADATA_MAX_AGE_SECONDS=1
    )
    wait_for_acknowledged(generator, 100)
    delete_topic(kafka, f"{prefix}user_behavior")
    assert generator.wait(60) == 1
    assert "GENERATOR_DELIVERY_TIMEOUT_SECONDS=3" in last_line(generator)["reason"]


def test_a_topic_that_is_deleted_under_it_ends_it_with_1(
    kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start(
        GENERATOR_RATE=1_000,
        GENERATOR_DRAIN_SECONDS=1,
        KAFKA_METADATA_MAX_AGE_SECONDS=1,
        KAFKA_REQUEST_TIMEOUT_SECONDS=1,
    )
    wait_for_acknowledged(generator, 100)
    delete_topic(kafka, f"{prefix}user_behavior")
    assert generator.wait(60) == 1
    reason = last_line(generator)["reason"]
    assert f"{prefix}user_behavior had 4 partitions and now has 0" in reason
    assert "are in doubt" in reason


def delete_topic(kafka: Kafka, topic: str) -> None:
    admin = kafka.admin
    for done in admin.delete_topics([topic]).values():
        done.result(30)


def set_config(kafka: Kafka, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = kafka.admin
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30)


# --- Kafka comes and goes ----------------------------------------------------------------------------


@pytest.mark.parametrize("graceful", [True, False], ids=["stopped", "killed"])
def test_nothing_is_lost_or_doubled_while_the_broker_restarts_under_load(
    own_kafka: Sandbox, prefix: str, start: Start, graceful: bool
) -> None:
    servers = own_kafka.bootstrap_servers
    # With a short request timeout batches are old when the broker is back, and knows no leaders yet: the
    # client, left alone, gives them up then.
    generator = start(
        servers, GENERATOR_RATE=20_000, GENERATOR_SENSOR_RATE=2_000, KAFKA_REQUEST_TIMEOUT_SECONDS=1
    )
    for _ in range(2):
        wait_for_acknowledged(generator, acknowledged_or_0(generator) + 20_000)
        own_kafka.restart(graceful=graceful)
    wait_for_acknowledged(generator, acknowledged(generator) + 20_000)
    assert generator.terminate(30) == 0
    assert_the_ledger_is_the_truth(servers, prefix, finished=True)


def acknowledged_or_0(service: Service) -> int:
    service.wait_until_ready()
    return acknowledged(service)


def of_behavior(service: Service) -> dict[str, Any]:
    figures: dict[str, Any] = service.stats()["streams"]["behavior"]
    return figures


def test_a_frozen_broker_makes_it_wait_within_its_buffer_and_lose_nothing(
    own_kafka: Sandbox, prefix: str, start: Start
) -> None:
    servers = own_kafka.bootstrap_servers
    bound = 4 * 2**20
    generator = start(
        servers,
        GENERATOR_STREAMS="behavior",
        GENERATOR_RATE="max",
        GENERATOR_BUFFER_BYTES=bound,
        KAFKA_REQUEST_TIMEOUT_SECONDS=2,
    )
    wait_for_acknowledged(generator, 50_000)
    own_kafka.pause()
    try:
        time.sleep(1)  # For the acknowledgements that were under way.
        before = poll(
            lambda: figures if (figures := of_behavior(generator))["in_flight_bytes"] >= bound else None,
            30,
            lambda: f"the buffer is not full: {of_behavior(generator)}",
        )
        generator.wait_for_line('"kafka_slow"', 30)
        time.sleep(5)  # Longer than the client's request timeout: it breaks the connection and tries again.
        after = of_behavior(generator)
        assert generator.get("/livez")[0] == 200, "an absent Kafka is no reason to be restarted"
    finally:
        own_kafka.resume()
    assert before["in_flight_bytes"] <= bound + 2_000 * 400
    assert after["sent"] == before["sent"], "it waits"
    wait_for_acknowledged(generator, after["acknowledged"] + 100_000)
    assert generator.terminate(30) == 0
    assert_the_ledger_is_the_truth(servers, prefix, finished=True)


def test_a_broker_that_comes_later_is_waited_for(own_kafka: Sandbox, prefix: str, start: Start) -> None:
    servers = own_kafka.bootstrap_servers
    own_kafka.stop()
    generator = start(servers, GENERATOR_EVENTS=100, GENERATOR_RATE="max", GENERATOR_SENSOR_RATE="max")
    generator.wait_for_line('"kafka_unavailable"', 30)
    assert generator.get("/readyz")[0] == 503
    assert generator.get("/livez")[0] == 200
    own_kafka.start()
    assert generator.wait(60) == 0
    assert_the_ledger_is_the_truth(servers, prefix, finished=True)


def test_sigterm_while_it_waits_for_a_broker_ends_it_with_0(start: Start) -> None:
    generator = start("127.0.0.1:1")
    generator.wait_for_line('"kafka_unavailable"', 30)
    assert generator.terminate(5) == 0


def test_a_broker_that_stays_away_ends_it_with_1(own_kafka: Sandbox, start: Start) -> None:
    servers = own_kafka.bootstrap_servers
    running = start(
        servers,
        GENERATOR_RATE=1_000,
        KAFKA_UNAVAILABLE_SECONDS=3,
        KAFKA_REQUEST_TIMEOUT_SECONDS=1,
        KAFKA_METADATA_MAX_AGE_SECONDS=1,
    )
    wait_for_acknowledged(running, 1_000)
    own_kafka.kill()
    assert running.wait(60) == 1
    assert "KAFKA_UNAVAILABLE_SECONDS=3" in last_line(running)["reason"]
    starting = start(servers, KAFKA_UNAVAILABLE_SECONDS=2)
    assert starting.wait(60) == 1
    assert "KAFKA_UNAVAILABLE_SECONDS=2" in last_line(starting)["reason"]


def test_sigterm_while_the_broker_is_away_ends_it_in_time_and_says_what_is_in_doubt(
    own_kafka: Sandbox, start: Start
) -> None:
    generator = start(own_kafka.bootstrap_servers, GENERATOR_RATE=1_000, GENERATOR_DRAIN_SECONDS=2)
    wait_for_acknowledged(generator, 1_000)
    own_kafka.kill()
    poll(
        lambda: generator.stats()["streams"]["behavior"]["in_flight"] > 100 or None, 30, lambda: "no backlog"
    )
    assert generator.terminate(12) == 1
    assert "are in doubt" in last_line(generator)["reason"]


# --- HTTP --------------------------------------------------------------------------------------------


def test_health_statistics_and_metrics_are_served(
    prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start(GENERATOR_RATE=1_000, GENERATOR_SEED=5)
    wait_for_acknowledged(generator, 500)
    stats = generator.stats()
    assert stats["seed"] == 5
    assert stats["source"].startswith("gen-")
    assert set(stats["streams"]) == set(STREAMS)
    assert stats["streams"]["behavior"]["topic"] == f"{prefix}user_behavior"
    generator.wait_until_answers("/livez")
    metrics = generator.get("/metrics")[1]
    assert (
        f'tandem_generator_records_acknowledged_total{{partition="0",topic="{prefix}user_behavior"}}'
        in metrics
    )
    assert "tandem_generator_in_flight_bytes" in metrics
    assert "tandem_build_info" in metrics
    generator.wait_for_line('"generated"')
    assert generator.terminate(15) == 0


def test_at_the_reference_pace_it_hardly_uses_the_processor(
    prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start()
    wait_for_acknowledged(generator, 1)
    before, began = cpu_seconds(generator.pid), time.monotonic()
    time.sleep(4)
    used = (cpu_seconds(generator.pid) - before) / (time.monotonic() - began)
    assert used < 0.1
    assert generator.terminate(15) == 0


@pytest.mark.parametrize("rate", [10, 1_000, 30_000])
def test_a_set_rate_is_kept_to_half_a_per_cent_and_spaced_as_asked(
    rate: int, kafka: Kafka, prefix: str, make_topics: Callable[..., None], start: Start
) -> None:
    make_topics(prefix)
    generator = start(GENERATOR_STREAMS="behavior", GENERATOR_RATE=rate, GENERATOR_DURATION_SECONDS=20)
    assert generator.wait(60) == 0
    records = Broker(kafka.bootstrap_servers).read_topic(f"{prefix}user_behavior", READ_SECONDS)
    times = sorted(round(made_at(json.loads(one.value or b"")) * 1_000) for one in records)
    found = spacing(times, rate)
    assert abs(found["off_by_percent"]) <= 0.5, found
    # One by one where there is time for it, and in no bursts. How exactly is in tests/unit/test_pacing.py: a
    # busy machine makes each event a little late, and many of them for a part of the time.
    assert found["gap_ms_p50"] == pytest.approx(1_000 / rate, abs=TURN_MILLISECONDS), found
    assert share_as_due(times, rate) >= 0.25, found


def share_as_due(times: list[int], rate: int) -> float:
    """Return the share of the windows in which half to one and a half times as much was made as was due.

    They are of ten events, and long enough for a turn. Where a burst is as long as two of them, it is 0.
    """
    window = max(10_000 / rate, TURN_MILLISECONDS)
    made = Counter(int((one - times[0]) / window) for one in times)
    due = rate * window / 1_000
    whole = range(int((times[-1] - times[0]) / window))
    return sum(abs(made[number] - due) <= due / 2 for number in whole) / len(whole)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
