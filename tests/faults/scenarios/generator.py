"""The generator dies or loses brokers: its ledger never claims more than Kafka has acknowledged."""

from __future__ import annotations

from tests.faults.scenario import scenario
from tests.faults.stage import Stage
from tests.verifier.processes import Service

RATE = 500


def generating(stage: Stage) -> Service:
    """Start a generator of both streams."""
    service = stage.generator(
        GENERATOR_RATE=RATE,
        GENERATOR_SENSOR_RATE=RATE,
        GENERATOR_LEDGER_SECONDS=0.2,
        GENERATOR_USER_ID_MAX=20_999,
    )
    service.wait_until_ready(60)
    return service


@scenario("generator: kill -9 at random times")
def killed(stage: Stage) -> None:
    stage.ready(stage.processor())
    for _ in range(4):
        service = generating(stage)
        stage.pause(0.5, 3.0)
        stage.kill(service)
    stage.goes_on()


@scenario("generator: kill -9 while a broker it writes to is frozen", catches=("claims_unacknowledged",))
def killed_unacknowledged(stage: Stage) -> None:
    """What it had sent and not seen acknowledged is no loss: the ledger must not claim it."""
    stage.ready(stage.processor())
    for _ in range(2):
        service = generating(stage)
        stage.pause(0.5, 1.5)
        ledger = stage.cluster.leader(stage.names.ledger, 0)
        leaders = {one: stage.cluster.leader(*one) for one in stage.inputs}
        frozen = stage.chance.choice([one for one in leaders.values() if one is not ledger])
        with stage.fault("SIGSTOP of a broker"):
            frozen.pause()
            stage.pause(1.0, 1.6)  # less than the brokers' session: the frozen one still leads
            stage.kill(service)
            frozen.resume()
        stage.goes_on()


@scenario("generator: brokers killed under it")
def brokers_killed(stage: Stage) -> None:
    stage.ready(stage.processor())
    service = generating(stage)
    for _ in range(3):
        victim = stage.cluster.leader(*stage.chance.choice(stage.inputs))
        with stage.fault("kill -9 of a broker"):
            victim.kill()
            stage.pause(1.0, 4.0)
            victim.start()
        stage.goes_on()
        stage.cluster.wait_until_whole()
    assert service.is_running, "brokers that come back are no reason to stop"
    stage.stop(service)
