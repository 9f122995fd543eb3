"""Who is compared: ours and the peers, what each promises, and how one run of it is started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.environments import kafka_streams, python_of

OURS = "tandem"
STREAMS_HEAP_MEBIBYTES = 1_024


@dataclass(frozen=True)
class Entry:
    """One row.

    Attributes:
        name: on the command line and in the results.
        title: for people.
        durability: what of its work survives a kill, in short.
        command: returns what starts it; installs it if need be.
        counts: whether it does the job; else it only reads.
        environment: variables beyond those that every peer is given.
    """

    name: str
    title: str
    durability: str
    command: Callable[[], list[str]]
    counts: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


def ours() -> list[str]:
    """Return what starts our processor."""
    return [sys.executable, "-m", "services.processor"]


def here(module: str) -> Callable[[], list[str]]:
    """Return what starts a peer whose library is one of the project's own."""
    return lambda: [sys.executable, "-m", f"bench.peers.{module}"]


def installed(peer: str, module: str) -> Callable[[], list[str]]:
    """Return what starts a peer from an environment of its own."""
    return lambda: [str(python_of(peer)), "-m", f"bench.peers.{module}"]


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            OURS,
            "Tandem processor, everything on",
            "exactly once: results, state and offsets in one transaction",
            ours,
        ),
        Entry("aiokafka-drain", "aiokafka, empty drain", "none", here("aiokafka_drain"), counts=False),
        Entry(
            "whole-batches-drain",
            "Tandem's reader of whole batches, empty drain",
            "none",
            here("whole_batches_drain"),
            counts=False,
        ),
        Entry(
            "confluent-drain", "confluent-kafka, empty drain", "none", here("confluent_drain"), counts=False
        ),
        Entry("aiokafka-job", "aiokafka + msgspec", "offsets, at least once", here("aiokafka_job")),
        Entry(
            "confluent-job",
            "confluent-kafka + msgspec, two threads",
            "offsets, at least once",
            here("confluent_job"),
        ),
        Entry(
            "faststream",
            "FastStream, batch subscriber",
            "offsets, at least once",
            installed("faststream", "faststream_job"),
        ),
        Entry(
            "quix",
            "Quix Streams, at least once",
            "offsets, at least once",
            installed("quix", "quix_job"),
            environment={"BENCH_GUARANTEE": "at-least-once"},
        ),
        Entry(
            "quix-exactly-once",
            "Quix Streams, exactly once",
            "offsets in transactions; counts in memory only",
            installed("quix", "quix_job"),
            environment={"BENCH_GUARANTEE": "exactly-once"},
        ),
        Entry("bytewax", "Bytewax", "none", installed("bytewax", "bytewax_job")),
        Entry("faust", "Faust", "offsets, at least once", installed("faust", "faust_job")),
        Entry(
            "kafka-streams",
            "Kafka Streams 4.3, in-memory stores, exactly_once_v2",
            "exactly once: state and offsets in one transaction",
            lambda: kafka_streams(STREAMS_HEAP_MEBIBYTES),
            environment={"BENCH_GUARANTEE": "exactly_once_v2"},
        ),
    )
}
