"""What the generator's peers have in common: the events, made before the clock runs, and the report.

The events are those of our generator's behaviour stream: as different, as large, with the same keys. A peer
sends `BENCH_EVENTS` of them to `BENCH_TOPIC` at `BENCH_SERVERS`, and prints one line of JSON when the last
one is acknowledged. Ours makes its events while the clock runs.
"""

from __future__ import annotations

import json
import time

from bench.peers.job import EVENTS, peak_mebibytes
from services.generator.settings import GeneratorSettings
from services.generator.workloads.behavior import BehaviorWorkload

# As the generator's settings are when nobody sets any.
LINGER_MILLISECONDS: float = GeneratorSettings.model_fields["linger_milliseconds"].default
BATCH_BYTES: int = GeneratorSettings.model_fields["batch_bytes"].default
_AT_ONCE = 2_000


def events() -> list[tuple[bytes, bytes]]:
    """Return keys and values."""
    workload = BehaviorWorkload(
        seed=1, source="bench", user_id_min=1_000, user_id_max=9_999, pages=10, ip_prefix="192.168.1"
    )
    made: list[tuple[bytes, bytes]] = []
    while len(made) < EVENTS:
        keys, bodies = workload.take(min(_AT_ONCE, EVENTS - len(made)))
        stamp = workload.stamp(time.time())
        values = [b"%b%b%d}" % (body, stamp, len(made) + i) for i, body in enumerate(bodies)]
        made += zip(keys, values, strict=True)
    return made


class Clock:
    """Runs from its making to the report."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def report(self) -> None:
        """Print the line. To be called when everything is acknowledged."""
        wall, cpu = self._began
        figures = {
            "records": EVENTS,
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mebibytes": peak_mebibytes(),
        }
        print(json.dumps(figures), flush=True)
