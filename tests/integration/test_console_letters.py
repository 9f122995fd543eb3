"""`tandem dlq` on a real Kafka: what is shown of letters, and that each is sent again at most once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from tests.conftest import Kafka
from tests.integration.commands import StartTandem, Tandem
from tests.integration.receiver import Reply, receiving
from tests.verifier import Service
from tests.verifier.broker import Broker, wait_until_settled
from tests.verifier.contract import PartitionId, Record
from tests.verifier.polling import poll

PARTITIONS = 2
GOOD = {
    "user_id": 7,
    "action": "view",
    "page": "/page/1",
    "timestamp": "2026-11-23T00:00:00Z",
    "ip": "192.168.1.1",
    "device": "mobile",
}
# Value and partition of records that no topology takes; the good one is between them.
BAD: list[tuple[bytes | None, int]] = [
    (b'{"user_id": 7, "action": !}', 0),
    (b'{"user_id": 8, "action": ??}', 1),
    (json.dumps(GOOD | {"action": "dance"}).encode(), 1),
    (b'{"user_id": 7, "action": "\xff"}', 0),
    (None, 0),
]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _topics(prefix: str, make_topics: Callable[..., None]) -> None:
    make_topics(prefix, partitions=PARTITIONS)


@pytest.fixture
def put_aside(kafka: Kafka, prefix: str, start_processor: Callable[..., Service]) -> Callable[[], None]:
    """Return what lets a processor work until it has put all bad records aside that are there now."""

    def work() -> None:
        service = start_processor(PROCESSOR_TOPOLOGIES="behavior")
        service.wait_until_ready()
        ends = Broker(kafka.bootstrap_servers)

        def is_done() -> bool | None:
            figures = service.stats()["topologies"]["behavior"]
            everything = len(ends.read_topic(f"{prefix}user_behavior", 20))
            accounts = figures["accounts"]
            return accounts["events"] + accounts["dead_letters"] == everything or None

        poll(is_done, 30, lambda: str(service.stats()))
        assert service.terminate() == 0

    return work


@pytest.fixture
def bad_records(kafka: Kafka, prefix: str, put_aside: Callable[[], None]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for value, partition in BAD:
        producer.produce(
            f"{prefix}user_behavior", value, "7", partition=partition, headers=[("trace", b"abc")]
        )
        producer.produce(f"{prefix}user_behavior", json.dumps(GOOD), "7", partition=partition)
    assert producer.flush(30) == 0
    put_aside()


def records(kafka: Kafka, topic: str) -> list[Record]:
    return Broker(kafka.bootstrap_servers).read_topic(topic, 20)


def retried(kafka: Kafka, topic: str) -> list[Record]:
    """Return the records of a topic that were sent again."""
    return [one for one in records(kafka, topic) if "tandem.retried" in dict(one.headers)]


def numbers(ran: Any) -> dict[str, int]:
    """Return the summary of a command that was run with --json."""
    found: dict[str, int] = ran.objects[-1]
    return found


@pytest.mark.usefixtures("bad_records")
def test_letters_are_listed_by_reason_and_each(tandem: Tandem, prefix: str) -> None:
    listed = tandem("dlq", "list", "--json")
    assert listed.exit_code == 0, listed.err
    by_reason = {one["reason"]: one for one in listed.objects}
    assert [one["count"] for one in listed.objects] == [2, 1, 1, 1], "the most frequent first"
    malformed = by_reason["JSON is malformed: invalid character (byte …)"]
    assert (malformed["open"], malformed["topic"]) == (2, f"{prefix}user_behavior")
    assert "the record has no value" in by_reason
    assert any("Invalid enum value …" in reason for reason in by_reason)
    each = tandem("dlq", "list", "--each", "--json")
    assert len(each.objects) == len(BAD)
    assert {one["status"] for one in each.objects} == {"open"}
    assert {one["from"].rpartition(":")[0] for one in each.objects} == {
        f"{prefix}user_behavior:{partition}" for partition in (0, 1)
    }
    some = tandem("dlq", "list", "--each", "--json", "--reason", "ENUM", "--topic", "user_behavior")
    assert len(some.objects) == 1
    assert tandem("dlq", "list", "--until", "2020-01-01").out == "no dead letters\n"
    assert len(tandem("dlq", "list", "--each", "--json", "--since", "2020-01-01").objects) == len(BAD)
    assert tandem("dlq", "list", "--since", "2100-01-01").out == "no dead letters\n"
    assert tandem("dlq", "list", "--status", "retried").out == "no dead letters\n"
    shown = tandem("dlq", "list")
    assert "JSON is malformed" in shown.out
    assert "no letters" not in tandem("dlq", "list", "--each").out


@pytest.mark.usefixtures("bad_records")
def test_a_letter_is_shown_whole_with_the_place_where_the_decoder_stopped(tandem: Tandem) -> None:
    each = tandem("dlq", "list", "--each", "--json").objects
    names = {one["reason"]: one["letter"] for one in each if one["letter"].startswith("0:")}
    [malformed] = [name for reason, name in names.items() if "malformed" in reason]
    shown = tandem("dlq", "show", malformed)
    assert shown.exit_code == 0, shown.err
    assert 'stopped at {"user_id": 7, "action":  ▶ !}' in shown.out
    assert "header     trace: abc" in shown.out
    assert "Traceback" in shown.out
    [binary] = [name for reason, name in names.items() if "malformed" not in reason and "value" not in reason]
    assert " 22 ff 22 7d " in tandem("dlq", "show", binary).out
    [whole] = tandem("dlq", "show", malformed, "--json").objects
    assert whole["headers"] == [["trace", "abc"]]
    assert whole["value_bytes"] == len(BAD[0][0] or b"")
    missing = tandem("dlq", "show", "0:999", malformed)
    assert (missing.exit_code, "holds no letter 0:999" in missing.err) == (1, True)


@pytest.mark.usefixtures("bad_records")
def test_a_letter_is_sent_again_as_it_was_to_its_partition_and_once(
    tandem: Tandem, kafka: Kafka, prefix: str
) -> None:
    topic = f"{prefix}user_behavior"
    tried = tandem("dlq", "retry", "--reason", "malformed", "--dry-run", "--json")
    assert numbers(tried) == {"would_be_retried": 2, "handled_before": 0, "left_out": 0}
    assert retried(kafka, topic) == []
    ran = tandem("dlq", "retry", "--reason", "malformed", "--json")
    assert (ran.exit_code, numbers(ran)) == (0, {"retried": 2, "handled_before": 0, "left_out": 0})
    again = tandem("dlq", "retry", "--all", "--json")
    assert numbers(again) == {"retried": 3, "handled_before": 2, "left_out": 0}
    assert numbers(tandem("dlq", "retry", "--all", "--json"))["retried"] == 0
    found = [(one.value, one.partition) for one in retried(kafka, topic)]
    assert Counter(found) == Counter(BAD)
    one = retried(kafka, topic)[0]
    assert one.key == b"7"
    assert dict(one.headers)["trace"] == b"abc"
    assert not [name for name, _ in one.headers if name.startswith("__streams")]
    assert (dict(one.headers)["tandem.retried"] or b"").startswith(f"{prefix}dead_letters:".encode())
    assert {one["status"] for one in tandem("dlq", "list", "--each", "--json").objects} == {"retried"}


@pytest.mark.usefixtures("bad_records")
def test_a_letter_is_mended_checked_and_counted(
    tandem: Tandem, kafka: Kafka, prefix: str, tmp_path: Path, put_aside: Callable[[], None]
) -> None:
    [letter] = tandem("dlq", "list", "--each", "--json", "--reason", "enum").objects

    def editor(old: str, new: str) -> str:
        script = tmp_path / "edit.py"
        script.write_text(
            "import pathlib, sys; file = pathlib.Path(sys.argv[1]); "
            f"file.write_text(file.read_text().replace({old!r}, {new!r}))"
        )
        return f"{sys.executable} {script}"

    refused = tandem("dlq", "edit", letter["letter"], EDITOR=editor("dance", "jump"))
    assert (refused.exit_code, "no record of user_behavior" in refused.err) == (1, True)
    unsaved = tandem("dlq", "edit", letter["letter"], EDITOR="true")
    assert (unsaved.exit_code, "nothing was saved" in unsaved.err) == (1, True)
    assert retried(kafka, f"{prefix}user_behavior") == []
    mended = tandem("dlq", "edit", letter["letter"], EDITOR=editor("dance", "click"))
    assert mended.exit_code == 0, mended.err
    [record] = retried(kafka, f"{prefix}user_behavior")
    assert json.loads(record.value or b"") == GOOD | {"action": "click"}
    assert record.partition == 1
    put_aside()
    stats = records(kafka, f"{prefix}behavior_stats")
    latest = {one.key: json.loads(one.value or b"") for one in stats}
    assert sum(one["actions"].get("click", 0) for one in latest.values()) == 1
    [now] = tandem("dlq", "list", "--each", "--json", "--reason", "enum").objects
    assert now["status"] == "edited"
    verified = tandem("verify", "--json")
    assert verified.exit_code == 0, verified.out + verified.err


@pytest.mark.usefixtures("bad_records")
def test_a_dropped_letter_is_not_sent_again_and_stays(tandem: Tandem, kafka: Kafka, prefix: str) -> None:
    dropped = tandem("dlq", "drop", "--reason", "malformed", "--json")
    assert numbers(dropped) == {"dropped": 2, "handled_before": 0, "left_out": 0}
    assert numbers(tandem("dlq", "retry", "--all", "--json"))["retried"] == 3
    assert len(records(kafka, f"{prefix}dead_letters")) == len(BAD)
    listed = tandem("dlq", "list", "--each", "--json", "--status", "dropped").objects
    assert len(listed) == 2


def letters(
    kafka: Kafka,
    prefix: str,
    count: int,
    *,
    topic: str = "user_behavior",
    more: tuple[tuple[str, bytes], ...] = (),
    value: bytes | None = None,
    size: int = 0,
) -> None:
    """Write letters as a processor would have, of records in partition 1.

    Their values are their numbers unless `value` is given, padded with spaces to `size` bytes.
    """
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(count):
        about = {"exception": b"x", "message": b"m", "topic": (prefix + topic).encode(), "partition": b"1"}
        headers = [(f"__streams.errors.{name}", value) for name, value in about.items()]
        headers += [("__streams.errors.offset", str(number).encode()), *more]
        told = str(number).encode().ljust(size) if value is None else value
        producer.produce(f"{prefix}dead_letters", told, "k", partition=number % 2, headers=headers)
    assert producer.flush(30) == 0


def wait_for_more(kafka: Kafka, topic: str, than: int) -> None:
    """Wait until a topic holds more records than that."""
    poll(lambda: len(records(kafka, topic)) > than or None, 40, lambda: f"no more than {than} in {topic}")


def halt_in_a_transaction(process: subprocess.Popen[str], kafka: Kafka, topic: str) -> None:
    """Freeze a command while a transaction is open where it sends letters again: in partition 1."""
    place = PartitionId(topic, 1)
    broker = Broker(kafka.bootstrap_servers)

    def is_open() -> bool:
        ends = broker.ends([place])[place]
        return ends.stable < ends.raw

    def is_halted() -> bool | None:
        assert process.poll() is None, "it has come to its end"
        if not is_open():
            return None
        process.send_signal(signal.SIGSTOP)
        # It may have committed before it was frozen: then another one has to do.
        if is_open():
            return True
        process.send_signal(signal.SIGCONT)
        return None

    poll(is_halted, 40, lambda: "no transaction was seen open", interval_seconds=0.002)


def test_who_is_killed_in_the_middle_again_and_again_sends_each_once(
    kafka: Kafka, prefix: str, tandem: Tandem, begin_tandem: StartTandem
) -> None:
    count = 1_500
    topic, handled = f"{prefix}user_behavior", f"{prefix}dead_letters-handled"
    letters(kafka, prefix, count, size=10_000)
    # A small transaction a second: work for half a minute, which four kills do not see the end of.
    command = ("dlq", "retry", "--all", "--rate", "50")
    chance = random.Random(11)
    for run in range(4):
        before = len(records(kafka, handled))
        process = begin_tandem(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # However long it takes to connect: each run has done something, and is killed while it does more.
            wait_for_more(kafka, handled, before)
            if run % 2:
                halt_in_a_transaction(process, kafka, topic)
            else:
                time.sleep(chance.uniform(0, 1))
        finally:
            process.kill()
            ended = process.wait(10)
        assert ended == -signal.SIGKILL, "it has come to its end"
    assert 0 < len(records(kafka, handled)) < count
    assert tandem("dlq", "retry", "--all").exit_code == 0
    values = Counter((one.value or b"").rstrip() for one in retried(kafka, topic))
    assert values == Counter({str(number).encode(): 1 for number in range(count)})
    assert len(records(kafka, handled)) == count


def test_two_at_once_send_each_once(
    kafka: Kafka, prefix: str, tandem: Tandem, begin_tandem: StartTandem
) -> None:
    count = 400
    letters(kafka, prefix, count)
    both = [begin_tandem("dlq", "retry", "--all", "--rate", "100", stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    for process, text in zip(both, said, strict=True):
        assert process.returncode == 0 or "tandem: " in text, text
    assert tandem("dlq", "retry", "--all").exit_code == 0
    values = Counter(one.value for one in retried(kafka, f"{prefix}user_behavior"))
    assert values == Counter({str(number).encode(): 1 for number in range(count)})


def test_letters_are_sent_again_at_the_rate_that_was_asked_for(
    kafka: Kafka, prefix: str, tandem: Tandem
) -> None:
    letters(kafka, prefix, 100)
    began = datetime.now(UTC)
    ran = tandem("dlq", "retry", "--all", "--rate", "20", "--json")
    assert numbers(ran)["retried"] == 100
    marks = records(kafka, f"{prefix}dead_letters-handled")
    steps = Counter(datetime.fromisoformat(json.loads(one.value or b"")["at"]) for one in marks)
    assert list(steps.values()) == [20] * 5, "in steps of a second"
    # A step is due with its last letter, counted from when the command has connected: that is after `began`,
    # and the later the slower the machine is.
    for step, at in enumerate(sorted(steps)):
        assert at - began >= timedelta(seconds=step + 0.95)


def test_an_interruption_says_what_was_done_and_leaves_no_transaction_open(
    kafka: Kafka, prefix: str, tandem: Tandem, begin_tandem: StartTandem
) -> None:
    count = 1_000
    topic, handled = f"{prefix}user_behavior", f"{prefix}dead_letters-handled"
    letters(kafka, prefix, count, size=10_000)
    process = begin_tandem("dlq", "retry", "--all", "--rate", "50", "--json", stdout=subprocess.PIPE)
    try:
        # One transaction is committed, and another one under way.
        wait_for_more(kafka, topic, 0)
        halt_in_a_transaction(process, kafka, topic)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    # One that is left open Kafka itself ends, but not before 15 s have passed.
    wait_until_settled(Broker(kafka.bootstrap_servers), [topic, handled], 10)
    said = json.loads(out.splitlines()[-1])
    found = len(retried(kafka, topic))
    # Interrupted while it commits, it can't know what Kafka made of that: all of it or nothing.
    assert found in (said["retried"], said["retried"] + said.get("in_doubt", 0))
    assert 0 < said["retried"] <= found < count
    assert numbers(tandem("dlq", "retry", "--all", "--json"))["retried"] == count - found


def test_one_that_is_too_large_is_named_and_holds_up_no_other(
    kafka: Kafka, prefix: str, tandem: Tandem
) -> None:
    topic = f"{prefix}user_behavior"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    limit = ConfigEntry("max.message.bytes", "10000", incremental_operation=AlterConfigOpType.SET)
    asked = admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[limit])]
    )
    for answer in asked.values():
        answer.result(10)
    letters(kafka, prefix, 9)
    letters(kafka, prefix, 1, value=b"x" * 20_000)
    letters(kafka, prefix, 10)
    ran = tandem("dlq", "retry", "--all", "--json")
    assert (ran.exit_code, numbers(ran)) == (1, {"retried": 19, "handled_before": 0, "left_out": 1})
    assert f"letter 0:5: not sent: {topic}:1 does not take it" in ran.err
    assert "(20,001 bytes; max.message.bytes of the topic bounds it)" in ran.err
    assert len(retried(kafka, topic)) == 19
    [left] = tandem("dlq", "list", "--each", "--json", "--status", "open").objects
    assert left["letter"] == "0:5"


def test_letters_of_a_topic_that_was_made_anew_are_others(kafka: Kafka, prefix: str, tandem: Tandem) -> None:
    letters(kafka, prefix, 2)
    assert numbers(tandem("dlq", "retry", "--all", "--json"))["retried"] == 2
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    topic = f"{prefix}dead_letters"
    admin.delete_topics([topic])[topic].result(10)
    poll(lambda: topic not in admin.list_topics(timeout=10).topics or None, 20, lambda: "it is still there")
    admin.create_topics([NewTopic(topic, PARTITIONS)])[topic].result(10)
    letters(kafka, prefix, 2)
    assert {one["status"] for one in tandem("dlq", "list", "--each", "--json").objects} == {"open"}
    again = tandem("dlq", "retry", "--all", "--json")
    assert numbers(again) == {"retried": 2, "handled_before": 0, "left_out": 0}


def test_what_can_not_be_sent_again_is_named_and_the_rest_is(
    kafka: Kafka, prefix: str, tandem: Tandem
) -> None:
    letters(kafka, prefix, 1, more=(("tandem.value.length", b"70000"),))
    letters(kafka, prefix, 1, topic="gone")
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(f"{prefix}dead_letters", b"{}", partition=0)
    assert producer.flush(30) == 0
    letters(kafka, prefix, 1)
    ran = tandem("dlq", "retry", "--all", "--json")
    assert (ran.exit_code, numbers(ran)) == (1, {"retried": 1, "handled_before": 0, "left_out": 3})
    assert "letter 0:0: not sent: only 1 of its 70,000 bytes were kept" in ran.err
    assert f"letter 0:1: not sent: there is no {prefix}gone:1 that we may write to" in ran.err
    assert "letter 0:2: not sent: its headers do not say where it comes from" in ran.err
    unknown = tandem("dlq", "list", "--each", "--json").objects[2]
    assert (unknown["from"], unknown["reason"]) == ("?:?:?", "unknown")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retry"], "which ones?"),
        (["drop"], "which ones?"),
        (["retry", "0:1", "--all"], "exclude each other"),
        (["retry", "17"], "is not PARTITION:OFFSET"),
        (["show"], "Missing argument"),
        (["list", "--since", "yesterday"], "is not"),
        (["list", "--since", "beginning"], "is not a time"),
    ],
)
def test_bad_use_ends_with_2_and_says_why(tandem: Tandem, arguments: list[str], said: str) -> None:
    ran = tandem("dlq", *arguments)
    assert (ran.exit_code, said in ran.err) == (2, True), ran.err


def test_a_retry_of_a_delivery_goes_to_the_webhook_and_publishes_nothing(
    kafka: Kafka, prefix: str, tandem: Tandem, start_processor: Callable[..., Service]
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    purchase = {"topic": "t", "partition": 1, "offset": 5}
    producer.produce(f"{prefix}purchases", json.dumps(purchase), "k", partition=1, headers=[("trace", b"1")])
    assert producer.flush(30) == 0
    with receiving() as receiver:
        receiver.answers = lambda _headers, _body: Reply(400)
        delivery = {"PROCESSOR_TOPOLOGIES": "none", "PROCESSOR_DELIVERY_URL": receiver.url}
        service = start_processor(**delivery)
        service.wait_for_line("delivery_given_up")
        first = tandem("dlq", "retry", "--delivery", "--all", "--json")
        assert numbers(first)["retried"] == 1
        poll(lambda: len(receiver.received) == 2 or None, 30, lambda: str(receiver.received))
        # Refused once more: a letter of its own, which names the purchase and not the retry.
        poll(
            lambda: len(records(kafka, f"{prefix}delivery_dead_letters")) == 2 or None,
            30,
            lambda: "no second letter",
        )
        listed = tandem("dlq", "list", "--delivery", "--each", "--json").objects
        assert [one["from"] for one in listed] == [f"{prefix}purchases:1:0"] * 2
        assert sorted(one["status"] for one in listed) == ["open", "retried"]
        receiver.answers = lambda _headers, _body: Reply(200)
        second = tandem("dlq", "retry", "--delivery", "--all", "--json")
        assert numbers(second) == {"retried": 1, "handled_before": 1, "left_out": 0}
        poll(lambda: receiver.taken() or None, 30, lambda: str(receiver.received))
        assert [one.name for one in receiver.received] == ["purchases:t:1:5"] * 3
        assert {one.headers["Tandem-Topic"] for one in receiver.received} == {"purchases"}
        assert service.terminate() == 0
    assert len(records(kafka, f"{prefix}purchases")) == 1
