"""Runs the services as processes under measurement, and looks at them from outside.

Every run is ended by a check of its counts: one whose counts are not what was sent has no figure.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.entries import Entry
from sandbox import Sandbox

ROOT = Path(__file__).resolve().parent.parent
PARTITIONS = 4
LATENCY_PARTITIONS = 6
START_SECONDS = 60.0
RUN_SECONDS = 900.0
# Seldom enough not to take the time of what is measured.
POLL_SECONDS = 0.1
WARM_UP_SECONDS = 5
MEMORY = Path("/dev/shm")  # noqa: S108 — it is asked for a folder of its own in it
# Twice what the longest comparison leaves there.
MEMORY_BYTES = 8 * 2**30
_WRITTEN = re.compile(r"^tandem_processor_written_bytes_total\{[^}]*\} (\S+)", re.MULTILINE)
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
            found.extend(line["port"] for line in self.lines("http_listening"))
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
        return cpu_seconds_of(self.popen.pid)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of its log that tell of `event`."""
        # The last one may be half written.
        whole = self.log.read_text().rpartition("\n")[0]
        lines = [line for line in whole.splitlines() if f'"{event}"' in line]
        return [found for found in map(json.loads, lines) if found["event"] == event]

    def resident_mebibytes(self) -> float:
        """Return the resident memory as it is now (Linux; elsewhere 0)."""
        return self._memory("VmRSS")

    def connections(self) -> int:
        """Return how many sockets it has open (Linux; elsewhere 0)."""
        folder = Path(f"/proc/{self.popen.pid}/fd")
        if not folder.exists():
            return 0
        return sum(str(one.readlink()).startswith("socket:") for one in folder.iterdir())

    def peak_mebibytes(self) -> float:
        """Return the peak resident memory (Linux; elsewhere 0)."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> float:
        status = Path(f"/proc/{self.popen.pid}/status")
        if not status.exists():
            return 0.0
        found = re.search(rf"{name}:\s+(\d+)", status.read_text())
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


def cpu_seconds_of(pid: int) -> float:
    """Return user and system time of a process so far, in seconds (Linux; elsewhere, or once it ended, 0)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


@contextlib.contextmanager
def broker(*, on_disk: bool = False) -> Iterator[tuple[Sandbox, Path, str]]:
    """Run a broker for the length of a block; give it, a folder for logs, and where its data is.

    In memory where the system has a file system for that and room in it: what is compared is clients. A new
    topic's files cost a disk a millisecond for each page of an index that is touched for the first time, and
    only who writes results pays that.
    """
    where = None if on_disk else _memory_with_room()
    said = "on disk" if where is None else "in memory"
    with (
        tempfile.TemporaryDirectory(prefix="tandem-bench-", dir=where) as name,
        Sandbox(full_jit=True, data=Path(name) / "kafka") as kafka,
    ):
        yield kafka, Path(name), f"Kafka's data {said}"


def _memory_with_room() -> Path | None:
    try:
        free = shutil.disk_usage(MEMORY).free
        # The file system promises half of the memory, whoever else uses it.
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    free = min(free, int(found.group(1)) * 1024 if found else 0)
    return MEMORY if free >= MEMORY_BYTES else None


class Bench:
    """The runs, on one broker, each under a topic prefix of its own."""

    def __init__(self, servers: str, folder: Path) -> None:
        self._servers = servers
        self._folder = folder
        self._started = 0

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
        self._started += 1
        log = self._folder / f"{prefix}{name}-{self._started}.log"
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
        generated = self.fill(prefix, events)
        drained = self.drain(prefix, events)
        self.verified(prefix)
        return generated, drained

    def fill(
        self, prefix: str, events: int, *, stream: str = "behavior", **settings: object
    ) -> dict[str, Any]:
        """Let a generator make so many events of a stream as fast as it can; return its figures."""
        rate = "GENERATOR_SENSOR_RATE" if stream == "sensors" else "GENERATOR_RATE"
        load = {"GENERATOR_STREAMS": stream, rate: "max", "GENERATOR_EVENTS": events, "GENERATOR_SEED": 1}
        with self.service("generator", prefix, **load | settings) as generator:
            cpu, cpu_of_start, peak = 0.0, 0.0, 0.0
            give_up_at = time.monotonic() + RUN_SECONDS
            while generator.popen.poll() is None and time.monotonic() < give_up_at:
                # Before it ends: afterwards nobody knows.
                cpu, peak = max(cpu, generator.cpu_seconds()), max(peak, generator.peak_mebibytes())
                if not generator.lines("http_listening"):
                    cpu_of_start = cpu
                time.sleep(POLL_SECONDS)
            closed = generator.lines("generator_closed")
            if generator.popen.returncode or not closed:
                raise BenchError(f"the generator: {generator.log.read_text()[-2000:]}")
            said = closed[-1]
        return {
            "what": f"generator, {stream}, rate max",
            "events": said["acknowledged"],
            "seconds": said["seconds"],
            "events_per_second": round(said["events_per_second"]),
            "cpu_seconds": round(cpu - cpu_of_start, 2),
            "peak_rss_mebibytes": round(peak),
        }

    def drain(
        self, prefix: str, events: int, *, topology: str = "behavior", **settings: object
    ) -> dict[str, Any]:
        """Let one processor count so many events that are there; return its figures."""
        with self.service("processor", prefix, PROCESSOR_TOPOLOGIES=topology, **settings) as processor:
            return self._drain(processor, topology, events)

    def _drain(self, processor: Process, topology: str, events: int) -> dict[str, Any]:
        counted, cpu_before = 0, 0.0

        def all_counted() -> bool:
            nonlocal counted, cpu_before
            cpu = processor.cpu_seconds()
            counted = counted_by(processor, topology)
            if not counted:
                cpu_before = cpu
            return counted >= events

        wait(all_counted, RUN_SECONDS, f"{events} events counted", processor)
        seconds = time.time() - min(stamp(line) for line in processor.lines("task_running"))
        written = _WRITTEN.findall(processor.get("/metrics")[1])
        return {
            "what": "processor, drain, exactly once, everything on",
            "events": counted,
            "events_per_second": round(counted / seconds),
            "cpu_microseconds_per_event": round((processor.cpu_seconds() - cpu_before) / counted * 1e6, 2),
            "peak_rss_mebibytes": round(processor.peak_mebibytes()),
            "written_bytes_per_event": round(sum(map(float, written)) / counted, 1),
        }

    def peer(self, entry: Entry, prefix: str, topic: str, events: int, *, seconds: float) -> dict[str, Any]:
        """Let a peer read so many events of a topic; return its figures.

        Args:
            entry: of the peer.
            prefix: of the topics.
            topic: full name.
            events: how many it has.
            seconds: how long that may take.

        Raises:
            BenchError: it has no figures.
        """
        self._started += 1
        given = {
            "BENCH_SERVERS": self._servers,
            "BENCH_TOPIC": topic,
            "BENCH_GROUP": f"{prefix}peer-{self._started}",
            "BENCH_EVENTS": str(events),
            "PYTHONPATH": str(ROOT),
        }
        return run_peer(
            entry.name,
            entry.command(),
            environment=self.environment(prefix) | given | dict(entry.environment),
            log=self._folder / f"{entry.name}-{self._started}.log",
            seconds=seconds,
        )

    def latency(self, prefix: str, rate: int, seconds: int, **settings: object) -> dict[str, Any]:
        """Measure record timestamp to commit at a set rate, the warm-up of the broker's JVM apart."""
        self.topics(prefix, LATENCY_PARTITIONS)
        load = {
            "GENERATOR_STREAMS": "behavior",
            "GENERATOR_RATE": rate,
            "GENERATOR_DURATION_SECONDS": seconds + WARM_UP_SECONDS,
        }
        with self.service("processor", prefix, PROCESSOR_TOPOLOGIES="behavior", **settings) as processor:
            wait(lambda: processor.get("/readyz")[0] == 200, START_SECONDS, "it is ready", processor)
            with self.service("generator", prefix, **load | settings) as generator:
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
            "p999_milliseconds": quantile(buckets, 0.999),
            "processor_cores": round(cpu, 2),
        }


def counted_by(processor: Process, topology: str = "behavior") -> int:
    """Return how many events of its partitions are counted; 0 where it does not answer yet."""
    status, body = processor.get("/stats")
    return int(json.loads(body)["topologies"][topology]["accounts"]["events"]) if status == 200 else 0


def stamp(line: dict[str, Any]) -> float:
    """Return when a line of a log was written, in epoch seconds."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


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


def run_peer(
    name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path, seconds: float
) -> dict[str, Any]:
    """Run a peer in a process group of its own, and return the line of figures that it prints.

    Raises:
        BenchError: it did not end in time, or with something else than 0, or printed none.
    """
    with log.open("wb") as out, log.with_suffix(".out").open("w+b") as printed:
        popen = subprocess.Popen(
            command, env=environment, stdout=printed, stderr=out, cwd=log.parent, start_new_session=True
        )
        code = _ended(popen, name, seconds)
        printed.seek(0)
        lines = [line for line in printed.read().decode().splitlines() if line.startswith('{"records"')]
    if code or not lines:
        raise BenchError(f"{name} ended with {code}: {log.read_text(errors='replace')[-1500:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _ended(popen: subprocess.Popen[bytes], name: str, seconds: float) -> int:
    """Wait for a process and return its exit code; kills its group when the time is over."""
    try:
        return popen.wait(seconds)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{name} did not end within {seconds:g} s") from None
    finally:
        if popen.poll() is None:
            os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()


def machine() -> str:
    """Return what this runs on, in a line."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = found.group(1) if found else model
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {system}"
