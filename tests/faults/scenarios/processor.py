"""The processor dies, freezes, is stopped, or has a rival."""

from __future__ import annotations

from functools import partial

from tests.faults.scenario import scenario
from tests.faults.stage import Stage

CUTS = {
    "after processing": "before_produce",
    "after produce": "after_produce",
    "after the offsets were sent": "after_offsets",
    "while the transaction is ending": "while_ending",
    "after the commit": "after_commit",
}


def dies_at(cut: str, stage: Stage) -> None:
    """Three processors in turn kill themselves at the cut; the fourth one goes on."""
    for _ in range(3):
        victim = stage.processor(cut=cut, after=stage.chance.randint(5, 60))
        stage.dies(victim)
    stage.ready(stage.processor())
    stage.goes_on()


for name, cut in CUTS.items():
    scenario(f"processor: kill -9 {name}")(partial(dies_at, cut))


@scenario("processor: kill -9 at random times")
def random_kills(stage: Stage) -> None:
    stage.processor()  # Lives through the rebalances that the deaths of the others cause.
    for _ in range(4):
        victim = stage.processor()
        stage.ready(victim)
        stage.pause(0.0, 2.0)
        stage.kill(victim)
        stage.goes_on()
