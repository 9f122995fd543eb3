"""The processor as its users meet it: commits, alerts across a restart, dead letters, health, scale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.integration.conftest import Kafka
from tests.integration.scraped import Scraped
from tests.verifier import BackgroundLoad, LoadPlan, Service, load, verify, wait_until_caught_up
from tests.verifier.broker import QUIET, Broker
from tests.verifier.contract import PartitionId
from tests.verifier.polling import poll

StartProcessor = Callable[..., Service]
GROUP = "behavior-processor"
PURCHASE = json.dumps(
    {
        "user_id": 7,
        "action": "purchase",
        "page": "/page/1",
        "timestamp": "2026-01-01T00:00:00",
        "device": "mobile",
    }
).encode()


@pytest.fixture(autouse=True)
def _topics(make_topics: Callable[..., None], prefix: str) -> None:
    make_topics(prefix)


def produce(kafka: Kafka, topic: str, values: list[bytes], *, key: bytes | None = None) -> None:
    """Put values into partition 0."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "message.max.bytes": 2_000_000})
    for value in values:
        producer.produce(topic, value, key, 0)
    assert producer.flush(30) == 0


def event(user_id: int) -> bytes:
    return json.dumps({"user_id": user_id, "action": "click", "device": "mobile"}).encode()


def reading(value: float) -> bytes:
    return json.dumps(
        {"sensor_id": "temperature", "value": value, "timestamp": 1.5, "location": "server1"}
    ).encode()


def committed(kafka: Kafka, prefix: str) -> int | None:
    place = PartitionId(f"{prefix}user_behavior", 0)
    return Broker(kafka.bootstrap_servers).committed(prefix + GROUP, [place])[place]


def counted(service: Service) -> tuple[float, float]:
    """Return how many records are behind a committed offset, and how many were read since."""
    scraped = Scraped(service)
    return (
        scraped.total("tandem_processor_records_total"),
        scraped.total("tandem_processor_pending_records"),
    )


def values_of(kafka: Kafka, topic: str) -> list[Any]:
    records = Broker(kafka.bootstrap_servers).read_topic(topic, 30)
    return [json.loads(record.value) for record in records if record.value is not None]


def test_it_commits_every_ten_events_and_at_stop_by_settings_alone(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    service = start_processor(
        PROCESSOR_COMMIT_EVERY_EVENTS=10,
        PROCESSOR_COMMIT_EVERY_MILLISECONDS=0,
        PROCESSOR_COMMIT_WHEN_CAUGHT_UP="false",
    )
    service.wait_until_ready(60)
    produce(kafka, f"{prefix}user_behavior", [event(user) for user in range(25)])
    poll(lambda: True if committed(kafka, prefix) == 20 else None, 30, lambda: str(committed(kafka, prefix)))
    # The last five may come later, and a stop commits what was read.
    poll(lambda: True if counted(service) == (20, 5) else None, 30, lambda: str(counted(service)))
    assert service.terminate() == 0
    assert committed(kafka, prefix) == 25
    offsets = [one["offset"] for one in values_of(kafka, f"{prefix}behavior_stats")]
    assert offsets == [10, 20, 25]


def test_no_transaction_holds_more_than_it_may(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    produce(kafka, f"{prefix}user_behavior", [event(user) for user in range(1_000)])
    start_processor(PROCESSOR_COMMIT_EVERY_EVENTS=100).wait_until_ready(60)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    offsets = [0] + [one["offset"] for one in values_of(kafka, f"{prefix}behavior_stats")]
    steps = [after - before for before, after in pairwise(offsets)]
    assert offsets[-1] == 1_000
    assert max(steps) == 100


@pytest.mark.parametrize("end", [Service.terminate, Service.kill])
def test_an_alert_that_fires_before_a_restart_resolves_after_it_with_the_same_id(
    kafka: Kafka, prefix: str, start_processor: StartProcessor, end: Callable[[Service], Any]
) -> None:
    topic = f"{prefix}sensor_data"
    first = start_processor()
    produce(kafka, topic, [reading(50.0), reading(81.0)])
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    end(first)
    start_processor()
    produce(kafka, topic, [reading(90.0), reading(80.0)])
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    alerts = [(one["alert_id"], one["state"], one["offset"]) for one in values_of(kafka, f"{prefix}alerts")]
    assert alerts == [("temperature:max:0:1", "firing", 1), ("temperature:max:0:1", "resolved", 3)]


def test_changed_settings_hold_from_the_next_reading_on(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    topic = f"{prefix}sensor_data"
    first = start_processor()
    produce(kafka, topic, [reading(value) for value in (81.0, 1.0, 2.0, 3.0, 82.0)])
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert first.terminate() == 0
    start_processor(PROCESSOR_THRESHOLDS="cpu_usage::90", PROCESSOR_WINDOW_SIZE=3)
    produce(kafka, topic, [reading(5.0)])
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    last = values_of(kafka, f"{prefix}alerts")[-1]
    assert (last["bound"], last["state"], last["threshold"], last["offset"]) == ("max", "resolved", 80.0, 5)
    stats = values_of(kafka, f"{prefix}sensor_stats")
    assert [(one["count"], one["min"], one["max"], one["offset"]) for one in stats] == [(3, 3.0, 82.0, 5)]
    settings = values_of(kafka, f"{prefix}progress")[-1]["settings"]
    assert settings["window_size"] == [{"value": 10, "since": 0}, {"value": 3, "since": 5}]


def test_alerts_resolve_behind_the_hysteresis_with_thresholds_from_a_toml_file(
    kafka: Kafka, prefix: str, start_processor: StartProcessor, tmp_path: Path
) -> None:
    file = tmp_path / "thresholds.toml"
    file.write_text("[temperature]\nmax = 60\n\n[humidity]\nmin = 20\n")
    settings = {"PROCESSOR_THRESHOLDS_FILE": file, "PROCESSOR_ALERT_HYSTERESIS": 5}
    service = start_processor(**settings)
    produce(kafka, f"{prefix}sensor_data", [reading(value) for value in (5.0, 60.0, 61.0, 56.0, 62.0, 55.0)])
    produce(kafka, f"{prefix}user_behavior", [PURCHASE])
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    alerts = [(one["bound"], one["state"], one["offset"]) for one in values_of(kafka, f"{prefix}alerts")]
    assert alerts == [("max", "firing", 2), ("max", "resolved", 5)], "56 is not 5 below 60, 55 is"
    # What an operator is told of it.
    for said in ("firing", "resolved", '"user_id":7'):
        service.wait_for_line(said)
    assert service.terminate() == 0
    # A file that is wrong changes nothing: the start ends, and says which sensor.
    file.write_text("[temperature]\nmax = 'high'\n")
    refused = start_processor(**settings)
    assert refused.wait(30) == 2
    assert "PROCESSOR_THRESHOLDS" in refused.lines()[-1]
    assert "temperature" in refused.lines()[-1]
    assert len(values_of(kafka, f"{prefix}alerts")) == 2


def limit_dead_letters(kafka: Kafka, prefix: str, *, most_bytes: int) -> None:
    """Set what one record batch of the dead letters may take, and wait until a larger one is refused."""
    topic = f"{prefix}dead_letters"
    entry = ConfigEntry("max.message.bytes", str(most_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for changed in kafka.admin.incremental_alter_configs([resource]).values():
        changed.result(30)
    # Kafka answers, and describes the topic so, a little before its partitions go by it. What they take
    # until then is in a transaction that is aborted: nobody reads it.
    settings = {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": f"{prefix}too-large"}
    producer = Producer(settings | QUIET)
    producer.init_transactions(30)

    def is_refused() -> bool | None:
        outcomes: list[KafkaError | None] = []
        producer.begin_transaction()
        producer.produce(
            topic, b"\xff" * most_bytes, None, 0, on_delivery=lambda error, _: outcomes.append(error)
        )
        assert producer.flush(30) == 0
        producer.abort_transaction(30)
        [error] = outcomes
        return (error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE) or None

    poll(is_refused, 30, lambda: f"{topic} takes more than {most_bytes} bytes")


def test_a_record_bigger_than_its_dead_letter_may_be_is_cut_and_described(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    limit_dead_letters(kafka, prefix, most_bytes=100_000)
    poison = b"\xff" * 900_000
    produce(kafka, f"{prefix}user_behavior", [event(1), poison, event(2)], key=b"k")
    start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    (letter,) = Broker(kafka.bootstrap_servers).read_topic(f"{prefix}dead_letters", 30)
    headers = dict(letter.headers)
    assert letter.key == b"k"
    assert letter.value == poison[: 64 * 1024]
    assert headers["tandem.value.length"] == b"900000"
    assert headers["tandem.value.sha256"] == hashlib.sha256(poison).hexdigest().encode()
    assert headers["__streams.errors.offset"] == b"1"
    assert values_of(kafka, f"{prefix}behavior_stats")[-1]["total_events"] == 2


def test_a_topic_that_takes_less_than_64_kib_gets_as_much_as_it_takes(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    limit_dead_letters(kafka, prefix, most_bytes=20_000)
    poison = b"\xff" * 900_000
    produce(kafka, f"{prefix}user_behavior", [event(1), poison, event(2)])
    service = start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    (letter,) = Broker(kafka.bootstrap_servers).read_topic(f"{prefix}dead_letters", 30)
    assert 10_000 < len(letter.value or b"") < 20_000
    assert not [line for line in service.lines() if "task_rebuilt" in line]


@pytest.mark.parametrize("most_bytes", [100_000, 20_000, 1_500])
def test_a_dead_letter_topic_that_shrinks_while_it_runs_stops_nothing(
    kafka: Kafka, prefix: str, start_processor: StartProcessor, most_bytes: int
) -> None:
    service = start_processor()
    service.wait_until_ready(60)
    limit_dead_letters(kafka, prefix, most_bytes=most_bytes)
    poison = b"\xff" * 900_000
    produce(kafka, f"{prefix}user_behavior", [event(1), poison, event(2)])
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    service.wait_for_line("task_rebuilt")
    assert values_of(kafka, f"{prefix}behavior_stats")[-1]["total_events"] == 2
    (letter,) = Broker(kafka.bootstrap_servers).read_topic(f"{prefix}dead_letters", 30)
    assert letter.value is not None
    assert poison.startswith(letter.value)
    assert (len(letter.value) == 64 * 1024) == (most_bytes == 100_000)
    assert dict(letter.headers)["tandem.value.length"] == b"900000"


def test_letters_that_fit_one_by_one_and_not_together_get_through(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    """The limit is one of record batches, and one transaction has many letters."""
    limit_dead_letters(kafka, prefix, most_bytes=20_000)
    produce(kafka, f"{prefix}user_behavior", [event(1), *[b"\xff" * 5_000] * 100, event(2)])
    service = start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    service.wait_for_line("MessageSizeTooLarge")
    letters = Broker(kafka.bootstrap_servers).read_topic(f"{prefix}dead_letters", 30)
    assert [len(letter.value or b"") for letter in letters] == [5_000] * 100
    assert values_of(kafka, f"{prefix}behavior_stats")[-1]["total_events"] == 2


def test_beyond_the_bound_of_its_state_new_keys_are_dead_letters_and_known_ones_count(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    start_processor(PROCESSOR_STATE_MAX_KEYS=5)
    users = [1, 2, 3, 4, 5, 6, 1, 7, 2]
    produce(kafka, f"{prefix}user_behavior", [event(user) for user in users])
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    last = values_of(kafka, f"{prefix}behavior_stats")[-1]
    assert (last["total_events"], last["unique_users"]) == (7, 5)
    letters = Broker(kafka.bootstrap_servers).read_topic(f"{prefix}dead_letters", 30)
    assert [json.loads(letter.value or b"")["user_id"] for letter in letters] == [6, 7]
    assert b"the state is full" in dict(letters[0].headers)["__streams.errors.message"]  # type: ignore[operator]


def test_a_first_start_from_the_latest_offset_leaves_out_what_was_there(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    topic = f"{prefix}user_behavior"
    produce(kafka, topic, [event(1)] * 50)
    start_processor(PROCESSOR_START="latest").wait_until_ready(60)
    produce(kafka, topic, [event(2)] * 7)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60, topologies=("behavior",))
    assert values_of(kafka, f"{prefix}behavior_stats")[-1]["total_events"] == 7
    progress = [one for one in values_of(kafka, f"{prefix}progress") if one["topic"] == topic][-1]
    assert (progress["first_offset"], progress["offset"]) == (50, 57)


def test_three_processors_share_the_partitions_and_one_can_take_them_all(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    plan = LoadPlan(seed=51, users=20_000)
    with BackgroundLoad(kafka.bootstrap_servers, prefix, plan, records_per_second=2_000) as running:
        services = [start_processor() for _ in range(3)]
        for service in services:
            service.wait_until_ready(60)

        def shares() -> list[int]:
            return [len(one.stats()["topologies"]["behavior"]["partitions"]) for one in services]

        poll(lambda: True if sum(shares()) == 4 and all(shares()) else None, 60, lambda: str(shares()))
        running.wait_for(2_000)
        for service in services[1:]:
            assert service.terminate() == 0
        running.wait_for(2_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text


def test_health_metrics_and_statistics_show_what_is_committed(
    kafka: Kafka, prefix: str, start_processor: StartProcessor
) -> None:
    service = start_processor()
    service.wait_until_ready(60)
    load(kafka.bootstrap_servers, prefix, LoadPlan(seed=52, poison_rate=0.1), records=1_000)
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60)
    assert service.get("/livez") == (200, "ok\n")
    status, metrics = service.get("/metrics")
    assert status == 200
    samples = {line.split(" ")[0]: line.split(" ")[1] for line in metrics.splitlines() if line[0] != "#"}

    def total(name: str) -> float:
        return sum(float(value) for sample, value in samples.items() if sample.startswith(name + "{"))

    report = verify(kafka.bootstrap_servers, prefix)
    assert report.ok, report.text
    assert total("tandem_processor_records_total") == 1_000
    assert total("tandem_processor_events_total") == report.counts["events"]
    assert total("tandem_processor_dead_letters_total") == report.counts["dead letters"] > 0
    assert total("tandem_processor_latency_seconds_count") > 0
    assert total("tandem_processor_commit_duration_seconds_count") > 0
    assert total("tandem_processor_lag_records") == 0
    assert 'tandem_build_info{aiokafka="0.14.0"' in metrics
    stats = service.stats()["topologies"]
    assert stats["behavior"]["accounts"]["events"] + stats["sensors"]["accounts"]["events"] == total(
        "tandem_processor_events_total"
    )


def test_a_port_that_is_taken_is_a_bad_configuration(start_processor: StartProcessor) -> None:
    first = start_processor()
    second = start_processor(HTTP_PORT=first.port())
    assert second.wait(30) == 2
    assert "HTTP_PORT: can't listen on" in second.lines()[-1]
