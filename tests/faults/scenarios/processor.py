"""The processor dies, freezes, is stopped, or has a rival."""

from __future__ import annotations

from functools import partial

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import NewPartitions

from tests.faults.scenario import scenario
from tests.faults.stage import Stage
from tests.verifier.broker import QUIET
from tests.verifier.processes import Service

SESSION_SECONDS = 6.0  # as shipped; brokers refuse less
MOST_NEWCOMERS = 4
CUTS = {
    "after processing": "before_produce",
    "after produce": "after_produce",
    "after the offsets were sent": "after_offsets",
    "while the transaction is ending": "while_ending",
    "after the commit": "after_commit",
}
CATCHES = {"after produce": ("two_transactions", "at_least_once")}


def dies_at(cut: str, stage: Stage) -> None:
    """Three processors in turn kill themselves at the cut; the fourth one goes on."""
    for _ in range(3):
        victim = stage.processor(cut=cut, after=stage.chance.randint(5, 60))
        stage.dies(victim)
    stage.ready(stage.processor())
    stage.goes_on()


for name, cut in CUTS.items():
    scenario(f"processor: kill -9 {name}", catches=CATCHES.get(name, ()))(partial(dies_at, cut))


@scenario("processor: kill -9 during restore")
def dies_restoring(stage: Stage) -> None:
    first = stage.processor(PROCESSOR_COMMIT_EVERY_EVENTS=200)
    stage.ready(first)
    stage.load.wait_for(4_000)
    stage.kill(first)
    for _ in range(3):
        stage.dies(stage.processor(cut="during_restore", after=stage.chance.randint(0, 8)))
    stage.ready(stage.processor())
    stage.goes_on()


def dies_in_callback(cut: str, stage: Stage) -> None:
    """A newcomer makes rebalances, and who was there dies in the callback of one."""
    lasting = stage.processor()
    stage.ready(lasting)
    for _ in range(3):
        # Its own first assignments, one for each topology, are passed or not.
        victim = stage.processor(cut=cut, after=stage.chance.randint(0, 3))
        for _ in range(MOST_NEWCOMERS):  # A victim that starts late misses the rebalances of the first.
            newcomer = stage.processor()
            stage.ready(newcomer)
            stage.stop(newcomer)  # One more rebalance.
            if not victim.is_running:
                break
        stage.dies(victim)
        stage.goes_on()


scenario("processor: kill -9 in the callback that revokes")(partial(dies_in_callback, "in_revoked"))
scenario("processor: kill -9 in the callback that assigns")(partial(dies_in_callback, "in_assigned"))


@scenario("processor: kill -9 at random times")
def random_kills(stage: Stage) -> None:
    stage.processor()  # Lives through the rebalances that the deaths of the others cause.
    for _ in range(4):
        victim = stage.processor()
        stage.ready(victim)
        stage.pause(0.0, 2.0)
        stage.kill(victim)
        stage.goes_on()


@scenario("processor: kill -9 and back at once, as static members")
def static_restarts(stage: Stage) -> None:
    members = [stage.processor(PROCESSOR_INSTANCE_ID=f"member-{number}") for number in range(2)]
    stage.ready(*members)
    for _ in range(5):
        victim = stage.chance.choice(members)
        stage.pause(0.0, 1.5)
        with stage.fault("kill -9"):
            victim.kill()
            victim.start()
        stage.goes_on()


@scenario("processor: SIGTERM in the middle")
def stops(stage: Stage) -> None:
    for _ in range(5):
        service = stage.processor()
        stage.ready(service)
        stage.pause(0.5, 3.0)
        stage.stop(service)
    stage.ready(stage.processor())
    stage.goes_on()


@scenario("processor: SIGSTOP past the session, another takes over, SIGCONT", catches=("skipped_fence",))
def zombies(stage: Stage) -> None:
    """The zombie's frozen transaction, and whatever it sends when it wakes up, must not count."""
    zombie = stage.processor()
    stage.ready(zombie)
    for _ in range(2):
        stage.load.wait_for(1_500)
        with stage.fault("SIGSTOP"):
            zombie.pause()
            stage.pause(SESSION_SECONDS + 1, SESSION_SECONDS + 4)
            other = stage.processor()
            stage.ready(other)
            stage.goes_on()
            zombie.resume()
        stage.goes_on()
        stage.stop(other)
        stage.goes_on()


@scenario("processor: an impostor with its transactional id")
def impostors(stage: Stage) -> None:
    stage.ready(stage.processor())
    for _ in range(4):
        stage.load.wait_for(1_000)
        with stage.fault("impostor"):
            impersonate(stage)
        stage.goes_on()


def impersonate(stage: Stage) -> None:
    """Take a partition's transactional id, write something, and never commit it."""
    victim = stage.chance.choice(stage.inputs)
    impostor = Producer(
        {
            "bootstrap.servers": stage.cluster.servers,
            "transactional.id": stage.transactional_id(victim),
            "transaction.timeout.ms": 5_000,
            **QUIET,
        }
    )
    try:
        impostor.init_transactions(30)
        impostor.begin_transaction()
        impostor.produce(stage.names.purchases, b"not a purchase", b"impostor")
        impostor.flush(10)
        impostor.abort_transaction(10)
    except KafkaException as error:
        # The processor may take its id back while this one still writes: then it was the one to be fenced.
        if not (error.args[0].fatal() or error.args[0].txn_requires_abort()):
            raise


@scenario("processor: rebalance storm, 1 to 3 to 1 to 4 to 0 to 2")
def storm(stage: Stage) -> None:
    running: list[Service] = []
    for count in (1, 3, 1, 4, 0, 2):
        while len(running) < count:
            running.append(stage.processor())
        while len(running) > count:
            victim = running.pop(stage.chance.randrange(len(running)))
            if stage.chance.random() < 0.5:
                stage.kill(victim)
            else:
                stage.stop(victim)
        if running:
            stage.goes_on()
    stage.ready(*running)


@scenario("processor: partitions added to its input while it runs", ends_stopped=True)
def more_partitions(stage: Stage) -> None:
    """It refuses: keys have moved, and what is counted for them would be wrong from then on."""
    service = stage.processor()
    stage.ready(service)
    stage.load.wait_for(2_000)
    topic = stage.names.inputs["behavior"]
    with stage.fault("partitions added"):
        for created in stage.cluster.admin.create_partitions([NewPartitions(topic, 6)]).values():
            created.result(30)
        assert service.wait(30) == 1
        stage.gone(service)
    assert f"{topic}" in service.lines()[-1], service.lines()[-1]
    again = stage.processor()
    stage.gone(again)
    assert again.wait(60) == 1, "not from the next start on either"
