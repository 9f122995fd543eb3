"""Brokers that restart, die or freeze: the one that leads, coordinates or controls, two of three, or all."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from sandbox import Broker
from tests.faults.cluster import Cluster, others
from tests.faults.scenario import scenario
from tests.faults.stage import Stage
from tests.verifier.broker import QUIET
from tests.verifier.contract import PartitionId
from tests.verifier.polling import poll

FROZEN_SECONDS = 12.0  # longer than KAFKA_OPERATION_DEADLINE_SECONDS
LONG_FROZEN_SECONDS = 60.0
MOVE_SECONDS = 60.0
BORNE_SECONDS = 10
UNDER_WAY_SECONDS = 45.0  # an operation of each kind, the pauses between, and the end of all that runs
STILL_SECONDS = 3.0  # Until then what was on its way may still be acknowledged.

Role = Callable[[Cluster], Broker]


def leader(stage: Stage) -> Role:
    """An input partition or its changelog, by chance: who leads it."""
    one = stage.chance.choice(stage.inputs)
    changelog = f"{stage.prefix}processor-{one.topic.removeprefix(stage.prefix)}-changelog"
    led = stage.chance.choice([one, PartitionId(changelog, one.number)])
    return lambda cluster: cluster.leader(led.topic, led.number)


def group_coordinator(stage: Stage) -> Role:
    group = stage.chance.choice([stage.names.groups[one] for one in stage.topologies])
    return lambda cluster: cluster.group_coordinator(group)


def transaction_coordinator(stage: Stage) -> Role:
    id_ = stage.transactional_id(stage.chance.choice(stage.inputs))
    return lambda cluster: cluster.transaction_coordinator(id_)


def controller(_: Stage) -> Role:
    return Cluster.controller


ROLES: dict[str, Callable[[Stage], Role]] = {
    "leader": leader,
    "group coordinator": group_coordinator,
    "transaction coordinator": transaction_coordinator,
    "controller": controller,
}


def moves_away(stage: Stage, role: Role, victim: Broker) -> None:
    """Wait until another node has the role: the victim is really missing."""
    asked = copy(stage.cluster)
    servers = ",".join(one.bootstrap_servers for one in others(stage.cluster.sandbox.nodes, victim))

    def look() -> bool | None:
        # A new client knows only those that answer: one that is frozen would be asked again and again.
        asked.admin = AdminClient({"bootstrap.servers": servers, **QUIET})
        try:
            return True if role(asked) is not victim else None
        except (KafkaException, TimeoutError):
            return None  # There is no leader yet.

    poll(look, MOVE_SECONDS, lambda: f"node {victim.node_id} still has the role", interval_seconds=0.5)


def goes_on_without(stage: Stage, role: Role, victim: Broker) -> None:
    """Wait until the other two do the victim's work; by chance, else it comes back before that."""
    if stage.chance.random() < 0.5:
        moves_away(stage, role, victim)
        stage.goes_on()
    else:
        stage.pause(1, 6)


def back(stage: Stage, *victims: Broker) -> None:
    """Start what is down, and wait until work goes on and every replica is in sync: for the next fault."""
    for victim in victims:
        victim.launch()
    for victim in victims:
        victim.wait_until_ready()
    stage.goes_on()
    stage.cluster.wait_until_whole()


def dead(victim: Broker) -> int:
    """SIGKILL to a node that runs; return the pid it had."""
    pid = victim.pid
    assert pid is not None, f"node {victim.node_id} was down before"
    victim.kill()
    assert not victim.running
    return pid


def two_processors(stage: Stage) -> None:
    stage.ready(stage.processor(), stage.processor())
    stage.goes_on()


def restarts(name: str, stage: Stage) -> None:
    """A clean stop hands everything over first; back after a moment."""
    two_processors(stage)
    for _ in range(3):
        role = ROLES[name](stage)
        victim = role(stage.cluster)
        pid = victim.pid
        stage.pause(0, 1)
        with stage.fault(f"clean restart of the {name}"):
            victim.stop()
            assert pid is not None, "was down before"
            assert not victim.running
        goes_on_without(stage, role, victim)
        back(stage, victim)
        assert victim.pid != pid


def dies(name: str, stage: Stage) -> None:
    two_processors(stage)
    for _ in range(3):
        role = ROLES[name](stage)
        victim = role(stage.cluster)
        stage.pause(0, 1)
        with stage.fault(f"kill -9 of the {name}"):
            dead(victim)
        goes_on_without(stage, role, victim)
        back(stage, victim)


def freezes(name: str, seconds: float, times: int, stage: Stage) -> None:
    """SIGSTOP and, after so long, SIGCONT: it wakes up in the belief that it still leads."""
    two_processors(stage)
    for _ in range(times):
        role = ROLES[name](stage)
        victim = role(stage.cluster)
        stage.pause(0, 1)
        with frozen(stage, name, victim, seconds):
            moves_away(stage, role, victim)
        stage.goes_on()
        stage.cluster.wait_until_whole()


@contextlib.contextmanager
def frozen(stage: Stage, name: str, victim: Broker, seconds: float) -> Iterator[None]:
    with stage.fault(f"SIGSTOP {seconds:g} s of the {name}"):
        began = time.monotonic()
        victim.pause()
        yield
        time.sleep(max(began + seconds - time.monotonic(), 0.0))
        victim.resume()


for role_name in ROLES:
    scenario(f"broker: clean restart of the {role_name}")(partial(restarts, role_name))
    scenario(f"broker: kill -9 of the {role_name}")(partial(dies, role_name))
    scenario(f"broker: SIGSTOP of the {role_name}")(partial(freezes, role_name, FROZEN_SECONDS, 2))
    scenario(f"broker: SIGSTOP of the {role_name} for a minute", slow=True)(
        partial(freezes, role_name, LONG_FROZEN_SECONDS, 1)
    )


@scenario("broker: rolling restart of all three")
def rolling(stage: Stage) -> None:
    """As an operator does it: the next one when the one before is in sync."""
    two_processors(stage)
    nodes = list(stage.cluster.sandbox.nodes)
    stage.chance.shuffle(nodes)
    for node in nodes:
        pid = node.pid
        with stage.fault("clean restart"):
            node.restart()
            assert node.pid != pid
        stage.goes_on()
        stage.cluster.wait_until_whole()


@scenario("broker: restart of all three, one after the other without waiting")
def hasty(stage: Stage) -> None:
    """The next one goes while the one before is still catching up: partitions are below min ISR at times."""
    two_processors(stage)
    for _ in range(2):
        nodes = list(stage.cluster.sandbox.nodes)
        stage.chance.shuffle(nodes)
        with stage.fault("three restarts in a row"):
            for node in nodes:
                pid = node.pid
                node.restart(graceful=stage.chance.random() < 0.5)
                assert node.pid != pid
        stage.goes_on()
        stage.cluster.wait_until_whole()


def two_down(stage: Stage, seconds: tuple[float, float]) -> list[Broker]:
    """Kill two nodes at once, and show for a while that nothing can be acknowledged; return them."""
    nodes: Sequence[Broker] = stage.cluster.sandbox.nodes
    victims = others(nodes, stage.chance.choice(nodes))
    for victim in victims:
        dead(victim)
    stage.pause(STILL_SECONDS, STILL_SECONDS)
    before = stage.load.acknowledged.records
    stage.pause(*seconds)
    assert stage.load.acknowledged.records == before, "one broker acknowledged what takes two"
    return victims


@scenario("broker: two of three down and back", catches=("forgotten_seek",))
def below_min_isr(stage: Stage) -> None:
    """The pair waits, and goes on."""
    two_processors(stage)
    for _ in range(2):
        with stage.fault("kill -9 of two brokers"):
            victims = two_down(stage, (2, 8))
        back(stage, *victims)


@scenario("broker: two of three down for longer than is borne")
def below_min_isr_for_too_long(stage: Stage) -> None:
    """The processor ends with 1 and says why, within KAFKA_UNAVAILABLE_SECONDS and what is under way."""
    for _ in range(2):
        victim = stage.processor(KAFKA_UNAVAILABLE_SECONDS=BORNE_SECONDS)
        stage.ready(victim)
        stage.goes_on()
        stage.gone(victim)
        with stage.fault("kill -9 of two brokers"):
            nodes = two_down(stage, (0, 1))
            code = victim.wait(BORNE_SECONDS + UNDER_WAY_SECONDS)
            assert code == 1, f"ended with {code}"
            last = json.loads(victim.lines()[-1])
            assert last["event"] == "stopped", last
            assert "Kafka has been unavailable for" in last["reason"], last
        successor = stage.processor()
        back(stage, *nodes)
        stage.ready(successor)
        stage.stop(successor)
    stage.ready(stage.processor())
    stage.goes_on()


@scenario("broker: all three killed at once and back")
def all_down(stage: Stage) -> None:
    two_processors(stage)
    for _ in range(3):
        stage.pause(0, 2)
        with stage.fault("kill -9 of all brokers"):
            pids = [dead(node) for node in stage.cluster.sandbox.nodes]
        stage.pause(0, 6)
        back(stage, *stage.cluster.sandbox.nodes)
        assert not {*pids} & {*stage.cluster.sandbox.pids}


@scenario("broker: kill -9 of a broker and a processor together")
def both_die(stage: Stage) -> None:
    stage.ready(stage.processor())  # Lives on, and takes over.
    for _ in range(3):
        victim = stage.processor()
        stage.ready(victim)
        stage.goes_on()
        role = ROLES[stage.chance.choice(sorted(ROLES))](stage)
        broker = role(stage.cluster)
        stage.pause(0, 1)
        with stage.fault("kill -9 of a broker and a processor"):
            if stage.chance.random() < 0.5:
                dead(broker)
                victim.kill()
            else:
                victim.kill()
                dead(broker)
            stage.gone(victim)
        goes_on_without(stage, role, broker)
        back(stage, broker)
