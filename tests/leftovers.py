"""What a test may not leave behind: processes, threads, sockets. Linux tells them all, others the threads."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36
_LISTENING = "0A"
# Each node of a sandbox names its own files on its command line.
_SANDBOX = re.compile(r"(/\S+)/node-\d+\.")
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_SHOWN = 200
_MOMENT_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_HAS_PROC = sys.platform == "linux"


class Leftovers(NamedTuple):
    """What this process has: children by pid, threads, addresses it listens on, sandboxes by their folder."""

    processes: frozenset[int]
    threads: frozenset[threading.Thread]
    listening: frozenset[str]
    sandboxes: frozenset[str]

    def since(self, before: Leftovers) -> list[str]:
        """Return what is here now and was not before, in words.

        A broker that a test has started again belongs to the sandbox that was there before the test.
        """
        started = {pid: _command(pid) for pid in self.processes - before.processes}
        processes = [
            f"process {pid}: {command[:_SHOWN]}"
            for pid, command in started.items()
            if not before.sandboxes.intersection(_SANDBOX.findall(command))
        ]
        threads = [f"thread {one.name}" for one in self.threads - before.threads if one.is_alive()]
        return processes + threads + [f"listens on {one}" for one in self.listening - before.listening]


def adopt_orphans() -> None:
    """Become the parent of whatever our children leave behind, so that it is seen."""
    if _HAS_PROC:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def now() -> Leftovers:
    """Return what this process has now."""
    children = frozenset(_children())
    sandboxes = frozenset(name for pid in children for name in _SANDBOX.findall(_command(pid)))
    return Leftovers(children, frozenset(threading.enumerate()), frozenset(_listening()), sandboxes)


def left_since(before: Leftovers) -> list[str]:
    """Return what has been left behind, in words; what is just ending is given its moment."""
    give_up_at = time.monotonic() + _MOMENT_SECONDS
    while (left := now().since(before)) and time.monotonic() < give_up_at:
        time.sleep(_LOOK_SECONDS)
    return left


def open_sockets() -> int:
    """Return how many TCP sockets this process has, after what nobody refers to is gone."""
    gc.collect()
    return len(list(_own(_tcp()))) if _HAS_PROC else 0


def _children() -> list[int]:
    if not _HAS_PROC:
        return []
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # A thread that has ended meanwhile.
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in found if not has_ended(pid)]


def has_ended(pid: int) -> bool:
    """Say whether a process has ended, and at most nobody has asked for its exit code yet."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return _HAS_PROC


def _command(pid: int) -> str:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return "ended meanwhile"
    return b" ".join(arguments).decode(errors="replace")


def _listening() -> list[str]:
    return [address for address, state in _own(_tcp()) if state == _LISTENING] if _HAS_PROC else []


def _tcp() -> dict[str, tuple[str, str]]:
    """Return address and state of every TCP socket of this machine, by inode."""
    found = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # A machine without IPv6.
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                found[fields[9]] = fields[1], fields[3]
    return found


def _own(sockets: dict[str, tuple[str, str]]) -> list[tuple[str, str]]:
    own = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 — names alone: one may be closed while we look
        with contextlib.suppress(FileNotFoundError):
            match = _SOCKET.fullmatch(str(Path(f"/proc/self/fd/{name}").readlink()))
            if match and match[1] in sockets:
                own.append(sockets[match[1]])
    return own
