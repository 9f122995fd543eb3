"""The sandbox itself: starts, keeps what it should, and leaves nothing behind however it ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from sandbox import Sandbox, SandboxError
from sandbox.broker import STOP_SECONDS
from tests.leftovers import has_ended

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0  # the first use on a machine fetches Kafka
END_SECONDS = 10.0
# Where the data is kept, the broker has its time to end by itself first.
KEEP_SECONDS = STOP_SECONDS + END_SECONDS
TOPIC = "kept"

EMBEDDING_PROGRAM = """
import sys, time
from sandbox import Sandbox
with Sandbox() as kafka:
    print(kafka.pids[0], flush=True)
    time.sleep(600)
"""
PARENT_OF_THE_COMMAND = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "sandbox", "--json"], stdin=subprocess.DEVNULL)
"""


def run(arguments: list[str], tmp_path: Path, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """A Python process whose sandboxes put everything under tmp_path, which marks what is theirs."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def running(
    arguments: list[str], tmp_path: Path, stdin: int = subprocess.DEVNULL
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The process and the first line it writes; it is killed at the end."""
    process = run(arguments, tmp_path, stdin)
    with process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def processes(mark: Path) -> list[str]:
    """The command lines that contain the path, cut short."""
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=", "-o", "command="], capture_output=True, text=True, check=True
    )
    return [line[:120] for line in listing.stdout.splitlines() if str(mark) in line]


def eventually(condition: Callable[[], bool], what: str, seconds: float = END_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        time.sleep(0.02)


def assert_nothing_is_left(tmp_path: Path) -> None:
    eventually(lambda: not processes(tmp_path), f"no process of {tmp_path}")
    eventually(lambda: not list(tmp_path.glob("tandem-sandbox-*")), "temporary data removed")


def address(line: str) -> str:
    """What the command's line for people says: Kafka listens on HOST:PORT ..."""
    return line.split()[3]


def admin(servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": servers, "log_level": 0})


def write(servers: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": servers, "acks": "all", "log_level": 0})
    producer.produce(TOPIC, value)
    assert producer.flush(20) == 0


def read(servers: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "reader", "auto.offset.reset": "earliest", "log_level": 0}
    )
    try:
        consumer.subscribe([TOPIC])
        return [message.value() for message in consumer.consume(count, timeout=20)]
    finally:
        consumer.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One for the tests that leave it as they found it: running."""
    with Sandbox(data=tmp_path_factory.mktemp("shared")) as running_sandbox:
        yield running_sandbox


def test_records_outlast_a_restart_and_a_kill_on_the_same_port(own: Sandbox) -> None:
    servers = own.bootstrap_servers
    client = admin(servers)
    client.create_topics([NewTopic(TOPIC, 1, 1)])[TOPIC].result(20)
    write(servers, b"first")
    own.restart()
    write(servers, b"second")
    own.kill()
    assert own.pids == []
    own.start()
    assert own.bootstrap_servers == servers
    assert read(servers, 2) == [b"first", b"second"]


def test_a_paused_node_answers_again_when_it_is_resumed(own: Sandbox) -> None:
    client = admin(own.bootstrap_servers)
    own.pause()
    with pytest.raises(KafkaException):
        client.list_topics(timeout=0.5)
    own.resume()
    assert client.list_topics(timeout=20).brokers


def test_a_paused_node_can_be_stopped(own: Sandbox) -> None:
    own.pause()
    own.stop()
    assert own.pids == []
    own.start()


def test_a_folder_in_use_is_named(own: Sandbox) -> None:
    with pytest.raises(SandboxError, match="another sandbox uses"):
        Sandbox(data=own.data).start()


def test_two_at_once_do_not_collide() -> None:
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        first, second = pool.map(stack.enter_context, [Sandbox(), Sandbox()])
        assert first.bootstrap_servers != second.bootstrap_servers
        assert first.data != second.data
        for kafka in (first, second):
            assert admin(kafka.bootstrap_servers).list_topics(timeout=20).brokers


def test_the_command_says_where_it_listens_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    with running(["-m", "sandbox", "--json"], tmp_path) as (process, line):
        said = json.loads(line)
        assert admin(said["bootstrap_servers"]).list_topics(timeout=20).brokers
        assert Path(said["log"]).exists()
        os.kill(said["pid"], 0)
        process.terminate()
        assert process.wait(END_SECONDS) == 0
        assert_nothing_is_left(tmp_path)


def test_a_folder_for_the_data_keeps_the_cluster_across_ctrl_c_and_the_end_of_standard_input(
    tmp_path: Path,
) -> None:
    command = ["-m", "sandbox", "--data", str(tmp_path / "data")]
    with running(command, tmp_path) as (process, line):
        first = admin(address(line)).list_topics(timeout=20).cluster_id
        process.send_signal(signal.SIGINT)
        assert process.wait(KEEP_SECONDS) == 0
        assert_nothing_is_left(tmp_path)
    with running(command, tmp_path, subprocess.PIPE) as (process, line):
        second = admin(address(line)).list_topics(timeout=20).cluster_id
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(KEEP_SECONDS) == 0
        assert_nothing_is_left(tmp_path)
    assert first == second


@pytest.mark.parametrize(
    "arguments",
    [["-c", EMBEDDING_PROGRAM], ["-m", "sandbox", "--json"], ["-c", PARENT_OF_THE_COMMAND]],
    ids=["the embedding program", "the command", "the command's parent"],
)
def test_kill_9_of_the_owner_leaves_no_java_and_no_data(arguments: list[str], tmp_path: Path) -> None:
    with running(arguments, tmp_path) as (process, _):
        assert any("kafka.Kafka" in line or "java" in line for line in processes(tmp_path))
        process.kill()
        process.wait(END_SECONDS)
        assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("seconds", [0.1, 0.4, 0.9])
def test_kill_9_in_the_middle_of_a_start_leaves_no_java(seconds: float, tmp_path: Path) -> None:
    process = run(["-c", EMBEDDING_PROGRAM], tmp_path)
    with process:
        time.sleep(seconds)  # not a wait for something: the moment is the test
        process.kill()
        process.wait(END_SECONDS)
        eventually(lambda: not processes(tmp_path), "no process of it")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with the one that started it")
def test_java_ends_with_its_guard(tmp_path: Path) -> None:
    with Sandbox(data=tmp_path / "data") as kafka:
        java = kafka.pids[0]
        status = Path(f"/proc/{java}/status").read_text(encoding="ascii")
        guard = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
        os.kill(guard, signal.SIGKILL)
        eventually(lambda: has_ended(java), "java gone")
        with pytest.raises(SandboxError, match="ended by itself"):
            kafka.nodes[0].check()


def test_a_setting_that_kafka_refuses_is_reported_with_the_end_of_the_log() -> None:
    kafka = Sandbox(properties={"num.partitions": "many"})
    with pytest.raises(SandboxError, match=r"(?s)formatting failed.*Invalid value many"):
        kafka.start()
    assert kafka.pids == []


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SandboxError, match=f"port {port} on 127.0.0.1 is taken"):
            Sandbox(port=port).start()


def test_clients_authenticate_while_administrators_have_a_way_in() -> None:
    login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="right";'
    security = {"sasl.enabled.mechanisms": "PLAIN", "listener.name.client.plain.sasl.jaas.config": login}
    with Sandbox(security_protocol="SASL_PLAINTEXT", properties=security) as kafka:
        alice = {
            "bootstrap.servers": kafka.bootstrap_servers,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "alice",
            "log_level": 0,
        }
        assert AdminClient(alice | {"sasl.password": "right"}).list_topics(timeout=20).brokers
        with pytest.raises(KafkaException):
            AdminClient(alice | {"sasl.password": "wrong"}).list_topics(timeout=1)
        assert admin(kafka.internal_servers).list_topics(timeout=20).brokers


def out_of_sync(servers: str) -> set[int]:
    """The nodes that are missing among the replicas in sync of some partition.

    Asked by a client that is new: an older one may know the frozen node, and wait for it.
    """
    return {
        node
        for topic in admin(servers).list_topics(timeout=20).topics.values()
        for partition in topic.partitions.values()
        for node in set(partition.replicas) - set(partition.isrs)
    }


def test_each_of_three_nodes_can_be_killed_stopped_and_frozen_while_the_others_go_on() -> None:
    with Sandbox(nodes=3) as kafka:
        servers, pids = kafka.bootstrap_servers, kafka.pids
        client = admin(servers)
        client.create_topics([NewTopic(TOPIC, 1, 3)])[TOPIC].result(20)
        write(servers, b"0")
        assert read(servers, 1) == [b"0"]  # as a member of a group: the topic of offsets is made for it
        topics = client.list_topics(timeout=20).topics
        assert {name: len(one.partitions[0].replicas) for name, one in topics.items()} == {
            TOPIC: 3,
            "__consumer_offsets": 3,
        }
        asked = client.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in topics])
        assert {answer.result(20)["min.insync.replicas"].value for answer in asked.values()} == {"2"}
        first, second, third = kafka.nodes
        others = f"{first.bootstrap_servers},{second.bootstrap_servers}"

        first.kill()
        eventually(lambda: out_of_sync(servers) == {1}, "node 1 missed", 30)
        write(servers, b"1")
        first.start()
        eventually(lambda: not out_of_sync(servers), "node 1 in sync", 30)

        second.stop()
        write(servers, b"2")
        second.start()
        eventually(lambda: not out_of_sync(servers), "node 2 in sync", 30)

        third.pause()
        eventually(lambda: out_of_sync(others) == {3}, "node 3 missed", 60)
        write(servers, b"3")
        third.resume()
        eventually(lambda: not out_of_sync(servers), "node 3 in sync", 30)

        assert kafka.bootstrap_servers == servers
        assert [now != then for now, then in zip(kafka.pids, pids, strict=True)] == [True, True, False]
        assert read(servers, 3) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_console_s_command_starts_as_many_brokers_as_asked_and_ctrl_c_ends_them(
    nodes: int, tmp_path: Path
) -> None:
    command = ["-m", "services.console", "sandbox", "--nodes", str(nodes), "--json"]
    with running(command, tmp_path) as (process, line):
        servers = json.loads(line)["bootstrap_servers"]
        assert len(admin(servers).list_topics(timeout=20).brokers) == nodes
        process.send_signal(signal.SIGINT)
        assert process.wait(END_SECONDS) == 0
        assert_nothing_is_left(tmp_path)
