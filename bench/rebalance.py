"""`python -m bench.rebalance`: what a rebalance, a kill and a restart cost, in time without a commit.

A processor that stays and one that comes and goes share a topic under load. Every commit writes to the
changelog partition of its input partition, so the changelog's record timestamps say when each partition
committed: a pause is the longest gap between two commits around an event. What it is made of is in the log
lines `assigned` and `task_running`. The counts are verified at the end: a run that differs has no figure.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from bench.running import START_SECONDS, Bench, BenchError, Process, machine, stamp, wait
from sandbox import Sandbox

PREFIX = "rebalance."
CHANGELOG = f"{PREFIX}processor-user_behavior-changelog"
MARK = b"!writer"
# Before and after an event: nothing that it causes is further away, takeover after a kill apart.
SETTLE_SECONDS = 1.5
TAKEOVER_SECONDS = 15.0


@dataclass
class Span:
    """An event and what followed: what happened, between when and when (epoch seconds), what moved."""

    what: str
    begun: float
    ended: float
    moved: frozenset[int] = frozenset()


@dataclass
class Running:
    """A processor and its log."""

    process: Process
    seen: int = 0

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of an event so far, `at` being their epoch seconds."""
        return [line | {"at": stamp(line)} for line in self.process.lines(event)]

    def mark(self) -> None:
        """Take the assignments so far as seen."""
        self.seen = len(self.lines("assigned"))

    def next_assigned(self) -> dict[str, Any]:
        """Wait for an assignment that was not seen yet."""
        lines: list[dict[str, Any]] = []

        def look() -> bool:
            lines[:] = self.lines("assigned")
            return len(lines) > self.seen

        wait(look, START_SECONDS, "an assignment", self.process)
        self.seen += 1
        return lines[self.seen - 1]


@dataclass
class Runs:
    """The events of one run, on one broker."""

    bench: Bench
    folder: Path
    partitions: int
    spans: list[Span] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    started: int = 0

    def start(self, **settings: object) -> Running:
        """Start a processor."""
        self.started += 1
        log = self.folder / f"processor-{self.started}.log"
        environment = self.bench.environment(PREFIX, PROCESSOR_TOPOLOGIES="behavior", **settings)
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [sys.executable, "-m", "services.processor"],
                env=environment,
                stdout=out,
                stderr=out,
                cwd=self.folder,
            )
        return Running(Process("processor", popen, log))

    @contextlib.contextmanager
    def running(self, **settings: object) -> Iterator[Running]:
        """Run a processor for the length of a block, until every partition of its first assignment runs."""
        one = self.start(**settings)
        try:
            assigned = one.next_assigned()
            wait(
                lambda: len(one.lines("task_running")) >= len(assigned["partitions"]),
                START_SECONDS,
                "it runs",
            )
            yield one
            one.process.end()
        finally:
            if one.process.popen.poll() is None:
                one.process.popen.kill()
                one.process.popen.wait()

    def join_and_leave(self, stays: Running, times: int) -> None:
        """Start and stop a second processor, `times` times."""
        for _ in range(times):
            time.sleep(SETTLE_SECONDS)
            begun = time.time()
            stays.mark()
            other = self.start()
            try:
                assigned = [stays.next_assigned(), other.next_assigned()]
                self._settled("a processor joins", begun, assigned, [stays, other])
                begun = time.time()
                stays.mark()
                other.process.end()
                self._settled("a processor leaves", begun, [stays.next_assigned()], [stays])
            finally:
                self._kill(other)

    def kill_and_take_over(self, stays: Running, times: int) -> None:
        """Kill a second processor and do not start it again, `times` times."""
        for _ in range(times):
            stays.mark()
            other = self.start()
            try:
                stays.next_assigned()
                other.next_assigned()
                time.sleep(2 * SETTLE_SECONDS)
                begun = time.time()
                stays.mark()
            finally:
                self._kill(other)
            self._settled("killed, taken over", begun, [stays.next_assigned()], [stays])

    def kill_and_start_again(self, stays: Running, times: int) -> None:
        """Kill a second processor with an instance id and start it again at once, `times` times."""
        # A slow start is to show as a figure, not as a rebalance.
        static = {"PROCESSOR_INSTANCE_ID": "comes-and-goes", "PROCESSOR_SESSION_TIMEOUT_SECONDS": 30}
        stays.mark()
        other = self.start(**static)
        try:
            stays.next_assigned()
            owned = frozenset(other.next_assigned()["partitions"])
            for _ in range(times):
                time.sleep(2 * SETTLE_SECONDS)
                stays.mark()
                begun = time.time()
                self._kill(other)
                other = self.start(**static)
                if frozenset(other.next_assigned()["partitions"]) != owned:
                    raise BenchError("the restarted processor was given other partitions")
                self._settled("killed, started again", begun, [], [other])
                self.spans[-1].moved = owned
                if len(stays.lines("assigned")) != stays.seen:
                    raise BenchError("a restart with an instance id caused a rebalance: it took too long")
            other.process.end()
            stays.next_assigned()  # After the session timeout: it does not leave the group.
        finally:
            self._kill(other)

    def _settled(
        self, what: str, begun: float, assigned: list[dict[str, Any]], members: list[Running]
    ) -> None:
        """Wait until what moved runs, and note the event."""
        moved = frozenset(partition for line in assigned for partition in line["new"])
        for line in assigned:
            who = "who has partitions" if len(line["new"]) < len(line["partitions"]) else "who has none"
            if line.get("seconds") is not None:
                self._part(f"{what}: rebalance begun to assigned, {who}", line["seconds"])

        def opened() -> list[dict[str, Any]]:
            return [line for one in members for line in one.lines("task_running") if line["at"] >= begun]

        wait(lambda: len(opened()) >= len(moved), START_SECONDS, "what moved runs")
        for line in opened():
            fence = line.get("fence_seconds", 0.0)
            self._part(f"{what}: fence, committed offset", fence)
            self._part(f"{what}: restore", line["seconds"] - fence)
        time.sleep(SETTLE_SECONDS)
        self.spans.append(Span(what, begun, time.time(), moved))

    def _part(self, name: str, seconds: float) -> None:
        self.parts.setdefault(name, []).append(seconds)

    @staticmethod
    def _kill(one: Running) -> None:
        if one.process.popen.poll() is None:
            one.process.popen.send_signal(signal.SIGKILL)
            one.process.popen.wait()


def commits(servers: str, partitions: int) -> dict[int, list[float]]:
    """Return when each partition committed: the timestamps of its changelog, in epoch seconds, ascending."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "bench",
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    found: dict[int, list[float]] = {}
    try:
        for partition in range(partitions):
            place = TopicPartition(CHANGELOG, partition, 0)
            _, end = consumer.get_watermark_offsets(place, timeout=10)
            consumer.assign([place])
            stamps = found.setdefault(partition, [])
            give_up_at = time.monotonic() + START_SECONDS
            while (position := consumer.position([place])[0].offset) < end and time.monotonic() < give_up_at:
                for message in consumer.consume(10_000, timeout=0.5):
                    at = message.timestamp()[1] / 1000
                    if message.error() is not None or message.key() == MARK:
                        continue  # A mark is no commit: a task writes it before it restores.
                    if not stamps or stamps[-1] < at:
                        stamps.append(at)
                if position == end - 1:
                    break  # The last one is the marker of a transaction.
    finally:
        consumer.close()
    return found


def pause(stamps: list[float], span: Span) -> float:
    """Return the longest time without a commit that overlaps a span, in seconds."""
    first = max(bisect_left(stamps, span.begun) - 1, 0)
    around = [*stamps[first : bisect_right(stamps, span.ended) + 1]]
    return max((late - early for early, late in pairwise(around)), default=float("inf"))


def first_after(stamps: list[float], moment: float) -> float:
    """Return the seconds from a moment to the first commit of a partition after its longest pause."""
    place = bisect_right(stamps, moment)
    within = stamps[place : bisect_right(stamps, moment + TAKEOVER_SECONDS)]
    return within[0] - moment if within else float("inf")


def table(runs: Runs, stamps: dict[int, list[float]]) -> list[str]:
    """Return the figures as the lines of a table."""
    rows = ["| what | n | p50 ms | p99 ms | longest ms |", "|---|---|---|---|---|"]
    for what in dict.fromkeys(span.what for span in runs.spans):
        # Each event with what it is made of.
        spans = [span for span in runs.spans if span.what == what]
        for kind, partitions in (("stay", False), ("move", True)):
            values = [
                pause(stamps[partition], span)
                for span in spans
                for partition in range(runs.partitions)
                if (partition in span.moved) is partitions
            ]
            if values:
                rows.append(
                    row(f"{what} ({len(spans)} times): without a commit, partitions that {kind}", values)
                )
        if what.startswith("killed"):
            kills = [[first_after(stamps[one], span.begun) for one in span.moved] for span in spans]
            rows.append(row(f"{what}: from the kill to the first commit of one", [min(one) for one in kills]))
            rows.append(row(f"{what}: from the kill to the first commit of all", [max(one) for one in kills]))
        rows += [row(name, values) for name, values in runs.parts.items() if name.startswith(f"{what}:")]
    return rows


def row(what: str, seconds: list[float]) -> str:
    """Return one line of the table."""
    ordered = sorted(seconds)
    p99 = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    figures = (statistics.median(ordered), p99, ordered[-1])
    return f"| {what} | {len(ordered)} | " + " | ".join(f"{figure * 1000:,.0f}" for figure in figures) + " |"


def main() -> int:
    """Run the events under load, verify the counts, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.rebalance", description=__doc__)
    parser.add_argument("--rebalances", type=int, default=50, help="half of them joins, half of them leaves")
    parser.add_argument("--kills", type=int, default=10, help="kill -9, taken over by the other processor")
    parser.add_argument("--restarts", type=int, default=10, help="kill -9, started again with an instance id")
    parser.add_argument("--rate", type=int, default=2_000, help="events a second")
    parser.add_argument("--partitions", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Sandbox(full_jit=True) as kafka:
        folder = Path(name)
        bench = Bench(kafka.bootstrap_servers, folder)
        bench.topics(PREFIX, options.partitions)
        load = {"GENERATOR_STREAMS": "behavior", "GENERATOR_RATE": options.rate, "GENERATOR_SEED": 1}
        runs = Runs(bench, folder, options.partitions)
        try:
            with runs.running() as stays, bench.service("generator", PREFIX, **load):
                time.sleep(5)  # The broker's JVM warms up.
                runs.join_and_leave(stays, options.rebalances // 2)
                runs.kill_and_take_over(stays, options.kills)
                if options.restarts:
                    runs.kill_and_start_again(stays, options.restarts)
            bench.verified(PREFIX)
            lines = table(runs, commits(kafka.bootstrap_servers, options.partitions))
        except BenchError as error:
            print(f"no figure: {error}", file=sys.stderr)
            return 1
    print(f"{machine()}; {options.rate:,} events/s over {options.partitions} partitions\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
