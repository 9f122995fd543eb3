"""`python -m bench.compare`: our processor and its peers, the same work on the same topic, in one run.

Every round runs every entry once, each in a process of its own, in an order that changes from round to
round: a machine whose speed drifts favours nobody, and ratios are taken pair by pair within a round. A
run whose counts are not those of the topic has no figure.

Time is counted from the first record to the last one committed. Ours has no hook for that and is measured
from outside: from the first log line that says that a partition runs to the timestamp of the last commit
in the changelog.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from bench import report
from bench.entries import ENTRIES, OURS, Entry
from bench.environments import NotInstalledError, say
from bench.report import Run
from bench.running import Bench, BenchError, Process, broker, machine, stamp, wait
from sandbox import SandboxError

PREFIX = "compare."
TOPIC = f"{PREFIX}user_behavior"
CHANGELOG = f"{PREFIX}processor-user_behavior-changelog"
GROUP = f"{PREFIX}behavior-processor"
# Where no run looks: our processor publishes to it, and nobody counts that here.
TRIED = f"{PREFIX}purchases"
# Twice the time after which a broker gives a request to itself up.
MARKER_SECONDS = 60.0
RUN_SECONDS = 900.0
ADMIN_SECONDS = 20.0
# What the smoke test runs: everything, with too few records to say anything of speed.
QUICK_EVENTS = 20_000
QUICK_SECONDS = 60.0


@dataclass
class Truth:
    """What the topic holds, read by a client and a decoder of its own."""

    records: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    devices: Counter[str] = field(default_factory=Counter)
    users: set[int] = field(default_factory=set)

    def differs(self, counts: dict[str, Any]) -> str:
        """Return what is wrong with the counts of a run; empty where nothing is."""
        wanted = {"actions": dict(self.actions), "devices": dict(self.devices), "users": len(self.users)}
        return "" if counts == wanted else f"counted {counts}, the topic has {wanted}"


class Compare:
    """The topic, and the runs on it."""

    def __init__(self, servers: str, folder: Path, *, partitions: int, run_seconds: float) -> None:
        self._run_seconds = run_seconds
        self._servers = servers
        self._bench = Bench(servers, folder)
        self._folder = folder
        self._partitions = partitions
        self._admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
        self._runs = 0
        self.truth = Truth()

    def fill(self, events: int, **settings: Any) -> None:
        """Let our generator fill the topic, and read what is in it."""
        self._bench.topics(PREFIX, self._partitions)
        self._bench.fill(PREFIX, events, **settings)
        self._read()
        if self.truth.records != events:
            raise BenchError(f"the topic has {self.truth.records} records, not {events}")

    def _read(self) -> None:
        consumer = Consumer({"bootstrap.servers": self._servers, "group.id": "truth", "log_level": 2})
        places = [TopicPartition(TOPIC, number, 0) for number in range(self._partitions)]
        due = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
        consumer.assign(places)
        give_up_at = time.monotonic() + RUN_SECONDS
        truth = self.truth
        while truth.records < due and time.monotonic() < give_up_at:
            for message in consumer.consume(10_000, 1.0):
                if message.error() is None:
                    event = json.loads(message.value())
                    truth.records += 1
                    truth.actions[event["action"]] += 1
                    truth.devices[event["device"]] += 1
                    truth.users.add(event["user_id"])
        consumer.close()

    def run(self, entry: Entry, number: int) -> Run:
        """Run one entry.

        Raises:
            BenchError: it did not end, or its counts are wrong: there is no figure.
        """
        self._runs += 1
        measured = (
            self._ours()
            if entry.name == OURS
            else self._bench.peer(entry, PREFIX, TOPIC, self.truth.records, seconds=self._run_seconds)
        )
        if measured["records"] != self.truth.records:
            raise BenchError(f"{entry.name} saw {measured['records']} of {self.truth.records} records")
        if entry.counts and (wrong := self.truth.differs(measured["counts"])):
            raise BenchError(f"{entry.name} {wrong}")
        return Run(
            entry.name,
            number,
            self.truth.records,
            measured["seconds"],
            measured["cpu_seconds"],
            measured["peak_mebibytes"],
        )

    def _ours(self) -> dict[str, Any]:
        self._begin_anew()
        settings = {"PROCESSOR_TOPOLOGIES": "behavior"}
        with self._bench.service("processor", PREFIX, **settings) as processor:
            began = self._begins(processor)
            cpu_before = processor.cpu_seconds()
            counted: dict[str, Any] = {}

            def all_counted() -> bool:
                status, body = processor.get("/stats")
                if status != 200:
                    return False
                counted.update(json.loads(body)["topologies"]["behavior"])
                return int(counted["accounts"]["events"]) >= self.truth.records

            wait(all_counted, self._run_seconds, f"{self.truth.records} events counted", processor)
            cpu = processor.cpu_seconds() - cpu_before
            peak = processor.peak_mebibytes()
        results = counted["results"]
        return {
            "records": counted["accounts"]["events"],
            "counts": {
                "actions": results["actions"],
                "devices": results["devices"],
                "users": results["unique_users"],
            },
            "seconds": self._last_commit() - began,
            "cpu_seconds": cpu,
            "peak_mebibytes": peak,
        }

    @staticmethod
    def _begins(processor: Process) -> float:
        """Wait for the first partition to run; return when, in epoch seconds."""
        wait(lambda: bool(processor.lines("task_running")), 60, "a partition runs", processor)
        return min(stamp(line) for line in processor.lines("task_running"))

    def _last_commit(self) -> float:
        """Return the timestamp of the last record of the changelog, in epoch seconds."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "truth",
                "isolation.level": "read_committed",
                "log_level": 2,
            }
        )
        last = 0.0
        for number in range(self._partitions):
            _, end = consumer.get_watermark_offsets(TopicPartition(CHANGELOG, number), timeout=10)
            # The last of a transaction's records stands before its marker.
            consumer.assign([TopicPartition(CHANGELOG, number, max(end - 2, 0))])
            for message in consumer.consume(1, 10.0):
                last = max(last, message.timestamp()[1] / 1000)
        consumer.close()
        return last

    def _is_settled(self, places: list[TopicPartition]) -> bool:
        """Say whether no transaction is open in these partitions."""
        asked = dict.fromkeys(places, OffsetSpec.latest())
        ends = []
        for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
            answers = self._admin.list_offsets(asked, isolation_level=isolation)
            ends.append({place: done.result(ADMIN_SECONDS).offset for place, done in answers.items()})
        return ends[0] == ends[1]

    def _begin_anew(self) -> None:
        """Delete what our last run left: results, changelog and offsets. The input stays."""
        groups = {one.group_id for one in self._admin.list_consumer_groups().result(ADMIN_SECONDS).valid}
        if GROUP in groups:
            for done in self._admin.delete_consumer_groups([GROUP]).values():
                done.result(ADMIN_SECONDS)
        known = self._admin.list_topics(timeout=ADMIN_SECONDS).topics
        ours = [name for name in known if name.startswith(PREFIX) and name != TOPIC]
        places = [TopicPartition(name, number) for name in ours for number in known[name].partitions]
        # A topic that is deleted while Kafka writes the markers of its last transaction can hold up all
        # markers for 30 s, until a request of the broker's to itself times out (seen on Kafka 4.4.0).
        wait(lambda: self._is_settled(places), ADMIN_SECONDS, "every transaction has its markers")
        for done in self._admin.delete_topics(ours).values():
            done.result(ADMIN_SECONDS)

        def gone() -> bool:
            return not {*ours} & {*self._admin.list_topics(timeout=ADMIN_SECONDS).topics}

        wait(gone, ADMIN_SECONDS, "the topics are deleted")
        self._bench.topics(PREFIX, self._partitions)
        self._try_a_transaction()

    def _try_a_transaction(self) -> None:
        """Wait until Kafka ends transactions: after a deletion all markers can be held up all the same."""
        producer = Producer(
            {"bootstrap.servers": self._servers, "transactional.id": f"try-{self._runs}", "log_level": 2}
        )
        producer.init_transactions(MARKER_SECONDS)
        producer.begin_transaction()
        producer.produce(TRIED, b"", partition=0)
        producer.commit_transaction(MARKER_SECONDS)
        place = TopicPartition(TRIED, 0)
        wait(lambda: self._is_settled([place]), MARKER_SECONDS, "Kafka ends transactions")


def rounds(compare: Compare, chosen: Sequence[Entry], count: int) -> Iterator[Run | str]:
    """Yield runs, and in place of a run that has no figure the reason."""
    chance = random.Random(1)  # noqa: S311 — the order of runs
    left = list(chosen)
    for number in range(count):
        for entry in chance.sample(left, len(left)):
            try:
                yield compare.run(entry, number)
            except (BenchError, NotInstalledError, SandboxError) as error:
                left.remove(entry)
                yield f"{entry.name}: {error}"


def main() -> int:
    """Compare, print the table, and write what was asked for. Ends with 1 if an entry has no figure."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--compression", default="none", help="of the input: none, lz4, zstd, snappy, gzip")
    parser.add_argument("--users", type=int, default=9_000, help="distinct ones")
    parser.add_argument("--only", default="", help="names, separated by commas; --list shows them")
    parser.add_argument("--on-disk", action="store_true", help="where Kafka's data is, not in memory")
    parser.add_argument("--quick", action="store_true", help="one round of few events: does it all work?")
    parser.add_argument("--json", type=Path, help="write every run there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--svg", type=Path, help="write the picture there")
    parser.add_argument("--list", action="store_true", help="show the entries and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{entry.name:20} {entry.title}" for entry in ENTRIES.values()))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that what runs is ended.
    if options.quick:
        options.events, options.rounds = QUICK_EVENTS, 1
    names = options.only.split(",") if options.only else list(ENTRIES)
    if unknown := [name for name in names if name not in ENTRIES]:
        parser.error(f"no entry is named {', '.join(unknown)}; --list shows them")
    runs: list[Run] = []
    failures: list[str] = []
    with broker(on_disk=options.on_disk) as (kafka, folder, where):
        compare = Compare(
            kafka.bootstrap_servers,
            folder,
            partitions=options.partitions,
            run_seconds=QUICK_SECONDS if options.quick else RUN_SECONDS,
        )
        try:
            compare.fill(
                options.events,
                GENERATOR_COMPRESSION=options.compression,
                GENERATOR_USER_ID_MAX=999 + options.users,
            )
        except BenchError as error:
            print(f"no figures: {error}", file=sys.stderr)
            return 1
        for found in rounds(compare, [ENTRIES[name] for name in names], options.rounds):
            if isinstance(found, str):
                failures.append(found)
                say(f"NO FIGURE: {found}")
            else:
                runs.append(found)
                say(f"round {found.round + 1}  {found.entry:20} {found.rate:>12,.0f} events/s")
    about = (
        f"{machine()}; {options.events:,} events of {options.users:,} users, {options.partitions} "
        f"partitions, compression {options.compression}, {options.rounds} rounds, {where}"
    )
    rows = report.rows(runs)
    print(report.markdown(rows, about))
    if options.json is not None:
        options.json.write_text(
            json.dumps({"about": about, "runs": [asdict(run) for run in runs]}, indent=1) + "\n"
        )
    if options.markdown is not None:
        options.markdown.write_text(report.markdown(rows, about) + "\n", encoding="utf-8")
    if options.svg is not None:
        options.svg.write_text(report.svg(rows, about), encoding="utf-8")
    return 1 if failures or not runs else 0


if __name__ == "__main__":
    sys.exit(main())
