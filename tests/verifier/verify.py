"""The four checks that a fault test must pass, on a running Kafka.

1. No transaction is open on any output partition.
2. The committed offsets are the ends of the input.
3. Everything published equals what is recomputed from the input, record by record.
4. What generators say was acknowledged has been counted: none lost, none doubled.
"""

from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaException

from tests.verifier.accounts import compare_ledger, latest_progress
from tests.verifier.broker import Broker, lag, open_transactions
from tests.verifier.contract import TOPOLOGIES, Names, PartitionId, Topology
from tests.verifier.findings import decode
from tests.verifier.polling import poll
from tests.verifier.recompute import Results, SensorRules
from tests.verifier.report import Difference, Report
from tests.verifier.topologies import Inputs, Outputs, compare_behavior, compare_refused, compare_sensors

CATCH_UP_POLL_SECONDS: Final = 0.2


def verify(
    bootstrap: str,
    prefix: str = "",
    *,
    rules: SensorRules | None = None,
    topologies: Sequence[Topology] = TOPOLOGIES,
    timeout_seconds: float = 120,
) -> Report:
    """Check everything that was published against the input, and return what differs.

    Call it when the work is done (`wait_until_caught_up`): input that is not committed is a difference.

    Args:
        bootstrap: the cluster's addresses.
        prefix: of all topics and groups.
        rules: window, thresholds and alert mode of the run; the contract's defaults when left out.
        topologies: those that ran.
        timeout_seconds: for reading each of the topics.
    """
    broker, names, report = Broker(bootstrap), Names(prefix), Report()
    missing = missing_topics(broker, names, topologies)
    if missing:
        report.differences += [Difference("lost", topic, "there is no such topic") for topic in missing]
        return report
    check_transactions(broker, names, topologies, report)
    check_lag(broker, names, topologies, report)
    inputs = {one: read_inputs(broker, names, one, timeout_seconds) for one in topologies}
    outputs = read_outputs(broker, names, topologies, timeout_seconds)
    recomputed: dict[PartitionId, Results] = {}
    if "behavior" in inputs:
        recomputed |= compare_behavior(inputs["behavior"], outputs, report)
    if "sensors" in inputs:
        recomputed |= compare_sensors(inputs["sensors"], outputs, report, rules or SensorRules())
    report.differences += compare_refused(list(inputs.values()), outputs, recomputed)
    check_ledger(broker, outputs, recomputed, report, timeout_seconds)
    return report


def wait_until_caught_up(
    bootstrap: str,
    prefix: str = "",
    timeout_seconds: float = 60,
    *,
    topologies: Sequence[Topology] = TOPOLOGIES,
) -> None:
    """Wait until all input is committed and no transaction is open.

    Brokers may be away meanwhile; the deadline holds all the same.

    Raises:
        TimeoutError: with the partitions that were behind or had an open transaction, and their offsets.
    """
    broker, names = Broker(bootstrap), Names(prefix)
    behind: dict[str, str] = {}

    def look() -> bool | None:
        nonlocal broker
        behind.clear()
        try:
            for topology in topologies:
                behind.update(lag(broker, names.groups[topology], names.inputs[topology]))
            behind.update(open_transactions(broker, output_topics(names, topologies)))
        except KafkaException as error:
            behind["the brokers"] = str(error)
            # librdkafka's AdminClient asks a coordinator that has moved again and again: a new one finds it.
            broker = Broker(bootstrap)
        return True if not behind else None

    def failure() -> str:
        return "not caught up: " + "; ".join(f"{where}: {how}" for where, how in behind.items())

    poll(look, timeout_seconds, failure, interval_seconds=CATCH_UP_POLL_SECONDS)


def output_topics(names: Names, topologies: Sequence[Topology]) -> list[str]:
    """Return everything that the processor writes to: results and changelogs."""
    results = {topic for topology in topologies for topic in names.results(topology)}
    return sorted(results | {names.changelog(topology) for topology in topologies})


def missing_topics(broker: Broker, names: Names, topologies: Sequence[Topology]) -> list[str]:
    """Return the topics that should be there and are not."""
    wanted = [names.inputs[topology] for topology in topologies] + output_topics(names, topologies)
    return [topic for topic, count in broker.partition_counts(wanted).items() if count == 0]


def check_transactions(broker: Broker, names: Names, topologies: Sequence[Topology], report: Report) -> None:
    """The first check: the read_committed end is the raw end on every output partition."""
    for partition, how in open_transactions(broker, output_topics(names, topologies)).items():
        report.differences.append(Difference("open", partition, how))


def check_lag(broker: Broker, names: Names, topologies: Sequence[Topology], report: Report) -> None:
    """The second check: every input partition is committed to its end."""
    for topology in topologies:
        group, topic = names.groups[topology], names.inputs[topology]
        for partition, how in lag(broker, group, topic).items():
            report.differences.append(Difference("behind", topic, f"{group} on {partition}: {how}"))


def read_inputs(broker: Broker, names: Names, topology: Topology, timeout_seconds: float) -> Inputs:
    """Read one input topic up to the committed offsets."""
    topic = names.inputs[topology]
    partitions = broker.partitions([topic])
    committed = broker.committed(names.groups[topology], partitions)
    ends = broker.ends(partitions)
    until = {one: min(committed[one] or 0, ends[one].stable) for one in partitions}
    records = broker.read(until, timeout_seconds)
    return Inputs(
        topic,
        records={one.number: records[one] for one in partitions},
        committed={one.number: until[one] for one in partitions},
        starts={one.number: ends[one].start for one in partitions},
    )


def read_outputs(
    broker: Broker, names: Names, topologies: Sequence[Topology], timeout_seconds: float
) -> Outputs:
    """Read the result topics."""
    topics = sorted({topic for topology in topologies for topic in names.results(topology)})
    return Outputs(
        names,
        records={topic: broker.read_topic(topic, timeout_seconds) for topic in topics},
        partitions=broker.partition_counts(topics),
    )


def check_ledger(
    broker: Broker,
    outputs: Outputs,
    recomputed: dict[PartitionId, Results],
    report: Report,
    timeout_seconds: float,
) -> None:
    """The fourth check, where a ledger exists."""
    topic = outputs.names.ledger
    if not broker.partition_counts([topic])[topic]:
        return
    ledger = broker.read_topic(topic, timeout_seconds)
    progress, _ = decode(topic, outputs.records[outputs.names.progress])
    compare_ledger(topic, ledger, latest_progress(progress), recomputed, report)
