"""`python -m bench`: generator, drain and latency on a Kafka of its own, each ended by a check of its counts.

A run whose counts are not what was sent has no figure: it ends with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox import Sandbox

ROOT = Path(__file__).resolve().parent.parent
PARTITIONS = 4
LATENCY_PARTITIONS = 6
START_SECONDS = 60.0
# Seldom enough not to take the time of what is measured.
POLL_SECONDS = 0.1
WARM_UP_SECONDS = 5
_BUCKET = re.compile(r'tandem_processor_latency_seconds_bucket\{le="([^"]+)",topic="[^"]+"\} (\S+)')


class BenchError(Exception):
    """A run that gave no figure."""


@dataclass
class Process:
    """A service under measurement."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    known_port: int | None = None

    def port(self) -> int:
        """Return the port of its HTTP server, which it logs."""
        if self.known_port is not None:
            return self.known_port
        found: list[int] = []

        def look() -> bool:
            lines = [line for line in self.log.read_text().splitlines() if '"http_listening"' in line]
            found.extend(json.loads(line)["port"] for line in lines)
            return bool(found)

        wait(look, START_SECONDS, f"{self.name} logs its port", self)
        self.known_port = found[0]
        return self.known_port

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of one of its pages; status 0 where it does not answer."""
        url = f"http://127.0.0.1:{self.port()}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def cpu_seconds(self) -> float:
        """Return user and system time so far, in seconds (Linux; elsewhere 0)."""
        stat = Path(f"/proc/{self.popen.pid}/stat")
        if not stat.exists():
            return 0.0
        fields = stat.read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mebibytes(self) -> float:
        """Return the peak resident memory (Linux; elsewhere 0)."""
        status = Path(f"/proc/{self.popen.pid}/status")
        if not status.exists():
            return 0.0
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        return int(found.group(1)) / 1024 if found else 0.0

    def end(self) -> None:
        """Stop it as its supervisor would."""
        self.popen.terminate()
        try:
            code = self.popen.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise BenchError(f"{self.name} did not stop") from None
        if code:
            raise BenchError(f"{self.name} ended with {code}: {self.log.read_text()[-2000:]}")


def wait(look: Any, seconds: float, what: str, process: Process | None = None) -> None:
    """Poll until `look` returns true.

    Raises:
        BenchError: not within `seconds`, or the process ended.
    """
    give_up_at = time.monotonic() + seconds
    while not look():
        if process is not None and process.popen.poll():
            raise BenchError(f"{process.name} ended: {process.log.read_text()[-2000:]}")
        if time.monotonic() > give_up_at:
            raise BenchError(f"after {seconds:g} s still not: {what}")
        time.sleep(POLL_SECONDS)


class Bench:
    """The runs, on one broker, each under a topic prefix of its own."""

    def __init__(self, servers: str, folder: Path) -> None:
        self._servers = servers
        self._folder = folder

    def environment(self, prefix: str, **settings: object) -> dict[str, str]:
        """Return a process's environment: ours, less what configures the services, plus `settings`."""
        ours = ("KAFKA_", "GENERATOR_", "PROCESSOR_", "CONSOLE_", "HTTP_", "LOG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        fixed = {"KAFKA_BOOTSTRAP_SERVERS": self._servers, "KAFKA_TOPIC_PREFIX": prefix, "LOG_FORMAT": "json"}
        given = {name: str(value) for name, value in settings.items()}
        return kept | fixed | {"HTTP_PORT": "0", "PYTHONPATH": str(ROOT)} | given

    @contextlib.contextmanager
    def service(self, name: str, prefix: str, **settings: object) -> Iterator[Process]:
        """Run a service for the length of a block."""
        log = self._folder / f"{prefix}{name}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [sys.executable, "-m", f"services.{name}"],
                env=self.environment(prefix, **settings),
                stdout=out,
                stderr=out,
                cwd=self._folder,
            )
        process = Process(name, popen, log)
        try:
            yield process
        except BaseException:
            popen.kill()
            popen.wait()
            raise
        if popen.poll() is None:
            process.end()

    def topics(self, prefix: str, partitions: int) -> None:
        """Create the topics of a run."""
        self._console(prefix, "topics", "create", KAFKA_TOPIC_PARTITIONS=partitions)

    def verified(self, prefix: str) -> None:
        """Recompute a run from its topics.

        Raises:
            BenchError: something differs: the run has no figure.
        """
        self._console(prefix, "verify")

    def _console(self, prefix: str, *arguments: str, **settings: object) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "services.console", *arguments],
            env=self.environment(prefix, **settings),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise BenchError(
                f"tandem {' '.join(arguments)} says {done.returncode}: {done.stdout}{done.stderr}"
            )

    def generate_and_drain(self, prefix: str, events: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fill `user_behavior` as fast as possible, then let one processor count it."""
        self.topics(prefix, PARTITIONS)
        settings = {"GENERATOR_STREAMS": "behavior", "GENERATOR_RATE": "max", "GENERATOR_EVENTS": events}
        with self.service("generator", prefix, **settings, GENERATOR_SEED=1) as generator:
            generator.popen.wait(600)
            closed = [line for line in generator.log.read_text().splitlines() if "generator_closed" in line]
            if generator.popen.returncode or not closed:
                raise BenchError(f"the generator: {generator.log.read_text()[-2000:]}")
            said = json.loads(closed[-1])
        generated = {
            "what": "generator, behaviour stream, rate max",
            "events": said["acknowledged"],
            "events_per_second": round(said["events_per_second"]),
        }
        with self.service("processor", prefix, PROCESSOR_TOPOLOGIES="behavior") as processor:
            drained = self._drain(processor, events)
        self.verified(prefix)
        return generated, drained

    def _drain(self, processor: Process, events: int) -> dict[str, Any]:
        counted = 0
        first: tuple[float, int] | None = None
        cpu_before = 0.0

        def all_counted() -> bool:
            nonlocal counted, first, cpu_before
            status, body = processor.get("/stats")
            if status == 200:
                counted = json.loads(body)["topologies"]["behavior"]["accounts"]["events"]
            if first is None and counted:
                first, cpu_before = (time.monotonic(), counted), processor.cpu_seconds()
            return counted >= events

        wait(all_counted, 600, f"{events} events counted", processor)
        assert first is not None, "something was counted"
        seconds, drained = time.monotonic() - first[0], counted - first[1]
        return {
            "what": "processor, drain, exactly once, everything on",
            "events": counted,
            "events_per_second": round(drained / seconds),
            "cpu_microseconds_per_event": round((processor.cpu_seconds() - cpu_before) / drained * 1e6, 2),
            "peak_rss_mebibytes": round(processor.peak_mebibytes()),
        }

    def latency(self, prefix: str, rate: int, seconds: int) -> dict[str, Any]:
        """Measure record timestamp to commit at a set rate, the warm-up of the broker's JVM apart."""
        self.topics(prefix, LATENCY_PARTITIONS)
        settings = {
            "GENERATOR_STREAMS": "behavior",
            "GENERATOR_RATE": rate,
            "GENERATOR_DURATION_SECONDS": seconds + WARM_UP_SECONDS,
        }
        with self.service("processor", prefix, PROCESSOR_TOPOLOGIES="behavior") as processor:
            wait(lambda: processor.get("/readyz")[0] == 200, START_SECONDS, "it is ready", processor)
            with self.service("generator", prefix, **settings) as generator:
                time.sleep(WARM_UP_SECONDS)
                warm, cpu_before = latency_buckets(processor), processor.cpu_seconds()
                generator.popen.wait(seconds + 60)
            cpu = (processor.cpu_seconds() - cpu_before) / seconds
            time.sleep(1)  # The last commit.
            after = latency_buckets(processor)
        self.verified(prefix)
        buckets = [(le, count - early) for (le, count), (_, early) in zip(after, warm, strict=True)]
        return {
            "what": f"latency at {rate} events/s, {LATENCY_PARTITIONS} partitions",
            "warm_up_p99_milliseconds": quantile(warm, 0.99),
            "p50_milliseconds": quantile(buckets, 0.5),
            "p99_milliseconds": quantile(buckets, 0.99),
            "processor_cores": round(cpu, 2),
        }


def latency_buckets(processor: Process) -> list[tuple[float, float]]:
    """Return the latency histogram so far: upper bound in seconds and cumulative count."""
    return [(float(le), float(count)) for le, count in _BUCKET.findall(processor.get("/metrics")[1])]


def quantile(buckets: list[tuple[float, float]], share: float) -> float:
    """Return a quantile in milliseconds from cumulative buckets, linear within one, as Prometheus does."""
    total = buckets[-1][1]
    below_le, below_count = 0.0, 0.0
    for le, count in buckets:
        if count >= share * total:
            part = (share * total - below_count) / max(count - below_count, 1)
            return round((below_le + (le - below_le) * part) * 1000, 1)
        below_le, below_count = le, count
    return float("inf")


def machine() -> str:
    """Return what this runs on, in a line."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = found.group(1) if found else model
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {system}"


def main() -> int:
    """Run everything and print one JSON object a line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second of the latency run")
    parser.add_argument("--seconds", type=int, default=30, help="of the latency run")
    options = parser.parse_args()
    print(json.dumps({"machine": machine()}), flush=True)
    with tempfile.TemporaryDirectory() as folder, Sandbox(full_jit=True) as kafka:
        bench = Bench(kafka.bootstrap_servers, Path(folder))
        try:
            for number in range(options.rounds):
                for figure in bench.generate_and_drain(f"drain{number}.", options.events):
                    print(json.dumps(figure), flush=True)
            print(json.dumps(bench.latency("latency.", options.rate, options.seconds)), flush=True)
        except BenchError as error:
            print(f"no figure: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
