"""An independent check of the pair: made from the outside contract alone, with another Kafka client.

It shares no code with `services/` or `shared/`, on purpose: a mistake made there must not be repeated here.

    contract    the names that the contract fixes, and a record as Kafka holds it
    events      is this input record an event or a dead letter?
    continuity  duplicates, gaps, late ones, by keeping every number ever heard
    recompute   all results of an input partition, from scratch, the slow and obvious way
    compare     recomputed against published
    accounts    the generator's ledger against what was counted
    verify      all four checks of a fault test, on a running Kafka
    faultless   what would pass all checks, for tests of the verifier itself
    poison      records that must become dead letters
    oddities    records that look strange and must be counted
    records     the stream of records that a load sends
    load        known inputs, poison and oddities mixed in, at a rate while faults land
    processes   services as real processes: start, wait, kill, pause, stop
"""

from tests.verifier.load import Acknowledged, BackgroundLoad, LoadPlan, load
from tests.verifier.processes import Service, environment
from tests.verifier.recompute import SensorRules
from tests.verifier.report import Difference, Report
from tests.verifier.verify import verify, wait_until_caught_up

__all__ = [
    "Acknowledged",
    "BackgroundLoad",
    "Difference",
    "LoadPlan",
    "Report",
    "SensorRules",
    "Service",
    "environment",
    "load",
    "verify",
    "wait_until_caught_up",
]
