"""Memory in a process that works through records batch by batch: what is free is used again at once."""

from __future__ import annotations

import ctypes
import gc
import os

_YOUNG_OBJECTS = 50_000
# Parameters of mallopt(3), and what they are set to. Without these glibc gives the end of its heap back to
# the system each time an answer of a broker is freed, and faults the same pages in for the next one: a
# fifth of the time that an empty drain takes. Above the trim threshold it is still given back.
_TRIM_THRESHOLD, _TRIM_BYTES = -1, 32 * 2**20
_MMAP_THRESHOLD, _MMAP_BYTES = -3, 8 * 2**20
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def calm_garbage_collector() -> None:
    """Let it look rarely, and never at what exists now, which lives as long as the process.

    Records are freed by their reference counts, batch by batch. With Python's threshold of 700 objects the
    collector looks through each batch while it is in use: a fifth of the processor's time, and a third of
    `tandem verify`'s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def keep_freed_memory() -> bool:
    """Let the C library keep up to 32 MiB of what was freed, for the next answer of a broker.

    Returns:
        False where nothing was set: it is not glibc, or the environment sets its allocator or chooses one.
    """
    if any(name in os.environ for name in _SET_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)) and bool(mallopt(_MMAP_THRESHOLD, _MMAP_BYTES))
