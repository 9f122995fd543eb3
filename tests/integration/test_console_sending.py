"""`tandem send` and `tandem partition` on a real Kafka."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from sandbox import Sandbox
from tests.conftest import Kafka, create_topics
from tests.integration.commands import COMMAND_SECONDS, Tandem, start_tandem
from tests.verifier import Service, environment
from tests.verifier.broker import Broker
from tests.verifier.polling import poll

MakeTopics = Callable[..., None]
EVENT: dict[str, Any] = {
    "user_id": 1,
    "action": "view",
    "page": "/page/1",
    "timestamp": "2026-01-01T00:00:00",
    "ip": "192.168.1.7",
    "device": "mobile",
}
# Key and action of lines of a CSV file; the first has no key of its own, the second is no event.
ROWS = (("", "view"), ("b", "dance"), ("a", "view"))


def event(user_id: int) -> str:
    return json.dumps(EVENT | {"user_id": user_id})


@pytest.fixture
def topic(make_topics: MakeTopics, prefix: str) -> str:
    """The full name of `user_behavior`, four partitions."""
    make_topics(prefix, partitions=4)
    return f"{prefix}user_behavior"


def stored(kafka: Kafka, topic: str) -> list[tuple[int, bytes | None, bytes | None]]:
    """Return partition, key and value of everything in a topic."""
    found = Broker(kafka.bootstrap_servers).read_topic(topic, 20)
    return [(one.partition, one.key, one.value) for one in found]


def test_one_record_is_sent_and_its_place_shown(tandem: Tandem, kafka: Kafka, topic: str) -> None:
    ran = tandem("send", "user_behavior", event(1000), "--json")
    assert (ran.exit_code, ran.err) == (0, "")
    (said,) = ran.objects
    assert (said["topic"], said["offset"], said["key"]) == (topic, 0, "1000")
    assert abs(said["timestamp"] / 1_000 - time.time()) < 60
    assert stored(kafka, topic) == [(said["partition"], b"1000", event(1000).encode())]
    (placed,) = tandem("partition", "1000", "--json").objects
    assert placed["partition"] == said["partition"]
    text = tandem("send", "user_behavior", event(1000), "--key", "other", "--partitioner", "md5")
    assert text.out.startswith(f"topic {topic}  partition ")
    assert "key other" in text.out


def test_what_is_no_record_is_refused_unless_it_is_raw(tandem: Tandem, kafka: Kafka, topic: str) -> None:
    told = tandem("send", "user_behavior", '{"user_id": "x"}')
    assert told.exit_code == 2
    assert "no record of user_behavior" in told.err
    assert "--raw" in told.err
    assert stored(kafka, topic) == []
    assert tandem("send", "user_behavior", '{"user_id": "x"}', "--raw").exit_code == 0
    assert [value for _, _, value in stored(kafka, topic)] == [b'{"user_id": "x"}']


def test_a_file_is_sent_in_order_per_key_and_what_is_wrong_in_it_is_named(
    tandem: Tandem, kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    lines = [event(number % 50) for number in range(3_000)]
    lines[1_000] = "{broken"
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    ran = tandem("send", "user_behavior", "--file", "events.jsonl", "--json")
    assert ran.exit_code == 1
    assert "line 1001: " in ran.err
    assert ran.objects == [{"sent": 2_999, "failed": 0, "malformed": 1}]
    found = stored(kafka, topic)
    by_key: dict[bytes | None, set[int]] = {}
    for partition, key, _ in found:
        by_key.setdefault(key, set()).add(partition)
    assert len(by_key) == 50
    assert all(len(partitions) == 1 for partitions in by_key.values())
    strict = tandem("send", "user_behavior", "--file", "events.jsonl", "--json", "--strict")
    assert (strict.exit_code, strict.objects[-1]["sent"]) == (1, 1_000)


def test_lines_come_through_a_pipe_too_at_a_rate_with_automatic_keys(
    kafka: Kafka, topic: str, prefix: str, tmp_path: Path
) -> None:
    variables = environment(KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers, KAFKA_TOPIC_PREFIX=prefix)
    command = [sys.executable, "-m", "services.console", "send", "user_behavior", "--file", "-", "--auto-key"]
    command += ["--rate", "20", "--async", "--json"]
    began = time.monotonic()
    done = subprocess.run(
        command,
        env=variables,
        cwd=tmp_path,
        input="\n".join(event(number) for number in range(41)).encode(),
        capture_output=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert time.monotonic() - began >= 2.0
    *each, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(one["key"] for one in each) == sorted(f"key-{number}" for number in range(41))
    assert summary["sent"] == 41
    assert 0 < summary["p50_milliseconds"] <= summary["p99_milliseconds"]
    assert {key for _, key, _ in stored(kafka, topic)} == {f"key-{number}".encode() for number in range(41)}


def test_csv_takes_its_types_from_the_schema_and_its_keys_from_a_column(
    tandem: Tandem, kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    lines = ["key,user_id,action,page,timestamp,ip,device"]
    lines += [f"{key},1,{action},/page/1,2026-01-01T00:00:00,192.168.1.7,mobile" for key, action in ROWS]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    ran = tandem("send", "user_behavior", "--file", "events.csv", "--json")
    assert (ran.exit_code, ran.objects) == (1, [{"sent": 2, "failed": 0, "malformed": 1}])
    assert "line 3: Invalid enum value 'dance'" in ran.err
    assert sorted((key, json.loads(value or b"")) for _, key, value in stored(kafka, topic)) == [
        (b"1", EVENT),
        (b"a", EVENT),
    ]


def test_a_partitioner_of_one_s_own_is_used_by_every_command_and_the_generator(
    tandem: Tandem, kafka: Kafka, topic: str, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def last(key, count):\n    return count - 1\n")
    (tmp_path / "bad.py").write_text("def beyond(key, count):\n    return count\n")
    mine = ("--partitioner", "mine.last")  # In the folder in which all of them run.
    placed = tandem("partition", "a", "b", *mine, "--json").objects
    assert [one["partition"] for one in placed] == [3, 3]
    assert tandem("send", "user_behavior", event(1), *mine).exit_code == 0
    variables = environment(
        KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers,
        KAFKA_TOPIC_PREFIX=prefix,
        GENERATOR_STREAMS="behavior",
        GENERATOR_PARTITIONER="mine.last",
        GENERATOR_EVENTS=50,
        GENERATOR_RATE="max",
        HTTP_PORT=0,
    )
    generator = Service("services.generator", variables, tmp_path / "generator.log")
    generator.start()
    try:
        assert generator.wait(60) == 0
    finally:
        generator.end()
    assert [partition for partition, _, _ in stored(kafka, topic)] == [3] * 51
    told = tandem("send", "user_behavior", event(1), "--partitioner", "bad.beyond")
    assert (told.exit_code, "on 4 of 4" in told.err) == (1, True), told.err


def test_an_interruption_says_what_was_sent_and_leaves_nothing_under_way(
    kafka: Kafka, topic: str, prefix: str, tmp_path: Path
) -> None:
    variables = environment(KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers, KAFKA_TOPIC_PREFIX=prefix)
    command = [
        sys.executable,
        "-m",
        "services.console",
        "send",
        "user_behavior",
        "--file",
        "-",
        "--async",
        "--json",
    ]
    running = subprocess.Popen(
        command,
        env=variables,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stderr is not None
    try:
        # The pipe stays open: it waits for more.
        running.stdin.write((event(1) + "\n").encode() * 10)
        running.stdin.flush()
        shown = [json.loads(running.stdout.readline()) for _ in range(10)]
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 1
        assert json.loads(running.stdout.readline())["sent"] == len(shown) == 10
        assert b"interrupted" in running.stderr.read()
    finally:
        running.kill()
        running.wait()
        for pipe in (running.stdin, running.stdout, running.stderr):
            pipe.close()
    assert len(stored(kafka, topic)) == 10


def test_a_second_ctrl_c_waits_for_no_answer_and_still_says_what_was_sent(
    prefix: str, tmp_path: Path
) -> None:
    with Sandbox() as own:
        create_topics(AdminClient({"bootstrap.servers": own.bootstrap_servers}), prefix)
        variables = {"KAFKA_BOOTSTRAP_SERVERS": own.bootstrap_servers, "KAFKA_TOPIC_PREFIX": prefix}
        command = ("send", "user_behavior", "--file", "-", "--async", "--json")
        streams = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
        with start_tandem(*command, folder=tmp_path, variables=variables, **streams) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                process.stdin.write(event(1) + "\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["offset"] == 0
                own.pause()
                process.stdin.write(event(2) + "\n{\n")
                process.stdin.flush()
                # What is before it is under way then.
                assert "line 3: " in process.stderr.readline()

                def interrupted() -> int | None:
                    process.send_signal(signal.SIGINT)
                    return process.poll()

                assert poll(interrupted, 9, lambda: "it waits on", interval_seconds=0.5) == 1
                assert "line 2: not acknowledged: its answer was not waited for" in process.stderr.read()
                summary = json.loads(process.stdout.read())
                assert summary == {"sent": 1, "failed": 1, "malformed": 1}
            finally:
                process.kill()
                own.resume()


def test_a_record_that_kafka_refuses_fails_alone_and_the_rest_keeps_its_order(
    tandem: Tandem, kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    """What was in one batch with it, and what came behind it in its partition, is not lost with it."""
    limit = ConfigEntry("max.message.bytes", "10000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[limit])
    for changed in kafka.admin.incremental_alter_configs([resource]).values():
        changed.result(10)
    lines = [f"{number % 7}\t{number}" for number in range(400)]
    for number, length in ((20, 20_000), (21, 20_000), (300, 15_000), (350, 2_000_000)):
        lines[number] = f"{number % 7}\t{'9' * length}"
    (tmp_path / "lines.kv").write_text("\n".join(lines) + "\n")
    refused = (20, 21, 300, 350)
    sent = [number for number in range(400) if number not in refused]
    for rate in ("0", "400"):
        ran = tandem("send", "user_behavior", "--raw", "--file", "lines.kv", "--rate", rate, "--json")
        assert (ran.exit_code, ran.objects) == (1, [{"sent": 396, "failed": 4, "malformed": 0}]), ran.err
        said = [line.partition("MessageSizeTooLargeError")[0] for line in ran.err.splitlines()]
        assert sorted(said) == [f"tandem: line {number + 1}: not acknowledged: " for number in refused]
    by_key: dict[bytes | None, list[int]] = {}
    for _, key, value in stored(kafka, topic):
        by_key.setdefault(key, []).append(int(value or b""))
    assert by_key == {
        str(key).encode(): [number for number in sent if number % 7 == key] * 2 for key in range(7)
    }


def test_bad_use_is_told(tandem: Tandem, topic: str) -> None:
    for arguments, code, said in (
        (["send", "user_behavior"], 2, "either VALUE or --file"),
        (["send", "user_behavior", event(1), "--file", "-"], 2, "either VALUE or --file"),
        (["send", "user_behavior", event(1), "--key", "k", "--auto-key"], 2, "exclude each other"),
        (["send", "user_behavior", "--file", "no-such-file"], 2, "no-such-file"),
        (["send", "user_behavior", event(1), "--partitioner", "x.y"], 2, "can't be loaded"),
        (["send", "no_such", "{}"], 1, "no topic"),
        (["partition"], 2, "name a KEY"),
        (["partition", "k", "--topic", "no_such"], 1, "no topic"),
    ):
        told = tandem(*arguments)
        assert (told.exit_code, said in told.err) == (code, True), (arguments, told)
    assert topic


def test_a_partition_needs_no_kafka_when_the_count_is_given(tandem: Tandem) -> None:
    ran = tandem(
        "partition", "--partitions", "6", "--sample", "6000", "--json", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"
    )
    assert ran.exit_code == 0
    assert sum(one["keys"] for one in ran.objects) == 6_000
    assert all(800 < one["keys"] < 1_200 for one in ran.objects)
