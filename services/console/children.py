"""Processes that end with this one, however this one ends.

On Linux the kernel kills them (PR_SET_PDEATHSIG). Elsewhere a shell waits beside each, on a pipe of which we
alone hold the other end: when we are gone it reads the end of it, and acts. The same shell, everywhere,
removes a folder that would be left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1
_SHELL = "/bin/sh"
_TAIL_BYTES = 16 * 1024


class Child:
    """A process of ours.

    Args:
        name: for messages.
        arguments: after the interpreter's, `-m something …`.
        environment: all of it.
        log: file that gets what it prints; None: both its outputs are ours to read.
        at_our_death: what it is sent when we are gone.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: Path | None = None,
        at_our_death: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.log = log
        self._arguments = arguments
        self._environment = environment
        self._at_our_death = at_our_death
        self._process: Process | None = None
        self._afterwards: Afterwards | None = None

    async def start(self) -> None:
        """Start it: in a session of its own, so that Ctrl-C on a terminal reaches us alone.

        Raises:
            OSError: it can't be started.
        """
        with contextlib.ExitStack() as files:
            output = files.enter_context(self.log.open("ab")) if self.log is not None else PIPE
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                env=dict(self._environment),
                stdin=PIPE,  # Held open by us alone: what reads it sees when we are gone.
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid(), self._at_our_death),
            )
        if sys.platform != "linux":
            self._afterwards = Afterwards(
                'kill -"$0" "$1"', str(int(self._at_our_death)), str(self.process.pid)
            )
            await self._afterwards.start()

    @property
    def process(self) -> Process:
        """The process itself."""
        assert self._process is not None, "it was started"
        return self._process

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs or before it was started."""
        return None if self._process is None else self._process.returncode

    async def wait(self) -> int:
        """Wait for its end and return its exit code."""
        return await self.process.wait()

    async def stop(self, seconds: float) -> int | None:
        """Send SIGTERM, and SIGKILL after `seconds`. Returns its exit code; None where it never started."""
        if self._process is None:
            return None
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # It has just ended by itself.
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), seconds)
            except TimeoutError:
                self.kill()
                await self._process.wait()
        if self._afterwards is not None:
            await self._afterwards.never_mind()
            self._afterwards = None
        return self._process.returncode

    def kill(self) -> None:
        """Send SIGKILL; does nothing where it has ended or never started."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # It has just ended by itself.
                self._process.kill()

    def first_lines(self) -> list[str]:
        """Return the beginning of its log."""
        if self.log is None or not self.log.exists():
            return []
        with self.log.open("rb") as file:
            return file.read(_TAIL_BYTES).decode(errors="replace").splitlines()

    def last_lines(self, count: int) -> list[str]:
        """Return the end of its log."""
        if self.log is None or not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-count:]


class Afterwards:
    """Runs a shell command once this process is gone, unless `never_mind` comes first."""

    def __init__(self, command: str, *arguments: str) -> None:
        self._command = command
        self._arguments = arguments
        self._process: Process | None = None

    async def start(self) -> None:
        """Begin to wait for our end.

        Raises:
            OSError: there is no shell.
        """
        self._process = await asyncio.create_subprocess_exec(
            _SHELL,
            "-c",
            f"read line; {self._command}",
            *self._arguments,
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
        )

    async def never_mind(self) -> None:
        """End it without the command being run."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # Then it has run already.
                self._process.kill()
            await self._process.wait()


class ScratchFolder:
    """A temporary folder that goes with this process, even if it is killed; `keep` leaves it."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._keep = False

    async def __aenter__(self) -> Self:
        self.path = Path(tempfile.mkdtemp(prefix=self._prefix))
        self._afterwards = Afterwards('rm -rf -- "$0"', str(self.path))
        try:
            await self._afterwards.start()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        return self

    def keep(self) -> None:
        """Leave the folder where it is: somebody will want to look into it."""
        self._keep = True

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._afterwards.never_mind()
        if not self._keep:
            shutil.rmtree(self.path, ignore_errors=True)


def _die_with_parent(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """Return what the child has to do before it becomes another program, on Linux; elsewhere None."""
    if sys.platform != "linux":
        return None
    # Looked up before the fork: a child of a larger process had better not load anything.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def in_the_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # We were gone before the kernel was asked.
            os._exit(1)

    return in_the_child
