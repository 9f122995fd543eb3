"""A broker's disk is full."""

from __future__ import annotations

from sandbox import Broker
from tests.faults.disk import small_disk
from tests.faults.scenario import scenario
from tests.faults.scenarios.brokers import MOVE_SECONDS, back, two_processors
from tests.faults.stage import Stage
from tests.verifier.polling import poll

ROOM_BYTES = 64 * 1024 * 1024
NO_SPACE = b"No space left on device"


@scenario("broker: disk full")
def disk_full(stage: Stage) -> None:
    """A broker that cannot write ends by itself; with room again it comes back."""
    two_processors(stage)
    victim = stage.chance.choice(stage.cluster.sandbox.nodes)
    with small_disk(victim, room_bytes=ROOM_BYTES) as disk:
        stage.goes_on()
        stage.cluster.wait_until_whole()
        for _ in range(3):
            with stage.fault("disk full"):
                log_bytes = victim.log_path.stat().st_size
                disk.fill()
                ends_for_want_of_space(victim, log_bytes)
                stage.pause(0, 6)
            stage.goes_on()
            victim.kill()
            disk.clear()
            back(stage, victim)
    victim.start()
    stage.goes_on()


def ends_for_want_of_space(node: Broker, log_bytes: int) -> None:
    """Wait until a node has ended by itself; its log says why, beyond this length."""
    poll(lambda: None if node.running else True, MOVE_SECONDS, lambda: "the broker does not notice")
    with node.log_path.open("rb") as log:
        log.seek(log_bytes)
        assert NO_SPACE in log.read(), f"node {node.node_id} ended for another reason"
