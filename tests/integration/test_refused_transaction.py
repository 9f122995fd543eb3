"""A transaction that is refused right behind one that was committed leaves nothing that readers see.

The markers of the first may still be on their way when the second is refused. What is sent then, outside of
any transaction that Kafka knows of, would be committed by them.
"""

from __future__ import annotations

import pytest
from aiokafka.structs import TopicPartition

from services.processor.exactly_once import ExactlyOnce
from services.processor.partition import Transaction
from services.processor.sending import Routes
from services.processor.topology import Outputs
from shared import logs, topics
from shared.errors import StopServiceError
from shared.kafka import KafkaClients
from shared.settings import KafkaSettings, load
from tests.integration.grants import Grant, documented
from tests.integration.guarded import Guarded
from tests.verifier.broker import Broker, wait_until_settled

ROUNDS = 30
ME = "User:processor"


async def no_offset(_place: TopicPartition) -> None:
    return None


def transaction(topic: str, key: bytes, next_offset: int) -> Transaction:
    outputs = Outputs()
    outputs.publish(topic, key, b"{}")
    return Transaction(outputs, [(key, b"{}"), (b"!offset", b"%d" % next_offset)], next_offset, 1, [])


@pytest.mark.timeout(120)
async def test_what_a_refused_transaction_wrote_is_never_seen(guarded: Guarded, prefix: str) -> None:
    guarded.make_topics(prefix)
    granted = [
        one for one in documented("processor") if (one.name, one.operation) != (topics.PURCHASES, "Write")
    ]
    # It may be seen, and not be written to: as between a revocation and the end of the process.
    guarded.grant(prefix, [*granted, Grant(ME, "Describe", "--topic", topics.PURCHASES, "literal")])
    environ = {name: str(value) for name, value in guarded.settings("SASL_SSL", "processor", prefix).items()}
    settings = load(KafkaSettings, environ=environ, dotenv=None)[KafkaSettings]
    names = {name: settings.named(name) for name in (topics.BEHAVIOR_STATS, topics.PURCHASES)}
    changelog = settings.named(topics.changelog_of(topics.USER_BEHAVIOR))
    group = settings.named(topics.BEHAVIOR_GROUP)
    for number in range(ROUNDS):
        guarantee = ExactlyOnce(
            KafkaClients(settings),
            transactional_id=f"{group}-user_behavior-{number}",
            transaction_timeout_seconds=30,
            group=group,
            place=TopicPartition(settings.named(topics.USER_BEHAVIOR), 0),
            routes=Routes(names, dict.fromkeys(names.values(), 2), changelog=changelog),
            read_committed_offset=no_offset,
            deadline_seconds=10,
            log=logs.get("test"),
        )
        await guarantee.open()
        await guarantee.commit(transaction(topics.BEHAVIOR_STATS, b"committed %d" % number, 2 * number + 1))
        with pytest.raises(StopServiceError, match="Write on topic"):
            await guarantee.commit(transaction(topics.PURCHASES, b"refused %d" % number, 2 * number + 2))
        await guarantee.close()
    broker = Broker(guarded.inside)
    # A refusal waits for no markers: those of the last rounds may still be on their way.
    wait_until_settled(broker, [changelog], 20)
    seen = [one.key or b"" for one in broker.read_topic(changelog, 20)]
    assert sum(key.startswith(b"committed") for key in seen) == ROUNDS
    assert [key for key in seen if key.startswith(b"refused")] == []
