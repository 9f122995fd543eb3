"""`python -m bench.growth`: how cost grows with partitions, users, sensors, rate and processes.

Each curve runs the services on a Kafka of its own; whatever counts is ended by a check of its counts. Prints
one JSON object a line, and at the end each curve as a table.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from bench.entries import ENTRIES
from bench.running import (
    START_SECONDS,
    Bench,
    BenchError,
    Process,
    counted_by,
    cpu_seconds_of,
    machine,
    stamp,
    wait,
)
from sandbox import Sandbox
from shared.presets import PRESETS
from shared.topics import SENSOR_DATA

Rows = Iterator[dict[str, Any]]
PARTITIONS = (1, 6, 12, 48, 100, 200)
USERS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SENSORS = (10, 100, 1_000, 10_000, 100_000)
LATENCY_RATES = (100, 1_000, 10_000, 100_000)
KEPT_RATES = (1, 10, 100, 1_000, 10_000, 100_000, 200_000)
# Compression of the input, partitions and processes. What a broker has to send is what it takes a core for.
TOGETHER = tuple(
    (compression, partitions, processes)
    for compression, partitions in (("none", 4), ("none", 12), ("lz4", 4), ("lz4", 12))
    for processes in (1, 2)
)
TOGETHER_ROUNDS = 3
PRESET_RATE = 1_000
USUAL_PARTITIONS = 4
# As long as it takes until each client has asked for metadata by itself once.
IDLE_SECONDS = 60.0
SETTLE_SECONDS = 10.0
BIN_MILLISECONDS = 10
# A drain is looked at until this much of it is done: then some partitions run dry.
MOST = 0.8
STOCK_DRAIN = "aiokafka-drain"
PEER_SECONDS = 300.0
QUICK_EVENTS = 20_000
QUICK_SECONDS = 4
QUICK_IDLE_SECONDS = 1.0
# One partition is not shared: there is nothing to join.
QUICK_STEPS = {"partitions": 2}


class Growth:
    """The curves, on one broker.

    Args:
        broker: its process id.
        events: of a drain, where nothing else is said.
        seconds: of a run at a set rate.
        quick: whether the figures do not matter.
    """

    def __init__(
        self, bench: Bench, servers: str, folder: Path, *, broker: int, events: int, seconds: int, quick: bool
    ) -> None:
        self._bench = bench
        self._servers = servers
        self._folder = folder
        self._broker = broker
        self._events = events
        self._seconds = seconds
        self._settle_seconds = QUICK_IDLE_SECONDS if quick else SETTLE_SECONDS
        self._idle_seconds = QUICK_IDLE_SECONDS if quick else IDLE_SECONDS

    def partitions(self) -> Rows:
        """One idle process with so many partitions; then a second one joins, and leaves."""
        for count in PARTITIONS:
            prefix = f"partitions{count}."
            self._bench.topics(prefix, count)
            with ExitStack() as stack:
                began = time.monotonic()
                first = self._processor(stack, prefix)
                started = time.monotonic() - began
                time.sleep(self._settle_seconds)
                idle = cores(first, self._idle_seconds)
                row = {
                    "partitions": count,
                    "seconds_to_ready": round(started, 2),
                    "idle_cores": round(idle, 4),
                    "connections": first.connections(),
                    "resident_mebibytes": round(first.resident_mebibytes()),
                }
                if count > 1:
                    row |= self._scaled(stack, prefix, first, count)
            yield row

    def _scaled(self, stack: ExitStack, prefix: str, first: Process, count: int) -> dict[str, Any]:
        """Let a second processor join and leave; return from joining, or leaving, to the last task."""
        before = len(first.lines("task_running"))
        began = time.time()
        second = self._processor(stack, prefix)
        wait(lambda: len(second.lines("task_running")) >= count // 2, START_SECONDS, "it has half", second)
        joined = max(stamp(line) for line in second.lines("task_running")) - began
        began = time.time()
        second.popen.send_signal(signal.SIGTERM)

        def has_all() -> bool:
            return len(first.lines("task_running")) >= before + count // 2

        wait(has_all, START_SECONDS, "the first one has them all", first)
        left = max(stamp(line) for line in first.lines("task_running")) - began
        return {"join_seconds": round(joined, 2), "leave_seconds": round(left, 2)}

    def users(self) -> Rows:
        """Drains of events of so many users, and the restore of the state that they leave."""
        for count in USERS:
            prefix = f"users{count}."
            events = max(self._events, count)
            self._bench.topics(prefix, USUAL_PARTITIONS)
            self._bench.fill(prefix, events, GENERATOR_USER_ID_MAX=999 + count)
            drained = self._bench.drain(prefix, events)
            restored = self._restored(prefix, "behavior")
            self._bench.verified(prefix)
            yield {"users": count, **shown(drained), **restored}

    def sensors(self) -> Rows:
        """Drains of readings of so many sensors, beside the stock client's of the same, and the restore."""
        for count in SENSORS:
            prefix = f"sensors{count}."
            names = self._folder / f"sensors-{count}"
            names.write_text(",".join(f"sensor-{number}" for number in range(count)))
            self._bench.topics(prefix, USUAL_PARTITIONS)
            self._bench.fill(prefix, self._events, stream="sensors", GENERATOR_SENSORS_FILE=names)
            # Before and after: a machine whose speed drifts is not to favour either.
            before = self._stock_drain(prefix)
            drained = self._bench.drain(prefix, self._events, topology="sensors")
            stock = (before + self._stock_drain(prefix)) / 2
            restored = self._restored(prefix, "sensors")
            self._bench.verified(prefix)
            times = round(drained["events_per_second"] / stock, 2)
            yield {"sensors": count, **shown(drained), "times_the_stock_drain": times, **restored}

    def _stock_drain(self, prefix: str) -> float:
        """Return how many readings a second the stock client reads, and does nothing with."""
        topic = f"{prefix}{SENSOR_DATA}"
        read = self._bench.peer(ENTRIES[STOCK_DRAIN], prefix, topic, self._events, seconds=PEER_SECONDS)
        if read["records"] != self._events:
            raise BenchError(f"the stock client read {read['records']} of {self._events} readings")
        return float(read["records"] / read["seconds"])

    def _restored(self, prefix: str, topology: str) -> dict[str, Any]:
        with ExitStack() as stack:
            processor = self._processor(stack, prefix, topology)

            def all_run() -> bool:
                return len(processor.lines("task_running")) >= USUAL_PARTITIONS

            wait(all_run, 600, "the state is restored", processor)
            lines = processor.lines("task_running")
        records = sum(line["records"] for line in lines)
        # All partitions restore at the same time: the longest one is how long it takes.
        seconds = max(line["seconds"] - line["fence_seconds"] for line in lines)
        return {
            "restored_keys": sum(line["keys"] for line in lines),
            "restore_seconds": round(seconds, 2),
            "restored_records_per_second": round(records / seconds) if seconds else 0,
        }

    def latency(self) -> Rows:
        """Record timestamp to commit at so many events a second."""
        for rate in LATENCY_RATES:
            found = self._bench.latency(f"latency{rate}.", rate, self._seconds)
            del found["what"]
            yield {"events_per_second": rate, **found}

    def presets(self) -> Rows:
        """Throughput and latency under each `KAFKA_PRESET`, on one broker."""
        for name in PRESETS:
            prefix, of_latency = f"preset-{name}.", f"latency-{name}."
            self._bench.topics(prefix, USUAL_PARTITIONS)
            filled = self._bench.fill(prefix, self._events, KAFKA_PRESET=name)
            drained = self._bench.drain(prefix, self._events, KAFKA_PRESET=name)
            self._bench.verified(prefix)
            latency = self._bench.latency(of_latency, PRESET_RATE, self._seconds, KAFKA_PRESET=name)
            yield {
                "preset": name,
                "generator_events_per_second": filled["events_per_second"],
                "drain_events_per_second": drained["events_per_second"],
                "p50_milliseconds": latency["p50_milliseconds"],
                "p99_milliseconds": latency["p99_milliseconds"],
                "processor_cores": latency["processor_cores"],
            }

    def rates(self) -> Rows:
        """What a generator keeps of the rate it was asked for, and how its events are spaced."""
        for rate in KEPT_RATES:
            prefix = f"rate{rate}."
            self._bench.topics(prefix, USUAL_PARTITIONS)
            settings = {
                "GENERATOR_STREAMS": "behavior",
                "GENERATOR_RATE": rate,
                "GENERATOR_DURATION_SECONDS": self._seconds,
            }
            with self._bench.service("generator", prefix, **settings) as generator:
                generator.popen.wait(self._seconds + 60)
                [closed] = generator.lines("generator_closed")
            yield {"asked": rate} | spacing(self._timestamps(prefix, closed["acknowledged"]), rate)

    def _timestamps(self, prefix: str, events: int) -> list[int]:
        """Return when the events were made, milliseconds since the epoch, ascending."""
        consumer = Consumer({"bootstrap.servers": self._servers, "group.id": "rates", "log_level": 2})
        topic = f"{prefix}user_behavior"
        consumer.assign([TopicPartition(topic, number, 0) for number in range(USUAL_PARTITIONS)])
        found: list[int] = []
        give_up_at = time.monotonic() + 300
        while len(found) < events and time.monotonic() < give_up_at:
            found += [one.timestamp()[1] for one in consumer.consume(10_000, 1.0) if one.error() is None]
        consumer.close()
        if len(found) != events:
            raise BenchError(f"{topic} has {len(found)} of {events} events")
        return sorted(found)

    def idle(self) -> Rows:
        """The pair with nothing to do, and at the pace of the reference."""
        prefix = "idle."
        self._bench.topics(prefix, 6)
        with ExitStack() as stack:
            processor = self._processor(stack, prefix, "behavior,sensors")
            time.sleep(self._settle_seconds)
            idle = cores(processor, self._idle_seconds)
            yield {"what": "processor, both topologies, nothing comes", "cores": idle}
            generator = stack.enter_context(self._bench.service("generator", prefix))
            wait(lambda: generator.get("/readyz")[0] == 200, START_SECONDS, "it is ready", generator)
            time.sleep(self._settle_seconds)
            before, began = processor.cpu_seconds(), time.monotonic()
            yield {"what": "generator, pace of the reference", "cores": cores(generator, self._idle_seconds)}
            yield {
                "what": "processor, pace of the reference",
                "cores": round((processor.cpu_seconds() - before) / (time.monotonic() - began), 4),
            }
        self._bench.verified(prefix)

    def processes(self) -> Rows:
        """So many processes drain one topic together; the rate while all of them have work."""
        for number in range(TOGETHER_ROUNDS):
            for compression, partitions, count in TOGETHER:
                prefix = f"processes{number}-{compression}-{partitions}-{count}."
                self._bench.topics(prefix, partitions)
                self._bench.fill(prefix, self._events, GENERATOR_COMPRESSION=compression)
                found = self._together(prefix, partitions, count)
                yield {"input": compression, "partitions": partitions, "processes": count, **found}
                self._bench.verified(prefix)

    def _together(self, prefix: str, partitions: int, count: int) -> dict[str, Any]:
        with ExitStack() as stack:
            settings = {"PROCESSOR_TOPOLOGIES": "behavior"}
            # Started at once, and not waited for one by one: the first would be done before the last begins.
            started = [
                stack.enter_context(self._bench.service("processor", prefix, **settings))
                for _ in range(count)
            ]
            share = partitions // count

            def shared_out() -> bool:
                return all(has_partitions(one) == share and counted_by(one) for one in started)

            wait(shared_out, START_SECONDS, "each has its share")
            first = self._look(started)
            last = first

            def mostly_counted() -> bool:
                nonlocal last
                last = self._look(started)
                return last[1] >= MOST * self._events

            wait(mostly_counted, 600, "most is counted")
            wait(lambda: self._look(started)[1] >= self._events, 600, "all is counted")
        seconds, events, cpu, broker = (now - then for then, now in zip(first, last, strict=True))
        if events < self._events / 4:
            raise BenchError(f"only {events:,.0f} events were left when all had begun: give it more")
        return {
            "events_per_second": round(events / seconds),
            "events_measured": int(events),
            "processors_cores": round(cpu / seconds, 2),
            "broker_cores": round(broker / seconds, 2),
        }

    def _look(self, processors: Sequence[Process]) -> tuple[float, float, float, float]:
        """Return now, events counted, and the seconds of CPU of all processors and of the broker."""
        counted = sum(counted_by(one) for one in processors)
        cpu = sum(one.cpu_seconds() for one in processors)
        return time.monotonic(), counted, cpu, cpu_seconds_of(self._broker)

    def _processor(self, stack: ExitStack, prefix: str, topologies: str = "behavior") -> Process:
        processor = stack.enter_context(
            self._bench.service("processor", prefix, PROCESSOR_TOPOLOGIES=topologies)
        )
        wait(lambda: processor.get("/readyz")[0] == 200, START_SECONDS, "it is ready", processor)
        return processor


def has_partitions(processor: Process) -> int:
    """Return how many partitions it was assigned last."""
    lines = processor.lines("assigned")
    return len(lines[-1]["partitions"]) if lines else 0


def cores(process: Process, seconds: float) -> float:
    """Return the share of a core that a process takes over the next seconds."""
    before, began = process.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return round((process.cpu_seconds() - before) / (time.monotonic() - began), 4)


def shown(drained: dict[str, Any]) -> dict[str, Any]:
    """Return a drain's figures without its name."""
    return {name: value for name, value in drained.items() if name != "what"}


def spacing(times: Sequence[int], rate: float) -> dict[str, Any]:
    """Return the rate that was kept, and how evenly.

    Args:
        times: when the events were made, milliseconds, ascending.
        rate: what was asked for, events a second.
    """
    seconds = (times[-1] - times[0]) / 1_000
    kept = (len(times) - 1) / seconds
    # Whole bins alone: the last one is cut off.
    bins = [0] * max((times[-1] - times[0]) // BIN_MILLISECONDS, 1)
    for one in times:
        if (number := (one - times[0]) // BIN_MILLISECONDS) < len(bins):
            bins[number] += 1
    gaps = sorted(later - sooner for sooner, later in pairwise(times))
    bins.sort()
    return {
        "kept": round(kept, 3),
        "off_by_percent": round((kept / rate - 1) * 100, 3),
        "gap_ms_p1": gaps[len(gaps) // 100],
        "gap_ms_p50": gaps[len(gaps) // 2],
        "gap_ms_p99": gaps[len(gaps) * 99 // 100],
        "in_10_ms_p1": bins[len(bins) // 100],
        "in_10_ms_p50": bins[len(bins) // 2],
        "in_10_ms_p99": bins[len(bins) * 99 // 100],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a table in Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in names)} |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [row.get(name, "") for name in names]
        shown_cells = [f"{cell:,}" if isinstance(cell, int | float) else str(cell) for cell in cells]
        lines.append(f"| {' | '.join(shown_cells)} |")
    return "\n".join(lines)


CURVES: dict[str, Callable[[Growth], Rows]] = {
    "idle": Growth.idle,
    "latency": Growth.latency,
    "partitions": Growth.partitions,
    "presets": Growth.presets,
    "processes": Growth.processes,
    "rates": Growth.rates,
    "sensors": Growth.sensors,
    "users": Growth.users,
}


def main() -> int:
    """Measure the curves that are asked for. Ends with 1 if one has no figure."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("curves", nargs="*", choices=list(CURVES), help="none: all of them")
    parser.add_argument("--events", type=int, default=2_000_000, help="of a drain")
    parser.add_argument("--seconds", type=int, default=30, help="of a run at a set rate")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the first step of each, few events: does it all work?",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that what runs is ended.
    chosen = options.curves or list(CURVES)
    if options.quick:
        options.events, options.seconds = QUICK_EVENTS, QUICK_SECONDS
        # Too few for two processes to have something to do at the same time.
        chosen = [name for name in chosen if name != "processes"]
    print(json.dumps({"machine": machine()}), flush=True)
    failed = False
    tables: dict[str, list[dict[str, Any]]] = {}
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder, Sandbox(full_jit=not options.quick) as kafka:
            growth = Growth(
                Bench(kafka.bootstrap_servers, Path(folder)),
                kafka.bootstrap_servers,
                Path(folder),
                broker=kafka.pids[0],
                events=options.events,
                seconds=options.seconds,
                quick=options.quick,
            )
            found = tables.setdefault(name, [])
            steps = QUICK_STEPS.get(name, 1) if options.quick else None
            try:
                for row in islice(CURVES[name](growth), steps):
                    print(json.dumps({"curve": name, **row}), flush=True)
                    found.append(row)
            except BenchError as error:
                print(f"no figure: {name}: {error}", file=sys.stderr)
                failed = True
    for name, found in tables.items():
        print(f"\n{name}\n\n{table(found)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
