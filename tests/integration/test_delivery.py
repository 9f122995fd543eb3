"""Delivery to a webhook: workers, order, retries, dead letters, commits; on a real Kafka and real HTTP."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from tests.conftest import Kafka
from tests.integration.certificates import Authority
from tests.integration.receiver import Receiver, Reply, receiving
from tests.verifier import Service
from tests.verifier.broker import Broker
from tests.verifier.contract import PartitionId, Record
from tests.verifier.polling import poll

PARTITIONS = 2
Start = Callable[..., Service]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _topics(prefix: str, make_topics: Callable[..., None]) -> None:
    make_topics(prefix, partitions=PARTITIONS)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def deliver(start_processor: Start, receiver: Receiver) -> Start:
    """Return what starts a processor that only delivers, with short pauses."""

    def start(**settings: object) -> Service:
        defaults: dict[str, object] = {
            "PROCESSOR_TOPOLOGIES": "none",
            "PROCESSOR_DELIVERY_URL": receiver.url,
            "PROCESSOR_DELIVERY_FIRST_PAUSE_SECONDS": 0.1,
            "PROCESSOR_DELIVERY_LONGEST_PAUSE_SECONDS": 2,
        }
        return start_processor(**defaults | settings)

    return start


def publish(kafka: Kafka, prefix: str, count: int, *, keys: int = 50, first: int = 0) -> list[str]:
    """Publish purchases of `keys` users in turns; return their identities."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    names = []
    for number in range(first, first + count):
        user = number % keys
        purchase = {
            "user_id": user,
            "page": f"/page/{number}",
            "timestamp": "2026-11-23T00:00:00Z",
            "device": "mobile",
            "topic": f"{prefix}user_behavior",
            "partition": user % PARTITIONS,
            "offset": number,
        }
        producer.produce(f"{prefix}purchases", json.dumps(purchase), str(user), partition=user % PARTITIONS)
        names.append(f"purchases:{prefix}user_behavior:{user % PARTITIONS}:{number}")
    assert producer.flush(30) == 0
    return names


def wait_until_taken(receiver: Receiver, names: list[str], seconds: float = 40) -> dict[str, int]:
    """Wait until each was taken; return how often."""
    missing = set(names)

    def look() -> dict[str, int] | None:
        taken = receiver.taken()
        missing.difference_update(taken)
        return None if missing else taken

    return poll(look, seconds, lambda: f"{len(missing)} were not delivered, such as {sorted(missing)[:3]}")


def committed(kafka: Kafka, prefix: str) -> list[int | None]:
    places = [PartitionId(f"{prefix}purchases", partition) for partition in range(PARTITIONS)]
    found = Broker(kafka.bootstrap_servers).committed(f"{prefix}purchases-delivery", places)
    return [found[place] for place in places]


def letters(kafka: Kafka, prefix: str) -> list[Record]:
    """Return the records of `delivery_dead_letters`."""
    return Broker(kafka.bootstrap_servers).read_topic(f"{prefix}delivery_dead_letters", 20)


def why(letter: Record) -> str:
    """Return the reason of a dead letter."""
    return (dict(letter.headers)["__streams.errors.message"] or b"").decode()


def waiting(service: Service) -> Any:
    """Return how many records are read and not delivered."""
    return service.stats()["delivery"]["purchases"]["waiting"]


def given_up(service: Service) -> Any:
    """Return how many records became dead letters."""
    return service.stats()["delivery"]["purchases"]["dead_letters"]


def in_order(receiver: Receiver) -> bool:
    """Say whether what was taken of each user came in the order of its offsets, one after another."""
    by_user: dict[int, list[Any]] = defaultdict(list)
    for one in receiver.received:
        by_user[json.loads(one.body)["user_id"]].append(one)
    return all(
        before.ended <= after.began and json.loads(before.body)["offset"] <= json.loads(after.body)["offset"]
        for of_user in by_user.values()
        for before, after in pairwise(of_user)
    )


def test_three_workers_take_a_third_of_the_time_of_one_and_those_of_a_key_come_in_order(
    deliver: Start,
    receiver: Receiver,
    kafka: Kafka,
    prefix: str,
    record_property: Callable[[str, object], None],
) -> None:
    seconds, count = 0.5, 60

    def slow(_headers: dict[str, str], _body: bytes) -> Reply:
        time.sleep(seconds)
        return Reply()

    receiver.answers = slow
    took: dict[int, float] = {}
    for first, workers in ((0, 1), (count, 3)):
        names = publish(kafka, prefix, count, first=first)
        service = deliver(PROCESSOR_WORKER_COUNT=workers)
        taken = wait_until_taken(receiver, names, 60)
        assert set(taken.values()) == {1}
        assert receiver.most_at_once == workers
        assert in_order(receiver)
        assert service.terminate() == 0
        assert sum(offset or 0 for offset in committed(kafka, prefix)) == first + count, service.lines()
        of_run = receiver.received[first:]
        took[workers] = max(one.ended for one in of_run) - min(one.began for one in of_run)
        alone = count * seconds
        assert alone / workers <= took[workers] < alone / workers * 1.6, "a worker stood idle"
    text = ", ".join(f"{workers}: {taken:.2f} s" for workers, taken in took.items())
    record_property("measured", f"delivery of {count} by workers, each taking {seconds:g} s: {text}")
    assert took[3] < took[1] / 3 * 1.5, "a worker stood idle"


def test_what_is_sent_is_the_record_and_says_where_it_is_from(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    [name] = publish(kafka, prefix, 1)
    service = deliver(PROCESSOR_DELIVERY_TOKEN="t0ken")
    wait_until_taken(receiver, [name])
    [one] = receiver.received
    assert json.loads(one.body)["page"] == "/page/0"
    wanted = {
        "Content-Type": "application/json",
        "Authorization": "Bearer t0ken",
        "Tandem-Topic": "purchases",
        "Tandem-Partition": "0",
        "Tandem-Offset": "0",
        "Tandem-Attempt": "1",
    }
    assert {header: one.headers[header] for header in wanted} == wanted
    assert service.terminate() == 0
    log = service.log.read_text()
    assert "hush" not in log, "the URL may hold a secret"
    assert "t0ken" not in log


def test_a_failed_one_is_tried_again_in_its_order_and_others_go_on(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    lock = threading.Lock()
    failures: dict[str, int] = defaultdict(int)
    replies = [Reply(503), Reply(None), Reply(raw=b"no HTTP at all\r\n\r\n"), Reply(408, body=b"\xff")]

    def unsteady(headers: dict[str, str], body: bytes) -> Reply:
        if json.loads(body)["user_id"] != 7:
            return Reply()
        with lock:
            failures[headers["Idempotency-Key"]] += 1
            failed = failures[headers["Idempotency-Key"]]
        return replies[failed - 1] if failed <= len(replies) else Reply(201)

    receiver.answers = unsteady
    names = publish(kafka, prefix, 100)
    service = deliver()
    taken = wait_until_taken(receiver, names)
    assert set(taken.values()) == {1}
    of_7 = [one for one in receiver.received if json.loads(one.body)["user_id"] == 7]
    assert [one.headers["Tandem-Attempt"] for one in of_7] == ["1", "2", "3", "4", "5"] * 2
    assert in_order(receiver)
    others = [one.ended for one in receiver.received if json.loads(one.body)["user_id"] != 7]
    assert max(others) < of_7[5].began, "nobody else waits for the key that fails"
    assert service.stats()["delivery"]["purchases"]["failed_attempts"] == 8
    assert service.terminate() == 0
    assert letters(kafka, prefix) == []


@pytest.mark.parametrize("status", [429, 503])
def test_a_webhook_that_asks_for_a_pause_gets_it(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str, status: int
) -> None:
    asked = threading.Event()

    def busy(_headers: dict[str, str], _body: bytes) -> Reply:
        if asked.is_set():
            return Reply()
        asked.set()
        return Reply(status, {"Retry-After": "2"})

    receiver.answers = busy
    names = publish(kafka, prefix, 30)
    deliver(PROCESSOR_WORKER_COUNT=1)
    wait_until_taken(receiver, names)
    refused, *others = receiver.received
    assert refused.status == status
    assert min(one.began for one in others) >= refused.ended + 1.9, "nothing comes before its time"


def test_what_is_refused_is_a_dead_letter_at_once_and_committed_past(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    receiver.answers = lambda _headers, body: (
        Reply(422, body=b"no such user") if json.loads(body)["user_id"] == 3 else Reply()
    )
    names = publish(kafka, prefix, 20, keys=10)
    refused = [name for name in names if name.endswith((":3", ":13"))]
    service = deliver()
    wait_until_taken(receiver, [name for name in names if name not in refused])
    service.wait_for_line(r"422.*delivery_given_up")
    poll(lambda: committed(kafka, prefix) == [10, 10] or None, 20, lambda: str(committed(kafka, prefix)))
    found = letters(kafka, prefix)
    assert [json.loads(letter.value or b"")["offset"] for letter in found] == [3, 13]
    for letter in found:
        assert letter.key == b"3"
        headers = dict(letter.headers)
        assert headers["__streams.errors.topic"] == f"{prefix}purchases".encode()
        assert headers["__streams.errors.partition"] == b"1"
        assert why(letter) == "given up after 1 attempt: 422 Unprocessable Entity: no such user"
    assert [one.status for one in receiver.received].count(422) == 2, "once each"


def test_a_webhook_that_is_down_costs_the_bounded_attempts_and_then_a_dead_letter(
    deliver: Start, kafka: Kafka, prefix: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/hush"
        publish(kafka, prefix, 4)
        service = deliver(PROCESSOR_DELIVERY_URL=url, PROCESSOR_DELIVERY_ATTEMPTS=3)
        poll(lambda: given_up(service) == 4 or None, 30, lambda: str(given_up(service)))
    assert why(letters(kafka, prefix)[0]) == "given up after 3 attempts: no connection: Connection refused"
    assert service.stats()["delivery"]["purchases"] == {
        "delivered": 0,
        "failed_attempts": 12,
        "dead_letters": 4,
        "waiting": 0,
    }
    assert service.terminate() == 0


def test_a_webhook_with_tls_is_delivered_to_where_its_certificate_is_trusted(
    deliver: Start, kafka: Kafka, prefix: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    chain, key = authority.server("127.0.0.1")
    (tmp_path / "server.pem").write_text(chain + key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem")
    publish(kafka, prefix, 1)
    with receiving(tls) as receiver:
        once: dict[str, object] = {
            "PROCESSOR_DELIVERY_URL": receiver.url,
            "PROCESSOR_DELIVERY_ATTEMPTS": 1,
        }
        untrusting = deliver(**once)
        poll(lambda: given_up(untrusting) or None, 30, lambda: "it is not given up")
        assert untrusting.terminate() == 0
        names = publish(kafka, prefix, 1, first=1)
        deliver(**once, SSL_CERT_FILE=authority.cafile)
        wait_until_taken(receiver, names)
    [letter] = letters(kafka, prefix)
    assert why(letter).startswith("given up after 1 attempt: its certificate is not accepted: ")


def test_a_webhook_that_never_answers_is_given_up_after_its_time(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    let_go = threading.Event()

    def silent(_headers: dict[str, str], _body: bytes) -> Reply:
        let_go.wait(60)
        return Reply()

    receiver.answers = silent
    publish(kafka, prefix, 1)
    try:
        service = deliver(PROCESSOR_DELIVERY_TIMEOUT_SECONDS=0.5, PROCESSOR_DELIVERY_ATTEMPTS=2)
        poll(lambda: given_up(service) or None, 30, lambda: "it is not given up")
    finally:
        let_go.set()
    [letter] = letters(kafka, prefix)
    assert why(letter) == "given up after 2 attempts: no answer within 0.5 s"


def test_a_killed_one_delivers_again_what_was_not_finished_and_loses_nothing(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    """The second record of partition 0 hangs; everything behind it is delivered and not committed past it."""
    killed = threading.Event()

    def hanging(_headers: dict[str, str], body: bytes) -> Reply:
        if json.loads(body)["offset"] == 2 and not killed.is_set():
            killed.wait(60)
            return Reply(None)
        return Reply()

    receiver.answers = hanging
    names = publish(kafka, prefix, 40)
    service = deliver(PROCESSOR_DELIVERY_TIMEOUT_SECONDS=60)
    stuck = f"purchases:{prefix}user_behavior:0:2"
    wait_until_taken(receiver, [name for name in names if name != stuck])
    poll(lambda: committed(kafka, prefix) == [1, 20] or None, 20, lambda: str(committed(kafka, prefix)))
    assert service.stats()["delivery"]["purchases"]["waiting"] == 1
    service.kill()
    killed.set()
    service.start()
    poll(lambda: committed(kafka, prefix) == [20, 20] or None, 30, lambda: str(committed(kafka, prefix)))
    taken = receiver.taken()
    assert taken.keys() == set(names)
    assert taken[stuck] == 1
    again = {name for name, times in taken.items() if times > 1}
    assert again == {name for name in names if name.split(":")[2] == "0"} - {stuck, names[0]}


def test_a_stop_ends_what_is_under_way_commits_it_and_leaves_the_rest(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    def slow(_headers: dict[str, str], _body: bytes) -> Reply:
        time.sleep(0.3)
        return Reply()

    receiver.answers = slow
    names = publish(kafka, prefix, 60)
    service = deliver()
    poll(lambda: len(receiver.received) >= 10 or None, 40, lambda: "nothing comes")
    assert service.terminate(10) == 0
    first = receiver.taken()
    assert set(first.values()) == {1}
    assert len(first) < len(names), "it did not deliver the rest first"
    # Each key has its turn in the order of the offsets: nothing was delivered above what was not.
    assert sum(offset or 0 for offset in committed(kafka, prefix)) == len(first)
    receiver.answers = lambda _headers, _body: Reply()
    deliver()
    assert wait_until_taken(receiver, names) == dict.fromkeys(names, 1)


def test_a_second_process_takes_its_share_and_nothing_is_delivered_twice(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    def slow(_headers: dict[str, str], _body: bytes) -> Reply:
        time.sleep(0.05)
        return Reply()

    receiver.answers = slow
    # Many keys: what was delivered above the lowest that was not is at most what was under way.
    keys = 100_000
    names = publish(kafka, prefix, 50, keys=keys)
    one = deliver()
    poll(lambda: receiver.received or None, 40, lambda: "nothing comes")
    other = deliver()

    def has_begun() -> bool | None:
        # The first one is at work when the other comes, however late that is.
        if len(names) - len(receiver.received) < 20:
            names.extend(publish(kafka, prefix, 20, keys=keys, first=len(names)))
        return any(re.search(r'purchases:\d".*"delivery_begins"', line) for line in other.lines()) or None

    poll(has_begun, 40, lambda: "the other one gets no share")
    # Half of these is its own.
    names += publish(kafka, prefix, 500, keys=keys, first=len(names))
    taken = wait_until_taken(receiver, names)
    assert sum(times - 1 for times in taken.values()) <= 3
    shares = [service.stats()["delivery"]["purchases"]["delivered"] for service in (one, other)]
    assert min(shares) > 50
    assert [one.terminate(), other.terminate()] == [0, 0]
    assert sum(offset or 0 for offset in committed(kafka, prefix)) == len(names)


def test_no_more_is_read_than_the_window_while_the_webhook_hangs(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    let_go = threading.Event()

    def stuck(_headers: dict[str, str], _body: bytes) -> Reply:
        let_go.wait(60)
        return Reply()

    receiver.answers = stuck
    names = publish(kafka, prefix, 500)
    service = deliver(
        PROCESSOR_DELIVERY_WINDOW_RECORDS=30, PROCESSOR_DELIVERY_TIMEOUT_SECONDS=60, HTTP_STALL_SECONDS=4
    )
    try:
        poll(lambda: waiting(service) == 60 or None, 30, lambda: str(waiting(service)))
        time.sleep(10)
        assert waiting(service) == 60
        assert service.get("/livez")[0] == 200, "a webhook that hangs is no fault of this process"
    finally:
        let_go.set()
    assert set(wait_until_taken(receiver, names).values()) == {1}


def test_purchases_that_the_processor_publishes_are_delivered_by_it(
    start_processor: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    names = []
    for number in range(200):
        event = {
            "user_id": number % 20,
            "action": "purchase" if number % 4 == 0 else "view",
            "page": "/page/1",
            "timestamp": "2026-11-23T00:00:00Z",
            "ip": "192.168.1.1",
            "device": "tablet",
        }
        producer.produce(f"{prefix}user_behavior", json.dumps(event), partition=0)
        if number % 4 == 0:
            names.append(f"purchases:{prefix}user_behavior:0:{number}")
    assert producer.flush(30) == 0
    service = start_processor(PROCESSOR_DELIVERY_URL=receiver.url)
    assert wait_until_taken(receiver, names) == dict.fromkeys(names, 1)
    service.wait_until_ready()
    text = service.get("/metrics")[1]
    assert f'tandem_processor_deliveries_total{{topic="{prefix}purchases"}} 50.0' in text
    assert service.terminate() == 0


def test_of_two_that_stop_together_none_delivers_more_again_than_was_under_way(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    """The first one drains when the second one's leaving hands its partition on, and the other way round."""

    def slow(_headers: dict[str, str], _body: bytes) -> Reply:
        time.sleep(0.4)
        return Reply()

    receiver.answers = slow
    names = publish(kafka, prefix, 80, keys=80)
    both = [deliver(), deliver()]
    poll(lambda: len(receiver.received) >= 10 or None, 40, lambda: "nothing comes")
    deliver().wait_until_ready()  # There are two partitions: it has none.
    for service in both:
        service.terminate_soon()
    assert [service.wait(20) for service in both] == [0, 0]
    taken = wait_until_taken(receiver, names, 60)
    # While the group hands partitions out, Kafka refuses a commit: what was under way may come again.
    assert sum(times - 1 for times in taken.values()) <= 2 * 3


def test_what_takes_longer_than_a_rebalance_bears_is_cut_off_and_comes_again(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    let_go = threading.Event()

    def hanging(_headers: dict[str, str], body: bytes) -> Reply:
        if json.loads(body)["offset"] == 0 and not let_go.is_set():
            let_go.wait(60)
            return Reply(None)
        return Reply()

    receiver.answers = hanging
    names = publish(kafka, prefix, 20)
    slow = {"PROCESSOR_DELIVERY_TIMEOUT_SECONDS": 60, "PROCESSOR_REBALANCE_TIMEOUT_SECONDS": 5}
    one = deliver(**slow)
    wait_until_taken(receiver, names[1:])
    other = deliver(**slow)
    one.wait_for_line('"delivery_cut_short"')
    let_go.set()
    other.wait_for_line('"delivery_begins"')
    taken = wait_until_taken(receiver, names)
    assert taken[names[0]] == 1
    # Its partition was committed up to it: what is behind it comes once more, and nothing else.
    of_0 = {name for name in names if name.split(":")[2] == "0"}
    poll(lambda: committed(kafka, prefix) == [10, 10] or None, 20, lambda: str(committed(kafka, prefix)))
    assert {name for name, times in receiver.taken().items() if times > 1} == of_0 - {names[0]}


def test_one_that_was_frozen_past_its_session_delivers_nothing_more(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    held: list[str] = []
    hold, let_go = threading.Event(), threading.Event()

    def holding(headers: dict[str, str], _body: bytes) -> Reply:
        if hold.is_set():
            held.append(headers["Idempotency-Key"])
            let_go.wait(60)
        else:
            time.sleep(0.1)
        return Reply()

    receiver.answers = holding
    names = publish(kafka, prefix, 200, keys=200)
    zombie = deliver()
    poll(lambda: len(receiver.received) >= 20 or None, 40, lambda: "nothing comes")
    # Frozen in the middle of an attempt of each worker; when it wakes up, all of them have an answer.
    hold.set()
    poll(lambda: len(held) == 3 or None, 20, lambda: f"{len(held)} requests at a time, not 3")
    # What it has delivered is committed, but for what two may have sent before an earlier one was held.
    delivered = len(receiver.received)
    poll(
        lambda: sum(offset or 0 for offset in committed(kafka, prefix)) >= delivered - 2 or None,
        20,
        lambda: f"{committed(kafka, prefix)} is committed of {delivered}",
    )
    zombie.pause()
    let_go.set()
    poll(lambda: set(held) <= set(receiver.taken()) or None, 20, lambda: "they are not answered")
    before = receiver.taken()
    receiver.answers = lambda _headers, _body: Reply()
    heir = deliver()
    wait_until_taken(receiver, names, 60)
    poll(lambda: committed(kafka, prefix) == [100, 100] or None, 20, lambda: str(committed(kafka, prefix)))
    at_end = sum(receiver.taken().values())
    # What was delivered and not committed: the three that were held, and those two.
    assert at_end - len(names) <= 5
    assert len(before) < len(names)
    slept = zombie.mark()
    zombie.resume()
    zombie.wait_for_line('"assigned"', since=slept)
    time.sleep(2)
    assert sum(receiver.taken().values()) == at_end
    assert [zombie.terminate(), heir.terminate()] == [0, 0]


def test_dead_letters_that_can_not_be_written_end_it_after_their_time_and_lose_nothing(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    receiver.answers = lambda _headers, _body: Reply(400)
    service = deliver(KAFKA_UNAVAILABLE_SECONDS=6, KAFKA_OPERATION_DEADLINE_SECONDS=2)
    service.wait_for_line('"delivery_begins"')
    for removed in kafka.admin.delete_topics([f"{prefix}delivery_dead_letters"]).values():
        removed.result(30)
    publish(kafka, prefix, 2, keys=1)
    assert service.wait(40) == 1
    reason = json.loads(service.lines()[-1])["reason"]
    assert f"could not write to {prefix}delivery_dead_letters" in reason
    assert committed(kafka, prefix)[0] in (None, 0)


def test_an_answer_that_repeats_the_url_shows_no_secret(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str
) -> None:
    receiver.answers = lambda headers, _body: Reply(
        404, body=f"Cannot POST /hook?secret=hush with {headers['Authorization']}".encode()
    )
    publish(kafka, prefix, 1)
    service = deliver(PROCESSOR_DELIVERY_TOKEN="t0ken")
    poll(lambda: given_up(service) or None, 30, lambda: "it is not given up")
    [letter] = letters(kafka, prefix)
    assert why(letter) == "given up after 1 attempt: 404 Not Found: Cannot POST ******** with Bearer ********"
    assert service.terminate() == 0
    assert not re.search("hush|t0ken", service.log.read_text())


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_what_retention_removed_stops_it_or_is_skipped(
    deliver: Start, receiver: Receiver, kafka: Kafka, prefix: str, policy: str
) -> None:
    first = publish(kafka, prefix, 20, keys=2)
    service = deliver(PROCESSOR_ON_RETENTION_LOSS=policy)
    wait_until_taken(receiver, first)
    assert service.terminate() == 0
    second = publish(kafka, prefix, 20, keys=2, first=20)
    topic = f"{prefix}purchases"
    removal = kafka.admin.delete_records([TopicPartition(topic, 0, 15)])
    for done in removal.values():
        done.result(30)
    service.start()
    if policy == "stop":
        assert service.wait(40) == 1
        last = json.loads(service.lines()[-1])
        assert f"{topic}:0: offset 10 is not in the log, which holds 15 to 20" in last["reason"]
    else:
        kept = [name for name in second if name.split(":")[2] == "1" or int(name.split(":")[3]) >= 30]
        taken = wait_until_taken(receiver, first + kept)
        assert len(taken) == 35
        service.wait_for_line('"skipped":5')


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"PROCESSOR_DELIVERY_URL": "ftp://user:hush@host/x"},
            "PROCESSOR_DELIVERY_URL: it has to be http://",
        ),
        ({"PROCESSOR_DELIVERY_URL": "http://a..hush/"}, "PROCESSOR_DELIVERY_URL: it is not a URL"),
        (
            {"PROCESSOR_DELIVERY_URL": "http://me:hush@host/", "PROCESSOR_DELIVERY_TOKEN": "hush"},
            "has a user name and PROCESSOR_DELIVERY_TOKEN is set",
        ),
        ({"PROCESSOR_DELIVERY_TOPICS": "purchases,delivery_retries"}, "delivery_retries can't be delivered"),
        ({"PROCESSOR_DELIVERY_URL": "http://[hush"}, "PROCESSOR_DELIVERY_URL: it is not a URL"),
        ({"PROCESSOR_DELIVERY_TOKEN": "hush hush"}, "PROCESSOR_DELIVERY_TOKEN: it has to be printable"),
        ({"PROCESSOR_DELIVERY_URL": ""}, "PROCESSOR_TOPOLOGIES=none needs PROCESSOR_DELIVERY_URL"),
        ({"PROCESSOR_TOPOLOGIES": "none,behavior"}, "none stands alone"),
    ],
)
def test_a_bad_setting_ends_it_with_2_and_shows_no_secret(
    deliver: Start, settings: dict[str, str], said: str
) -> None:
    service = deliver(**settings)
    assert service.wait() == 2
    log = service.log.read_text()
    assert said in log
    assert "hush" not in log


def test_a_missing_topic_ends_it_with_its_name(deliver: Start, prefix: str) -> None:
    service = deliver(PROCESSOR_DELIVERY_TOPICS="purchases,no_such_topic")
    assert service.wait(40) == 1
    reason = json.loads(service.lines()[-1])["reason"]
    assert f"missing topics: {prefix}no_such_topic; create them with: tandem topics create" in reason


def test_latest_begins_at_the_end_and_keeps_that_place(
    deliver: Start,
    receiver: Receiver,
    kafka: Kafka,
    prefix: str,
) -> None:
    publish(kafka, prefix, 10)
    service = deliver(PROCESSOR_START="latest")
    service.wait_until_ready()
    poll(lambda: committed(kafka, prefix) == [5, 5] or None, 20, lambda: str(committed(kafka, prefix)))
    assert service.terminate() == 0
    names = publish(kafka, prefix, 10, first=10)
    deliver(PROCESSOR_START="latest")
    assert wait_until_taken(receiver, names) == dict.fromkeys(names, 1)
