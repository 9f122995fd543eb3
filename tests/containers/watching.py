"""What the tests of this tier look at, from outside the containers, and wait for."""

from collections.abc import Callable

from confluent_kafka import KafkaException

from tests.containers.stack import Stack
from tests.verifier.broker import Broker
from tests.verifier.contract import Names, Topology
from tests.verifier.polling import poll

NAMES = Names()
PARTITIONS = list(range(6))
GRACE_SECONDS = 40
WAIT_SECONDS = 60.0


def wait_for(what: str, look: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait until `look` says yes. Kafka may leave it without an answer; the deadline holds all the same."""
    last = ""

    def answered() -> bool | None:
        nonlocal last
        try:
            return look() or None
        except KafkaException as error:
            last = f" ({error})"
            return None

    poll(answered, seconds, lambda: f"not seen: {what}{last}", interval_seconds=0.2)


def committed(broker: Broker, topology: Topology) -> dict[int, int]:
    """Return the offset that is committed on each partition of a topology's input."""
    partitions = broker.partitions([NAMES.inputs[topology]])
    offsets = broker.committed(NAMES.groups[topology], partitions)
    return {partition.number: offset or 0 for partition, offset in offsets.items()}


def wait_until_counting_goes_on(broker: Broker, seconds: float = WAIT_SECONDS) -> None:
    """Wait until each partition of user events has moved, and the readings as a whole (five sensors)."""
    users: dict[int, int] = {}
    readings: dict[int, int] = {}

    def seen() -> bool:
        users.update(committed(broker, "behavior"))
        readings.update(committed(broker, "sensors"))
        return True

    def moved() -> bool:
        now = committed(broker, "behavior")
        return all(now[number] > users[number] for number in PARTITIONS)

    wait_for("offsets", seen, seconds)
    wait_for(f"user events counted on every partition beyond {users}", moved, seconds)
    wait_for(
        "readings counted",
        lambda: sum(committed(broker, "sensors").values()) > sum(readings.values()),
        seconds,
    )


def states(stack: Stack, service: str) -> list[tuple[str, int]]:
    """Return status and exit code of a service's containers."""
    found = [container["State"] for container in stack.containers(service)]
    return [(state["Status"], state["ExitCode"]) for state in found]
