"""What the operations guide grants to delivery and `tandem dlq` is enough, and each of it is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from tests.integration.grants import Grant, documented
from tests.integration.guarded import Guarded, last_words
from tests.integration.receiver import Receiver, Reply, receiving
from tests.integration.test_access import assert_names
from tests.verifier import Service
from tests.verifier.polling import poll

DELIVERY = documented("delivery")
DEAD_LETTERS = "delivery_dead_letters"
TOPICS = ("purchases", "alerts", "delivery_retries")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook that refuses what says so."""
    with receiving() as made:
        made.answers = lambda _headers, body: Reply(422) if b"refuse" in body else Reply()
        yield made


def publish(guarded: Guarded, prefix: str, text: str) -> None:
    producer = Producer({"bootstrap.servers": guarded.inside})
    for topic in TOPICS:
        producer.produce(prefix + topic, json.dumps({"text": text}), "k", partition=0)
    assert producer.flush(30) == 0


def deliver(guarded: Guarded, prefix: str, receiver: Receiver) -> Service:
    return guarded.service(
        "services.processor",
        prefix,
        principal="delivery",
        PROCESSOR_TOPOLOGIES="none",
        PROCESSOR_DELIVERY_URL=receiver.url,
    )


@pytest.mark.parametrize("needed", DELIVERY, ids=str)
def test_a_permission_of_the_delivery_that_is_missing_or_taken_back_is_named_and_nothing_is_lost(
    guarded: Guarded, prefix: str, receiver: Receiver, needed: Grant
) -> None:
    guarded.make_topics(prefix)
    guarded.grant(prefix, [one for one in DELIVERY if one != needed])
    publish(guarded, prefix, "first")
    missing = last_words(deliver(guarded, prefix, receiver), code=1)
    assert_names(missing, needed, prefix, protocol="SASL_SSL")

    guarded.grant(prefix, [needed])
    service = deliver(guarded, prefix, receiver)
    poll(lambda: len(receiver.taken()) == len(TOPICS) or None, 30, lambda: str(receiver.taken()))
    guarded.revoke(prefix, [needed])
    publish(guarded, prefix, "refuse" if needed.name == DEAD_LETTERS else "second")
    taken_back = last_words(service, code=1)
    assert_names(taken_back, needed, prefix, protocol="SASL_SSL")

    guarded.grant(prefix, [needed])
    again = deliver(guarded, prefix, receiver)
    publish(guarded, prefix, "third")
    taken = (2 if needed.name == DEAD_LETTERS else 3) * len(TOPICS)
    poll(lambda: len(receiver.taken()) == taken or None, 30, lambda: str(receiver.taken()))
    assert again.terminate() == 0


def write_letters(guarded: Guarded, prefix: str) -> None:
    producer = Producer({"bootstrap.servers": guarded.inside})
    for letters, source in (("dead_letters", "user_behavior"), ("delivery_dead_letters", "purchases")):
        about = {"topic": prefix + source, "partition": "0", "offset": "0"}
        headers = [(f"__streams.errors.{name}", value.encode()) for name, value in about.items()]
        producer.produce(prefix + letters, b"{}", partition=0, headers=headers)
    assert producer.flush(30) == 0


def dlq(guarded: Guarded, prefix: str, *arguments: str) -> tuple[int, list[str]]:
    return guarded.tandem(prefix, "mender", "dlq", *arguments)


def test_what_the_guide_grants_for_letters_is_enough(guarded: Guarded, prefix: str) -> None:
    guarded.make_topics(prefix)
    guarded.grant(prefix, documented("mender"))
    write_letters(guarded, prefix)
    for more in ((), ("--delivery",)):
        code, lines = dlq(guarded, prefix, "retry", "--all", "--json", *more)
        assert (code, lines) == (0, ['{"retried":1,"handled_before":0,"left_out":0}'])


# No letter of these comes from sensor_data: user_behavior stands for both.
WRITES = [one for one in documented("mender") if one.operation == "Write" and one.name != "sensor_data"]


@pytest.mark.parametrize("needed", WRITES, ids=str)
def test_a_permission_for_letters_that_is_missing_is_named(
    guarded: Guarded, prefix: str, needed: Grant
) -> None:
    guarded.make_topics(prefix)
    guarded.grant(prefix, [one for one in documented("mender") if one != needed])
    write_letters(guarded, prefix)
    more = ("--delivery",) if "delivery" in needed.name else ()
    code, lines = dlq(guarded, prefix, "retry", "--all", *more)
    assert code == 1
    assert f"{needed.operation} on {needed.kind} {prefix}{needed.name}" in "".join(lines), lines
