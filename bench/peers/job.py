"""What every peer written in Python has in common: the events, the counts, and the report at the end.

The job: of every user event the total, per action, per device, and the distinct users. A peer reads
`BENCH_TOPIC` at `BENCH_SERVERS` as group `BENCH_GROUP` until it has `BENCH_EVENTS` records, and prints one
line of JSON. A drain reads the records and looks at none of them.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec

SERVERS = os.environ.get("BENCH_SERVERS", "")
TOPIC = os.environ.get("BENCH_TOPIC", "")
GROUP = os.environ.get("BENCH_GROUP", "")
EVENTS = int(os.environ.get("BENCH_EVENTS", "0"))
COMMIT_SECONDS = 0.1


class Event(msgspec.Struct, gc=False):
    """What is counted of an event."""

    user_id: int
    action: Literal["login", "logout", "click", "view", "purchase", "search"]
    device: Literal["mobile", "desktop", "tablet"]


decode = msgspec.json.Decoder(Event).decode
_user_id, _action, _device = attrgetter("user_id"), attrgetter("action"), attrgetter("device")


class Job:
    """The counts so far; the clock runs from the first record on."""

    def __init__(self) -> None:
        self.records = 0
        self._actions: Counter[str] = Counter()
        self._devices: Counter[str] = Counter()
        self._users: set[int] = set()
        self._began: tuple[float, float] | None = None
        self._committed_at = 0.0

    @property
    def is_done(self) -> bool:
        """Whether every record was seen."""
        return self.records >= EVENTS

    def read(self, records: int) -> None:
        """Note that records have come."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()
        self.records += records

    def count(self, values: Sequence[Any]) -> None:
        """Count the values of records, many at once: what costs the least in Python."""
        self.read(len(values))
        self.add(list(map(decode, values)))

    def add(self, events: Sequence[Event]) -> None:
        """Count decoded events."""
        self._actions.update(map(_action, events))
        self._devices.update(map(_device, events))
        self._users.update(map(_user_id, events))

    def add_one(self, event: Event) -> None:
        """Count one event, for libraries that hand out one at a time."""
        self.read(1)
        self._actions[event.action] += 1
        self._devices[event.device] += 1
        self._users.add(event.user_id)

    def commit_is_due(self) -> bool:
        """Say whether a tenth of a second has gone since this was last true."""
        now = time.perf_counter()
        if now - self._committed_at < COMMIT_SECONDS:
            return False
        self._committed_at = now
        return True

    def report(self) -> None:
        """Print the line. To be called when everything is committed."""
        assert self._began is not None, "there were records"
        wall, cpu = self._began
        print(
            json.dumps(
                {
                    "records": self.records,
                    "seconds": time.perf_counter() - wall,
                    "cpu_seconds": time.process_time() - cpu,
                    "peak_mebibytes": peak_mebibytes(),
                    "counts": {
                        "actions": dict(self._actions),
                        "devices": dict(self._devices),
                        "users": len(self._users),
                    },
                }
            ),
            flush=True,
        )


def peak_mebibytes() -> float:
    """Return the most memory that this process had resident (Linux; elsewhere 0)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
