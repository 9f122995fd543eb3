"""The network between the processors and Kafka: slow, cut, dark, and cut exactly at one kind of request.

The processors reach the brokers through proxies; the load, the verifier and the brokers among themselves do
not, so that input goes on and what is seen is the processors' doing alone.
"""

from __future__ import annotations

import time
from functools import partial

from tests.faults.proxy import Api, Cut, Network, Way, Weather
from tests.faults.scenario import scenario
from tests.faults.stage import Stage
from tests.verifier.polling import poll
from tests.verifier.processes import Service

CUT_SECONDS = 60.0
# Nothing is to be seen of a fault that lasts shorter than this: each partition commits a few times in it.
SPELL_SECONDS = 6.0


def proxied(stage: Stage, count: int = 2) -> Network:
    """Start processors that reach Kafka through the proxies alone, and return these."""
    network = stage.cluster.network
    network.chance.seed(stage.chance.random())
    stage.ready(*(processor(stage) for _ in range(count)))
    stage.goes_on()
    # Each input partition has a consumer and a producer.
    assert network.live() >= 2 * len(stage.inputs), "the processors go round the proxies"
    return network


def processor(stage: Stage) -> Service:
    return stage.processor(KAFKA_BOOTSTRAP_SERVERS=stage.cluster.network.servers)


# Cut at a request

IN_A_TRANSACTION = (
    Api.ADD_PARTITIONS_TO_TXN,
    Api.PRODUCE,
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.END_TXN,
)


def is_cut(cut: Cut) -> None:
    """Wait until the connection was broken and, where the request was handed on, answered all the same."""
    poll(lambda: cut.done or None, CUT_SECONDS, lambda: f"no {cut.api.name} came")
    if cut.arrives:
        poll(lambda: cut.handled or None, CUT_SECONDS, lambda: f"the broker never answered {cut.api.name}")


def cut_at(api: Api, stage: Stage) -> None:
    """The request is lost; its answer is; it arrives when the client has long asked again."""
    network = proxied(stage)
    for late_seconds in (0.0, 0.0, stage.chance.uniform(0.05, 0.5), stage.chance.uniform(0.5, 3)):
        skip = stage.chance.randint(0, 40)
        with stage.fault(f"cut after {api.name}"):
            is_cut(network.cut(Cut(api, arrives=True, skip=skip, late_seconds=late_seconds)))
        stage.goes_on()
    with stage.fault(f"cut before {api.name}"):
        is_cut(network.cut(Cut(api, arrives=False, skip=stage.chance.randint(0, 40))))
    stage.goes_on()


for api in IN_A_TRANSACTION:
    scenario(f"network: cut at {api.name}")(partial(cut_at, api))


@scenario("network: cut while joining the group and taking over")
def cut_while_taking_over(stage: Stage) -> None:
    """A new processor comes, and the connection breaks at a request that only a beginning has."""
    network = proxied(stage, 1)
    for api in (Api.JOIN_GROUP, Api.SYNC_GROUP, Api.INIT_PRODUCER_ID, Api.FIND_COORDINATOR):
        with stage.fault(f"cut at {api.name}"):
            cut = network.cut(Cut(api, arrives=stage.chance.random() < 0.5, skip=stage.chance.randint(0, 3)))
            more = processor(stage)
            is_cut(cut)
        stage.ready(more)
        stage.goes_on()
        stage.stop(more)
        stage.goes_on()


@scenario("network: cut at whatever comes, many times")
def cut_at_anything(stage: Stage) -> None:
    network = proxied(stage)
    for _ in range(4):
        with stage.fault("five cuts within a transaction's requests"):
            for _ in range(5):
                arrives = stage.chance.random() < 0.7
                late_seconds = stage.chance.choice([0.0, stage.chance.uniform(0, 1)])
                api = stage.chance.choice(IN_A_TRANSACTION)
                is_cut(network.cut(Cut(api, arrives, stage.chance.randint(0, 10), late_seconds)))
        stage.goes_on()


@scenario("network: late copies of END_TXN meet the next transaction", catches=("forgotten_copies",))
def late_copies(stage: Stage) -> None:
    """The client asked again, got its answer and goes on; then the first request arrives."""
    network = proxied(stage)
    for _ in range(8):  # It is chance what a copy meets.
        with stage.fault("five late copies of END_TXN"):
            for _ in range(5):
                late_seconds = stage.chance.uniform(0.02, 0.4)
                is_cut(network.cut(Cut(Api.END_TXN, True, stage.chance.randint(0, 10), late_seconds)))
        stage.goes_on()


# Slow

DELAYS = {
    "100 to 500 ms there and back": (0.05, 0.25),
    "200 ms to 1 s there and back": (0.1, 0.5),
}


def slow(weather: Weather, name: str, stage: Stage) -> None:
    """Work goes on while it lasts, only slower."""
    network = proxied(stage)
    for _ in range(3):
        delayed = network.delayed
        with stage.fault(name):
            network.weather = weather
            stage.pause(SPELL_SECONDS / 2, SPELL_SECONDS)
            stage.goes_on()
            assert network.delayed > delayed, "nothing was delayed"
            network.heal()
        stage.goes_on()


for name, delay in DELAYS.items():
    scenario(f"network: latency of {name}")(partial(slow, Weather(delay_seconds=delay), name))


@scenario("network: kill -9 of a processor on a slow network")
def kill_on_a_slow_network(stage: Stage) -> None:
    """What the dead one had sent arrives after its successor has begun to look."""
    network = proxied(stage, 1)
    network.weather = Weather(delay_seconds=(0.05, 0.25))
    for _ in range(3):
        victim = processor(stage)
        stage.ready(victim)
        stage.pause(0, 2)
        stage.kill(victim)
        stage.goes_on(90)
    assert network.delayed, "nothing was delayed"
    network.heal()
    stage.goes_on()


@scenario("network: slow drip")
def drip(stage: Stage) -> None:
    network = proxied(stage)
    for rate in (64_000, 16_000, 4_000):
        with stage.fault(f"{rate:,} bytes a second on each connection"):
            network.weather = Weather(bytes_per_second=rate)
            stage.pause(SPELL_SECONDS, 2 * SPELL_SECONDS)
            assert network.dripped, "nothing was slowed down"
            network.heal()
        stage.goes_on()


# Cut, half-open, dark


@scenario("network: resets at random")
def resets(stage: Stage) -> None:
    network = proxied(stage)
    for _ in range(4):
        with stage.fault("a burst of resets"):
            for _ in range(5):
                assert network.reset(stage.chance.uniform(0.1, 1.0)), "there was no connection"
                stage.pause(0, 1)
        stage.goes_on()


@scenario("network: half-open connections")
def half_open(stage: Stage) -> None:
    """What one side sends is lost without a word to it, on some connections."""
    network = proxied(stage)
    for way in (Way.REQUESTS, Way.ANSWERS, *stage.chance.sample(list(Way), 1)):
        lost = network.lost
        with stage.fault(f"half-open: {way.value} are lost"):
            assert network.drop(way, stage.chance.uniform(0.2, 0.8)), "there was no connection"
            loses_more_than(lost, network)
        stage.goes_on()


def loses_more_than(lost: int, network: Network) -> None:
    poll(lambda: True if network.lost > lost else None, CUT_SECONDS, lambda: "nothing was lost")


def dark(nodes: int, stage: Stage) -> None:
    """No byte passes from and to these nodes; then what was held back arrives late, or connections break."""
    network = proxied(stage)
    for late in stage.chance.sample([True, False, stage.chance.random() < 0.5], 3):
        held = network.held
        with stage.fault(f"blackhole of {nodes}"):
            network.darken(stage.chance.sample(range(1, len(network.ports) + 1), nodes))
            began = time.monotonic()
            stage.pause(5, 15)
            assert network.held > held, f"nothing was held back in {time.monotonic() - began:.0f} s"
            network.heal(late=late)
        stage.goes_on()


scenario("network: blackhole of one broker")(partial(dark, 1))
scenario("network: blackhole of two brokers")(partial(dark, 2))
scenario("network: blackhole of all brokers")(partial(dark, 3))


@scenario("network: blackhole of one of two processors' way, and kill -9 of the other")
def dark_and_kill(stage: Stage) -> None:
    """The one in the dark is thrown out of the group; what it had sent arrives after it was replaced."""
    network = proxied(stage, 1)
    for _ in range(2):
        other = stage.processor()
        stage.ready(other)
        stage.goes_on()
        with stage.fault("blackhole of all brokers"):
            network.darken(range(1, len(network.ports) + 1))
            stage.pause(8, 14)
            stage.goes_on()
            network.heal(late=True)
        stage.kill(other)
        stage.goes_on()
