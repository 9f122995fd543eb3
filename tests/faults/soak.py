"""Draw scenarios at random from a seed, for as long as asked, and count what went wrong.

    python -m tests.faults.soak --minutes 60 --seed 7

Prints a line after each run with the scenario's figures so far, and all of them at the end. Of an anomaly
everything is kept: the logs, every topic as JSON lines, the seed, and the command that plays it again.
Exit code 0 when there was none.
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Self

import sandbox
from sandbox import SandboxError
from tests.faults.cluster import Cluster, cluster
from tests.faults.scenario import Outcome, Scenario, all_scenarios, run

COLUMNS = ("scenario", "runs", "faults", "records", "anomalies", "longest stall", "recovery p50", "p99")


@dataclass
class Row:
    """What a scenario's runs came to."""

    runs: int = 0
    faults: int = 0
    records: int = 0
    anomalies: int = 0
    longest_stall_seconds: float = 0.0
    recoveries_seconds: list[float] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.faults += len(outcome.faults)
        self.records += outcome.records
        self.anomalies += not outcome.ok
        self.longest_stall_seconds = max(self.longest_stall_seconds, outcome.longest_stall_seconds)
        self.recoveries_seconds += [
            one.recovery_seconds for one in outcome.faults if one.recovery_seconds is not None
        ]

    def cells(self, name: str) -> list[str]:
        """Return the row's texts, in the order of COLUMNS."""
        return [
            name,
            f"{self.runs}",
            f"{self.faults}",
            f"{self.records:,}",
            f"{self.anomalies}",
            f"{self.longest_stall_seconds:.1f} s",
            *(seconds(percentile(self.recoveries_seconds, share)) for share in (0.50, 0.99)),
        ]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that so large a share of all is not above (nearest rank)."""
    ranked = sorted(values)
    return ranked[math.ceil(share * len(ranked)) - 1] if ranked else None


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def sums(rows: Sequence[Row]) -> Row:
    """Return all rows as one."""
    total = Row()
    for row in rows:
        total.runs += row.runs
        total.faults += row.faults
        total.records += row.records
        total.anomalies += row.anomalies
        total.longest_stall_seconds = max(total.longest_stall_seconds, row.longest_stall_seconds)
        total.recoveries_seconds += row.recoveries_seconds
    return total


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Return a table for terminals: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, len(COLUMNS)))])
        for row in table
    )


def kafka_version() -> str:
    """Return the version of the brokers, as the sandbox asks for it."""
    wanted = (Path(sandbox.__file__).parent / "jgo.toml").read_text(encoding="utf-8")
    found = re.search(r"org\.apache\.kafka:kafka_[\d.]+:([\d.]+)", wanted)
    assert found is not None, "the sandbox's list of jars names Kafka"
    return found[1]


def markdown(rows: dict[str, Row], seed: int, began: datetime) -> str:
    """Return the table as it is published, with what it takes to repeat it."""
    total = sums(list(rows.values()))
    heads = [f"| {' | '.join(COLUMNS)} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
    lines = [f"| {' | '.join(row.cells(name))} |" for name, row in sorted(rows.items())]
    versions = ", ".join(
        [f"Kafka {kafka_version()}", *(f"{x} {version(x)}" for x in ("aiokafka", "confluent-kafka"))]
    )
    summary = (
        f"{began:%Y-%m-%d}, seed {seed}: {total.faults} faults in {total.runs} runs, "
        f"{total.records:,} records, {total.anomalies} anomalies. {versions}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}."
    )
    return "\n".join(
        [
            summary,
            "",
            *heads,
            *lines,
            f"| {' | '.join(total.cells('**all**'))} |",
            "",
        ]
    )


def drawn(chance: random.Random, scenarios: Sequence[Scenario]) -> Iterator[tuple[Scenario, int]]:
    """Yield scenarios and seeds without end: each once before any comes again, and the slow ones once."""
    deck = list(scenarios)
    while deck:
        for one in chance.sample(deck, len(deck)):
            yield one, chance.getrandbits(31)
        deck = [one for one in deck if not one.slow]


class Soak:
    """Runs scenarios on one cluster, which is made anew when it can't be mended."""

    def __init__(self, evidence: Path) -> None:
        self._evidence = evidence
        self._cluster: Cluster | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, one: Scenario, seed: int) -> Outcome:
        """Run a scenario; a cluster that does not start is an anomaly too."""
        folder = self._evidence / f"{one.name.replace(': ', '-').replace(' ', '-').replace('/', '-')}-{seed}"
        try:
            if one.broker_properties:
                with cluster(dict(one.broker_properties)) as own:
                    return run(one, own, seed=seed, folder=folder)
            if self._cluster is None:
                self._cluster = self._stack.enter_context(cluster())
            outcome = run(one, self._cluster, seed=seed, folder=folder)
        except SandboxError as error:
            outcome = Outcome(one.name, seed, error=f"the cluster: {error}")
        if not outcome.ok:
            self._stack.close()
            self._cluster = None
        return outcome


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="begin no run later than this (60)")
    parser.add_argument("--faults", type=int, help="stop when so many faults have landed")
    parser.add_argument("--seed", type=int, help="of the draw; a random one is taken and shown")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run --only's one with its seed")
    parser.add_argument("--evidence", type=Path, default=Path("soak-evidence"), help="folder for anomalies")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--list", action="store_true", help="show the scenarios and end")
    return parser.parse_args(arguments)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def soak(options: argparse.Namespace, chosen: Sequence[Scenario]) -> int:
    """Run until the time is over or enough faults have landed. Returns the exit code."""
    seed = random.SystemRandom().getrandbits(31) if options.seed is None else options.seed
    began, started = datetime.now(UTC), time.monotonic()
    rows: dict[str, Row] = {}
    draw = drawn(random.Random(seed), chosen)
    if options.replay is not None:
        draw = iter([(chosen[0], options.replay)])
    say(f"soak: seed {seed}, {len(chosen)} scenarios, {options.minutes:g} minutes at most")
    try:
        with Soak(options.evidence) as running:
            for one, run_seed in draw:
                landed = sum(row.faults for row in rows.values())
                if time.monotonic() - started > options.minutes * 60 or landed >= (
                    options.faults or math.inf
                ):
                    break
                outcome = running.run(one, run_seed)
                rows.setdefault(one.name, Row()).add(outcome)
                say(f"{datetime.now(UTC):%H:%M:%S}  {'  '.join(rows[one.name].cells(one.name))}")
                if not outcome.ok:
                    say(f"ANOMALY, kept in {options.evidence}\n{outcome.text}")
                    say(f"again: python -m tests.faults.soak --only {one.name!r} --replay {run_seed}")
    except KeyboardInterrupt:
        say("interrupted")
    total = sums(list(rows.values()))
    body = [row.cells(name) for name, row in sorted(rows.items())]
    say("\n" + aligned([COLUMNS, *body, total.cells("all")]))
    say(f"seed {seed}: {total.faults} faults, {total.anomalies} anomalies")
    if options.markdown is not None:
        options.markdown.write_text(markdown(rows, seed, began), encoding="utf-8")
    return 0 if total.runs and not total.anomalies else 1


def main(arguments: Sequence[str]) -> int:
    """Returns 0 without an anomaly, 1 with one, 2 for a choice that is none."""
    options = parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # Also in the background, where SIGINT is ignored.
        signal.signal(number, signal.default_int_handler)
    known = all_scenarios()
    chosen = (
        [known[options.only]]
        if options.only in known
        else [one for name, one in known.items() if options.only in name]
    )
    if options.list:
        say("\n".join(sorted(one.name for one in chosen)))
        return 0
    if not chosen or (options.replay is not None and len(chosen) != 1):
        sys.stderr.write(f"--only {options.only!r} names {len(chosen)} scenarios; --list shows all\n")
        return 2
    return soak(options, chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
