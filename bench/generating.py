"""`python -m bench.generating`: our generator and its peers, the same events, in one run.

As in `bench.compare`: every round runs every entry once, each a process of its own, in an order that changes,
and ratios are taken within a round. Each run has topics of its own, and no figure unless its topic holds
as many records as were to be sent.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from bench import report
from bench.entries import Entry, here
from bench.environments import say
from bench.report import Run
from bench.running import PARTITIONS, Bench, BenchError, broker, machine, run_peer
from sandbox import SandboxError

OURS = "tandem-generator"
RUN_SECONDS = 600.0
ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            OURS,
            "Tandem generator: makes its events, numbers them, keeps a ledger",
            "acks=all, idempotent; what is acknowledged stands in a ledger",
            lambda: [sys.executable, "-m", "services.generator"],
        ),
        Entry(
            "aiokafka-send",
            "aiokafka, `await producer.send()` of events made before",
            "acks=all, idempotent",
            here("aiokafka_send"),
        ),
        Entry(
            "confluent-produce",
            "confluent-kafka, `produce` of events made before",
            "acks=all, idempotent",
            here("confluent_produce"),
        ),
    )
}


class Generating:
    """The runs on one broker."""

    def __init__(self, servers: str, folder: Path, events: int) -> None:
        self._servers = servers
        self._folder = folder
        self._bench = Bench(servers, folder)
        self._events = events
        self._runs = 0

    def run(self, entry: Entry, number: int) -> Run:
        """Run one entry.

        Raises:
            BenchError: it did not end, or its topic does not hold what was sent.
        """
        self._runs += 1
        prefix = f"made{self._runs}."
        self._bench.topics(prefix, PARTITIONS)
        measured = self._ours(prefix) if entry.name == OURS else self._peer(entry, prefix)
        held = self._held(f"{prefix}user_behavior")
        if held != self._events:
            raise BenchError(f"{entry.name} wrote {held} of {self._events} records")
        return Run(entry.name, number, self._events, **measured)

    def _ours(self, prefix: str) -> dict[str, float]:
        made = self._bench.fill(prefix, self._events)
        return {
            "seconds": made["seconds"],
            "cpu_seconds": made["cpu_seconds"],
            "peak_mebibytes": made["peak_rss_mebibytes"],
        }

    def _peer(self, entry: Entry, prefix: str) -> dict[str, float]:
        given = {
            "BENCH_SERVERS": self._servers,
            "BENCH_TOPIC": f"{prefix}user_behavior",
            "BENCH_EVENTS": str(self._events),
        }
        found: dict[str, Any] = run_peer(
            entry.name,
            entry.command(),
            environment=self._bench.environment(prefix) | given,
            log=self._folder / f"{prefix}{entry.name}.log",
            seconds=RUN_SECONDS,
        )
        return {name: found[name] for name in ("seconds", "cpu_seconds", "peak_mebibytes")}

    def _held(self, topic: str) -> int:
        consumer = Consumer({"bootstrap.servers": self._servers, "group.id": "held", "log_level": 2})
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        held: int = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
        consumer.close()
        return held


def rounds(generating: Generating, count: int) -> Iterator[Run]:
    """Yield runs. A first one of each is left out: a broker that has just started compiles its code in it."""
    chance = random.Random(1)  # noqa: S311 — the order of runs
    for entry in ENTRIES.values():
        generating.run(entry, 0)
    for number in range(count):
        for entry in chance.sample(list(ENTRIES.values()), len(ENTRIES)):
            yield generating.run(entry, number)


def main() -> int:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.generating", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on-disk", action="store_true", help="where Kafka's data is, not in memory")
    options = parser.parse_args()
    runs: list[Run] = []
    with broker(on_disk=options.on_disk) as (kafka, folder, where):
        generating = Generating(kafka.bootstrap_servers, folder, options.events)
        try:
            for run in rounds(generating, options.rounds):
                runs.append(run)
                say(f"round {run.round + 1}  {run.entry:20} {run.rate:>12,.0f} events/s")
        except (BenchError, SandboxError) as error:
            print(f"no figures: {error}", file=sys.stderr)
            return 1
    about = (
        f"{machine()}; {options.events:,} events, {PARTITIONS} partitions, {options.rounds} rounds, {where}"
    )
    print(report.markdown(report.rows(runs, OURS), about, ENTRIES, OURS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
