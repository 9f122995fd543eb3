"""`tandem check`, `tail`, `lag` and `groups` on a real Kafka."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from subprocess import PIPE

import pytest
from confluent_kafka import Producer

from tests.conftest import Kafka
from tests.integration.commands import StartTandem, Tandem
from tests.verifier import Service, wait_until_caught_up

MakeTopics = Callable[..., None]
StartProcessor = Callable[..., Service]
EVENT = {
    "user_id": 1,
    "action": "view",
    "page": "/page/1",
    "timestamp": "2026-01-01T00:00:00",
    "device": "mobile",
}


def publish(kafka: Kafka, topic: str, count: int, *, partitions: int = 1) -> None:
    """Write events with user ids 0, 1, 2, … round the partitions."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 0})
    for number in range(count):
        value = json.dumps(EVENT | {"user_id": number, "action": "login" if number % 2 else "view"})
        producer.produce(
            topic, value, str(number), partition=number % partitions, headers=[("n", str(number))]
        )
    assert producer.flush(30) == 0


@pytest.fixture
def dead_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_check_says_what_is_missing_and_then_that_all_is_well(tandem: Tandem, prefix: str) -> None:
    before = tandem("check", "--json")
    states = {one["what"]: one["state"] for one in before.objects}
    assert before.exit_code == 1
    assert states.pop("login") == states.pop("broker 1") == "ok"
    assert [what for what, state in states.items() if state == "ok" and "server" not in what] == []
    assert "tandem topics create" in before.objects[-1]["advice"]
    assert tandem("topics", "create", "--partitions", "2").exit_code == 0
    after = tandem("check")
    assert (after.exit_code, after.err) == (0, "")
    assert "FAIL" not in after.out
    assert f"group {prefix}behavior-processor: absent, no member: no processor runs, lag 0" in after.out


def test_check_takes_less_than_two_seconds_and_says_what_to_do_about_a_lag_that_nobody_works_on(
    tandem: Tandem,
    kafka: Kafka,
    prefix: str,
    make_topics: MakeTopics,
    record_property: Callable[[str, object], None],
) -> None:
    make_topics(prefix)
    publish(kafka, f"{prefix}user_behavior", 7)
    took: list[float] = []
    loading: list[float] = []
    said = ""
    for _ in range(3):
        began = time.monotonic()
        told = tandem("check")
        took.append(time.monotonic() - began)
        assert told.exit_code == 0, "nobody has to work all the time"
        said = told.out
        began = time.monotonic()
        tandem("--version")
        loading.append(time.monotonic() - began)
    # The cores are shared with other tests: what they slow down, they slow down for both. By itself a check
    # takes twice what loading Python and the command line does; one that waits for a timeout, ten times.
    assert min(took) < max(2.0, 4 * min(loading))
    record_property("measured", f"tandem check: {min(took):.2f} s, loading alone {min(loading):.2f} s")
    line = f"group {prefix}behavior-processor: absent, no member: no processor runs, lag 7\n"
    assert f"{line}      → `python -m services.processor` starts one" in said


def test_check_names_a_topic_with_other_settings_and_the_remedy(tandem: Tandem, prefix: str) -> None:
    assert tandem("topics", "create", "--partitions", "2").exit_code == 0
    told = tandem("check", KAFKA_TOPIC_RETENTION_HOURS=1)
    assert told.exit_code == 1
    (line,) = [one for one in told.out.splitlines() if f"topic {prefix}user_behavior:" in one]
    assert line.startswith("FAIL")
    assert "retention.ms is 604800000, should be 3600000" in line
    assert f"OK    topic {prefix}purchases: 2 partitions, replication 1" in told.out


def test_check_of_a_kafka_that_is_not_there_ends_soon_with_what_to_do(tandem: Tandem, dead_port: int) -> None:
    began = time.monotonic()
    told = tandem("check", KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{dead_port}")
    assert told.exit_code == 1
    assert time.monotonic() - began < 8
    assert f"FAIL  server 127.0.0.1:{dead_port}" in told.out
    assert "is Kafka running there" in told.out


def test_check_of_something_that_never_answers_has_a_deadline(tandem: Tandem) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        told = tandem("check", "--deadline", "4", KAFKA_BOOTSTRAP_SERVERS=address)
    assert told.exit_code == 1
    assert time.monotonic() - began < 12
    assert "server" in told.out
    assert "FAIL  login" in told.out or "--deadline" in told.err


def test_check_names_a_login_that_does_not_work(tandem: Tandem) -> None:
    told = tandem(
        "check",
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_USERNAME="someone",
        KAFKA_SASL_PASSWORD="not-to-be-shown",
    )
    assert told.exit_code == 1
    assert "FAIL  login" in told.out
    assert "KAFKA_SECURITY_PROTOCOL" in told.out
    assert "not-to-be-shown" not in told.out + told.err


def test_lag_and_groups_before_during_and_after_a_processor(
    tandem: Tandem,
    kafka: Kafka,
    prefix: str,
    make_topics: MakeTopics,
    start_processor: Callable[..., Service],
) -> None:
    make_topics(prefix, partitions=2)
    publish(kafka, f"{prefix}user_behavior", 30, partitions=2)
    before = tandem("lag", "--json").objects
    behind = {(one["topic"], one["partition"]): one for one in before}
    assert [one["lag"] for one in before] == [15, 15, 0, 0]
    first = behind[f"{prefix}user_behavior", 0]
    assert first["committed"] is None
    assert 0 <= first["seconds"] < 60
    service = start_processor()
    wait_until_caught_up(kafka.bootstrap_servers, prefix, 60, topologies=("behavior",))
    after = tandem("lag", "--json").objects
    assert {one["lag"] for one in after} == {0}
    assert after[0]["committed"] == 15
    groups = {one["group"]: one for one in tandem("groups", "--json").objects}
    group = groups[f"{prefix}behavior-processor"]
    assert (group["state"], len(group["members"]), group["assignor"]) == ("Stable", 1, "tandem-sticky")
    assert service.terminate() == 0
    shown = tandem("groups").out
    assert f"{prefix}behavior-processor" in shown
    assert "Empty" in shown


def test_tail_shows_the_last_ones_a_beginning_an_offset_and_a_choice(
    tandem: Tandem, kafka: Kafka, prefix: str, make_topics: MakeTopics
) -> None:
    make_topics(prefix, partitions=1)
    publish(kafka, f"{prefix}user_behavior", 25)

    def users(*options: str) -> list[int]:
        ran = tandem("tail", "user_behavior", "--json", *options)
        assert (ran.exit_code, ran.err) == (0, "")
        return [one["value"]["user_id"] for one in ran.objects]

    assert users() == list(range(15, 25))
    assert users("--from", "beginning") == list(range(25))
    assert users("--from", "20") == list(range(20, 25))
    assert users("--from", "-2") == [23, 24]
    assert users("--from", "end") == []
    assert users("--from", "beginning", "--limit", "3") == [0, 1, 2]
    assert users("--from", "beginning", "--key", "7", "--key", "9") == [7, 9]
    assert users("--from", "beginning", "--where", "action=login", "--where", "user_id=3") == [3]
    assert users("--from", "2000-01-01") == list(range(25))
    assert users("--from", "2100-01-01") == []
    line = tandem("tail", "user_behavior", "--limit", "1", "--from", "4", "--headers").out.splitlines()
    assert line[0].startswith(f"{prefix}user_behavior:0:4  ")
    assert line[1] == "    n: 4"


def test_tail_begins_at_a_time_in_each_partition_and_shows_only_the_one_that_is_asked_for(
    tandem: Tandem, kafka: Kafka, prefix: str, make_topics: MakeTopics
) -> None:
    make_topics(prefix, partitions=2)
    # Not so long ago that Kafka would remove the records whenever it next looks.
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(20):
        moment = began + timedelta(seconds=number // 2)
        value, milliseconds = json.dumps({"n": number}), int(moment.timestamp() * 1_000)
        producer.produce(f"{prefix}alerts", value, partition=number % 2, timestamp=milliseconds)
    assert producer.flush(30) == 0

    def shown(*options: str) -> list[int]:
        ran = tandem("tail", "alerts", "--json", *options)
        assert (ran.exit_code, ran.err) == (0, "")
        return sorted(one["value"]["n"] for one in ran.objects)

    seventh = f"{began + timedelta(seconds=7):%Y-%m-%dT%H:%M:%SZ}"
    elsewhere = (began + timedelta(seconds=8)).astimezone(timezone(timedelta(hours=1))).isoformat()
    assert shown("--from", seventh) == [14, 15, 16, 17, 18, 19]
    assert shown("--from", elsewhere, "--partition", "1") == [17, 19]
    assert shown("--from", "beginning", "--partition", "0", "--where", "n=4") == [4]


def test_ctrl_c_is_the_end_of_following_and_no_failure(
    kafka: Kafka, prefix: str, make_topics: MakeTopics, begin_tandem: StartTandem
) -> None:
    make_topics(prefix, partitions=1)
    publish(kafka, f"{prefix}user_behavior", 3)
    process = begin_tandem("tail", "user_behavior", "--follow", "--json", stdout=PIPE, stderr=PIPE)
    try:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["offset"] for _ in range(3)] == [0, 1, 2]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0


def test_tail_follows_several_topics_until_there_are_enough(
    tandem: Tandem, kafka: Kafka, prefix: str, make_topics: MakeTopics
) -> None:
    make_topics(prefix, partitions=2)
    publish(kafka, f"{prefix}user_behavior", 4, partitions=2)
    publish(kafka, f"{prefix}purchases", 3)
    ran = tandem(
        "tail", "user_behavior", "purchases", "--from", "beginning", "--follow", "--limit", "7", "--json"
    )
    assert ran.exit_code == 0
    assert (
        sorted(one["topic"] for one in ran.objects)
        == [f"{prefix}purchases"] * 3 + [f"{prefix}user_behavior"] * 4
    )


def test_the_last_ones_of_a_topic_with_transactions_are_records_and_no_markers(
    tandem: Tandem, kafka: Kafka, prefix: str, make_topics: MakeTopics
) -> None:
    make_topics(prefix, partitions=1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": f"{prefix}tail"})
    producer.init_transactions(20)
    for number in range(6):
        producer.begin_transaction()
        producer.produce(f"{prefix}alerts", json.dumps({"n": number}))
        producer.flush(20)  # An abort would drop what was not sent yet.
        if number == 4:
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
    aborted = tandem("tail", "alerts", "--uncommitted", "--json").objects
    assert [one["value"]["n"] for one in aborted] == [0, 1, 2, 3, 4, 5]
    for last, wanted in ((1, [5]), (2, [3, 5]), (10, [0, 1, 2, 3, 5])):
        ran = tandem("tail", "alerts", "--from", f"-{last}", "--json")
        assert [one["value"]["n"] for one in ran.objects] == wanted


def test_tail_of_what_is_not_there_says_so(tandem: Tandem, prefix: str, make_topics: MakeTopics) -> None:
    told = tandem("tail", "user_behaviour")
    assert told.exit_code == 1
    assert f"no topic {prefix}user_behaviour" in told.err
    make_topics(prefix, partitions=1)
    told = tandem("tail", "user_behavior", "--partition", "5")
    assert (told.exit_code, "no partition 5" in told.err) == (1, True)
    told = tandem("tail", "user_behavior", "--from", "yesterday")
    assert (told.exit_code, "is not beginning, end, an offset" in told.err) == (2, True)
