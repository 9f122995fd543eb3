"""What a process says of itself: how late its event loop is, how much memory it may use, its health."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from shared.health import Health
from shared.metrics import RuntimeMetrics

_SAMPLE_SECONDS = 0.25


class Runtime:
    """Fills the metrics of the process from `start` to `stop`.

    Args:
        metrics: registered once in a process.
        health: shown as two gauges, for whoever scrapes and does not ask `/livez` and `/readyz`.
        clock: monotonic seconds, read at the moment: the event loop's own stands still while it is blocked.
    """

    def __init__(
        self, metrics: RuntimeMetrics, health: Health, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        metrics.live.set_function(lambda: not health.why_not_live())
        metrics.ready.set_function(lambda: not health.why_not_ready())
        metrics.memory_limit.set(memory_limit_bytes())
        self._delay = metrics.loop_delay
        self._clock = clock
        self._sampler: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to sample the event loop."""
        self._sampler = asyncio.create_task(self._sample(), name="event loop delay")

    async def stop(self) -> None:
        """End it."""
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.cancel()
            await asyncio.wait({sampler})

    async def _sample(self) -> None:
        while True:
            due_at = self._clock() + _SAMPLE_SECONDS
            await asyncio.sleep(_SAMPLE_SECONDS)
            self._delay.observe(max(self._clock() - due_at, 0.0))


def memory_limit_bytes(root: Path = Path("/")) -> int:
    """Return how much memory this process may use: the least limit of its control groups, or all there is.

    Args:
        root: where `proc` and `sys` are.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _limit_files(root):
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue  # No such group, or no groups at all: what is left is the limit.
        if text.isdigit():  # Else "max".
            limits.append(int(text))
    return min(limits)


def _limit_files(root: Path) -> list[Path]:
    """Return the files that may hold a limit: of our group and those above it, and version 1's."""
    top = root / "sys/fs/cgroup"
    files = [top / "memory.max", top / "memory/memory.limit_in_bytes"]
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return files  # Not Linux.
    for line in lines:
        number, _, path = line.split(":", 2)
        names = Path(path.lstrip("/"))
        if number == "0" and ".." not in names.parts:
            files += [top / group / "memory.max" for group in (names, *names.parents)]
    return files
