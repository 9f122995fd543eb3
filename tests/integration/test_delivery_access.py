"""What the operations guide grants to the delivery is enough, and each of it is needed."""

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

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook that refuses what says so."""
    with receiving() as made:
        made.answers = lambda _headers, body: Reply(422) if b"refuse" in body else Reply()
        yield made


def publish(guarded: Guarded, prefix: str, text: str) -> None:
    producer = Producer({"bootstrap.servers": guarded.inside})
    for topic in ("purchases", "alerts"):
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
    poll(lambda: len(receiver.taken()) == 2 or None, 30, lambda: str(receiver.taken()))
    guarded.revoke(prefix, [needed])
    publish(guarded, prefix, "refuse" if needed.name == DEAD_LETTERS else "second")
    taken_back = last_words(service, code=1)
    assert_names(taken_back, needed, prefix, protocol="SASL_SSL")

    guarded.grant(prefix, [needed])
    again = deliver(guarded, prefix, receiver)
    publish(guarded, prefix, "third")
    taken = 4 if needed.name == DEAD_LETTERS else 6
    poll(lambda: len(receiver.taken()) == taken or None, 30, lambda: str(receiver.taken()))
    assert again.terminate() == 0
