"""What a processor restores from is damaged, or the restore itself is interrupted."""

from __future__ import annotations

import json
from functools import partial

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.conftest import is_there
from tests.faults.scenario import scenario
from tests.faults.stage import Stage
from tests.verifier import load, wait_until_caught_up
from tests.verifier.broker import Broker
from tests.verifier.polling import poll
from tests.verifier.records import LoadPlan

COUNTS = "it counts from a state in doubt"
KEYS = 1_000_000
USERS = 1_400_000
RECORDS = 1_900_000  # so many draws of so many users meet some 1,040,000 of them


def worked_and_stopped(stage: Stage) -> None:
    """Let a processor count for a while, and stop it cleanly."""
    service = stage.processor()
    stage.ready(service)
    stage.load.wait_for(3_000)
    assert service.terminate() == 0
    stage.gone(service)


def refuses(stage: Stage, text: str) -> None:
    """A processor that is started now has to end with 1 and say what is wrong and what to do."""
    service = stage.processor()
    stage.gone(service)
    assert service.wait(60) == 1, COUNTS
    assert text in service.lines()[-1], service.lines()[-1]


@scenario(
    "state: changelog deleted under a stopped processor", ends_stopped=True, catches=("unchecked_state",)
)
def deleted(stage: Stage) -> None:
    worked_and_stopped(stage)
    name = stage.names.changelog(stage.chance.choice(stage.topologies))
    admin = stage.cluster.admin
    with stage.fault("changelog deleted"):
        before = {topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(stage.prefix)}
        admin.delete_topics([name])[name].result(30)
        poll(lambda: None if is_there(admin, name) else True, 30, lambda: f"{name} is still there")
        refuses(stage, name)
    assert name in before
    with stage.fault("changelog made anew"):
        stage.cluster.create_topics(stage.prefix, stage.partitions, only=name)
        refuses(stage, "offset record")


@scenario(
    "state: changelog truncated under a stopped processor",
    ends_stopped=True,
    catches=("unchecked_state",),
    caught_by="still runs",
)
def truncated(stage: Stage) -> None:
    worked_and_stopped(stage)
    # Of users each is written once. Every sensor is written again in nearly every transaction: what is left
    # of theirs may be all that counts.
    name = stage.names.changelog("behavior")
    with stage.fault("changelog truncated"):
        truncate(stage, name, stage.chance.uniform(0.2, 0.8))
        refuses(stage, "changelog")


def truncate(stage: Stage, topic: str, share: float) -> None:
    """Delete the first records of every partition of a compacted topic."""
    admin = stage.cluster.admin

    def policy(value: str) -> None:
        entry = ConfigEntry("cleanup.policy", value, incremental_operation=AlterConfigOpType.SET)
        wanted = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin.incremental_alter_configs([wanted])[wanted].result(20)

    broker = Broker(stage.cluster.servers)
    ends = broker.ends(broker.partitions([topic]))
    policy("compact,delete")
    cut = [TopicPartition(*one, int(end.stable * share)) for one, end in ends.items()]

    def is_cut() -> bool | None:
        """Say whether it is done; a leader that has not heard of the new policy yet refuses."""
        for done in admin.delete_records(cut).values():
            try:
                done.result(30)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.POLICY_VIOLATION:
                    raise
                return None
        return True

    poll(is_cut, 30, lambda: f"{topic}: the leaders have not heard of the new policy")
    policy("compact")


@scenario(
    "state: a restore of 1,000,000 keys, interrupted three times", slow=True, load={"sensor_share": 0.5}
)
def large_restore(stage: Stage) -> None:
    plan = LoadPlan(seed=stage.chance.getrandbits(31), users=USERS, sensor_share=0.0)
    first = stage.processor(PROCESSOR_TOPOLOGIES="behavior")
    stage.ready(first)
    load(stage.cluster.servers, stage.prefix, plan, records=RECORDS)
    stage.kill(first)
    for _ in range(3):
        # Some way into the largest of the restores, at random.
        stage.dies(stage.processor(cut="during_restore", after=stage.chance.randint(5, 400)), 120)
    last = stage.processor()
    stage.ready(last, timeout_seconds=180)
    stage.goes_on(180)
    restored = sum(json.loads(line)["keys"] for line in last.lines() if '"event":"task_running"' in line)
    assert restored >= KEYS, f"{restored:,} keys were restored"
    wait = partial(wait_until_caught_up, stage.cluster.servers, stage.prefix, 180)
    stage.load.stop()
    wait()
